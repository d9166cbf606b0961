"""Readers of data sets in their official layouts, by name."""

from __future__ import annotations

from setok.config import SourceConfig
from setok.data.sources.base import BadRecord, Requirement, Source
from setok.data.sources.coco import CocoSource
from setok.data.sources.folder import FolderSource
from setok.data.sources.imagenet import ImagenetSource
from setok.errors import ConfigError, did_you_mean

__all__ = ["SOURCES", "BadRecord", "Requirement", "Source", "open_source"]

SOURCES: dict[str, type[Source]] = {
    "coco": CocoSource,
    "imagenet": ImagenetSource,
    "folder": FolderSource,
}


def open_source(config: SourceConfig) -> Source:
    """The reader that ``config.kind`` names; nothing is read yet.

    Raises:
        ConfigError: there is no such reader, or the reader has no such split.
    """
    if config.kind not in SOURCES:
        raise ConfigError(f"no source is called {config.kind!r}", did_you_mean(config.kind, SOURCES))
    return SOURCES[config.kind](config)
