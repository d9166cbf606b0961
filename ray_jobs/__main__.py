"""All commands, with what each does: ``python -m ray_jobs``."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from ray_jobs import launch
from setok.errors import ConfigError, did_you_mean

COMMANDS = (
    *("pipeline", "ingest", "train", "evaluate", "serve", "tune", "sweep_thresholds"),
    *("plan", "doctor", "submit", "manifests", "benchmark"),
)
SCENES = "setok.data.scenes"


def main(argv: Sequence[str] | None = None) -> None:
    """Print the list.

    Raises:
        ConfigError: there are arguments, which belong to one of the commands.
    """
    given = [argument for argument in (sys.argv[1:] if argv is None else argv) if argument not in ("-h", "--help")]
    if given:
        name = next((argument for argument in given if not argument.startswith("-")), "")
        remedy = f"python -m ray_jobs.{name} …" if name in COMMANDS else did_you_mean(name, COMMANDS)
        raise ConfigError(f"python -m ray_jobs only lists the commands, and was given {' '.join(given)}", remedy)
    table = Table.grid(padding=(0, 2))
    for module in (*(f"ray_jobs.{name}" for name in COMMANDS), SCENES):
        table.add_row(f"python -m {module}", summary_of(module))
    launch.console().print(table)
    launch.console().print("\nEach takes --help; most take --config PRESET|FILE, --set KEY=VALUE …, and --dry-run.")


def summary_of(module: str) -> str:
    """The first line of a command's help, without importing it."""
    found = importlib.util.find_spec(module)
    assert found is not None and found.origin is not None
    file = Path(found.origin)
    main_file = file.with_name("__main__.py")
    source = main_file if file.name == "__init__.py" and main_file.is_file() else file
    text = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")


if __name__ == "__main__":
    launch.run(main)
