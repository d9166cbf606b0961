"""Reads a page as a browser would, and fails where it is not well formed."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Checker(HTMLParser):
    """Fails on unclosed or crossed tags; collects what is loaded and what is said."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.unlabelled: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, dict(attrs))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._see(tag, dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data

    def _see(self, tag: str, attrs: dict[str, str | None]) -> None:
        self.tags.append(tag)
        self.loads += [attrs[name] or "" for name in ("src", "href", "srcset", "data") if name in attrs]
        assert not any(name.startswith("on") for name in attrs), f"{tag} has a handler: {attrs}"
        if (tag == "img" and not attrs.get("alt")) or (tag == "svg" and not attrs.get("aria-label")):
            self.unlabelled.append(tag)


def check(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    return checker
