"""The flow decoder: a rectified flow from the plain decoder's picture to the real one, conditioned on the tokens.

Few tokens leave open what a picture looks like in detail. A decoder trained on pixel errors then paints the mean of all
that fits: blur. A flow paints one picture that fits. Its network is trained by flow matching (Lipman et al. 2022; Liu et al.
2022): on the straight line x_t = (1−t)·x0 + t·x1 it predicts the velocity, E‖v_θ(x_t, t, tokens) − (x1 − x0)‖². Here x1 is
the real picture, and x0 not pure noise but the plain decoder's picture with a little noise on it (posterior-mean rectified
flow, Ohayon et al. 2024): the way is short, so few steps suffice, and among decoders with real-looking pictures it is
the one with the least squared error. No gradient flows into x0; the tokens do learn from the flow.

Randomness: in training, t and the noise of a picture are functions of (seed, step, sample id) alone, so micro-batches and
the number of workers change nothing; a device has its own generator, so CPU and GPU differ. At inference all pictures
start from the noise that one seed gives (made on the CPU), so neither batch mates nor the device change a picture.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from setok.batch import real_cells
from setok.config import DetokenizerConfig
from setok.models.layers import CrossBlock, sincos_positions

MAX_LOG_SPREAD = 3.0
"""A square's spread is at most e³ times the noise, and at least e⁻³ times."""


class FlowHead(nn.Module):
    """Velocity of pictures in [-1, 1]: squares of the noisy picture and of its starting point query the tokens.

    The blocks are those of the plain decoder; time enters by addition before every block, and as scale and shift before the
    output (Peebles & Xie 2023), which starts at zero.
    """

    def __init__(self, config: DetokenizerConfig) -> None:
        super().__init__()
        width, flow = config.width, config.flow
        self.patch_size, self.width = flow.patch_size, width
        self.noise, self.sampling_steps = flow.noise, flow.sampling_steps
        values = 3 * flow.patch_size**2
        self.enter = nn.Linear(2 * values, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.time_to_blocks = nn.Linear(width, flow.depth * width)
        self.time_to_output = nn.Linear(width, 2 * width)
        self.blocks = nn.ModuleList(CrossBlock(width, config.num_heads, config.mlp_ratio) for _ in range(flow.depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.to_velocity = nn.Linear(width, values + 1)
        for layer in (self.time_to_output, self.to_velocity):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(
        self,
        noisy: Float[Tensor, "batch 3 height width"],
        base: Float[Tensor, "batch 3 height width"],
        time: Float[Tensor, " batch"],
        tokens: Float[Tensor, "batch tokens channels"],
        mask: Bool[Tensor, "batch tokens"],
        sizes: Int[Tensor, "batch 2"] | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Velocity at ``time`` in [0, 1] of pictures that set out from about ``base``; ``sizes`` as in ``Detokenizer``.

        The network is preconditioned (Karras et al. 2022). Every square says how far the real picture may lie from ``base``,
        as a multiple k of the noise; the best linear guess of the velocity under that spread needs no learning, and the network
        adds to it. At time 0 the guess takes all noise away; where k is small, it stays away.
        """
        p = self.patch_size
        rows, columns = noisy.shape[-2] // p, noisy.shape[-1] // p
        way, origin = (
            rearrange(picture, "b c (h p) (w q) -> b (h w) (c p q)", p=p, q=p) for picture in (noisy - base, base)
        )
        t = time.view(-1, 1, 1)
        dtype = self.enter.weight.dtype
        seen = torch.cat([way / (self.noise * ((1 - t).square() + t.square()).sqrt()), origin], -1)
        x = self.enter(seen.to(dtype))
        x = x + sincos_positions((rows, columns), self.width).to(noisy.device, dtype)
        own = None if sizes is None else real_cells(sizes, (rows, columns), p).unsqueeze(1)
        moment = self.time(time_embedding(time, self.width).to(dtype))
        shifts = self.time_to_blocks(moment).unsqueeze(1).chunk(len(self.blocks), -1)
        for block, shift in zip(self.blocks, shifts, strict=True):
            x = block(x + shift, tokens.to(dtype), mask.unsqueeze(1), own)
        scale, shift = self.time_to_output(moment).unsqueeze(1).chunk(2, -1)
        found = self.to_velocity(self.norm(x) * (1 + scale) + shift).float()
        correction, spread = found[..., :-1], found[..., -1:]
        k = (MAX_LOG_SPREAD * (spread / MAX_LOG_SPREAD).tanh()).exp()
        variance = (1 - t).square() + (t * k).square()  # of the way, in units of the noise's
        velocity = (t * k.square() - (1 - t)) / variance * way + self.noise * k / variance.sqrt() * correction
        return rearrange(velocity, "b (h w) (c p q) -> b c (h p) (w q)", h=rows, c=3, p=p, q=p)


def time_embedding(time: Float[Tensor, " batch"], width: int) -> Float[Tensor, "batch width"]:
    """Sines and cosines of time at frequencies from 1 to 1000 (Vaswani et al. 2017), ``width`` of them."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=time.device) * (math.log(1000.0) / max(1, half - 1)))
    angles = time.float().unsqueeze(1) * frequency
    return nn.functional.pad(torch.cat([angles.sin(), angles.cos()], 1), (0, width - 2 * half))


def flow_loss(
    head: FlowHead,
    painted: Float[Tensor, "batch 3 height width"],
    target: Float[Tensor, "batch 3 height width"],
    tokens: Float[Tensor, "batch tokens channels"],
    mask: Bool[Tensor, "batch tokens"],
    keys: Sequence[str],
    sizes: Int[Tensor, "batch 2"] | None = None,
) -> Float[Tensor, " batch"]:
    """Flow matching's squared error of every picture.

    Args:
        painted: what the plain decoder painted; gets no gradient.
        target: the real pictures, like ``painted`` in [0, 1].
        keys: name the random numbers of every picture, such as run seed, step and sample id; equal keys, equal numbers.
        sizes: height and width of every picture in the upper left; the rest does not count.
    """
    base, end = starting_point(painted), target.float() * 2 - 1
    times, noises = [], []
    for key in keys:
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        generator = torch.Generator(base.device).manual_seed(int.from_bytes(digest) >> 1)
        times.append(torch.rand((), generator=generator, device=base.device))
        noises.append(torch.randn(base.shape[1:], generator=generator, device=base.device))
    time = torch.stack(times)
    start = base + head.noise * torch.stack(noises)
    share = time.view(-1, 1, 1, 1)
    velocity = head((1 - share) * start + share * end, base, time, tokens, mask, sizes)
    error = (velocity - (end - start)).square()
    if sizes is None:
        return error.flatten(1).mean(1)
    real = real_cells(sizes, (error.shape[-2], error.shape[-1]), 1).view(len(error), 1, *error.shape[-2:])
    return error.masked_fill(~real, 0.0).sum((1, 2, 3)) / (error.shape[1] * real.sum((1, 2, 3)))


@torch.no_grad()
def sample(
    head: FlowHead,
    painted: Float[Tensor, "batch 3 height width"],
    tokens: Float[Tensor, "batch tokens channels"],
    mask: Bool[Tensor, "batch tokens"],
    *,
    seed: int,
    steps: int,
    sizes: Int[Tensor, "batch 2"] | None = None,
) -> Float[Tensor, "batch 3 height width"]:
    """Follow the flow from the plain decoder's pictures (in [0, 1]) by ``steps`` Euler steps of equal length.

    Args:
        seed: of the one noise that all pictures start with.
        steps: Euler steps.
        sizes: as in ``Detokenizer``.
    """
    base = starting_point(painted)
    x = base + head.noise * seeded_noise(list(base.shape[1:]), seed).to(base)
    for step in range(steps):
        time = torch.full((len(x),), step / steps, device=x.device)
        x = x + head(x, base, time, tokens, mask, sizes) / steps
    return (x + 1) / 2


@torch.library.custom_op("setok::seeded_noise", mutates_args=(), schema="(SymInt[] shape, SymInt seed) -> Tensor")
def seeded_noise(shape: Sequence[int], seed: int) -> Tensor:
    """Normal noise on the CPU. An operator of its own, because a compiled graph cannot hold a generator."""
    return torch.randn(list(shape), generator=torch.Generator().manual_seed(seed))


@seeded_noise.register_fake
def _(shape: Sequence[int], seed: int) -> Tensor:
    return torch.empty(list(shape))


def starting_point(painted: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """The plain decoder's pictures in [-1, 1], without gradient."""
    return painted.detach().float().clamp(0, 1) * 2 - 1
