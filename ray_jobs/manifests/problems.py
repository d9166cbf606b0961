"""What is wrong with a file, where in it, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from setok.errors import did_you_mean


@dataclass(frozen=True)
class Problem:
    """Something wrong at one place of a file."""

    path: str
    """Keys and numbers of list items down to the place, with dots; or a line. Empty for the whole file."""
    what: str
    remedy: str
    file: str = ""

    def __str__(self) -> str:
        where = ": ".join(part for part in (self.file, self.path) if part)
        return f"{where}: {self.what}\n  → {self.remedy}"


def join(*parts: object) -> str:
    """A path of its parts, without the empty ones."""
    return ".".join(str(part) for part in parts if str(part))


def schema_problems(validator: Any, tree: Any, at: str = "") -> Iterator[Problem]:
    """What a validator of jsonschema has against a tree; unknown keys with the one that may be meant.

    Args:
        validator: of any draft.
        tree: plain dicts and lists.
        at: path of the tree in its file.
    """
    for error in sorted(validator.iter_errors(tree), key=lambda error: list(map(str, error.absolute_path))):
        yield explain(error, at)


def unknown_keys(validator: Any, tree: Any) -> Iterator[Problem]:
    """Of what a validator has against a tree only the unknown keys, also those in one of several schemas that may hold."""
    waiting = list(validator.iter_errors(tree))
    while waiting:
        error = waiting.pop()
        waiting += error.context
        if error.validator == "additionalProperties":
            yield explain(error)


def explain(error: Any, at: str = "") -> Problem:
    """A ``jsonschema.ValidationError`` as a problem."""
    path = join(at, *error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(error.schema.get("properties", ()))
        unknown = [key for key in error.instance if key not in known]
        return Problem(join(path, unknown[0]), f"unknown key {unknown[0]!r}", did_you_mean(str(unknown[0]), known))
    if error.validator in ("type", "anyOf"):
        wanted = error.schema.get("type") or [option.get("type") for option in error.schema.get("anyOf", ())]
        return Problem(path, f"{shown(error.instance)} has the wrong type", f"it must be {_words(wanted)}")
    if error.validator == "enum":
        return Problem(
            path,
            f"{shown(error.instance)} is unknown",
            did_you_mean(str(error.instance), map(str, error.validator_value)),
        )
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        return Problem(path, f"{', '.join(missing)} is required and missing", "add it")
    return Problem(path, error.message[:300], "see the schema of this file's kind")


def shown(value: object) -> str:
    """A value, shortened."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def strings(tree: Any, at: str = "") -> Iterator[tuple[str, str]]:
    """Path and text of all strings of a tree."""
    if isinstance(tree, str):
        yield at, tree
    for key, value in items(tree):
        yield from strings(value, join(at, key))


def items(tree: Any) -> Sequence[tuple[object, Any]]:
    """Keys and values of a mapping, numbers and items of a list, nothing of all else."""
    if isinstance(tree, dict):
        return list(tree.items())
    return list(enumerate(tree)) if isinstance(tree, list) else []


def _words(types: object) -> str:
    several = [str(kind) for kind in types] if isinstance(types, list) else [str(types)]
    return " or ".join(several)
