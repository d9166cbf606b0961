"""The figures of the report: what each is called, how it is rounded, and what it means in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

Path = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure of an evaluation."""

    key: str
    name: str
    meaning: str = ""
    unit: str = ""
    digits: int = 2
    better: Literal["higher", "lower", ""] = "higher"
    short: str = ""
    """A shorter name, where there is little room."""
    is_percent: bool = False
    """Whether a figure in % is in percent already, and no share."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A column of figures that need no training."""

    path: Path
    name: str
    """Of a grid, where it has not the same number of cells everywhere."""

    @property
    def is_finer(self) -> bool:
        """Whether it has more tokens than the model, and is left out where there is little room."""
        return self.path[-1] == "above"


COMPARED = (
    Row(
        key="psnr",
        name="PSNR",
        unit="dB",
        digits=1,
        meaning="How close the picture painted from the tokens is to the original; 3 dB more is half the squared error. Grids"
        " and raw colour are painted with each region's mean colour: they are given the exact outlines, which tokens must carry.",
    ),
    Row(
        key="ari",
        name="ARI, all patches",
        meaning="Do two patches share a token exactly when they share a segment, background included? 1 is always, 0 is chance.",
    ),
    Row(
        key="foreground_ari",
        name="ARI, objects only",
        meaning="The same on patches of objects, in pictures with at least two: are objects told from each other?",
    ),
    Row(key="pixel_ari", name="ARI, pixels", meaning="The same for every pixel, so coarse patch outlines cost points."),
    Row(
        key="mbo",
        name="mBO",
        meaning="Overlap (IoU) of each object with the one token that fits it best, on average.",
    ),
    Row(
        key="miou",
        name="mIoU, one to one",
        meaning="Overlap of every segment with a token of its own; a segment left without one counts as 0.",
    ),
    Row(
        key="mean_tokens",
        name="Tokens per image",
        digits=1,
        better="",
        meaning="How many tokens a picture gets, on average.",
    ),
    Row(
        key="std_tokens",
        name="Spread of token counts",
        digits=1,
        better="",
        meaning="Standard deviation; 0 is a fixed count.",
    ),
    Row(
        key="tokens_objects_correlation",
        name="Tokens against objects, r",
        short="Tokens–objects, r",
        meaning="Do pictures with more objects get more tokens? 1 is in step, 0 is not at all.",
    ),
)
"""Figures that have references beside them."""

ALONE = (
    Row(
        key="psnr_gain_over_mean_image",
        name="PSNR above the mean image",
        unit="dB",
        digits=1,
        meaning="How much better the reconstruction is than showing the average training picture every time.",
    ),
    Row(
        key="painted_psnr",
        name="PSNR of the token map, flat",
        unit="dB",
        digits=1,
        meaning="The learned regions, each painted in its mean colour: what the outlines alone could give.",
    ),
    Row(key="ssim", name="SSIM", meaning="Likeness of structure (Wang et al. 2004); 1 is the same picture."),
    Row(key="l1", name="Mean absolute error", digits=3, better="lower", meaning="In units of full brightness."),
    Row(key="mse", name="Mean squared error", digits=4, better="lower", meaning="The same, squared."),
    Row(
        key="token_similarity",
        name="Likeness of tokens",
        better="lower",
        meaning="Mean cosine between the tokens of a picture; near 1 they all say the same.",
    ),
    Row(
        key="concept_hit_rate",
        name="Concepts found",
        unit="%",
        digits=0,
        meaning="Share of a picture's true noun phrases among as many best-scored ones of the whole set.",
    ),
    Row(
        key="concept_chance",
        name="Concepts found by chance",
        unit="%",
        digits=0,
        better="",
        meaning="What guessing would find.",
    ),
    Row(key="num_images", name="Pictures measured", digits=0, better="", meaning="Those that could be read."),
    Row(
        key="num_skipped", name="Pictures skipped", digits=0, better="lower", meaning="Records that could not be read."
    ),
)
"""Figures of the model alone."""

BEATS = "▲"
"""Stands before a reference that does better than what was trained."""

REFERENCES = (
    Reference(path=("raw_colour",), name="raw colour"),
    Reference(path=("grid", "below"), name="grid, fewer tokens"),
    Reference(path=("grid", "above"), name="grid, more tokens"),
    Reference(path=("own_mean_colour",), name="own mean colour"),
    Reference(path=("mean_image",), name="mean image"),
)


def of_reference(metrics: Mapping[str, Any], reference: Reference) -> Mapping[str, Any]:
    """A reference's figures in an evaluation; empty where it was not measured."""
    found: Any = metrics.get("references") or {}
    for part in reference.path:
        found = found.get(part) or {}
    return found if isinstance(found, Mapping) else {}


def name_of(metrics: Mapping[str, Any], reference: Reference) -> str:
    """A short name for a reference; a grid's says how many cells it has."""
    cells = of_reference(metrics, reference).get("cells_per_side")
    return f"grid {cells}\u00a0×\u00a0{cells}" if cells else reference.name


def show(value: float | None, row: Row) -> str:
    """A figure as people read it, without its unit; – where there is none."""
    if value is None or not math.isfinite(value):
        return "–"
    shown = 100 * value if row.unit == "%" and not row.is_percent else value
    text = f"{shown:,.{row.digits}f}"
    return text.replace("-", "−") if float(text.replace(",", "")) != 0 else text.lstrip("-")


def is_known(value: Any) -> TypeGuard[float]:
    """Whether a figure is there to be shown."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def is_better(value: Any, other: Any, row: Row) -> bool:
    """Whether a figure is better than another one; false where either is not known, or neither way is better."""
    if not row.better or not is_known(value) or not is_known(other):
        return False
    return value < other if row.better == "lower" else value > other


def mark(*, beats: bool) -> str:
    """What stands before a reference on a page, where it does better."""
    return f'<span class="beats" title="better than what was trained">{BEATS}</span> ' if beats else ""


def label_of(row: Row) -> str:
    """A figure's name with its unit, and an arrow where lower is better."""
    return row.name + (f", {row.unit}" if row.unit else "") + (" ↓" if row.better == "lower" else "")


def set_of(metrics: Mapping[str, Any], label: str) -> str:
    """The name of the folder of the data; that of the evaluation where it does not say."""
    return str((metrics.get("run") or {}).get("data") or label).rstrip("/").rpartition("/")[2]
