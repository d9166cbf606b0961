"""The files of an evaluation of Setokim, beside ``metrics.json`` and ``config.yaml``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ANSWERS, EXAMPLES = "answers.jsonl", "examples.jsonl"


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line, whole or not at all; NaN becomes null."""
    temporary = path.with_name(f".{path.name}")
    known = ({name: None if value != value else value for name, value in row.items()} for row in rows)  # NaN is no JSON
    lines = [json.dumps(row, ensure_ascii=False, allow_nan=False) for row in known]
    temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    temporary.replace(path)


def read_examples(folder: Path) -> list[dict[str, Any]]:
    """The examples of an evaluation; empty where there are none."""
    path = folder / EXAMPLES
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []
