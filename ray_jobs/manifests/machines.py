"""What machines of AWS and Google Cloud hold, as far as their names tell it, or all of a family have in common.

GPUs of families that are not listed are unknown, and not guessed. A test holds the AWS part against a catalogue.
"""

from __future__ import annotations

import re
from typing import Any

_AWS_GPUS = {
    ("p3dn", "p4d", "p4de", "p5e", "p5en"): {24: 8, 48: 8},
    ("p5",): {4: 1, 48: 8},
    ("g5", "g6", "g6e"): {1: 1, 2: 1, 4: 1, 8: 1, 16: 1, 12: 4, 24: 4, 48: 8},
    ("g4dn",): {1: 1, 2: 1, 4: 1, 8: 1, 16: 1, 12: 4},
    ("p3",): {2: 1, 8: 4, 16: 8},
}
"""By families and size in ``xlarge``."""
_AWS_WITHOUT_GPUS = re.compile(r"[cmrt]\d|[xz]\d")
_AWS_FOUR_A_SIZE = re.compile(r"c[5-9]|(?!hpc|c\d)[a-z]+[3-9]")
"""Families whose ``xlarge`` has four CPUs: all but the oldest, and those without hyperthreads."""
_G2_GPUS = {4: 1, 8: 1, 12: 1, 16: 1, 32: 1, 24: 2, 48: 4, 96: 8}
"""By CPUs."""


def machine_of(config: dict[str, Any]) -> str:
    """The machine's type in a ``node_config`` of either cloud: ``p4d.24xlarge``, ``g2-standard-48``."""
    return str(config.get("InstanceType") or config.get("machineType") or "").rpartition("/")[2]


def gpus_of(config: dict[str, Any]) -> int | None:
    """GPUs of the machine that a ``node_config`` describes; ``None`` where that is not known here."""
    machine = machine_of(config)
    if "InstanceType" in config:
        family, size = _aws(machine)
        sizes = next((sizes for families, sizes in _AWS_GPUS.items() if family in families), None)
        if sizes is not None:
            return sizes.get(size)
        return 0 if _AWS_WITHOUT_GPUS.match(family) else None
    if found := re.fullmatch(r"a\d-\w+-(\d+)g", machine):
        return int(found[1])
    if found := re.fullmatch(r"g2-standard-(\d+)", machine):
        return _G2_GPUS.get(int(found[1]))
    if re.match(r"[acefghmntxz]\d\w*-(standard|highmem|highcpu)-\d+$", machine):  # what is attached to it
        return sum(int(entry.get("acceleratorCount", 1)) for entry in config.get("guestAccelerators") or ())
    return None


def cpus_of(config: dict[str, Any]) -> int | None:
    """CPUs (hardware threads) of the machine; ``None`` where its name does not tell."""
    machine = machine_of(config)
    if "InstanceType" in config:
        family, size = _aws(machine)
        return 4 * size if size and _AWS_FOUR_A_SIZE.match(family) else None
    found = re.fullmatch(r"\w+-(?:standard|highmem|highcpu)-(\d+)", machine)
    return int(found[1]) if found else None


def _aws(machine: str) -> tuple[str, int]:
    """Family and size in ``xlarge``; 0 for smaller ones and whole machines."""
    family, _, size = machine.partition(".")
    found = re.fullmatch(r"(\d*)xlarge", size)
    return family, int(found[1] or 1) if found else 0
