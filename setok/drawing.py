"""Pictures for people: token maps in colour, and grids of pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8
from torch import Tensor

from setok.batch import VisualTokens

# Okabe & Ito (2008), then Tol's "muted" and "light" schemes (2021): neighbours in the list differ for colour-blind readers too.
PALETTE: UInt8[np.ndarray, "colours 3"] = np.array(
    [
        [230, 159, 0], [86, 180, 233], [0, 158, 115], [240, 228, 66], [0, 114, 178], [213, 94, 0], [204, 121, 167],
        [120, 120, 120], [51, 34, 136], [136, 204, 238], [17, 119, 51], [221, 204, 119], [136, 34, 85], [68, 170, 153],
        [153, 153, 51], [204, 102, 119], [119, 170, 221], [255, 170, 187], [170, 170, 0], [187, 204, 51],
    ],
    dtype=np.uint8,
)  # fmt: skip
GAP = 2


def token_map(
    assignment: Int[np.ndarray, " patches"], grid: tuple[int, int], size: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """Which token every patch belongs to, one colour each, with dark lines between tokens.

    Args:
        assignment: index of the token of each patch, row by row; patches of none (-1) are black.
        grid: rows and columns of patches.
        size: height and width of the picture in pixels.
    """
    rows, columns = grid
    labels = np.asarray(assignment).reshape(rows, columns)
    y = np.arange(size[0]) * rows // size[0]
    x = np.arange(size[1]) * columns // size[1]
    labels = labels[y[:, None], x[None, :]]
    colours = PALETTE[labels % len(PALETTE)]
    # Past the end of the palette the same colours come again, darker each time.
    shade = 0.75 ** (labels // len(PALETTE))
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:, :] |= labels[1:, :] != labels[:-1, :]
    shade = np.where(labels < 0, 0.0, np.where(edge, 0.35 * shade, shade))
    return (colours * shade[..., None]).astype(np.uint8)


def draw_tokens(
    image: UInt8[Tensor, "3 height width"] | UInt8[np.ndarray, "height width 3"],
    tokens: VisualTokens,
    *,
    index: int = 0,
    opacity: float = 0.5,
) -> UInt8[np.ndarray, "height width 3"]:
    """The token map over a picture.

    Args:
        image: the picture that was tokenized, or the same at another size.
        tokens: what ``SeTok.tokenize`` made of its batch.
        index: which picture of the batch it is.
        opacity: 0 leaves the picture, 1 shows the map alone.
    """
    pixels = image.permute(1, 2, 0).cpu().numpy() if isinstance(image, Tensor) else image
    colours = token_map(tokens.assignment[index].cpu().numpy(), tokens.grid, (pixels.shape[0], pixels.shape[1]))
    return (pixels * (1 - opacity) + colours * opacity).round().astype(np.uint8)


def image_grid(
    rows: Sequence[Sequence[UInt8[np.ndarray, "height width 3"]]],
) -> UInt8[np.ndarray, "grid_height grid_width 3"]:
    """Pictures of one size in rows, with white gaps; rows may be of different lengths."""
    height, width = rows[0][0].shape[:2]
    columns = max(len(row) for row in rows)
    canvas = np.full((len(rows) * (height + GAP) + GAP, columns * (width + GAP) + GAP, 3), 255, dtype=np.uint8)
    for r, row in enumerate(rows):
        for c, picture in enumerate(row):
            top, left = GAP + r * (height + GAP), GAP + c * (width + GAP)
            canvas[top : top + height, left : left + width] = picture
    return canvas
