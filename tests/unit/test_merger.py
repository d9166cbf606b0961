"""The merger: three ways to attend inside clusters say the same, and padded patches reach no token."""

from __future__ import annotations

import inspect

import pytest
import torch
import torch.nn.attention.varlen as torch_varlen
import torch.nn.functional as F
from torch import Tensor

from setok.config import MergerConfig
from setok.models.clustering import one_hot
from setok.models.layers import sincos_positions
from setok.models.merger import TokenMerger, segment_mean
from setok.models.packing import attend_buckets, attend_inside, attend_masked, attend_varlen, fits_varlen, pack


def uneven(batch: int = 3, n: int = 50, clusters: int = 9, seed: int = 0) -> Tensor:
    """Assignments with clusters of very different sizes, some empty, and some patches in none (-1)."""
    generator = torch.Generator().manual_seed(seed)
    assignment = (torch.rand(batch, n, generator=generator) ** 3 * clusters).long()
    return assignment.masked_fill(torch.rand(batch, n, generator=generator) < 0.1, -1)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("clusters", [1, 9, 60])
def test_packed_and_masked_attention_agree_forward_and_backward(seed: int, clusters: int) -> None:
    packing = pack(uneven(clusters=clusters, seed=seed), clusters)
    assert packing.buckets is not None
    results = []
    for attend in (
        lambda x: attend_buckets(x, packing.buckets),
        lambda x: attend_masked(x, packing.sorted_assignment),
    ):
        x = torch.randn(3, 50, 3, 2, 8, generator=torch.Generator().manual_seed(1)).requires_grad_(True)
        attended = attend(x)
        (attended * torch.linspace(-1, 1, attended.numel()).view_as(attended)).sum().backward()
        results.append((attended, x.grad))
    torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_varlen_and_masked_attention_agree_forward_and_backward(dtype: torch.dtype) -> None:
    packing = pack(uneven().cuda(), 9)
    results = []
    for attend in (lambda x: attend_varlen(x, packing), lambda x: attend_masked(x, packing.sorted_assignment)):
        x = torch.randn(3, 50, 3, 2, 64, generator=torch.Generator().manual_seed(1)).to("cuda", dtype)
        x.requires_grad_(True)
        attended = attend(x)
        attended.float().square().sum().backward()
        results.append((attended, x.grad))
    torch.testing.assert_close(results[0], results[1], atol=3e-2, rtol=3e-2)


def strict_varlen(
    q: Tensor, k: Tensor, v: Tensor, starts_q: Tensor, starts_k: Tensor, most_q: int, most_k: int
) -> Tensor:
    """What the CUDA kernel computes, and what it asks of its arguments (aten's ``mha_varlen_fwd``)."""
    for x in (q, k, v):
        assert x.dtype in (torch.bfloat16, torch.float16) and x.ndim == 3 and x.stride(-1) == 1
        assert x.shape[-1] % 8 == 0 and x.shape[-1] <= 256
    for starts in (starts_q, starts_k):
        assert starts.dtype == torch.int32 and starts.is_contiguous() and starts.ndim == 1
        assert starts[0] == 0 and starts[-1] == len(q) and (starts.diff() >= 0).all()
        assert starts.diff().max() <= min(most_q, most_k)
    out = torch.empty_like(q)
    for start, end in zip(starts_q[:-1].tolist(), starts_q[1:].tolist(), strict=True):
        one, two, three = (x[start:end].transpose(0, 1).float() for x in (q, k, v))
        out[start:end] = F.scaled_dot_product_attention(one, two, three).transpose(0, 1).to(q.dtype)
    return out


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("clusters", [1, 9, 60])
def test_varlen_is_called_as_its_kernel_wants(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, clusters: int
) -> None:
    packing = pack(uneven(clusters=clusters), clusters)
    qkv = torch.randn(3, 50, 3, 2, 8).to(dtype)
    calls = []

    def varlen(*args: object, **kwargs: object) -> Tensor:
        inspect.signature(original).bind(*args, **kwargs)
        calls.append(args)
        return strict_varlen(*args, **kwargs)  # type: ignore[arg-type]

    original = torch_varlen.varlen_attn
    monkeypatch.setattr(torch_varlen, "varlen_attn", varlen)
    found = attend_varlen(qkv, packing)
    expected = attend_masked(qkv.float(), packing.sorted_assignment)
    assert len(calls) == 1 and found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=2e-2)


def test_varlen_matches_the_operator_of_this_torch() -> None:
    """On the meta device the real operator checks names, order and types of its arguments, and computes nothing."""
    packing = pack(uneven(), 9)
    qkv = torch.empty(3, 50, 3, 2, 8, dtype=torch.bfloat16, device="meta")
    assert attend_varlen(qkv, packing).shape == (3, 50, 2, 8)


@pytest.mark.parametrize(
    ("dtype", "dim", "fits"),
    [
        (torch.bfloat16, 32, True),
        (torch.float16, 256, True),
        (torch.float32, 32, False),
        (torch.bfloat16, 12, False),
        (torch.bfloat16, 264, False),
    ],
)
def test_what_flash_attention_has_no_kernel_for_takes_another_way(dtype: torch.dtype, dim: int, fits: bool) -> None:
    assert fits_varlen(torch.empty(1, 2, 3, 1, dim, dtype=dtype)) is fits


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "dim"), [(torch.float32, 32), (torch.bfloat16, 12), (torch.bfloat16, 32)])
def test_every_head_width_works_on_a_gpu(dtype: torch.dtype, dim: int) -> None:
    qkv, assignment = torch.randn(3, 50, 3, 2, dim), uneven()
    found = attend_inside(qkv.to("cuda", dtype), pack(assignment.cuda(), 9))
    expected = attend_inside(qkv, pack(assignment, 9))
    torch.testing.assert_close(found.float().cpu(), expected, atol=5e-2, rtol=5e-2)


def test_gradcheck_of_packed_attention() -> None:
    packing = pack(torch.tensor([[0, 1, 0, -1, 0, 0, 0], [2, 2, 2, 1, 2, 2, 2]]), 3)
    x = torch.randn(2, 7, 3, 1, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: attend_buckets(y, packing.buckets), (x,))


@pytest.mark.parametrize("weighted", [True, False])
def test_gradcheck_of_the_merger(weighted: bool) -> None:
    """Through patches and pooling weights; the sums are in fp32, hence the wide steps."""
    merger = TokenMerger(MergerConfig(num_heads=1), 4, 4).double().eval()
    assignment = torch.tensor([[0, 1, 0, -1, 0, 1], [2, 2, 0, 1, 2, 2]])
    mask = one_hot(assignment, 3).sum(-1) > 0
    features = torch.randn(2, 6, 4, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(2, 3, 6, requires_grad=True)

    def tokens(x: Tensor, w: Tensor) -> Tensor:
        return merger(x, assignment, w if weighted else None, mask, (2, 3))[mask]

    found = tokens(features, weights)
    (
        found * torch.linspace(-1, 1, found.numel()).view_as(found).square()
    ).sum().backward()  # a plain sum is always the same
    assert features.grad is not None and (features.grad[assignment >= 0].abs().amax(-1) > 1e-6).all()
    assert (weights.grad is not None and weights.grad.abs().sum() > 0) == weighted
    inputs = (features, weights.detach())
    assert torch.autograd.gradcheck(tokens, inputs, eps=1e-3, atol=5e-3, rtol=5e-3)


def test_segment_mean_is_the_mean_of_every_cluster() -> None:
    assignment, x = uneven(), torch.randn(3, 50, 8)
    packing = pack(assignment, 9)
    ordered = x.gather(1, packing.order.unsqueeze(-1).expand_as(x))
    members = one_hot(assignment, 9)
    expected = members @ x / members.sum(-1, keepdim=True).clamp_min(1)
    torch.testing.assert_close(segment_mean(ordered, packing), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("weighted", [True, False])
def test_merger_equals_one_cluster_at_a_time(weighted: bool) -> None:
    merger = TokenMerger(MergerConfig(num_heads=2, intra_layers=2), 12, 16).eval()
    assignment, features = uneven(n=24, clusters=4), torch.randn(3, 24, 12)
    members = one_hot(assignment, 4)
    mask = members.sum(-1) > 0
    weights = members / members.sum(-1, keepdim=True).clamp_min(1)
    tokens = merger(features, assignment, weights if weighted else None, mask, (4, 6))
    for image in range(3):
        own = []
        for number in mask[image].nonzero().flatten().tolist():
            here = assignment[image] == number
            x = (merger.enter(features[image]) + sincos_positions((4, 6), 16))[here].unsqueeze(0)
            for block in merger.intra:
                x = block(x)
            own.append(x.mean(1))
        y = torch.stack(own, dim=1)
        for block in merger.inter:
            y = block(y)
        torch.testing.assert_close(tokens[image, mask[image]], merger.norm(y)[0], atol=1e-5, rtol=1e-5)


def test_patches_in_no_cluster_and_batch_mates_reach_no_token() -> None:
    merger = TokenMerger(MergerConfig(num_heads=2), 16, 16).eval()
    assignment, features = uneven(n=24, clusters=4), torch.randn(3, 24, 16)
    mask = one_hot(assignment, 4).sum(-1) > 0
    tokens = merger(features, assignment, None, mask, (4, 6))
    junk = torch.where((assignment < 0).unsqueeze(-1), 100.0, features)
    torch.testing.assert_close(merger(junk, assignment, None, mask, (4, 6))[mask], tokens[mask])
    alone = merger(features[1:2], assignment[1:2], None, mask[1:2], (4, 6))
    torch.testing.assert_close(alone[mask[1:2]], tokens[1:2][mask[1:2]], atol=1e-5, rtol=1e-5)
