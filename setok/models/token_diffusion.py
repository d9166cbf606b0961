"""Visual tokens out: a small network that denoises one continuous token, conditioned on the language model's hidden state.

The diffusion loss of MAR (Li et al. 2024, "Autoregressive Image Generation without Vector Quantization"): noise is put on a
token, and an MLP with adaptive layer norms (Peebles & Xie 2023) says what the noise was. Tokens are independent of each
other given their conditions; what ties them together is the language model that reads each one before the next is drawn.

Guidance (Ho & Salimans 2022): a share of pictures is trained with a learned condition in place of the hidden states, and
sampling moves away from what that condition gives. It takes away everything the model has read. Data may drop the prompt
instead, which leaves the tokens drawn so far.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from setok.config import TokenDiffusionConfig

FREQUENCIES = 256
"""Sines and cosines that describe a time step."""
LARGEST = 12.0
"""Largest value of a normalised token on the way of denoising."""


class ResidualBlock(nn.Module):
    """x + gate · MLP(modulate(LayerNorm(x))), where shift, scale and gate come from the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.modulation = nn.Linear(width, 3 * width)

    def forward(self, x: Float[Tensor, "*n width"], condition: Float[Tensor, "*n width"]) -> Float[Tensor, "*n width"]:
        shift, scale, gate = self.modulation(nn.functional.silu(condition)).chunk(3, -1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class DenoisingMLP(nn.Module):
    """Noisy token, time step and condition to a prediction of the token's width; starts as zero."""

    def __init__(self, token_width: int, condition_width: int, width: int, depth: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.condition = nn.Linear(condition_width, width)
        self.enter = nn.Linear(token_width, width)
        self.blocks = nn.ModuleList(ResidualBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)
        self.modulation = nn.Linear(width, 2 * width)
        self.leave = nn.Linear(width, token_width)
        for name, parameter in self.named_parameters():
            if "modulation" in name or name.startswith("leave."):
                nn.init.zeros_(parameter)
            elif name.startswith("time.") and parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(
        self,
        noisy: Float[Tensor, "*n token"],
        time: Float[Tensor, "*n"],
        condition: Float[Tensor, "*#n condition"],
    ) -> Float[Tensor, "*n token"]:
        """``time`` counts from 0 (clean) to the number of time steps (noise)."""
        moment = self.time(timestep_embedding(time).to(self.enter.weight.dtype)) + self.condition(condition)
        x = self.enter(noisy)
        for block in self.blocks:
            x = block(x, moment)
        shift, scale = self.modulation(nn.functional.silu(moment)).chunk(2, -1)
        return self.leave(self.norm(x) * (1 + scale) + shift)


def timestep_embedding(time: Float[Tensor, "*n"]) -> Float[Tensor, "*n frequencies"]:
    """Cosines and sines of a time step at ``FREQUENCIES`` / 2 rates from 1 to 1/10000 (Vaswani et al. 2017)."""
    from diffusers.models.embeddings import get_timestep_embedding  # slow to import

    flat = get_timestep_embedding(time.flatten(), FREQUENCIES, flip_sin_to_cos=True, downscale_freq_shift=0)
    return flat.unflatten(0, time.shape) if time.ndim != 1 else flat


class TokenNormalizer(nn.Module):
    """Brings tokens to mean 0 and deviation 1, by statistics that are kept with the weights.

    The statistics come from ``update``, with sums over the global batch, so that all ranks hold the same. Before the first one,
    tokens stay as they are.
    """

    count: Tensor
    total: Tensor
    squares: Tensor

    def __init__(self, width: int, *, per_channel: bool) -> None:
        super().__init__()
        self.per_channel = per_channel
        # In float64 they would be cast with the model; sums of about 1e6 unit-sized tokens fit fp32 well.
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("total", torch.zeros(width))
        self.register_buffer("squares", torch.zeros(width))

    def moments(self, tokens: Float[Tensor, "*n width"], mask: Bool[Tensor, "*n"]) -> Float[Tensor, " numbers"]:
        """What ``update`` takes, of the tokens where ``mask`` is True; to be summed over micro-batches and ranks before."""
        chosen = tokens.detach().float() * mask.unsqueeze(-1)
        values = chosen.flatten(0, -2)
        return torch.cat([mask.sum().view(1).float(), values.sum(0), values.square().sum(0)])

    @torch.no_grad()
    def update(self, moments: Float[Tensor, " numbers"]) -> None:
        """Let more tokens count."""
        width = len(self.total)
        self.count += moments[0]
        self.total += moments[1 : 1 + width]
        self.squares += moments[1 + width :]

    def statistics(self) -> tuple[Float[Tensor, " width"], Float[Tensor, " width"]]:
        """Mean and deviation of every channel, in fp32."""
        count, known = self.count.float().clamp_min(1), self.count > 0
        mean = self.total.float() / count
        variance = self.squares.float() / count - mean.square()
        if not self.per_channel:
            variance = variance.mean().expand_as(variance)
        deviation = torch.where(known, variance.clamp_min(1e-6).sqrt(), torch.ones_like(variance))
        return mean, deviation

    def forward(self, tokens: Float[Tensor, "*n width"]) -> Float[Tensor, "*n width"]:
        mean, deviation = self.statistics()
        return (tokens.float() - mean) / deviation

    def inverse(self, tokens: Float[Tensor, "*n width"]) -> Float[Tensor, "*n width"]:
        """Tokens as the tokenizer makes them."""
        mean, deviation = self.statistics()
        return tokens.float() * deviation + mean


@dataclass(frozen=True, kw_only=True)
class NoiseDraw:
    """The random numbers of a loss: several draws for each of n tokens."""

    time: Float[Tensor, "draws n"]
    """In [0, 1): the share of the way to noise."""
    noise: Float[Tensor, "draws n width"]
    drop: Bool[Tensor, " n"]
    """Where the learned condition replaces the hidden state."""


class TokenDiffusion(nn.Module):
    """Loss and sampling of single visual tokens; everything random comes from outside."""

    def __init__(self, config: TokenDiffusionConfig, token_width: int, condition_width: int) -> None:
        super().__init__()
        self.config = config
        self.token_width = token_width
        self.normalizer = TokenNormalizer(token_width, per_channel=config.normalization == "channel")
        self.network = DenoisingMLP(token_width, condition_width, config.width, config.depth)
        self.null = nn.Parameter(torch.randn(condition_width) * 0.02)
        # Not a buffer: it is no weight, and must stay in fp32 when the model is cast.
        self._signal = _signal_share(config)

    def forward(
        self,
        condition: Float[Tensor, "n condition"],
        tokens: Float[Tensor, "n width"],
        draw: NoiseDraw,
    ) -> Float[Tensor, " n"]:
        """Squared error of every token's prediction, averaged over channels and draws.

        Args:
            condition: the projected hidden state of the place before each token.
            tokens: as the tokenizer makes them.
        """
        clean = self.normalizer(tokens)
        condition = torch.where(draw.drop.unsqueeze(-1), self.null.to(condition), condition)
        time, signal, noise_share = self._levels(draw.time)
        noisy = signal.unsqueeze(-1) * clean + noise_share.unsqueeze(-1) * draw.noise
        predicted = self.network(noisy.to(condition.dtype), time, condition.expand(len(time), -1, -1)).float()
        target = {
            "epsilon": lambda: draw.noise.float(),
            "v_prediction": lambda: signal.unsqueeze(-1) * draw.noise - noise_share.unsqueeze(-1) * clean,
            "flow": lambda: draw.noise - clean,
        }[self.config.prediction]()
        return (predicted - target).square().mean(-1).mean(0)

    @torch.no_grad()
    def sample(
        self,
        condition: Float[Tensor, "n condition"],
        generators: Sequence[torch.Generator],
        *,
        null_condition: Float[Tensor, "n condition"] | None = None,
        guidance: float = 1.0,
        temperature: float = 1.0,
        steps: int | None = None,
    ) -> Float[Tensor, "n width"]:
        """Draw a token for every condition, as the tokenizer makes them.

        A token depends on its own condition and generator only, not on the others of the call.

        Args:
            generators: one for every token, of the CPU; each gives ``steps`` × width normal numbers.
            null_condition: what guidance moves away from; ``None`` for the learned one.
            guidance: 1 for none; larger follows the condition more closely.
            temperature: factor on the noise; 0 takes the way without any, from 0.
            steps: of denoising; ``None`` for those of the config.
        """
        steps = steps or self.config.sampling_steps
        shape = (steps, self.token_width)
        noise = torch.stack([torch.randn(shape, generator=g) for g in generators], 1).to(condition.device) * temperature
        null = self.null.to(condition).expand_as(condition) if null_condition is None else null_condition

        def predict(x: Tensor, time: float) -> Tensor:
            moments = torch.full((len(x),), time, device=x.device)
            if guidance == 1.0:
                return self.network(x.to(condition.dtype), moments, condition).float()
            both = torch.cat([condition, null])
            guided, free = (
                self.network(torch.cat([x, x]).to(condition.dtype), torch.cat([moments, moments]), both)
                .float()
                .chunk(2)
            )
            return free + guidance * (guided - free)

        walk = self._follow_flow if self.config.prediction == "flow" else self._denoise
        return self.normalizer.inverse(walk(predict, noise))

    def _levels(self, time: Float[Tensor, "*n"]) -> tuple[Tensor, Tensor, Tensor]:
        """The network's time, the share of signal and that of noise, at a time in [0, 1)."""
        steps = self.config.num_timesteps
        if self.config.prediction == "flow":
            return time * steps, 1 - time, time
        index = (time * steps).long().clamp_max(steps - 1)
        signal = self._signal.to(time.device)[index]
        return index.float(), signal.sqrt(), (1 - signal).sqrt()

    def _follow_flow(
        self, predict: Callable[[Tensor, float], Tensor], noise: Float[Tensor, "steps n width"]
    ) -> Float[Tensor, "n width"]:
        """Euler steps of equal length from noise (time 1) to the token (time 0)."""
        x, steps = noise[0], len(noise)
        for step in range(steps):
            x = x - predict(x, (1 - step / steps) * self.config.num_timesteps) / steps
        return x

    def _denoise(
        self, predict: Callable[[Tensor, float], Tensor], noise: Float[Tensor, "steps n width"]
    ) -> Float[Tensor, "n width"]:
        """Ancestral sampling (Ho et al. 2020, with the smaller variance) over evenly spaced time steps."""
        steps = len(noise)
        times = spaced_timesteps(self.config.num_timesteps, steps)
        x = noise[0]
        for number, time in enumerate(times):
            now = float(self._signal[time])
            after = float(self._signal[times[number + 1]]) if number + 1 < steps else 1.0
            clean = _clean_token(self.config.prediction, x, predict(x, float(time)), now)
            kept = now / after  # share of the signal that this one step has
            mean = (after**0.5 * (1 - kept) * clean + kept**0.5 * (1 - after) * x) / (1 - now)
            deviation = ((1 - after) / (1 - now) * (1 - kept)) ** 0.5
            x = mean + deviation * noise[number + 1] if number + 1 < steps else mean
        return x


def spaced_timesteps(num_timesteps: int, steps: int) -> list[int]:
    """``steps`` time steps from the last one to 0, evenly spaced (as MAR and diffusers' ``linspace`` take them)."""
    return (
        [int(t) for t in np.linspace(0, num_timesteps - 1, steps).round()[::-1]] if steps > 1 else [num_timesteps - 1]
    )


def draw_noise(
    keys: Sequence[str],
    counts: Sequence[int],
    width: int,
    config: TokenDiffusionConfig,
    device: torch.device,
) -> NoiseDraw:
    """The random numbers of the tokens of several pictures, one picture after the other.

    They are functions of a picture's key alone: neither its place, nor its batch mates, nor the number of ranks matter.

    Args:
        keys: one for every picture, such as run seed, step, sample id and number of the picture.
        counts: tokens of every picture.
        width: of a token.
    """
    times, noises, drops = [], [], []
    for key, count in zip(keys, counts, strict=True):
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        generator = torch.Generator(device).manual_seed(int.from_bytes(digest) >> 1)
        shape = (config.batch_multiplier, count)
        dropped = torch.rand((), generator=generator, device=device) < config.condition_drop
        drops.append(dropped.expand(count))
        times.append(torch.rand(shape, generator=generator, device=device))
        noises.append(torch.randn((*shape, width), generator=generator, device=device))
    return NoiseDraw(time=torch.cat(times, 1), noise=torch.cat(noises, 1), drop=torch.cat(drops))


def _signal_share(config: TokenDiffusionConfig) -> Float[Tensor, " timesteps"]:
    """ᾱ of every time step."""
    from diffusers import DDPMScheduler  # slow to import

    with torch.device("cpu"):
        schedule = DDPMScheduler(num_train_timesteps=config.num_timesteps, beta_schedule=config.schedule)
    signal: Tensor = schedule.alphas_cumprod
    return signal


def _clean_token(prediction: str, x: Tensor, predicted: Tensor, signal: float) -> Tensor:
    """The token that a prediction amounts to, within ``LARGEST`` deviations.

    At the noisiest steps a small error of a predicted noise would otherwise become a token that is thousands of times too large.
    """
    if prediction == "epsilon":
        clean = (x - (1 - signal) ** 0.5 * predicted) / signal**0.5
    else:
        clean = signal**0.5 * x - (1 - signal) ** 0.5 * predicted
    return clean.clamp(-LARGEST, LARGEST)
