"""A server that speaks S3, and sometimes does not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

_DENIED = b"<Error><Code>AccessDenied</Code><Message>refused by the test</Message></Error>"


class S3Faults:
    """Stands before a WSGI application and refuses or stops uploads of objects whose path holds a word."""

    def __init__(self, app: Callable[..., Iterable[bytes]]) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._word, self._num_refusals = "", 0
        self._held = ""
        self.opened = threading.Event()
        """Lets uploads pass that ``hold`` has stopped."""
        self.refused: list[str] = []
        """Paths of the uploads that were refused."""

    def refuse(self, word: str, times: int = 10**9) -> None:
        """Refuse the next uploads to a path with ``word`` in it; access denied, which no client tries again by itself."""
        self._word, self._num_refusals = word, times

    def hold(self, word: str) -> None:
        """Stop uploads to a path with ``word`` in it until ``opened`` is set: a store as slow as can be."""
        self._held = word

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if environ["REQUEST_METHOD"] in ("PUT", "POST"):
            if self._held and self._held in path:
                self.opened.wait(60)
            with self._lock:
                refuses = self._num_refusals > 0 and self._word in path
                if refuses:
                    self._num_refusals -= 1
                    self.refused.append(path)
            if refuses:
                environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
                start_response("403 Forbidden", [("Content-Type", "application/xml")])
                return [_DENIED]
        return self._app(environ, start_response)
