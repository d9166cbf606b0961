"""Tokens to text as they come, up to where a text says stop."""

from __future__ import annotations

from collections.abc import Callable, Sequence

HALF_A_LETTER = "\ufffd"
"""What a tokenizer shows for bytes that are no whole letter yet."""


class TextFlow:
    """Gives every stretch of a text once it is sure: a letter of several tokens when it is whole, and what may be the beginning
    of a stop text when it is not.

    Args:
        decode: token ids to text.
        stop: texts at whose first occurrence the text ends, without it.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str], *, stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, tuple(filter(None, stop))
        self._ids: list[int] = []
        self._told = ""
        self.stopped = False
        """Whether a stop text was met; nothing more is told then."""

    def add(self, token: int) -> str:
        """One more token; gives what is sure now, often nothing."""
        self._ids.append(token)
        text = self._decode(self._ids)
        ends = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        if ends:
            self.stopped = True
            return self._tell(text[: min(ends)])
        if text.endswith(HALF_A_LETTER):
            return ""
        return self._tell(text[: len(text) - self._held_back(text)])

    def flush(self) -> str:
        """What was held back, as nothing more comes now."""
        return "" if self.stopped else self._tell(self._decode(self._ids))

    def _held_back(self, text: str) -> int:
        """Length of the longest end of a text that a stop text begins with."""
        longest = max((len(stop) for stop in self._stop), default=1) - 1
        for length in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stop):
                return length
        return 0

    def _tell(self, text: str) -> str:
        if not text.startswith(self._told):  # a tokenizer that changes its mind: wait until it says the same again
            return ""
        new, self._told = text[len(self._told) :], text
        return new
