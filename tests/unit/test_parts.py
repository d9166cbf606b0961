"""A batch in parts: the same results, and working memory that does not grow with the batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from setok.config import ClusteringConfig, MergerConfig
from setok.models import parts
from setok.models.merger import TokenMerger
from setok.models.parts import parts_of
from setok.models.tokenizer import ClusteringHead
from tests.unit.test_clustering import blobs
from tests.unit.test_clustering_methods import METHODS


class LargestTensor(TorchDispatchMode):
    """Notes how many values the largest tensor made inside has, for every length of its last dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.numel: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor) and value.ndim:
                self.numel[value.shape[-1]] = max(self.numel.get(value.shape[-1], 0), value.numel())
        return result


def tokens(x: torch.Tensor, config: ClusteringConfig, patch_mask: torch.Tensor | None) -> list[torch.Tensor]:
    torch.manual_seed(1)
    head = ClusteringHead(config, x.shape[-1])
    merger = TokenMerger(MergerConfig(num_heads=2), x.shape[-1], 16)
    grid = (5, x.shape[1] // 5)
    clusters, clustered = head(x, grid=grid, patch_mask=patch_mask)
    merged = merger(x, clusters.assignment, clusters.pooling_weights(config.assignment), clusters.mask, grid)
    masked = merged * clusters.mask.unsqueeze(-1)
    return [clusters.assignment, clusters.masks, clusters.mask, clusters.scores, clustered, masked]


@METHODS
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("images", [1, 3])
def test_parts_change_nothing(
    config: ClusteringConfig, masked: bool, images: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = blobs(0, batch=7, n=40)
    mask = torch.arange(40) < torch.tensor([40, 3, 17, 40, 1, 39, 20]).unsqueeze(1) if masked else None
    with torch.no_grad():
        whole = tokens(x, config, mask)
        monkeypatch.setattr(parts, "VALUES_AT_ONCE", images * 40 * 40)
        assert len(parts_of(x)) == {1: 7, 3: 3}[images]
        torch.testing.assert_close(tokens(x, config, mask), whole, atol=1e-5, rtol=1e-5)


def test_parts_cover_the_batch_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "VALUES_AT_ONCE", 9 * 20 * 20)
    x = torch.zeros(64, 20, 8)
    with torch.no_grad():
        found = parts_of(x)
        assert [i for part in found for i in range(64)[part]] == list(range(64))
        sizes = {part.stop - part.start for part in found}
        assert max(sizes) - min(sizes) <= 1 and max(sizes) <= 9
        assert parts_of(x[:1]) == [slice(0, 1)]
        assert parts_of(torch.zeros(2, 500, 8)) == [slice(0, 1), slice(1, 2)], "never less than an image"
    assert parts_of(x) == [slice(0, 64)], "gradients need everything at once anyway"


def test_working_memory_does_not_grow_with_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of patches, and queries, keys and values, are the large tensors of clustering and merger."""
    monkeypatch.setattr(parts, "VALUES_AT_ONCE", 4 * 45 * 45)
    monkeypatch.setattr("setok.models.layers.ROWS_AT_ONCE", 50)
    config, most = ClusteringConfig(max_tokens=6), {}
    for batch in (4, 16):
        with torch.no_grad(), LargestTensor() as largest:
            tokens(blobs(0, batch=batch, n=45, width=16), config, None)
        most[batch] = largest.numel
    pairs, qkv = 45, 3 * 16
    assert most[4][pairs] == most[16][pairs] == 4 * 45 * 45
    assert most[16][qkv] < 1.5 * most[4][qkv], "clusters padded to a common length differ a little by picture"
    assert most[16][16] == 16 * 45 * 16, "what is returned does grow: the clustered features"
