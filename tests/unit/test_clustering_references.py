"""Clustering methods that have no peer's goldens beside brute-force references."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from setok.config import ClusteringConfig
from setok.models.clustering import cluster, grid_cells
from tests.unit.test_clustering import blobs, golden, partition, reference_scores, scaled_distances, unit  # noqa: F401


def reference_cosine_graph(x: np.ndarray, config: ClusteringConfig) -> np.ndarray:
    n = len(x)
    similarity = x @ x.T
    linked = (similarity > config.similarity_threshold) | np.eye(n, dtype=bool)
    key = [(linked[i].sum(), similarity[i].sum(), -i) for i in range(n)]
    left, centers = set(range(n)), []
    while len(centers) < min(config.max_tokens, n):
        if left:
            center = max(left, key=lambda i: key[i])
        elif len(centers) < config.min_tokens:
            center = min(set(range(n)) - set(centers), key=lambda i: (max(similarity[i, c] for c in centers), i))
        else:
            break
        centers.append(center)
        left -= set(np.flatnonzero(linked[center]))
    return np.array(
        [centers.index(i) if i in centers else int(np.argmax([similarity[i, c] for c in centers])) for i in range(n)]
    )


@pytest.mark.parametrize(("low", "high"), [(1, 12), (9, 12), (1, 3), (4, 4)])
@pytest.mark.parametrize("seed", range(4))
def test_cosine_graph_equals_the_brute_force(seed: int, low: int, high: int) -> None:
    config = ClusteringConfig(method="cosine_graph", similarity_threshold=0.7, min_tokens=low, max_tokens=high)
    x = blobs(seed)
    result = cluster(x, config)
    for i in range(len(x)):
        assert result.assignment[i].tolist() == reference_cosine_graph(unit(x)[i], config).tolist()


def test_lower_similarity_threshold_never_gives_more_tokens_than_links_allow() -> None:
    x = blobs(8, batch=4)
    counts = [
        cluster(x, ClusteringConfig(method="cosine_graph", similarity_threshold=t, max_tokens=40)).counts.sum().item()
        for t in (-0.9, 0.5, 0.99)
    ]
    assert counts == sorted(counts) and counts[0] < counts[2]


def reference_kmeans(x: np.ndarray, config: ClusteringConfig) -> np.ndarray:
    scores = reference_scores(x, config.num_neighbors)
    seeds = sorted(range(len(x)), key=lambda i: (-scores[i], i))[: config.num_tokens]
    centers = x[seeds]
    for step in range(config.num_iterations + 1):
        label = np.array([np.argmin(((centers - p) ** 2).sum(-1)) for p in x])
        label[seeds] = np.arange(len(seeds))
        if step < config.num_iterations:
            centers = np.stack([x[label == c].mean(0) for c in range(len(seeds))])
    return label


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("iterations", [0, 1, 6])
def test_kmeans_equals_the_brute_force(seed: int, iterations: int) -> None:
    config = ClusteringConfig(method="kmeans", num_clusters=6, num_iterations=iterations, num_neighbors=4)
    x = blobs(seed)
    result = cluster(x, config)
    for i in range(len(x)):
        assert result.assignment[i].tolist() == reference_kmeans(unit(x)[i], config).tolist()


def reference_grid(h: int, w: int, tokens: int) -> list[int]:
    """Cells drawn one by one: bands of rows, each cut into its share of the cells."""
    tokens = min(tokens, h * w)
    fits = [r for r in range(1, min(h, tokens) + 1) if r * w >= tokens]
    bands = min(fits, key=lambda r: (abs(math.log((h / r) / (w * r / tokens))), r))
    cells = [[-1] * w for _ in range(h)]
    for y in range(h):
        band = y * bands // h
        first, end = band * tokens // bands, (band + 1) * tokens // bands
        for x in range(w):
            cells[y][x] = first + x * (end - first) // w
    return [cell for row in cells for cell in row]


@pytest.mark.parametrize(("h", "w"), [(1, 1), (4, 4), (8, 8), (3, 10), (10, 3), (1, 7), (27, 27)])
@pytest.mark.parametrize("tokens", [1, 2, 3, 7, 12, 16, 64])
def test_grid_equals_the_brute_force_and_meets_the_budget(h: int, w: int, tokens: int) -> None:
    cells = grid_cells((h, w), tokens, torch.ones(1, h * w, dtype=torch.bool))[0]
    assert cells.tolist() == reference_grid(h, w, tokens)
    assert cells.unique().tolist() == list(range(min(tokens, h * w)))


def test_grid_of_a_square_budget_is_square() -> None:
    cells = grid_cells((4, 4), 4, torch.ones(1, 16, dtype=torch.bool))[0]
    assert cells.view(4, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


def test_grid_cuts_the_real_part_of_a_padded_canvas() -> None:
    canvas = torch.zeros(1, 6, 7, dtype=torch.bool)
    canvas[:, :4, :5] = True
    cells = grid_cells((6, 7), 6, canvas.flatten(1))[0]
    alone = grid_cells((4, 5), 6, torch.ones(1, 20, dtype=torch.bool))[0]
    assert cells.view(6, 7)[:4, :5].flatten().equal(alone)
    assert (cells[~canvas.flatten()] == -1).all()
