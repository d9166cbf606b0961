"""``spot_watcher.py`` where it is started, by the launcher or by systemd: it has the flags, and the cloud is that of the file.

Its log is looked at by nobody: one that does not start is missed when the first machine is taken away.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import re
import runpy
import shlex
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from ray_jobs.manifests.clouds import cloud_of, is_spot
from ray_jobs.manifests.commands import until_end
from ray_jobs.manifests.problems import Problem, join
from setok.errors import did_you_mean

SCRIPT = Path("cluster/spot_watcher.py")
_PYTHON = r"(?:\S*/)?python3?(?:\.\d+)?"
_SECTIONS = ("Unit", "Service", "Install")
_PYTHONS_FLAGS, _WITH_VALUE = frozenset("bBdEiIOPqRsStuvx"), frozenset("WX")
"""Letters that leave Python to run the script, as ``python3 --help`` has them; the others run something else, or nothing."""
IN_IMAGE = f"/opt/setok/{SCRIPT}"
"""Where cluster/Dockerfile puts it."""


def problems(tree: dict[str, Any], *, root: Path) -> Iterator[Problem]:
    """What is wrong with how a launcher file starts it."""
    nodes = tree.get("available_node_types")
    spot = [str(name) for name, node in nodes.items() if is_spot(node)] if isinstance(nodes, dict) else []
    started = False
    for number, command in enumerate(tree.get("worker_start_ray_commands") or ()):
        if SCRIPT.name not in str(command):
            continue
        started, at = True, join("worker_start_ray_commands", number)
        yield from _interpreter_problems(str(command), at)
        script, flags = _call(str(command))
        if script != IN_IMAGE:
            yield Problem(at, f"the image has no {script}", IN_IMAGE)
        given = yield from _parsed(flags, at, root)
        if given is not None and given.cloud not in ("auto", cloud_of(tree)):
            yield Problem(
                at, f"--cloud {given.cloud}, and provider.type is {cloud_of(tree)}", f"--cloud {cloud_of(tree)}"
            )
    if spot and not started:
        yield Problem("worker_start_ray_commands", f"{', '.join(spot)} may be taken away, and nothing tells Ray in time",
                      "start cluster/spot_watcher.py beside ray start")  # fmt: skip


def service_problems(text: str, *, root: Path) -> Iterator[Problem]:
    """What is wrong with a unit of systemd that starts it."""
    starts, section = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        if found := re.fullmatch(r"\s*\[(.+)\]\s*", line):
            section = found[1]
            if section not in _SECTIONS:
                yield Problem(
                    f"line {number}", f"systemd passes over a section {section!r}", did_you_mean(section, _SECTIONS)
                )
        elif section == "Service" and re.match(r"\s*ExecStart\s*=", line):
            starts.append((number, line.partition("=")[2].strip()))
    if not starts:
        yield Problem(
            "",
            "there is no ExecStart in [Service], so that it starts nothing",
            f"ExecStart=/usr/bin/python3 {IN_IMAGE} …",
        )
    for number, command in starts:
        at = f"line {number}"
        if not command.startswith("/"):
            yield Problem(
                at,
                f"systemd looks for {command.split()[:1]} in its own PATH",
                "name the program with its whole path",
            )
        if SCRIPT.name not in command:
            yield Problem(at, f"{command!r} does not start {SCRIPT.name}", f"ExecStart=/usr/bin/python3 {IN_IMAGE} …")
            continue
        yield from _interpreter_problems(command, at)
        _, flags = _call(command)
        given = yield from _parsed(flags, at, root)
        if given is not None and not given.ray.startswith("/"):
            yield Problem(
                at, f"--ray {given.ray}: systemd gives it a PATH without an environment of Python", "--ray /…/bin/ray"
            )


def _call(command: str) -> tuple[str, list[str]]:
    """The script as it is called, and what it is given."""
    words, at = _words(command)
    return words[at], words[at + 1 :]


def _words(command: str) -> tuple[list[str], int]:
    """The words of a command up to its end, and where the script is among them."""
    try:
        words = until_end(shlex.split(command))
    except ValueError:  # quotes that do not balance, in a part that the shell takes otherwise
        words = command.split()
    return words, next(number for number, word in enumerate(words) if word.endswith(SCRIPT.name))


def _interpreter_problems(command: str, at: str) -> Iterator[Problem]:
    """What stands between the interpreter and the script."""
    words, place = _words(command)
    pythons = [number for number, word in enumerate(words[:place]) if re.fullmatch(_PYTHON, word)]
    if not pythons:  # it starts by itself, or by what is known elsewhere
        return
    options = iter(words[pythons[-1] + 1 : place])
    for option in options:
        wrong = next((letter for letter in option[1:] if letter not in _PYTHONS_FLAGS), "")
        if option.startswith("-") and wrong and wrong in _WITH_VALUE:
            if option.endswith(wrong):
                next(options, None)
        elif wrong or not re.match("-.", option):
            yield Problem(at, f"{words[pythons[-1]]} {option} does not run {SCRIPT.name}", f"leave {option} out")


def _parsed(flags: list[str], at: str, root: Path) -> Generator[Problem, None, argparse.Namespace | None]:
    """Problems; returns what the script's own command line makes of the flags, ``None`` where it would end."""
    if not (root / SCRIPT).is_file():
        return None
    parser: argparse.ArgumentParser = runpy.run_path(str(root / SCRIPT))["make_parser"]()
    known = [option for action in parser._actions for option in action.option_strings if option.startswith("--")]
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            given, unknown = parser.parse_known_args(flags)
    except SystemExit:
        yield Problem(at, f"{SCRIPT.name}: {told.getvalue().strip().rpartition('error: ')[2]}", "see its --help")
        return None
    for flag in unknown:
        yield Problem(at, f"{SCRIPT.name} has no flag {flag}", did_you_mean(flag, known))
    return None if unknown else given
