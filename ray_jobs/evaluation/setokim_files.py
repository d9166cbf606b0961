"""The files of an evaluation of Setokim, beside ``metrics.json`` and ``config.yaml``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ray_jobs.evaluation.files import EXAMPLES, replace_file
from ray_jobs.evaluation.journal import known


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all; NaN becomes null."""
    lines = [json.dumps(known(row), ensure_ascii=False, allow_nan=False) for row in rows]
    replace_file(path, "".join(f"{line}\n" for line in lines).encode())


def read_examples(folder: Path) -> list[dict[str, Any]]:
    """The examples of an evaluation; empty where there are none."""
    path = folder / EXAMPLES
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
