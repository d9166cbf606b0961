"""What the benchmarks write: their figures with the machine they were measured on, and scenes to train on."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from setok.config import IngestConfig, build, dump_config


def write_figures(file: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON, with the machine's processor and number of cores; folders are made."""
    machine = {"device": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": machine, **figures}, indent=2) + "\n")


def ingested_scenes(output: Path, *, count: int, image_size: int = 64) -> Path:
    """Draw scenes and ingest them, in a process of its own; the set is ``output/data``.

    Args:
        output: folder for the scenes and the set.
        count: number of pictures.
        image_size: their side in pixels.
    """
    from setok.data.scenes.layouts import write_scenes

    folder = output / "scenes"
    write_scenes(
        folder,
        split="train",
        count=count,
        seed=0,
        family="plain",
        layouts=["coco"],
        image_size=image_size,
        num_processes=1,
    )
    source = {"kind": "coco", "path": str(folder / "coco"), "split": "train"}
    tree = {"name": "ingest", "output_dir": str(output), "sources": [source], "output": str(output / "data")}
    file = output / "ingest.yaml"
    file.write_text(dump_config(build(IngestConfig, tree)), encoding="utf-8")
    subprocess.run([sys.executable, "-m", "ray_jobs.ingest", "--config", str(file)], check=True, capture_output=True)
    return output / "data"
