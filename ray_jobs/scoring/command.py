"""The command ``python -m ray_jobs.evaluate score``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from ray_jobs import launch
from ray_jobs.scoring.files import Given, write_problems
from ray_jobs.scoring.tasks import SCORED, Task, scored
from setok.errors import ConfigError

_OPTIONS = ("questions", "choices", "split", "meteor", "lpips", "inception", "variant", "clip", "dino")


def main(argv: Sequence[str]) -> None:
    """Print a file's figures as JSON on stdout, and as a table on stderr where that is a terminal.

    Raises:
        ConfigError: the task is unknown, or an option does not belong to it.
        DataError: a file is missing, or not what the task needs; everything that is wrong is listed.
    """
    arguments = _parser().parse_args(argv)
    if arguments.list:
        _print_tasks()
        return
    given = _given(arguments)
    task = scored(given.task)
    assert task.score is not None
    figures = task.score(given)
    if given.problems is not None:
        write_problems(given.problems, given.predictions, [])
    content = {"task": given.task, "scorer": task.scorer, "predictions": str(given.predictions), "figures": figures}
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    if launch.error_console().is_terminal:
        launch.error_console().print(_table(given.task, task, figures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ray_jobs.evaluate score",
        description="Score a file of predictions in its benchmark's official format, for example:"
        " score --task pope --predictions answers.jsonl --annotations coco_pope_random.json",
        epilog=f"tasks: {', '.join(SCORED)}; --list shows their formats",
    )
    parser.add_argument("--task", help="the benchmark")
    parser.add_argument("--predictions", type=Path, metavar="F", help="the file, or folder, to score")
    parser.add_argument("--annotations", type=Path, metavar="F", help="the official annotations")
    parser.add_argument(
        "--questions", type=Path, metavar="F", help="vqav2, okvqa: only the questions of this official file"
    )
    parser.add_argument(
        "--choices", type=Path, metavar="F", help="gqa: the official *_choices.json, for validity and plausibility"
    )
    parser.add_argument("--split", help="scienceqa (default test) and refcoco: which split of the annotations")
    parser.add_argument(
        "--meteor", action="store_true", help="captions: METEOR as well, which needs Java and setok[eval]"
    )
    parser.add_argument(
        "--lpips", type=Path, metavar="F", help="reconstruction: weights of LPIPS (setok.models.perceptual)"
    )
    parser.add_argument("--inception", type=Path, metavar="F", help="fid, reconstruction: Inception's weights")
    parser.add_argument(
        "--variant", help="fid, reconstruction: pytorch-fid or torch-fidelity, how pictures are resized"
    )
    parser.add_argument("--clip", type=Path, metavar="DIR", help="editing: a CLIP, for CLIP-I")
    parser.add_argument("--dino", type=Path, metavar="DIR", help="editing: a DINO, for DINO")
    parser.add_argument(
        "--problems",
        type=Path,
        metavar="F",
        help="write every id that is missing, extra or wrong into this file, as JSON",
    )
    parser.add_argument("--list", action="store_true", help="show every task's formats and stop")
    return parser


def _given(arguments: argparse.Namespace) -> Given:
    """The arguments, once they make sense for the task."""
    name = arguments.task
    if name is None:
        raise ConfigError("no task was named", f"--task with one of: {', '.join(SCORED)}")
    task = scored(name)
    if arguments.predictions is None:
        raise ConfigError(f"task {name!r} needs predictions", f"--predictions with {task.predictions}")
    if arguments.annotations is None and task.needs_annotations:
        raise ConfigError(f"task {name!r} needs annotations", f"--annotations with {task.annotations}")
    if (arguments.inception is None) != (arguments.variant is None):
        raise ConfigError("--inception and --variant go together", "give both: a figure must say how it was made")
    foreign = [option for option in _OPTIONS if getattr(arguments, option) and option not in task.options]
    if foreign:
        takes = ", ".join(f"--{option}" for option in sorted(task.options)) or "none of them"
        raise ConfigError(f"task {name!r} takes no --{foreign[0]}", f"leave it out; this task takes {takes}")
    for option in ("predictions", "annotations", *_OPTIONS):
        path = getattr(arguments, option)
        if isinstance(path, Path) and not path.exists():
            raise ConfigError(f"--{option}: there is no {path}", "look at the path")
    if arguments.problems is not None:
        _check_target(arguments.problems, (arguments.predictions, arguments.annotations, arguments.questions))
    return Given(
        task=name,
        problems=arguments.problems,
        predictions=arguments.predictions,
        annotations=arguments.annotations,
        **{option: getattr(arguments, option) for option in _OPTIONS},
    )


def _check_target(file: Path, inputs: Sequence[Path | None]) -> None:
    """Refuse to write problems over what is being scored, or where nothing can be written."""
    if file.is_dir() or not file.parent.is_dir():
        raise ConfigError(f"--problems: {file} cannot be written", "give the name of a file in a folder that is there")
    if any(path is not None and path.exists() and file.exists() and file.samefile(path) for path in inputs):
        raise ConfigError(f"--problems: {file} is what is to be scored", "give the name of a new file")


def _table(name: str, task: Task, figures: dict[str, Any]) -> Table:
    table = Table(title=f"{name}: {task.scorer}", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    for figure in (*task.headline, "num_samples"):
        if figure in figures:
            value = figures[figure]
            table.add_row(figure, f"{value:.4f}" if isinstance(value, float) else str(value))
    return table


def _print_tasks() -> None:
    for name, task in SCORED.items():
        sys.stdout.write(f"{name}\n  predictions  {task.predictions}\n  annotations  {task.annotations}\n")
