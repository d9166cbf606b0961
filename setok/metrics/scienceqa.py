"""ScienceQA (Lu et al. 2022, "Learn to Explain"): multiple choice, split by subject, by what is shown, and by grade."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SUBJECTS = {"natural science": "NAT", "social science": "SOC", "language science": "LAN"}
_LOWER_GRADES = frozenset(f"grade{number}" for number in range(1, 7))


def is_right(choice: int, problem: Mapping[str, Any]) -> float:
    """Whether the number of the right choice, counted from 0, was given."""
    return float(choice == problem["answer"])


def kinds(problem: Mapping[str, Any]) -> dict[str, str]:
    """The splits of the official table that a problem lies in.

    Returns:
        ``subject`` (NAT, SOC, LAN), ``grade`` (G1-6, G7-12), and ``TXT``, ``IMG`` and ``NO`` each with ``yes`` or ``no``:
        a hint in words, a picture, neither. TXT and IMG overlap, therefore they are splits of their own.
    """
    hint, image = bool(problem.get("hint")), bool(problem.get("image"))
    found = {"TXT": hint, "IMG": image, "NO": not hint and not image}
    splits = {name: "yes" if value else "no" for name, value in found.items()}
    if problem.get("subject") in _SUBJECTS:
        splits["subject"] = _SUBJECTS[problem["subject"]]
    if problem.get("grade"):
        splits["grade"] = "G1-6" if problem["grade"] in _LOWER_GRADES else "G7-12"
    return splits
