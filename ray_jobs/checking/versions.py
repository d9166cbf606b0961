"""The packages that are installed, beside the pins that the project is tested with."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from ray_jobs.checking.findings import Finding, fail, ok, warn

SUBJECT = "versions"
PINS = Path(__file__).parents[2] / "constraints.txt"
DECISIVE = ("torch", "ray", "deepspeed", "transformers", "numpy", "pyarrow", "pydantic")
"""A run on other versions of these has not been tried; of the rest it is most likely no matter."""
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;#]+)")


def read_pins(file: Path = PINS) -> dict[str, str]:
    """Version by package; empty where there is no such file, as in an installed wheel."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8").splitlines()
    return {match[1].lower().replace("_", "-"): match[2] for line in lines if (match := _PIN.match(line))}


def installed(package: str) -> str | None:
    """Its version without the build's tag; ``None`` where it is not there."""
    try:
        return metadata.version(package).partition("+")[0]
    except metadata.PackageNotFoundError:
        return None


def check_pins(pins: Mapping[str, str], version_of: Callable[[str], str | None] = installed) -> list[Finding]:
    """Compare; a decisive package that is missing or another one fails, others warn."""
    if not pins:
        return [
            warn(SUBJECT, "there is no constraints.txt beside the code", "start in a checkout, to compare versions")
        ]
    found = {name: version_of(name) for name in pins}
    bad = [
        f"{name} {found[name] or 'is missing'} ({pins[name]})" for name in DECISIVE if found.get(name) != pins.get(name)
    ]
    others = {name: version for name, version in found.items() if name not in DECISIVE and version is not None}
    odd = [f"{name} {version} ({pins[name]})" for name, version in others.items() if version != pins[name]]
    findings = []
    again = "make setup, or pip install -c constraints.txt -e ."
    if bad:
        findings.append(fail(SUBJECT, f"not the tested versions: {', '.join(bad)}", again))
    if odd:
        shown = ", ".join(odd[:10]) + (f" and {len(odd) - 10} more" if len(odd) > 10 else "")
        findings.append(warn(SUBJECT, f"other versions than tested: {shown}", again))
    same = sum(version == pins[name] for name, version in found.items())
    return findings or [ok(SUBJECT, f"{same} packages as pinned: torch {found.get('torch')}, ray {found.get('ray')}")]


def check_same(versions: Sequence[tuple[str, Mapping[str, str | None]]]) -> list[Finding]:
    """Compare nodes with the first of them.

    Args:
        versions: name of a node, and its versions by package.
    """
    if not versions:
        return []
    (first, expected), *others = versions
    findings = []
    for node, found in others:
        differ = [
            f"{name} {found.get(name) or 'missing'}, not {expected[name]}"
            for name in expected
            if found.get(name) != expected[name]
        ]
        if differ:
            remedy = f"give {node} the environment of {first}: the same image, or make setup"
            findings.append(fail(SUBJECT, f"node {node} has {'; '.join(differ)}", remedy))
    return findings or [ok(SUBJECT, f"the same on {len(versions)} node(s)")]
