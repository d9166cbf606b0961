"""Settings of the data: sources, mixtures, generated scenes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from setok.config.section import Section


class SourceConfig(Section):
    """One data set in its official layout."""

    kind: str
    """Name of a reader in ``setok.data.sources.SOURCES``."""
    path: str
    split: str = "train"
    images: str | None = None
    """Folder of the pictures where it is not below ``path``: VQAv2 and others use those of COCO."""
    turns: Literal["each", "all"] = "each"
    """Sets with several questions on one picture: a record for ``each`` one, or one conversation with ``all`` of them."""
    limit: int | None = Field(None, ge=1)
    """Read at most this many records."""


class MixtureEntry(Section):
    """One ingested data set and its share of the training samples."""

    path: str
    """Its folder, or where it lies in an object store: ``s3://bucket/sets/coco``, ``gs://…``."""
    weight: float = Field(1.0, gt=0.0)


class DataConfig(Section):
    """What training reads: ingested sets, mixed by weight, in an order that the seed fixes."""

    train: tuple[MixtureEntry, ...] = Field(min_length=1)
    steps_per_block: int = Field(16, ge=1)
    """Steps of one rank that travel in one Ray Data block: more means less overhead, and more memory."""
    decode_workers: int = Field(1, ge=1)
    decode_cpus: float = Field(0.5, gt=0.0)
    max_bad_fraction: float = Field(0.05, ge=0.0, le=1.0)
    """Stop when a larger share of the samples cannot be decoded."""


class ScenesConfig(Section):
    """Generated pictures with known truth, for a machine without any data, in the layout of COCO."""

    train: int = Field(20_000, ge=1)
    """Pictures to learn from; no test picture is among them."""
    test: int = Field(500, ge=1)
    family: Literal["plain", "hard"] = "plain"
    """``hard``: two-tone and textured objects, neighbours of one colour, distracting backgrounds."""
    image_size: int = Field(64, ge=16)
    seed: int = Field(1, ge=0)
