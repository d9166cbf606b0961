"""The files that every evaluation has: its figures, whose presence means that it is done, and what was asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from setok.config import EvaluateConfig, dump_config
from setok.errors import ConfigError

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
    stored = _stored(config, fingerprints)
    return None if stored is None or _differences(config) else stored


def refuse_another(config: EvaluateConfig) -> None:
    """Keep a finished evaluation that was asked for something else; of a run that has trained on it is made anew.

    Raises:
        ConfigError: with everything that differs.
    """
    there = (config.run_dir / METRICS).is_file() and (config.run_dir / CONFIG).is_file()
    if there and (told := _differences(config)):
        raise ConfigError(
            f"{config.run_dir} holds a finished evaluation of something else: {', '.join(told)}",
            f"take another name (--set name={config.name}-2), or forget that one: rm -r {config.run_dir}",
        )


def _stored(config: EvaluateConfig, fingerprints: Mapping[str, str]) -> dict[str, Any] | None:
    """The figures in the folder, where they are of this checkpoint and set."""
    path = config.run_dir / METRICS
    if not (path.is_file() and (config.run_dir / CONFIG).is_file()):
        return None
    stored: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return stored if stored.get("run", {}).get("fingerprints") == dict(fingerprints) else None


def _differences(config: EvaluateConfig) -> list[str]:
    """What else was asked for in the folder; replicas change no figure."""
    begun = yaml.safe_load((config.run_dir / CONFIG).read_text(encoding="utf-8"))
    asked = yaml.safe_load(dump_config(config))
    names = [name for name in {**begun, **asked} if begun.get(name) != asked.get(name) and name != "num_replicas"]
    return [f"{name} was {begun.get(name)!r} and is {asked.get(name)!r}" for name in names]


def replace_file(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    temporary = path.with_name(f".{path.name}")
    temporary.write_bytes(data)
    temporary.rename(path)
