"""A test's file as the processes of a gloo group: it runs itself as a script, because starting processes is what costs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run_ranks(script: str, folder: Path, *arguments: str, world: int = 2) -> None:
    """Run ``python script folder arguments…`` as each rank, and wait for all of them.

    Each finds its rank in ``RANK``, their number in ``WORLD_SIZE``, and prints to ``log0``, ``log1``, … in ``folder``.

    Raises:
        AssertionError: a rank failed or took more than five minutes; with the ends of the logs.
    """
    here = {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "WORLD_SIZE": str(world)}
    here |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}  # which DeepSpeed wants to know, and nobody uses
    logs = [folder / f"log{rank}" for rank in range(world)]
    ranks = []
    for rank, path in enumerate(logs):
        with path.open("w") as log:
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, script, str(folder), *arguments]
            ranks.append(
                subprocess.Popen(command, cwd=ROOT, env=os.environ | here | own, stdout=log, stderr=subprocess.STDOUT)
            )
    try:
        codes = [process.wait(timeout=600) for process in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert codes == [0] * world, "\n".join(path.read_text()[-3000:] for path in logs)
