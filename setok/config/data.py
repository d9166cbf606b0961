"""Settings of the data: sources, mixtures, generated scenes."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

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
    max_samples: int | None = Field(None, ge=1)
    """Use only so many of the set's records, which the seed chooses; the share stays, so they come again more often."""
    max_epochs: int | None = Field(None, ge=1)
    """Go through the set at most so often; after that its share goes to the other sets, by their weights."""


class AugmentConfig(Section):
    """Random views of the training pictures, drawn from seed, epoch and sample: the same for any number of workers."""

    scale: tuple[float, float] = (0.5, 1.0)
    """Share of the picture's area that is cut out."""
    ratio: tuple[float, float] = (0.75, 4 / 3)
    """Width over height of the cut, which is then scaled to a square."""
    flip: float = Field(0.0, ge=0.0, le=1.0)
    """How often left and right are exchanged. Off by default: letters are mirrored too, and what a text says about left and
    right turns wrong; records with such words are never mirrored, but not every language is known here."""
    color_jitter: float = Field(0.0, ge=0.0, lt=1.0)
    """Most by which brightness, contrast and saturation change, each by a factor of its own."""

    @model_validator(mode="after")
    def _ordered(self) -> AugmentConfig:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {list(self.scale)} is no range within 0 and 1: for example [0.5, 1.0]")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio {list(self.ratio)} is no range above 0: for example [0.75, 1.33]")
        return self


class DataConfig(Section):
    """What training reads: ingested sets, mixed by weight, in an order that the seed fixes."""

    train: tuple[MixtureEntry, ...] = Field(min_length=1)
    steps_per_block: int = Field(16, ge=1)
    """Steps of one rank that travel in one Ray Data block: more means less overhead, and more memory."""
    decode_workers: int = Field(1, ge=1)
    decode_cpus: float = Field(0.5, gt=0.0)
    augment: AugmentConfig | None = None
    """``null`` shows the square in the middle of every picture, as evaluation always does."""
    features: str | None = None
    """A folder for what a frozen encoder makes of every picture of the sets (tokenizer stage): computed once, and read by every
    run that names the folder and has the same encoder, pictures, precision and micro-batch. ``null`` computes it in every step.
    Pays for encoders of more than a layer or two. The folder must be one that all nodes see, and is never emptied."""
    max_bad_fraction: float = Field(0.05, ge=0.0, le=1.0)
    """Stop when a larger share of the samples cannot be decoded."""


class ScenesConfig(Section):
    """Generated pictures with known truth, for a machine without any data, in the layouts of real data sets."""

    train: int = Field(20_000, ge=1)
    """Pictures to learn from; no test picture is among them."""
    test: int = Field(500, ge=1)
    family: Literal["plain", "hard"] = "plain"
    """``hard``: two-tone and textured objects, neighbours of one colour, distracting backgrounds."""
    image_size: int = Field(64, ge=16)
    seed: int = Field(1, ge=0)
    layouts: tuple[str, ...] = ("coco",)
    """Data sets in whose layouts they are written: coco, vqav2, gqa, refcoco, instructpix2pix, magicbrush, imagenet."""
