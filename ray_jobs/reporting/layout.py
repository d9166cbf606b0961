"""How cards stand beside each other: in as many columns as leave no card alone in its line."""

from __future__ import annotations

from collections.abc import Sequence

_NAMES = {1: "one", 2: "two", 3: "three"}
_WIDTHS = {1: 390, 2: 440, 3: 300}
_MOST_TILES = 5


def columns(count: int) -> int:
    """Two or three columns, whichever leave fewer places empty, for one card one."""
    return 1 if count == 1 else min((3, 2), key=lambda wide: -count % wide)


def width(count: int) -> int:
    """Of each of so many charts, so that letters are of one size on the whole page."""
    return _WIDTHS[columns(count)]


def charts(cards: Sequence[str]) -> str:
    """Charts, each a ``figure``, side by side; one that would be alone in its line has all of it."""
    return f'<div class="charts {_NAMES[columns(len(cards))]}">{"".join(cards)}</div>' if cards else ""


def cases(cards: Sequence[str]) -> str:
    """Things that were asked, each a ``figure``, side by side."""
    return f'<div class="asked {_NAMES[columns(len(cards))]}">{"".join(cards)}</div>'


def tiles(cards: Sequence[str]) -> str:
    """Headline figures, each an ``li``, in one line where there is room."""
    wide = min(len(cards), _MOST_TILES)
    return f'<ul class="tiles" style="--columns: {wide}">{"".join(cards)}</ul>' if cards else ""


def panels(charts: Sequence[str]) -> str:
    """Parts of one figure, side by side."""
    return f'<div class="panels {_NAMES[columns(len(charts))]}">{"".join(charts)}</div>'
