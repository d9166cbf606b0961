"""The smallest configs, and files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

TRAIN = {"job": "train", "name": "x", "data": {"train": [{"path": "d"}]}}
INGEST = {"job": "ingest", "name": "x", "sources": [{"kind": "folder", "path": "p"}], "output": "o"}


def write(folder: Path, name: str, tree: Any) -> str:
    """A config file and its path."""
    path = folder / name
    path.write_text(tree if isinstance(tree, str) else yaml.safe_dump(tree))
    return str(path)
