"""Pictures for the report: original, token map that tells its tokens on touch, reconstruction."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from ray_jobs.evaluation.files import BEST, RANDOM, WORST
from ray_jobs.evaluation.tokenizer_files import Picture
from setok.drawing import PALETTE

_SMALL = 128
"""Pictures up to this side are stored exactly and shown with their pixels visible."""
_GROUPS = (
    (BEST, "Best", "highest PSNR"),
    (RANDOM, "Random", "drawn from the others by the seed"),
    (WORST, "Worst", "lowest PSNR"),
)


def gallery(pictures: Sequence[Picture]) -> str:
    """All pictures in groups: best, random, worst."""
    parts = []
    for kind, name, why in _GROUPS:
        chosen = [picture for picture in pictures if picture.kind == kind]
        if chosen:
            cards = "".join(card(picture) for picture in chosen)
            parts.append(f'<p class="group"><b>{name}</b>{why}</p><div class="gallery">{cards}</div>')
    return "".join(parts)


def card(picture: Picture) -> str:
    """One picture three times, with its figures."""
    about = f"from {picture.num_tokens} tokens, PSNR {picture.psnr:.1f} dB"
    facts = [f"<b>{picture.psnr:.1f} dB</b>", f"{picture.num_tokens} token{'s' * (picture.num_tokens != 1)}"]
    if picture.num_objects is not None:
        facts.append(f"{picture.num_objects} object{'s' * (picture.num_objects != 1)}")
    if picture.ari is not None:
        facts.append(f"ARI {picture.ari:.2f}".replace("-", "−"))
    said = escape(picture.caption or picture.id)
    original, kind = data_uri(picture.original), ' class="pixels"' if max(picture.original.shape[:2]) <= _SMALL else ""
    return (
        f'<figure class="card"><div class="trio">'
        f'<img{kind} src="{original}" alt="Original: {said}">'
        f"{token_map_svg(picture.assignment, picture.grid, original, kind)}"
        f'<img{kind} src="{data_uri(picture.reconstruction)}" alt="Reconstruction, {about}"></div>'
        f'<figcaption>{" · ".join(facts)}<span class="said" title="{escape(picture.id)}">{said}</span></figcaption></figure>'
    )


def token_map_svg(assignment: Int[np.ndarray, " patches"], grid: tuple[int, int], under: str, kind: str = "") -> str:
    """The token map over a faint picture; pointing at a region shows its token's number and what lies under it.

    Args:
        assignment: index of the token of each patch, row by row.
        grid: rows and columns of patches.
        under: address of the picture.
        kind: attributes for the picture.
    """
    rows, columns = grid
    labels = np.asarray(assignment).reshape(rows, columns)
    size = max(rows, columns)
    tokens = np.unique(labels[labels >= 0])  # -1 is padding
    parts = [f'<image{kind} href="{under}" width="{columns}" height="{rows}" preserveAspectRatio="none"/>']
    for token in tokens.tolist():
        owned = labels == token
        y, x = _heart(owned)
        name = f"token {token}: {int(owned.sum())} of {int((labels >= 0).sum())} patches"
        text = f'<text x="{x:.2f}" y="{y:.2f}" font-size="{size * 0.13:.2f}" stroke-width="{size * 0.03:.2f}">{token}</text>'
        area = f'<path fill="{_colour(token)}" d="{_area(owned)}"/>'
        parts.append(f'<g class="token"><title>{name}</title>{area}{text}</g>')
    parts.append(f'<path class="seams" stroke-width="{size * 0.008:.3f}" d="{_seams(labels)}"/>')
    label = f"Token map: {len(tokens)} regions"
    return (
        f'<svg class="map" role="img" aria-label="{label}" viewBox="0 0 {columns} {rows}" preserveAspectRatio="none">'
        f"{''.join(parts)}</svg>"
    )


def data_uri(picture: UInt8[np.ndarray, "height width 3"]) -> str:
    """A picture as an address that holds it: exact up to 128 pixels a side, else lightly compressed."""
    file = io.BytesIO()
    small = max(picture.shape[:2]) <= _SMALL
    Image.fromarray(np.ascontiguousarray(picture)).save(file, "WEBP", lossless=small, quality=100 if small else 88)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def _colour(token: int) -> str:
    """As ``setok.drawing.token_map`` paints it."""
    shade = 0.75 ** (token // len(PALETTE))
    red, green, blue = (int(value * shade) for value in PALETTE[token % len(PALETTE)])
    return f"#{red:02x}{green:02x}{blue:02x}"


def _area(owned: np.ndarray) -> str:
    """Runs of patches, row by row, as one path."""
    parts = []
    for y, row in enumerate(owned):
        edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(np.int8), [0]])))
        parts += [f"M{a} {y}h{b - a}v1h{a - b}z" for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return "".join(parts)


def _seams(labels: np.ndarray) -> str:
    """Lines between patches of different tokens."""
    parts = [f"M{x + 1} {y}v1" for y, x in np.argwhere(labels[:, 1:] != labels[:, :-1])]
    parts += [f"M{x} {y + 1}h1" for y, x in np.argwhere(labels[1:] != labels[:-1])]
    return "".join(parts)


def _heart(owned: np.ndarray) -> tuple[float, float]:
    """Middle of the patch that lies nearest to the middle of the region, as (y, x): always inside it."""
    places = np.argwhere(owned)
    y, x = places[np.square(places - places.mean(0)).sum(1).argmin()]
    return y + 0.5, x + 0.5
