"""A Dockerfile: pinned, of the versions of constraints.txt, not root, and with nothing copied that is not sent to the builder.

Pods that use its image name the user that it ends with.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ray_jobs.manifests import house
from ray_jobs.manifests.problems import Problem, items, join
from ray_jobs.manifests.together import Placed, objects

PINS = "constraints.txt"
_MADE = {
    "user": re.compile(r"\b(?:useradd|adduser)\b[^&;|]*?\s(?:--uid|-u)[\s=](\d+)"),
    "group": re.compile(r"\b(?:groupadd|addgroup)\b[^&;|]*?\s(?:--gid|-g)[\s=](\d+)"),
}
_NAMED = {"runAsUser": 0, "runAsGroup": 1}
"""Where a security context names what, as the parts of USER."""


def problems(file: Path, *, root: Path) -> Iterator[Problem]:
    """What is wrong with a Dockerfile whose build starts in ``root``."""
    steps = _steps(file)
    for word, rest in steps:
        if word == "FROM" and not re.search(r":[^:\s]*\d+\.\d+\.\d+|@sha256:", rest):
            yield Problem(
                "FROM", f"{rest} may be another image tomorrow", "name it with its full version, or its digest"
            )
    users = [rest for word, rest in steps if word == "USER"]
    if not users or re.match(r"(root|0)\b", users[-1]):
        yield Problem("USER", "containers run as root", "end with USER 1000:1000")
    yield from _users(steps)
    if (root / PINS).is_file():
        pins = (root / PINS).read_text("utf-8")
        yield from _python(steps, pins)
        yield from _pins(steps, pins)
    yield from _copies(steps, root)
    environment = [rest for word, rest in steps if word in ("ENV", "ARG")]
    yield from house.environment_problems(environment)
    yield from house.secret_problems(environment)


def _steps(file: Path) -> list[tuple[str, str]]:
    """Instructions and what they are given, without comments, each on one line."""
    text = "\n".join(line for line in file.read_text("utf-8").splitlines() if not line.startswith("#"))
    lines = (line.partition(" ") for line in re.sub(r"\\\n", " ", text).splitlines())
    return [(word.upper(), rest.strip()) for word, _, rest in lines if rest]


def _user(steps: list[tuple[str, str]]) -> tuple[str, ...]:
    """Numbers of the user that containers run as, and of its group where that is named; nothing for names."""
    named = [rest for word, rest in steps if word == "USER"]
    return tuple(named[-1].split(":")) if named and re.fullmatch(r"\d+(:\d+)?", named[-1]) else ()


def _users(steps: list[tuple[str, str]]) -> Iterator[Problem]:
    """Whether somebody makes the user of USER: files that it is to write belong to the one that is made."""
    for (kind, pattern), wanted in zip(_MADE.items(), _user(steps), strict=False):
        made = [number for word, rest in steps if word == "RUN" for number in pattern.findall(rest)]
        if made and wanted not in made:
            yield Problem(
                "RUN", f"the {kind} {' and '.join(made)} is made, and USER is {wanted}", f"make the {kind} {wanted}"
            )


def pod_problems(placed: Sequence[Placed], files: Sequence[Path]) -> Iterator[Problem]:
    """Pods that run as another user than the image of these Dockerfiles, which could not write to its folders."""
    users = {file: user for file in files if (user := _user(_steps(file)))}
    for place, tree in objects(placed, "RayCluster", "RayJob", "RayService"):
        for path, key, value in _named(tree):
            ours = {user[_NAMED[key]]: file for file, user in users.items() if len(user) > _NAMED[key]}
            if ours and str(value) not in ours:
                number, file = next(iter(ours.items()))
                yield Problem(path, f"pods run as {value}, and folders of the image ({file}) belong to {number}",
                              f"{key}: {number}", place)  # fmt: skip


def _named(tree: Any, at: str = "") -> Iterator[tuple[str, str, Any]]:
    """Path, key and value of every user and group that a tree names."""
    for key, value in items(tree):
        if key in _NAMED:
            yield join(at, key), str(key), value
        yield from _named(value, join(at, key))


def _python(steps: list[tuple[str, str]], pins: str) -> Iterator[Problem]:
    """The pins were made, and tested, on one minor version, and wheels of others may not exist."""
    tested = re.search(r"^#.*\bCPython (\d+\.\d+)", pins, re.MULTILINE)
    for word, rest in steps:
        found = re.match(r"(?:\S*/)?python:(\d+\.\d+)", rest) if word == "FROM" else None
        if found and tested and found[1] != tested[1]:
            yield Problem("FROM", f"Python is {found[1]} here and {tested[1]} in constraints.txt",
                          f"FROM python:{tested[1]}.…")  # fmt: skip


def _pins(steps: list[tuple[str, str]], text: str) -> Iterator[Problem]:
    pins = dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))
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
