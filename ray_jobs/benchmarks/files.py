"""What the benchmarks write: their figures, and the machine they were measured on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_figures(file: Path, figures: Mapping[str, Any]) -> None:
    """Write figures as JSON, with the machine's processor and number of cores; folders are made."""
    machine = {"device": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"machine": machine, **figures}, indent=2) + "\n")
