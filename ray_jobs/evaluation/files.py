"""The files that every evaluation has: its figures, whose presence means that it is done, and what was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from setok.config import EvaluateConfig, dump_config

METRICS, CONFIG = "metrics.json", "config.yaml"
IMAGES, PICTURES = "images.jsonl", "pictures.npz"
"""Of a tokenizer: every picture's figures, and some pictures."""
ANSWERS, EXAMPLES = "answers.jsonl", "examples.jsonl"
"""Of a Setokim: everything that was said, and some cases."""
BEST, RANDOM, WORST = "best", "random", "worst"
"""Why a case is shown."""


def forget(config: EvaluateConfig) -> None:
    """Begin a folder: what lies there of an evaluation before is not that of this one."""
    config.run_dir.mkdir(parents=True, exist_ok=True)
    for name in (METRICS, IMAGES, PICTURES, ANSWERS, EXAMPLES):
        (config.run_dir / name).unlink(missing_ok=True)


def write_metrics(config: EvaluateConfig, metrics: Mapping[str, Any]) -> None:
    """Write ``config.yaml``, and then ``metrics.json``, whose presence means that the evaluation is done."""
    replace_file(config.run_dir / CONFIG, dump_config(config).encode())
    text = json.dumps(metrics, indent=2, ensure_ascii=False, allow_nan=False)
    replace_file(config.run_dir / METRICS, f"{text}\n".encode())


def read_finished(config: EvaluateConfig, fingerprints: Mapping[str, str]) -> dict[str, Any] | None:
    """The figures of this very evaluation, where it is done already.

    Args:
        fingerprints: of the checkpoint and the data; both must be those that were measured.
    """
    settings, metrics = config.run_dir / CONFIG, config.run_dir / METRICS
    if not (settings.is_file() and metrics.is_file()):
        return None
    begun, asked = (yaml.safe_load(text) for text in (settings.read_text(encoding="utf-8"), dump_config(config)))
    if any(begun.get(name) != asked.get(name) for name in {**begun, **asked}.keys() - {"num_replicas"}):
        return None
    stored = json.loads(metrics.read_text(encoding="utf-8"))
    return stored if stored.get("run", {}).get("fingerprints") == dict(fingerprints) else None


def replace_file(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(data)
    temporary.rename(path)
