"""What ``python -m ray_jobs.train --verify RUN`` says: the state of every file of a run's checkpoints, and what is resumed."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from setok import checkpoint
from setok.checkpoint import WRITING, Evaluations, FileState, Store
from setok.checkpoint.store import NAME
from setok.errors import CheckpointError

GOOD, FALLS_BACK, NONE_GOOD = 0, 1, 2
"""Exit codes: the newest checkpoint is good; an older one would be used; none is good."""


def verify_run(run: str, console: Console) -> int:
    """Read every byte of a run's checkpoints, and show what is found; an exit code.

    Args:
        run: its folder, or the address of one in a store; one of its checkpoints stands for all of them.

    Raises:
        CheckpointError: there is no such folder, or the run has no checkpoint.
    """
    run = _run_of(run)
    home = checkpoint.keeps_in(run)
    store = Store.of_run(home)
    steps = store.steps()
    if not steps:
        raise CheckpointError(
            f"{store.storage.name} holds no checkpoint", "name a run's folder (runs/NAME) or address (s3://…/NAME)"
        )
    found = {step: store.examine(step) for step in steps}
    good = [step for step in steps if not any(state.problem for state in found[step])]
    columns = [Column(name, no_wrap=True) for name in ("checkpoint", "file")]
    columns += [Column("bytes", no_wrap=True, justify="right"), Column("state")]
    table = Table(*columns, title=f"Checkpoints in {store.storage.name}", title_justify="left")
    for step in steps:
        _add(table, checkpoint.name_of(step), found[step])
    console.print(table)
    for name in store.storage.folders():
        if name.startswith(WRITING):
            console.print(
                Text(f"{name} is being written, or is what an interrupted save left: the next one clears it.")
            )
    console.print(_measured(home, good))
    if not good:
        console.print(Text(f"None of {len(steps)} is good: a run cannot be resumed from here.", style="bold red"))
        return NONE_GOOD
    resumed = checkpoint.name_of(good[0])
    if good[0] == steps[0]:
        console.print(Text(f"Training goes on from {resumed}, the newest one.", style="green"))
        return GOOD
    newer = ", ".join(checkpoint.name_of(step) for step in steps if step > good[0])
    console.print(Text(f"Training goes on from {resumed}: {newer} cannot be used.", style="yellow"))
    return FALLS_BACK


def _run_of(named: str) -> str:
    """The run that is meant by ``runs/NAME``, ``runs/NAME@best`` or the folder of a checkpoint.

    Raises:
        CheckpointError: there is no such folder.
    """
    head, _, last = named.removesuffix(checkpoint.BEST).rstrip("/").rpartition("/")
    if NAME.fullmatch(last):
        head, _, last = head.rpartition("/")
    run = head if last == "checkpoints" else f"{head}/{last}" if head else last
    if "://" not in run and not (run and Path(run).is_dir()):
        raise CheckpointError(
            f"{named!r} is no folder", "name a run's folder (runs/NAME), or its address in a store (s3://…/NAME)"
        )
    return run


def _add(table: Table, name: str, states: list[FileState]) -> None:
    """The rows of one checkpoint, whose name stands in the first."""
    for number, state in enumerate(states):
        problem = state.problem and state.problem.removeprefix(f"{state.name} ")
        table.add_row(
            name if number == 0 else "",
            state.name,
            "–" if state.size is None else f"{state.size:,}",
            Text(problem or "good", style="red" if problem else "green"),
        )
    table.add_section()


def _measured(home: str, good: list[int]) -> Text:
    """Which of the good checkpoints is the best, by what was logged before it and by its evaluations since."""
    store, evaluations = Store.of_run(home), Evaluations(home)
    manifests = {step: store.manifest(step) for step in good}
    metrics = {
        step: {**manifest.metrics, **evaluations.metrics(step, manifest)} for step, manifest in manifests.items()
    }
    best = next((manifest.best for manifest in manifests.values() if manifest.best is not None), None)
    measured = [step for step in good if best is not None and best.metric in metrics[step]]
    if best is None or not measured:
        return Text("No good checkpoint says what it measured.")
    step = min(measured, key=lambda step: best.key(metrics[step]))
    value = metrics[step][best.metric]
    return Text(f"{checkpoint.BEST} is {checkpoint.name_of(step)}: {best.order} {best.metric}, {value:.6g}.")
