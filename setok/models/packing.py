"""Attention inside clusters, on rows that are sorted by cluster: every patch meets the patches of its cluster, no other.

On a GPU in half precision the sorted rows go to variable-length attention as they are. On a CPU, clusters of about one length
are padded to one batch: work grows with the sum of squared cluster sizes, not with the square of the patches. In other
cases, compiled graphs on CPU among them, one attention over all patches with a block mask says the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from setok.models.attention import attend
from setok.models.device import device_kind, is_pretended


@dataclass(frozen=True, kw_only=True)
class Buckets:
    """Clusters of about one length side by side, padded to the longest of them; one bucket after the other."""

    shapes: tuple[tuple[int, int], ...]
    """Clusters in the bucket, members of its longest."""
    masks: tuple[Bool[Tensor, "_ _"] | None, ...]
    """True for members; ``None`` where all clusters of the bucket are equally long."""
    rows: Int[Tensor, " places"]
    """Which row stands at each place; past a cluster's end, some row."""
    padding: Bool[Tensor, "places 1"]
    """True past a cluster's end."""
    places: Int[Tensor, " rows"]
    """Where each row stands."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Patches of a batch sorted by cluster inside every image, and where clusters begin."""

    order: Int[Tensor, "batch patches"]
    """Which patch comes at each place."""
    sorted_assignment: Int[Tensor, "batch patches"]
    segments: Int[Tensor, " rows"]
    """Number of the cluster of every row among all clusters of the batch, each image having one more for no cluster."""
    offsets: Int[Tensor, " bounds"]
    """First row of every cluster of every image among all rows of the batch, empty ones included, and the end."""
    buckets: Buckets | None
    """For eager attention on CPU."""


def pack(assignment: Int[Tensor, "batch patches"], num_clusters: int) -> Packing:
    """Sort patches by cluster (-1, no cluster, comes first) and find where each begins."""
    batch, patches = assignment.shape
    eager = device_kind(assignment) == "cpu" and not torch.compiler.is_compiling()
    if eager and is_pretended():  # sorting clusters by length asks for values: all are taken as equally long
        assignment = (torch.arange(patches) * num_clusters // patches).expand(assignment.shape)
    ordered, order = assignment.sort(dim=-1, stable=True)
    image = torch.arange(batch, device=assignment.device).unsqueeze(1)
    segment = (image * (num_clusters + 1) + ordered + 1).flatten()
    bounds = torch.arange(batch * (num_clusters + 1) + 1, device=assignment.device)
    offsets = torch.searchsorted(segment, bounds)
    return Packing(
        order=order,
        sorted_assignment=ordered,
        segments=segment,
        offsets=offsets,
        buckets=_buckets(offsets) if eager else None,
    )


def _buckets(offsets: Int[Tensor, " bounds"]) -> Buckets | None:
    """Clusters by length: up to 4 members, 5–8, 9–16, …; ``None`` of an empty batch."""
    start, length = offsets[:-1], offsets.diff()
    level = (length.clamp_min(4) - 1).float().log2().floor().long()
    num_rows = int(offsets[-1])
    shapes, masks, rows, padding = [], [], [], []
    if not num_rows:
        return None
    for number in level.unique().tolist():
        here = ((level == number) & (length > 0)).nonzero().squeeze(1)
        if len(here) == 0:
            continue
        place = torch.arange(int(length[here].max()))
        member = place < length[here].unsqueeze(1)
        shapes.append((len(here), len(place)))
        masks.append(None if bool(member.all()) else member)
        rows.append((start[here].unsqueeze(1) + place).clamp_max(num_rows - 1).flatten())
        padding.append(~member.flatten())
    all_rows, pads = torch.cat(rows), torch.cat(padding)
    members = (~pads).nonzero().squeeze(1)
    places = torch.empty(num_rows, dtype=torch.long).index_copy_(0, all_rows[members], members)
    return Buckets(shapes=tuple(shapes), masks=tuple(masks), rows=all_rows, padding=pads.unsqueeze(1), places=places)


def attend_inside(
    qkv: Float[Tensor, "batch patches 3 heads dim"], packing: Packing
) -> Float[Tensor, "batch patches heads dim"]:
    """Attention of every (sorted) patch to the patches of its cluster, by whatever is fastest here."""
    if device_kind(qkv) == "cuda" and fits_varlen(qkv):
        return attend_varlen(qkv, packing)
    if packing.buckets is not None:
        return attend_buckets(qkv, packing.buckets)
    return attend_masked(qkv, packing.sorted_assignment)


def attend_masked(
    qkv: Float[Tensor, "batch patches 3 heads dim"], assignment: Int[Tensor, "batch patches"]
) -> Float[Tensor, "batch patches heads dim"]:
    """Over all patches, under a mask that leaves only pairs of one cluster."""
    q, k, v = rearrange(qkv, "b n three h d -> three b h n d")
    same = assignment.unsqueeze(1) == assignment.unsqueeze(2)
    return rearrange(attend(q, k, v, same.unsqueeze(1)), "b h n d -> b n h d")


def fits_varlen(qkv: Float[Tensor, "batch patches 3 heads dim"]) -> bool:
    """Whether flash attention has a kernel for these: half precision, heads of a multiple of 8 up to 256."""
    return qkv.dtype in (torch.bfloat16, torch.float16) and qkv.shape[-1] % 8 == 0 and qkv.shape[-1] <= 256


def attend_varlen(
    qkv: Float[Tensor, "batch patches 3 heads dim"], packing: Packing
) -> Float[Tensor, "batch patches heads dim"]:
    """Variable-length (flash) attention, clusters being the sequences; for CUDA, of what ``fits_varlen``."""
    from torch.nn.attention.varlen import varlen_attn  # needs a CUDA build

    batch, n = qkv.shape[:2]
    q, k, v = rearrange(qkv, "b n three h d -> three (b n) h d").unbind(0)
    offsets = packing.offsets.to(torch.int32)
    attended = varlen_attn(q, k, v, offsets, offsets, n, n)
    assert isinstance(attended, Tensor)
    return rearrange(attended, "(b n) h d -> b n h d", b=batch)


def attend_buckets(
    qkv: Float[Tensor, "batch patches 3 heads dim"], buckets: Buckets
) -> Float[Tensor, "batch patches heads dim"]:
    """Clusters of about one length as one padded batch."""
    batch, n, _, heads, dim = qkv.shape
    padded = _Pad.apply(qkv.reshape(batch * n, 3 * heads * dim), buckets)
    done = []
    sizes = [clusters * longest for clusters, longest in buckets.shapes]
    for part, (clusters, _), mask in zip(padded.split(sizes), buckets.shapes, buckets.masks, strict=True):
        q, k, v = rearrange(part, "(c l) (three h d) -> three c h l d", c=clusters, three=3, h=heads)
        attended = attend(q, k, v, None if mask is None else mask[:, None, None])
        done.append(rearrange(attended, "c h l d -> (c l) (h d)"))
    return _Unpad.apply(torch.cat(done), buckets).view(batch, n, heads, dim)


class _Pad(torch.autograd.Function):
    """Rows to their places. Every row has one place, so the way back is a selection too, and no slow scattered sum.

    Attention gives padding no gradient: as keys and values it is masked, as queries it is dropped.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, buckets: Buckets) -> Tensor:
        ctx.buckets = buckets
        return rows.index_select(0, buckets.rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Unpad.apply(gradient, ctx.buckets), None


class _Unpad(torch.autograd.Function):
    """Places back to rows; padding is dropped."""

    @staticmethod
    def forward(ctx: Any, places: Tensor, buckets: Buckets) -> Tensor:
        ctx.buckets = buckets
        return places.index_select(0, buckets.places)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Pad.apply(gradient, ctx.buckets).masked_fill(ctx.buckets.padding, 0.0), None
