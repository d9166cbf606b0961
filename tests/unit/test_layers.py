"""Imports go downward only: the table below is the architecture, and the syntax trees prove it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ENTRY_POINTS = {
    "ingest",
    "train",
    "tune",
    "sweep_thresholds",
    "evaluate",
    "serve",
    "pipeline",
    "plan",
    "doctor",
    "submit",
    "benchmark",
}
CALL_OTHER_ENTRY_POINTS = {"ray_jobs.pipeline", "ray_jobs.tune"}

LAYERS: tuple[tuple[str, ...], ...] = (
    ("setok", "setok.__main__", "setok.errors", "setok.config"),
    ("setok.batch", "setok.children", "setok.collectives", "setok.vocabulary"),
    ("setok.models", "setok.data", "setok.losses", "setok.metrics", "setok.optim", "setok.ema", "setok.drawing"),
    ("setok.stages", "setok.checkpoint", "setok.planning", "setok.export"),
    ("setok.predictor",),
    ("setok.serving",),
    (
        *("ray_jobs", "ray_jobs.interrupts", "ray_jobs.command_line", "ray_jobs.launch"),
        *("ray_jobs.progress", "ray_jobs.reaching", "ray_jobs.ray_data"),
        *("ray_jobs.training", "ray_jobs.ingesting", "ray_jobs.evaluation", "ray_jobs.scoring"),
        *("ray_jobs.reporting", "ray_jobs.benchmarks", "ray_jobs.tuning", "ray_jobs.serving"),
        *("ray_jobs.planning", "ray_jobs.submitting", "ray_jobs.checking", "ray_jobs.manifests"),
    ),
    (*(f"ray_jobs.{name}" for name in sorted(ENTRY_POINTS)), "ray_jobs.__main__", "setok.lmms_eval"),
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}

ISLANDS = {"setok.models": "models", "setok.data": "data", "setok.losses": "measures", "setok.metrics": "measures"}
"""Parts of layer 2 that know nothing of each other."""

FORBIDDEN = {"setok": {"ray", "deepspeed"}, "setok.errors": {"torch"}, "setok.config": {"torch"}}
"""Packages that a module and all beneath it may not import, not even inside a function."""


def entry(module: str, table: dict[str, object]) -> str | None:
    """The longest key of the table that is the module or a package it lies in; a root package stands for itself only."""
    parts = module.split(".")
    names = [".".join(parts[:n]) for n in range(len(parts), 0, -1)]
    return next((n for n in names if n in table and (n == module or "." in n)), None)


def imports(source: str, module: str, modules: set[str], *, is_package: bool = False) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything a module imports, wherever it stands."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield node.lineno, whole if whole in modules else base


def complaints(module: str, line: int, target: str) -> Iterator[str]:
    """What is wrong with ``module`` importing ``target``."""
    where = f"{module}:{line} imports {target}"
    root = target.split(".")[0]
    for owner, packages in FORBIDDEN.items():
        if (module == owner or module.startswith(f"{owner}.")) and root in packages:
            yield f"{where}: {owner} stays free of {root}; move this to ray_jobs, or below {owner}"
    if root not in ("setok", "ray_jobs"):
        return
    here, there = entry(module, LAYER_OF), entry(target, LAYER_OF)
    if here is None or there is None or here == there:
        return
    if LAYER_OF[there] > LAYER_OF[here]:
        yield f"{where}: layer {LAYER_OF[here]} may not import layer {LAYER_OF[there]}; pass the value in from above"
    if here in ISLANDS and there in ISLANDS and ISLANDS[here] != ISLANDS[there]:
        yield f"{where}: {here} and {there} are separate islands; share a type in setok.batch instead"
    both_jobs = all(name.removeprefix("ray_jobs.") in ENTRY_POINTS for name in (here, there))
    if both_jobs and module not in CALL_OTHER_ENTRY_POINTS:
        yield f"{where}: only pipeline and tune call another job; move the shared part to a module beneath the jobs"


@pytest.fixture(scope="module")
def files(repo_root: Path) -> dict[str, Path]:
    """Every module of both packages and its file."""
    found = {}
    for package in ("setok", "ray_jobs"):
        for file in sorted((repo_root / package).rglob("*.py")):
            found[".".join(file.relative_to(repo_root).with_suffix("").parts).removesuffix(".__init__")] = file
    return found


def test_every_module_has_a_layer(files: dict[str, Path]) -> None:
    assert len(files) >= 70, "the walk over the sources found too little"
    lost = [module for module in files if entry(module, LAYER_OF) is None]
    assert not lost, (
        f"not in LAYERS of {__file__}: {', '.join(lost)}; give each the lowest layer that holds its imports"
    )


def test_imports_go_downward_only(files: dict[str, Path]) -> None:
    edges, problems = 0, []
    for module, file in files.items():
        for line, target in imports(file.read_text(), module, set(files), is_package=file.name == "__init__.py"):
            edges += target.startswith(("setok", "ray_jobs"))
            problems += complaints(module, line, target)
    assert edges >= 150, "the walk over the imports found too little"
    assert not problems, "\n" + "\n".join(problems)


def test_jobs_meet_only_beneath_ray_jobs(repo_root: Path) -> None:
    """Nothing outside ray_jobs imports ray or deepspeed, scripts beside the packages included; tests may."""
    outside = [
        file
        for file in repo_root.rglob("*.py")
        if file.relative_to(repo_root).parts[0]
        not in {".venv", ".venv-extras", ".venv-eval", "ray_jobs", "tests", "build", "runs", "data"}
    ]
    assert len(outside) >= 50
    guilty = [
        f"{file.relative_to(repo_root)}:{line} imports {target}"
        for file in outside
        for line, target in imports(file.read_text(), "x", set())
        if target.split(".")[0] in {"ray", "deepspeed"}
    ]
    assert not guilty, "\n" + "\n".join(guilty)


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("setok.models.encoder", "import ray", "free of ray"),
        ("setok.stages", "def f():\n    from deepspeed.ops import adam", "free of deepspeed"),
        ("setok.config", "import torch.nn", "free of torch"),
        ("setok.batch", "from setok.models import tokenizer", "layer 1 may not import layer 2"),
        ("setok.data.collate", "from ..models.layers import Block", "separate islands"),
        ("setok.metrics.grouping", "from setok import data", "separate islands"),
        ("ray_jobs.evaluate", "from ray_jobs import train", "only pipeline and tune"),
        ("ray_jobs.training.dataset", "from ray_jobs.train import train", "layer 6 may not import layer 7"),
        ("ray_jobs.pipeline", "from ray_jobs.train import train", None),
        ("setok.losses", "from setok.metrics.running import Mean", None),
        ("setok.predictor", "from setok.data.images import decode\nimport torch", None),
    ],
)
def test_the_rules_catch_what_they_should(module: str, source: str, expected: str | None) -> None:
    known = {"setok.models.tokenizer", "setok.data", "ray_jobs.train"}
    found = [c for line, target in imports(source, module, known) for c in complaints(module, line, target)]
    assert (len(found) == 1 and expected in found[0]) if expected else not found, found
