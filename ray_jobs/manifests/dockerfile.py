"""A Dockerfile: pinned, of the versions of constraints.txt, not root, and with nothing copied that is not sent to the builder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ray_jobs.manifests import house
from ray_jobs.manifests.problems import Problem


def problems(file: Path, *, root: Path) -> Iterator[Problem]:
    """What is wrong with a Dockerfile whose build starts in ``root``."""
    text = re.sub(
        r"\\\n", " ", "\n".join(line for line in file.read_text("utf-8").splitlines() if not line.startswith("#"))
    )
    steps = [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines()) if rest
    ]
    for word, rest in steps:
        if word == "FROM" and not re.search(r":[^:\s]*\d+\.\d+\.\d+|@sha256:", rest):
            yield Problem(
                "FROM", f"{rest} may be another image tomorrow", "name it with its full version, or its digest"
            )
    users = [rest for word, rest in steps if word == "USER"]
    if not users or re.match(r"(root|0)\b", users[-1]):
        yield Problem("USER", "containers run as root", "end with USER 1000:1000")
    yield from _python(steps, root)
    yield from _pins(text, steps, root)
    yield from _copies(steps, root)
    environment = [rest for word, rest in steps if word in ("ENV", "ARG")]
    yield from house.environment_problems(environment)
    yield from house.secret_problems(environment)


def _python(steps: list[tuple[str, str]], root: Path) -> Iterator[Problem]:
    """The pins were made, and tested, on one minor version, and wheels of others may not exist."""
    tested = re.search(r"^#.*\bCPython (\d+\.\d+)", (root / "constraints.txt").read_text("utf-8"), re.MULTILINE)
    for word, rest in steps:
        found = re.match(r"(?:\S*/)?python:(\d+\.\d+)", rest) if word == "FROM" else None
        if found and tested and found[1] != tested[1]:
            yield Problem("FROM", f"Python is {found[1]} here and {tested[1]} in constraints.txt",
                          f"FROM python:{tested[1]}.…")  # fmt: skip


def _pins(text: str, steps: list[tuple[str, str]], root: Path) -> Iterator[Problem]:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", (root / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    arguments = dict(rest.partition("=")[::2] for word, rest in steps if word == "ARG" and "=" in rest)
    if arguments.get("TORCH") != pins["torch"]:
        yield Problem("ARG TORCH", f"torch is {arguments.get('TORCH')} here and {pins['torch']} in constraints.txt",
                      f"ARG TORCH={pins['torch']}")  # fmt: skip
    for word, rest in steps:
        if word == "RUN" and "pip install" in rest and "-c constraints.txt" not in rest and "--no-deps" not in rest:
            yield Problem("RUN", "pip would take whatever versions are newest", "pip install -c constraints.txt …")


def _copies(steps: list[tuple[str, str]], root: Path) -> Iterator[Problem]:
    ignore = root / ".dockerignore"
    sent = (
        [line[1:] for line in ignore.read_text("utf-8").splitlines() if line.startswith("!")]
        if ignore.is_file()
        else None
    )
    for word, rest in steps:
        if word != "COPY" or "--from" in rest:
            continue
        for source in rest.split()[:-1]:
            if not (root / source).exists():
                yield Problem("COPY", f"there is no {source} in {root}", "build from the root of the repository")
            elif sent is not None and source not in sent:
                yield Problem("COPY", f"{source} is not sent to the builder", f"add !{source} to .dockerignore")
