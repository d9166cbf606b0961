"""Readers of data sets in their official layouts, by name."""

from __future__ import annotations

from setok.config import SourceConfig
from setok.data.sources.allava import AllavaSource
from setok.data.sources.aokvqa import AokvqaSource
from setok.data.sources.base import BadRecord, Requirement, Source
from setok.data.sources.cc3m import Cc3mSource
from setok.data.sources.coco import CocoSource
from setok.data.sources.folder import FolderSource
from setok.data.sources.gqa import GqaSource
from setok.data.sources.imagenet import ImagenetSource
from setok.data.sources.img2dataset import Img2datasetSource
from setok.data.sources.instructpix2pix import InstructPix2PixSource
from setok.data.sources.llava import LlavaInstructSource, LlavaPretrainSource
from setok.data.sources.magicbrush import MagicBrushSource
from setok.data.sources.mme import MmeSource
from setok.data.sources.openimages import OpenimagesSource
from setok.data.sources.pope import PopeSource
from setok.data.sources.refcoco import RefcocogSource, RefcocoPlusSource, RefcocoSource
from setok.data.sources.scienceqa import ScienceqaSource
from setok.data.sources.sharegpt4v import Sharegpt4vSource
from setok.data.sources.text import TextSource
from setok.data.sources.textvqa import TextcapsSource, TextvqaSource
from setok.data.sources.vizwiz import VizwizSource
from setok.data.sources.vqav2 import OkvqaSource, Vqav2Source
from setok.data.sources.webdataset import WebdatasetSource
from setok.errors import ConfigError, did_you_mean

__all__ = ["SOURCES", "BadRecord", "Requirement", "Source", "open_source"]

SOURCES: dict[str, type[Source]] = {
    "allava": AllavaSource,
    "aokvqa": AokvqaSource,
    "cc3m": Cc3mSource,
    "coco": CocoSource,
    "folder": FolderSource,
    "gqa": GqaSource,
    "imagenet": ImagenetSource,
    "img2dataset": Img2datasetSource,
    "instructpix2pix": InstructPix2PixSource,
    "llava_instruct": LlavaInstructSource,
    "llava_pretrain": LlavaPretrainSource,
    "magicbrush": MagicBrushSource,
    "mme": MmeSource,
    "okvqa": OkvqaSource,
    "openimages": OpenimagesSource,
    "pope": PopeSource,
    "refcoco": RefcocoSource,
    "refcoco+": RefcocoPlusSource,
    "refcocog": RefcocogSource,
    "scienceqa": ScienceqaSource,
    "sharegpt4v": Sharegpt4vSource,
    "text": TextSource,
    "textcaps": TextcapsSource,
    "textvqa": TextvqaSource,
    "vizwiz": VizwizSource,
    "vqav2": Vqav2Source,
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
