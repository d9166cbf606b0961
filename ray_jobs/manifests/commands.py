"""Our commands as they stand in manifests, READMEs and comments: their modules, presets, flags and settings exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_jobs.manifests.problems import Problem, strings
from setok.config import JOBS, Job, list_presets, load_config
from setok.errors import ConfigError, SetokError, did_you_mean

_COMMAND = re.compile(r"\bpython3? -m (?P<module>(?:ray_jobs|setok)\.[\w.]*\w)(?P<rest>[^\n`]*)")
_ENDS = re.compile(r"^(\|\|?|&&?|;|\d?>{1,2}|<|#.*)$")
_ANY = re.compile(r"…|^[A-Z]+(\|[A-Z]+)*$|\.\.\.|\$")
"""Stands for something that the reader puts in."""
_SHARED_FLAGS = frozenset({"--help", "--config", "--set", "--print-config", "--dry-run"})


@dataclass(frozen=True)
class Command:
    """One of our commands."""

    path: str
    """Where it stands."""
    module: str
    config: str | None = None
    overrides: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    problem: str = field(default="", compare=False)

    @property
    def job(self) -> str:
        """The command's last name: ``train``."""
        return self.module.rpartition(".")[2]


def in_tree(tree: Any) -> list[Command]:
    """Those in the strings of a YAML document."""
    return [command for path, text in strings(tree) for command in in_text(text.replace("\n", " "), path)]


def in_lines(text: str) -> list[Command]:
    """Those of a README, a Dockerfile or comments; ``\\`` at the end of a line continues it."""
    commands: list[Command] = []
    number = 1
    for line in re.sub(r"\\\n\s*", lambda found: " " + "\0" * found[0].count("\n"), text).split("\n"):
        commands += in_text(line.replace("\0", ""), f"line {number}")
        number += 1 + line.count("\0")
    return commands


def in_text(text: str, path: str) -> list[Command]:
    """Those of one line."""
    return [_parse(found["module"], found["rest"], path) for found in _COMMAND.finditer(text)]


def _parse(module: str, rest: str, path: str) -> Command:
    try:
        words = until_end(shlex.split(rest.rstrip(" |.,:;)"), posix=True))
    except ValueError as error:
        return Command(path, module, problem=f"the shell would not take it: {error}")
    config: str | None = None
    overrides: list[str] = []
    flags: list[str] = []
    taking = ""
    for word in words:
        if word.startswith("--"):
            taking, sign, value = word.partition("=")
            flags.append(taking)
            if taking == "--config" and sign:
                config = value
        elif taking == "--config" and config is None:
            config = word
        elif taking == "--set":
            overrides.append(word)
    return Command(path, module, config, tuple(overrides), tuple(flags))


def until_end(words: Sequence[str]) -> list[str]:
    """The words of the first of several commands."""
    taken: list[str] = []
    for word in words:
        if _ENDS.match(word):
            break
        taken.append(word.removesuffix(";"))
        if word.endswith(";"):
            break
    return taken


def problems(commands: Sequence[Command], *, root: Path) -> Iterator[Problem]:
    """What would stop them at once. Files are looked for below ``root``."""
    for command in commands:
        yield from _problems(command, root)


def _problems(command: Command, root: Path) -> Iterator[Problem]:
    said = f"python -m {command.module}"
    if command.problem:
        yield Problem(command.path, f"{said} …: {command.problem}", "balance its quotes")
        return
    source = source_of(command.module)
    if source is None:
        known = [f"ray_jobs.{name}" for name in _jobs()]
        yield Problem(command.path, f"{said}: there is no such module", did_you_mean(command.module, known))
        return
    for flag in command.flags:
        if flag not in _SHARED_FLAGS and not re.search(rf"[\"']{re.escape(flag)}[\"']", source):
            flags = set(re.findall(r"[\"'](--[a-z][a-z-]*)[\"']", source)) | _SHARED_FLAGS
            yield Problem(command.path, f"{said} has no flag {flag}", did_you_mean(flag, flags))
    try:
        config_of(command, root)
    except SetokError as error:
        yield Problem(command.path, f"{said} --config {command.config}: {error.problem}", error.remedy)


def config_of(command: Command, root: Path) -> Job | None:
    """What a command's job would get; ``None`` where it has no config, or one that the reader has to put in.

    Raises:
        ConfigError: there is no such preset or setting, or it has a wrong value.
    """
    if command.config is None or _ANY.search(command.config):
        return None
    overrides = [override for override in command.overrides if not _ANY.search(override) and "=" in override]
    for override in command.overrides:
        if "=" not in override and not _ANY.search(override):
            raise ConfigError(f"--set {override!r} has no form key=value", "write for example --set train.steps=1000")
    config = command.config
    if config not in list_presets() and config.endswith((".yaml", ".yml")):
        if not (root / config).is_file():
            return None  # a file that the reader writes
        config = str(root / config)
    return load_config(_kind(command, config), config, overrides)


def _kind(command: Command, config: str) -> type[Job]:
    """The config class of a command; those that look at any job's config (``plan``, ``submit``) get that job's."""
    if command.job in JOBS:
        return JOBS[command.job]
    for kind in JOBS.values():
        try:
            load_config(kind, config)
        except ConfigError as error:
            if "this config is for job" in error.problem:
                continue
        return kind
    raise ConfigError(f"{config} is for no known job", did_you_mean(config, list_presets()))


def source_of(module: str) -> str | None:
    """The text of a module that exists, without importing it; of a package, that of all its files."""
    *packages, name = module.split(".")
    root = importlib.util.find_spec(packages[0])
    assert root is not None and root.origin is not None
    folder = Path(root.origin).parent.joinpath(*packages[1:])
    if (folder / f"{name}.py").is_file():
        return (folder / f"{name}.py").read_text("utf-8")
    if (folder / name / "__main__.py").is_file():
        return "".join(file.read_text("utf-8") for file in sorted((folder / name).glob("*.py")))
    return None


def _jobs() -> list[str]:
    root = importlib.util.find_spec("ray_jobs")
    assert root is not None and root.origin is not None
    return sorted(file.stem for file in Path(root.origin).parent.glob("*.py") if file.stem != "__init__")
