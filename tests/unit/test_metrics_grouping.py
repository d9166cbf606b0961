"""Adjusted Rand index, mBO and mIoU against scikit-learn, brute force and small cases."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from setok.batch import ImageTextBatch
from setok.metrics import grouping, references


def tensor(rows: object) -> torch.Tensor:
    return torch.as_tensor(np.asarray(rows), dtype=torch.long)


def ari_over_pairs(a: np.ndarray, b: np.ndarray) -> float:
    """The definition, one pair of items at a time."""
    pairs = list(itertools.combinations(range(len(a)), 2))
    same_a, same_b = (np.array([x[i] == x[j] for i, j in pairs]) for x in (a, b))
    expected = same_a.sum() * same_b.sum() / len(pairs)
    gap = (same_a.sum() + same_b.sum()) / 2 - expected
    return 1.0 if gap == 0 else float(((same_a & same_b).sum() - expected) / gap)


PARTITIONS = arrays(np.int64, (3, 2, 12), elements=st.integers(0, 4))


@settings(deadline=None, max_examples=60)
@given(PARTITIONS)
def test_ari_by_brute_force(pair: np.ndarray) -> None:
    got = grouping.adjusted_rand_index(tensor(pair[:, 0]), tensor(pair[:, 1])).tolist()
    assert got == pytest.approx([ari_over_pairs(a, b) for a, b in pair], abs=1e-12)


@settings(deadline=None, max_examples=60)
@given(PARTITIONS)
def test_ari_is_scikit_learns(pair: np.ndarray) -> None:
    peer = pytest.importorskip("sklearn.metrics", reason="scikit-learn is the peer of this test")
    got = grouping.adjusted_rand_index(tensor(pair[:, 0]), tensor(pair[:, 1])).tolist()
    assert got == pytest.approx([peer.adjusted_rand_score(a, b) for a, b in pair], abs=1e-12)


def test_ari_by_hand_and_at_the_edges() -> None:
    # row 3 by hand: no pair in common, 2 by label, 2 by group, of 6: (0 − 4/6) / (2 − 4/6) = −0.5
    labels = tensor([[0, 0, 1, 1], [0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 1], [-1, -1, -1, -1], [-1, -1, -1, 2]])
    groups = tensor([[0, 0, 1, 1], [1, 1, 1, 1], [3, 2, 1, 0], [0, 1, 0, 1], [0, 1, 2, 3], [0, 1, 2, 3]])
    got = grouping.adjusted_rand_index(labels, groups).tolist()
    assert got[:4] == pytest.approx([1, 1, 1, -0.5])
    assert math.isnan(got[4])
    assert got[5] == 1


def test_unlabelled_items_take_no_part() -> None:
    labels, groups = np.array([0, 0, 1, 1, 1, -1, -1]), np.array([0, 0, 1, 1, 0, 2, 0])
    expected = ari_over_pairs(labels[:5], groups[:5])
    assert grouping.adjusted_rand_index(tensor([labels]), tensor([groups])).item() == pytest.approx(expected)


def test_foreground_needs_two_objects() -> None:
    labels = tensor([[0, 0, 1, 1, 2, 2], [0, 0, 0, 0, 1, 1], [0, 0, 1, 1, 3, 3]])
    groups = tensor([[0, 1, 2, 2, 3, 3], [0, 1, 2, 2, 3, 3], [0, 0, 0, 0, 0, 0]])
    things = grouping.thing_table([(False, True, True), (False, True), (False, True, False, True)])
    got = grouping.foreground_ari(labels, groups, things).tolist()
    assert got[0] == 1  # the background is cut in two, and that does not matter
    assert math.isnan(got[1])
    assert got[2] == 0


def test_patch_labels_take_the_majority_of_annotated_pixels() -> None:
    segments = tensor(
        [
            [
                [0, 0, 1, 1],
                [0, 2, 2, 1],
                [-1, -1, 3, 2],
                [-1, -1, 2, 3],
            ]
        ]
    )
    assert grouping.patch_labels(segments, (2, 2)).tolist() == [[0, 1, -1, 2]]  # of equally many, the lowest
    assert grouping.patch_labels(torch.full((1, 4, 4), -1), (2, 2)).tolist() == [[-1] * 4]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 17), st.integers(1, 17), st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**16))
def test_patch_labels_by_brute_force_at_any_size(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    segments = np.random.default_rng(seed).integers(-1, 4, (1, height, width))
    expected = []
    for i, j in itertools.product(range(rows), range(columns)):
        y0, y1, x0, x1 = i * height // rows, (i + 1) * height // rows, j * width // columns, (j + 1) * width // columns
        inside = segments[0, y0:y1, x0:x1]
        values, counts = np.unique(inside[inside >= 0], return_counts=True)
        expected.append(int(values[counts.argmax()]) if len(values) else -1)
    assert grouping.patch_labels(tensor(segments), (rows, columns)).tolist() == [expected]


def test_spread_is_the_inverse_of_patch_labels() -> None:
    assignment = torch.arange(12).unsqueeze(0)
    pixels = grouping.spread(assignment, (3, 4), (10, 9))
    assert pixels.shape == (1, 10, 9)
    assert torch.equal(grouping.patch_labels(pixels, (3, 4)), assignment)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 5), st.integers(1, 5), st.integers(0, 2**16))
def test_best_matching_by_brute_force(rows: int, columns: int, seed: int) -> None:
    gain = np.random.default_rng(seed).integers(0, 6, (rows, columns)) / 5
    wide = gain if rows <= columns else gain.T
    best = max(
        sum(wide[i, j] for i, j in enumerate(chosen))
        for chosen in itertools.permutations(range(wide.shape[1]), len(wide))
    )
    assert grouping.best_matching(gain) == pytest.approx(best)


def test_overlap_metrics_by_hand() -> None:
    segments = tensor([[[0, 0, 1, 1], [0, 0, 1, -1]]])
    groups = tensor([[[0, 0, 0, 1], [0, 0, 2, 2]]])
    things = grouping.thing_table([(False, True)])
    # segment 0: 4 of 5 pixels of group 0; segment 1: 1/7, 1/3, 1/3 of groups 0, 1, 2 (the unannotated pixel left out)
    assert grouping.mean_best_overlap(segments, groups, things).item() == pytest.approx(1 / 3)
    assert grouping.mean_iou(segments, groups).item() == pytest.approx((4 / 5 + 1 / 3) / 2)
    one = torch.zeros_like(groups)
    assert grouping.mean_iou(segments, one).item() == pytest.approx((4 / 7 + 0) / 2)
    nothing = torch.full_like(segments, -1)
    assert math.isnan(grouping.mean_iou(nothing, groups).item())
    assert math.isnan(grouping.mean_best_overlap(nothing, groups, things).item())


def batch_of(segments: torch.Tensor | None, is_thing: tuple[tuple[bool, ...], ...], count: int = 1) -> ImageTextBatch:
    size = 16 if segments is None else segments.shape[-1]
    return ImageTextBatch(
        pixel_values=torch.zeros(count, 3, size, size, dtype=torch.uint8),
        valid=torch.ones(count, dtype=torch.bool),
        concepts=((),) * count,
        ids=tuple(map(str, range(count))),
        segments=segments,
        is_thing=is_thing,
    )


def test_a_perfect_map_scores_one_everywhere() -> None:
    segments = torch.zeros(1, 16, 16, dtype=torch.long)
    segments[0, :8, :8], segments[0, 8:, 8:] = 1, 2
    target = torch.stack([(segments[0] == i).float() for i in range(3)]).unsqueeze(0)
    labels = grouping.patch_labels(segments, (4, 4))
    rows = references.score_assignment(target, batch_of(segments, ((False, True, True),)), labels, (4, 4))
    assert {name: rows[name].item() for name in ("ari", "foreground_ari", "pixel_ari", "mbo", "miou")} == {
        name: pytest.approx(1) for name in ("ari", "foreground_ari", "pixel_ari", "mbo", "miou")
    }
    assert rows["tokens"].item() == 3
    assert rows["painted_psnr"].item() == 100


def test_without_segments_only_pictures_are_scored() -> None:
    target = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    rows = references.score_grid(target, batch_of(None, (), 2), (4, 4), 2)
    assert rows["tokens"].tolist() == [4, 4]
    assert rows["painted_psnr"].isfinite().all()
    assert all(rows[name].isnan().all() for name in ("ari", "foreground_ari", "pixel_ari", "mbo", "miou"))


def test_raw_colour_uses_the_clustering_it_is_given() -> None:
    segments = torch.zeros(1, 16, 16, dtype=torch.long)
    segments[0, :, 8:] = 1
    target = (segments == 1).float().unsqueeze(1).expand(-1, 3, -1, -1)
    seen: list[tuple[tuple[int, ...], tuple[int, int]]] = []

    def cluster(features: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        seen.append((tuple(features.shape), grid))
        return (features[..., 0] > 0.5).long()

    rows = references.score_raw_colour(target, batch_of(segments, ((False, True),)), cluster)
    assert seen == [((1, 16, 3), (4, 4))]
    assert rows["ari"].item() == 1


def test_grids_at_the_same_token_count() -> None:
    assert [references.nearest_squares(n) for n in (0.4, 1, 3.9, 4, 4.7, 9, 25.2)] == [
        (1, 1),
        (1, 1),
        (1, 2),
        (2, 2),
        (2, 3),
        (3, 3),
        (5, 6),
    ]
    assert references.grid_assignment((3, 4), 2).tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 3, 3]
    assert references.grid_assignment((1, 2), 3).tolist() == [0, 1]
    assert references.raw_colour_grid((64, 64)) == (16, 16)
    assert references.raw_colour_grid((384, 256)) == (32, 32)
