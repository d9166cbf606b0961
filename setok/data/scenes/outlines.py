"""Masks as COCO polygons that give the mask back exactly.

The polygons run along the edges of pixels, through whole-numbered corners, so that a pixel is inside when
its centre is. A COCO polygon cannot have a hole; a hole is therefore joined to the outline around it by a
bridge that is walked in both directions and encloses nothing.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from jaxtyping import Bool

Corner = tuple[int, int]
_RIGHT, _DOWN, _LEFT, _UP = (1, 0), (0, 1), (-1, 0), (0, -1)


def polygons(mask: Bool[np.ndarray, "height width"]) -> list[list[float]]:
    """Outlines of a mask as COCO has them: one list x0, y0, x1, y1, … for every connected part, in pixels."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return []
    top, left = int(rows[0]), int(columns[0])
    loops = _loops(mask[top : rows[-1] + 1, left : columns[-1] + 1])
    outer = [loop for loop in loops if _doubled_area(loop) > 0]
    holes = [loop for loop in loops if _doubled_area(loop) < 0]
    bodies = [list(loop) for loop in outer]
    for hole in holes:
        around = [number for number, loop in enumerate(outer) if _contains(loop, hole)]
        number = min(around, key=lambda candidate: _doubled_area(outer[candidate]))
        bodies[number] = _bridge(bodies[number], hole)
    return [[float(value) for x, y in body for value in (x + left, y + top)] for body in bodies]


def _loops(mask: Bool[np.ndarray, "height width"]) -> list[list[Corner]]:
    """Closed walks along the pixel edges with the mask on the right hand (y points down), corners only."""
    padded = np.pad(mask, 1)
    steps: dict[Corner, dict[Corner, bool]] = defaultdict(dict)
    for shift_axis, offset, direction in ((0, 1, _RIGHT), (0, -1, _LEFT), (1, -1, _DOWN), (1, 1, _UP)):
        edge = padded & ~np.roll(padded, offset, axis=shift_axis)
        rows, columns = np.nonzero(edge)
        # Where the walk along this side of the pixel begins, in the coordinates of the unpadded mask.
        start_x = columns - 1 + (direction in (_LEFT, _DOWN))
        start_y = rows - 1 + (direction in (_LEFT, _UP))
        for corner in zip(start_x.tolist(), start_y.tolist(), strict=True):
            steps[corner][direction] = True
    loops = []
    while steps:
        loops.append(_walk(steps))
    return loops


def _walk(steps: dict[Corner, dict[Corner, bool]]) -> list[Corner]:
    """Take one closed walk out of ``steps``. Where two walks meet in a corner, turning right keeps pixels
    apart that only touch diagonally."""
    start = next(iter(steps))
    direction = next(iter(steps[start]))
    corner, corners, came = start, [], None
    while True:
        ways = steps[corner]
        if came is not None and len(ways) > 1:
            right = (-came[1], came[0])
            direction = right if right in ways else next(iter(ways))
        else:
            direction = next(iter(ways))
        del ways[direction]
        if not ways:
            del steps[corner]
        if direction != came:
            corners.append(corner)
        came = direction
        corner = (corner[0] + direction[0], corner[1] + direction[1])
        if corner == start:
            return corners


def _doubled_area(loop: list[Corner]) -> int:
    """Twice the enclosed area; positive for an outline, negative for a hole."""
    return sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in zip(loop, loop[1:] + loop[:1], strict=True))


def _contains(loop: list[Corner], hole: list[Corner]) -> bool:
    """Whether the pixel at the first corner of a hole is inside an outline, by counting crossings."""
    x, y = hole[0]
    step_x, step_y = np.sign(np.subtract(hole[1], hole[0])).tolist()
    # The mask lies on the right hand of the walk.
    x, y = x + step_x / 2 - step_y / 2, y + step_y / 2 + step_x / 2
    inside = False
    for (x0, y0), (x1, y1) in zip(loop, loop[1:] + loop[:1], strict=True):
        if x0 == x1 and x0 > x and min(y0, y1) < y < max(y0, y1):
            inside = not inside
    return inside


def _bridge(body: list[Corner], hole: list[Corner]) -> list[Corner]:
    """Join a hole to a body where they are nearest."""
    distance = np.abs(np.array(body)[:, None] - np.array(hole)[None]).sum(-1)
    at, to = np.unravel_index(int(distance.argmin()), distance.shape)
    return [*body[: at + 1], *hole[to:], *hole[: to + 1], *body[at:]]
