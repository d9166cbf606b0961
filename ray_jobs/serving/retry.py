"""A reply whose replica died, from another one: what was told already is not told again.

A reply is a function of its conversation, options and seed, so the second one begins as the first did. Where it does not, to the
letter (another kind of machine may round another way), the client is told that the answer broke off, and not given two halves of
different ones.
"""

from __future__ import annotations

from setok.errors import OverloadedError
from setok.predictor import TextPart
from setok.serving.engine import Event


class Retold:
    """What is new in a reply, over any number of attempts at it."""

    def __init__(self) -> None:
        self._told: list[Event] = []
        """Texts that follow each other are one."""
        self._place, self._offset = 0, 0

    def again(self) -> None:
        """A new attempt begins."""
        self._place, self._offset = 0, 0

    def new_in(self, event: Event) -> Event | None:
        """An event without what was told before, ``None`` where nothing is left.

        Raises:
            OverloadedError: this attempt tells something else.
        """
        if not isinstance(event, TextPart):
            if self._offset:
                known = self._told[self._place]
                if isinstance(known, TextPart) and self._offset < len(known.text):
                    raise _broke_off()
                self._place, self._offset = self._place + 1, 0
            if self._place < len(self._told):
                if type(self._told[self._place]) is not type(event):
                    raise _broke_off()
                self._place += 1
                return None
            self._told.append(event)
            self._place += 1
            return event
        return self._new_text(event.text)

    def _new_text(self, text: str) -> TextPart | None:
        if self._place == len(self._told):
            self._told.append(TextPart(text=""))
        known = self._told[self._place]
        if not isinstance(known, TextPart):
            raise _broke_off()
        rest = known.text[self._offset :]
        both = min(len(rest), len(text))
        new = text[both:]
        is_last = self._place == len(self._told) - 1
        if rest[:both] != text[:both] or (new and not is_last):
            raise _broke_off()
        self._told[self._place] = TextPart(text=known.text + new)
        self._offset += len(text)
        return TextPart(text=new) if new else None


def _broke_off() -> OverloadedError:
    return OverloadedError("the replica that answered was lost, and the answer with it", "send the request again")
