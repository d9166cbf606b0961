"""``--tasks list``: every task, how it is run and scored, and what it needs."""

from __future__ import annotations

import sys

from ray_jobs.scoring.tasks import GROUPS, RUN, TASKS, Task

_RECORDS = {
    "tokens": "pictures",
    "vqa": "questions",
    "caption": "captions",
    "segment": "regions",
    "generate": "captions",
    "edit": "edits",
}
_MORE = {"lpips": "LPIPS", "inception": "rFID", "clip": "CLIP-I", "dino": "DINO"}


def print_tasks() -> None:
    """Write the list to stdout."""
    sys.stdout.write(listing())


def listing() -> str:
    """All tasks, and the groups."""
    lines = []
    for what, stage in (("a tokenizer", "tokenizer"), ("Setokim (a run of stage pretrain or instruct)", "instruct")):
        own = {name: task for name, task in RUN.items() if task.run is not None and task.run.of_stage(stage)}
        lines += [f"tasks for {what}, on an ingested set", *(_entry(name, task) for name, task in own.items()), ""]
    lines.append("tasks that are only scored, from a file of predictions (`score --task NAME`)")
    lines += [f"  {name:<15}{task.predictions}" for name, task in TASKS.items() if task.run is None]
    lines += ["", "groups, of which those tasks are run that the checkpoint and the set allow"]
    lines += [f"  {name:<15}{', '.join(tasks)}" for name, tasks in GROUPS.items()]
    return "\n".join(lines) + "\n"


def _entry(name: str, task: Task) -> str:
    """What a task takes, and what comes of it."""
    run = task.run
    assert run is not None
    said = _RECORDS[run.asks[0]] + (f" of an ingested {', '.join(run.sources)}" if run.sources else ", of any source")
    said += "".join(f"; needs networks.{need}" for need in run.needs)
    more = [option for option in _MORE if option in task.options and option not in run.needs]
    said += "".join(f"; networks.{option} adds {_MORE[option]}" for option in more)
    said += "; official format" if run.write is not None else ""
    return f"  {name:<15}{said}\n  {'':<15}→ {', '.join(task.headline)} ({task.scorer})"
