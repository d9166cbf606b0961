"""The errors a person may meet, each with what happened and what to do about it.

Every error survives pickling, because workers raise them in another process than the one that prints them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class SetokError(Exception):
    """Base of all errors this project raises on purpose.

    Args:
        problem: what happened, naming the offending value and what would have been allowed.
        remedy: what to do next: a command, a setting, a place to look.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def about(self, what: str) -> SetokError:
        """The same error with the name of the setting, option or file that it is about in front."""
        return type(self)(f"{what}: {self.problem}", self.remedy)

    def __str__(self) -> str:
        return f"{self.problem}\n  → {self.remedy}" if self.remedy else self.problem


class ConfigError(SetokError):
    """A setting is unknown, impossible, or contradicts another one."""


class DataError(SetokError):
    """A data set is missing, empty or damaged beyond what quarantine absorbs."""


class CheckpointError(SetokError):
    """A checkpoint is missing, damaged, or belongs to another model."""


class TrainingError(SetokError):
    """Training cannot go on: a non-finite loss, ranks that disagree, a worker that died."""


class NotFiniteError(TrainingError):
    """A loss or gradient is NaN or infinite; the update was not made."""


class OverloadedError(SetokError):
    """A server has as many requests waiting as it takes; the same request may do later."""


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """A sentence naming the closest choices to ``name`` in whatever case, or all of them where none is close."""
    choices = sorted(choices)
    if close := close_to(name, choices):
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"choose one of: {', '.join(choices)}"


def close_to(name: str, choices: Iterable[str]) -> list[str]:
    """The closest choices to ``name`` in whatever case, at most three."""
    spelt = {choice.lower(): choice for choice in choices}
    return [spelt[found] for found in difflib.get_close_matches(name.lower(), spelt, n=3, cutoff=0.6)]


def how_to_get(path: str, wanted: str, *, setting: str, hub_id: str | None = None) -> str:
    """What to do where a Hugging Face model cannot be loaded.

    Args:
        path: a folder, or the hub id that a download would take.
        wanted: what the folder must hold.
        setting: what to set to it.
        hub_id: the id on the hub, where ``path`` has another form.
    """
    if Path(path).exists():
        return f"point {setting} to a folder with {wanted}"
    parent = Path(path).parent
    if path.startswith((".", "/", "~")) or path.count("/") > 1 or (parent.name and parent.is_dir()):
        return f"there is no such folder: set {setting} to one with {wanted}, or to a hub id"
    return (
        f"check the name; without a network, run `hf download {hub_id or path} --local-dir FOLDER` where there is one, and set"
        f" {setting} to the folder"
    )
