"""Importing does no work and stays light: a head node validates a config without torch, a notebook predicts without Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROBE = """
import importlib, json, logging, os, sys
before = set(os.environ), len(logging.getLogger().handlers)
for module in {modules!r}:
    importlib.import_module(module)
after = set(os.environ), len(logging.getLogger().handlers)
torch = sys.modules.get("torch")
print(json.dumps({{
    "modules": sorted(sys.modules),
    "new_handlers": after[1] - before[1],
    "cuda": bool(torch) and torch.cuda.is_initialized(),
    "distributed": bool(torch) and torch.distributed.is_initialized(),
}}))
"""


FOR_OTHERS = {"setok.lmms_eval.models"}
"""Imported by a package that is not installed here, whose classes they extend (tests/harness)."""


def modules_of(folder: Path) -> list[str]:
    """Dotted names of a package's modules, without those that are programs."""
    files = sorted(file for file in folder.rglob("*.py") if file.name != "__main__.py")
    return [".".join(file.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__") for file in files]


def after_importing(modules: list[str], folder: Path) -> dict:
    """What a fresh interpreter, started in an empty folder, has done after importing these modules."""
    run = subprocess.run(
        [sys.executable, "-c", PROBE.format(modules=modules)],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=folder,
        env={"PATH": "", "HOME": str(folder), "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout.splitlines()[-1])


@pytest.mark.parametrize("module", ["setok", "setok.errors", "setok.config"])
def test_configs_are_checked_without_torch(module: str, tmp_path: Path) -> None:
    loaded = set(after_importing([module], tmp_path)["modules"])
    assert not loaded & {"torch", "numpy", "transformers", "ray", "deepspeed"}


def test_the_library_imports_without_ray_and_does_nothing(repo_root: Path, tmp_path: Path) -> None:
    modules = modules_of(repo_root / "setok")
    assert set(modules) >= FOR_OTHERS
    modules = [module for module in modules if module not in FOR_OTHERS]
    assert len(modules) >= 50
    state = after_importing(modules, tmp_path)
    assert not set(state["modules"]) & {"ray", "deepspeed", "wandb"}
    assert state["new_handlers"] == 0
    assert not state["cuda"]
    assert not state["distributed"]
    assert list(tmp_path.iterdir()) == [], "importing setok wrote files"


def test_the_jobs_import_without_starting_ray(repo_root: Path, tmp_path: Path) -> None:
    modules = modules_of(repo_root / "ray_jobs")
    assert len(modules) >= 15
    state = after_importing(modules, tmp_path)
    assert state["new_handlers"] == 0
    assert not state["cuda"]
    assert not state["distributed"]
    assert not (tmp_path / ".ray").exists(), "importing ray_jobs started Ray"
