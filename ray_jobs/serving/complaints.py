"""What is wrong with a body, of all that its check found: the place as the client wrote it, and every reason that holds there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NO_JSON = "send JSON, with the header Content-Type: application/json"


def complaint_of(errors: Sequence[Mapping[str, Any]], body: Any) -> tuple[str, str]:
    """The place of what is wrong ("" for the whole body), such as ``messages.0.content``, and what is wrong there.

    Of a field that may have one of several forms, pydantic complains once for every form: the complaint that lies deepest is of
    the form that was meant.

    Args:
        errors: of pydantic, their places beginning with ``body``.
        body: what was checked.
    """
    first = errors[0]
    if first["type"] == "json_invalid":
        at = f" at character {first['loc'][-1]}" if isinstance(first["loc"][-1], int) else ""
        return "", f"the body is no JSON: {first.get('ctx', {}).get('error', 'it cannot be read')}{at}"
    if len(first["loc"]) == 1 and (first["type"] == "missing" or isinstance(body, bytes)):
        return "", f"the body is {'empty' if not body else 'not marked as JSON'}: {NO_JSON}"
    placed = [(_place(error["loc"][1:], body, missing=error["type"] == "missing"), error["msg"]) for error in errors]
    start = placed[0][0]
    here = [one for one in placed if one[0][: len(start)] == start]
    deepest = max((place for place, _ in here), key=len)
    reasons = dict.fromkeys(str(message) for place, message in here if place == deepest)
    return ".".join(map(str, deepest)), ", or: ".join(reasons)


def _place(parts: Sequence[Any], body: Any, *, missing: bool) -> tuple[Any, ...]:
    """The parts of a place that the body has; the others name the form of a field that was tried."""
    place: list[Any] = []
    inside = body
    for number, part in enumerate(parts, start=1):
        listed = isinstance(inside, list) and isinstance(part, int) and part < len(inside)
        if listed or (isinstance(inside, dict) and part in inside):
            inside = inside[part]
        elif not (missing and number == len(parts)):
            continue
        place.append(part)
    return tuple(place)
