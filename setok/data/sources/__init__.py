"""Readers of data sets in their official layouts, by name."""

from __future__ import annotations

from setok.config import SourceConfig
from setok.data.sources.allava import AllavaSource
from setok.data.sources.base import BadRecord, Requirement, Source
from setok.data.sources.cc3m import Cc3mSource
from setok.data.sources.coco import CocoSource
from setok.data.sources.folder import FolderSource
from setok.data.sources.imagenet import ImagenetSource
from setok.data.sources.img2dataset import Img2datasetSource
from setok.data.sources.llava import LlavaInstructSource, LlavaPretrainSource
from setok.data.sources.openimages import OpenimagesSource
from setok.data.sources.sharegpt4v import Sharegpt4vSource
from setok.data.sources.text import TextSource
from setok.data.sources.webdataset import WebdatasetSource
from setok.errors import ConfigError, did_you_mean

__all__ = ["SOURCES", "BadRecord", "Requirement", "Source", "open_source"]

SOURCES: dict[str, type[Source]] = {
    "allava": AllavaSource,
    "cc3m": Cc3mSource,
    "coco": CocoSource,
    "folder": FolderSource,
    "imagenet": ImagenetSource,
    "img2dataset": Img2datasetSource,
    "llava_instruct": LlavaInstructSource,
    "llava_pretrain": LlavaPretrainSource,
    "openimages": OpenimagesSource,
    "sharegpt4v": Sharegpt4vSource,
    "text": TextSource,
    "webdataset": WebdatasetSource,
}


def open_source(config: SourceConfig) -> Source:
    """The reader that ``config.kind`` names; nothing is read yet.

    Raises:
        ConfigError: there is no such reader, or the reader has no such split.
    """
    if config.kind not in SOURCES:
        raise ConfigError(f"no source is called {config.kind!r}", did_you_mean(config.kind, SOURCES))
    return SOURCES[config.kind](config)
