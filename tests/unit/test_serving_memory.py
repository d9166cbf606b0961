"""Memory that a model frees and takes again at every step stays with the process."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

STEPS = """
import sys, resource
import numpy as np
from setok.serving.memory import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def step():
    held = [np.ones(4_000_000, np.uint8) for _ in range(30)]

step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="not glibc")
def test_pages_are_not_asked_for_again_at_every_step() -> None:
    faults = {}
    for how in ("keep", "default"):
        done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
        faults[how] = int(done.stdout)
    assert faults["default"] > 5000  # 30 x 4 MB are 30,000 pages a step
    assert faults["keep"] < faults["default"] / 10


def test_other_libraries_are_left_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    from setok.serving.memory import keep_freed_memory

    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not keep_freed_memory()
