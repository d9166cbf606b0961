"""The diffusion head: the peer's numbers where the formulas coincide, diffusers' steps, and tokens that come back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from setok.config import TokenDiffusionConfig
from setok.errors import ConfigError
from setok.models.token_diffusion import (
    DenoisingMLP,
    NoiseDraw,
    TokenDiffusion,
    TokenNormalizer,
    draw_noise,
    spaced_timesteps,
)

PREDICTIONS = ("epsilon", "v_prediction", "flow")


def head(width: int = 4, condition: int = 3, **settings: Any) -> TokenDiffusion:
    small: dict[str, Any] = {"width": 32, "depth": 2, "num_timesteps": 100, "sampling_steps": 10}
    return TokenDiffusion(TokenDiffusionConfig.model_validate(small | settings), width, condition)


def shaken(module: TokenDiffusion) -> TokenDiffusion:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return module


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_noise_and_loss_agree_with_mar(realdata: Path) -> None:
    """The network (its half that predicts the noise), the noising, the error and the spacing of steps, from MAR's own code."""
    stored = np.load(realdata / "golden" / "algorithms" / "mar_diffloss.npz")

    def weight(name: str) -> Tensor:
        return torch.from_numpy(stored[f"state/net.{name}"])

    target, z = torch.from_numpy(stored["target"]), torch.from_numpy(stored["z"])
    model = head(8, 12, prediction="epsilon", num_timesteps=1000)
    names = {
        "time.0": "time_embed.mlp.0",
        "time.2": "time_embed.mlp.2",
        "condition": "cond_embed",
        "enter": "input_proj",
    }
    for i in range(2):
        parts = {"norm": "in_ln", "mlp.0": "mlp.0", "mlp.2": "mlp.2", "modulation": "adaLN_modulation.1"}
        names |= {f"blocks.{i}.{ours}": f"res_blocks.{i}.{theirs}" for ours, theirs in parts.items()}
    names |= {"modulation": "final_layer.adaLN_modulation.1", "leave": "final_layer.linear"}
    state = {f"{a}.{kind}": weight(f"{b}.{kind}") for a, b in names.items() for kind in ("weight", "bias")}
    state |= {name: values[:8] for name, values in state.items() if name.startswith("leave")}  # the rest is a variance
    model.network.load_state_dict(state)

    t, noise = torch.from_numpy(stored["t"]), torch.from_numpy(stored["noise"])
    with torch.no_grad():
        predicted = model.network(torch.from_numpy(stored["x_t"]), t.float(), z)
        draw = NoiseDraw(
            time=(t + 0.5).unsqueeze(0) / 1000, noise=noise.unsqueeze(0), drop=torch.zeros(16, dtype=torch.bool)
        )
        loss = model(z, target, draw)
    torch.testing.assert_close(predicted, torch.from_numpy(stored["net_out"])[:, :8], atol=2e-6, rtol=1e-5)
    torch.testing.assert_close(loss, torch.from_numpy(stored["terms_mse"]), atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(model._signal, stored["alphas_cumprod"], atol=1e-6)
    assert spaced_timesteps(1000, 25) == stored["gen_timesteps"].tolist()[::-1]


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_loss_is_the_formula(prediction: str) -> None:
    model = shaken(head(prediction=prediction))
    clean, condition = torch.randn(5, 4), torch.randn(5, 3)
    draw = NoiseDraw(time=torch.rand(3, 5), noise=torch.randn(3, 5, 4), drop=torch.tensor([True] + [False] * 4))
    found = model(condition, clean, draw)
    for n in range(5):
        given = model.null if n == 0 else condition[n]
        errors = []
        for m in range(3):
            time, noise = float(draw.time[m, n]), draw.noise[m, n]
            if prediction == "flow":
                noisy, wanted, step = (1 - time) * clean[n] + time * noise, noise - clean[n], time * 100
            else:
                step = int(time * 100)
                signal = float(model._signal[step])
                noisy = signal**0.5 * clean[n] + (1 - signal) ** 0.5 * noise
                velocity = signal**0.5 * noise - (1 - signal) ** 0.5 * clean[n]
                wanted = noise if prediction == "epsilon" else velocity
            said = model.network(noisy[None], torch.tensor([float(step)]), given[None])[0]
            errors.append((said - wanted).square().mean())
        torch.testing.assert_close(found[n], torch.stack(errors).mean(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_sampling_takes_the_steps_of_diffusers(prediction: str) -> None:
    from diffusers import DDPMScheduler

    model = shaken(head(prediction=prediction))
    condition = torch.randn(2, 3)
    found = model.sample(condition, generators(5, 6), steps=10)
    noise = torch.stack([torch.randn(10, 4, generator=g) for g in generators(5, 6)], 1)
    schedule = DDPMScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction,
        timestep_spacing="linspace",
        clip_sample_range=12.0,
    )
    schedule.set_timesteps(10)
    x = noise[0]
    for i, time in enumerate(schedule.timesteps.tolist()):
        with torch.no_grad():
            said = model.network(x, torch.full((2,), float(time)), condition)
        after = schedule.step(said, time, x, generator=torch.Generator())
        mean = after.prev_sample
        if i < 9:  # its noise is replaced by ours
            deviation = schedule._get_variance(time) ** 0.5
            mean = mean - deviation * torch.randn(2, 4, generator=torch.Generator())
            x = mean + deviation * noise[i + 1]
        else:
            x = mean
    torch.testing.assert_close(found, x, atol=2e-4, rtol=1e-3)


def test_the_flow_takes_euler_steps() -> None:
    model = shaken(head(prediction="flow"))
    condition = torch.randn(1, 3)
    x = torch.randn(4, 4, generator=generators(2)[0])[:1]
    with torch.no_grad():
        for time in (1.0, 0.75, 0.5, 0.25):
            x = x - 0.25 * model.network(x, torch.tensor([100 * time]), condition)
    torch.testing.assert_close(model.sample(condition, generators(2), steps=4), x, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_token_depends_on_its_own_condition_and_generator(prediction: str) -> None:
    model = shaken(head(prediction=prediction))
    condition = torch.randn(3, 3)
    settings: dict[str, Any] = {"guidance": 2.0, "temperature": 0.8}
    together = model.sample(condition, generators(1, 2, 3), **settings)
    for i in range(3):
        alone = model.sample(condition[i : i + 1], generators(i + 1), **settings)
        torch.testing.assert_close(alone[0], together[i], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(together, model.sample(condition, generators(1, 2, 3)), atol=1e-3)
    cold = [model.sample(condition, generators(*seeds), temperature=0.0) for seeds in ((1, 2, 3), (4, 5, 6))]
    assert torch.equal(*cold)
    null = model.null.expand(3, -1)
    torch.testing.assert_close(
        model.sample(condition, generators(1, 2, 3), guidance=2.0, null_condition=null),
        model.sample(condition, generators(1, 2, 3), guidance=2.0),
    )
    assert torch.allclose(  # guidance 0 follows the learned condition alone
        model.sample(condition, generators(1, 2, 3), guidance=0.0),
        model.sample(null, generators(1, 2, 3)),
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("prediction", "normalization"), [*((name, "channel") for name in PREDICTIONS), ("flow", "scalar")]
)
def test_it_learns_to_draw_the_token_of_a_condition(prediction: str, normalization: str) -> None:
    torch.manual_seed(0)
    model = head(prediction=prediction, normalization=normalization)
    condition = torch.eye(3)
    tokens = torch.tensor([[3.0, -1.0, 0.2, 10.0], [2.0, 1.0, 0.1, 12.0], [2.5, 0.0, 0.3, 8.0]])
    model.normalizer.update(model.normalizer.moments(tokens, torch.ones(3, dtype=torch.bool)))
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    losses = []
    for step in range(500):
        draw = draw_noise([f"{step}/{i}" for i in range(3)], [1, 1, 1], 4, model.config, torch.device("cpu"))
        loss = model(condition, tokens, draw).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    drawn = torch.stack([model.sample(condition, generators(s, s + 50, s + 90)) for s in range(8)])
    deviation = model.normalizer.statistics()[1]
    # The median: a predicted noise says little about the token where there is almost only noise, so some draws go astray.
    error = ((drawn - tokens).abs() / deviation).mean(-1).median()
    guess = ((tokens.mean(0) - tokens).abs() / deviation).mean(-1).median()
    assert error < (0.5 if prediction == "epsilon" else 0.25) * guess, (error, guess)
    assert np.mean(losses[-50:]) < 0.5 * np.mean(losses[:50])


def test_random_numbers_belong_to_the_picture() -> None:
    config = TokenDiffusionConfig(batch_multiplier=3, condition_drop=0.5)
    many = draw_noise(["a", "b", "c"], [2, 1, 4], 5, config, torch.device("cpu"))
    assert many.time.shape == (3, 7) and many.noise.shape == (3, 7, 5) and many.drop.shape == (7,)
    other = draw_noise(["c", "a"], [4, 2], 5, config, torch.device("cpu"))
    assert torch.equal(many.noise[:, 3:], other.noise[:, :4]) and torch.equal(many.time[:, :2], other.time[:, 4:])
    drops = draw_noise([str(i) for i in range(2000)], [1] * 2000, 1, config, torch.device("cpu"))
    assert 0.45 < drops.drop.float().mean() < 0.55
    assert 0.48 < drops.time.mean() < 0.52 and drops.time.min() >= 0 and drops.time.max() < 1
    whole = draw_noise(["x"] * 1, [40], 1, config, torch.device("cpu"))
    assert whole.drop.unique().numel() == 1, "a picture is dropped as a whole"


def test_statistics_are_those_of_all_tokens_together() -> None:
    tokens = torch.randn(50, 3) * torch.tensor([1.0, 5.0, 0.1]) + torch.tensor([0.0, 3.0, -2.0])
    mask = torch.arange(50) < 40
    per_channel, scalar = TokenNormalizer(3, per_channel=True), TokenNormalizer(3, per_channel=False)
    torch.testing.assert_close(per_channel(tokens), tokens)
    for normalizer in (per_channel, scalar):
        for part in (slice(0, 30), slice(30, 50)):
            normalizer.update(normalizer.moments(tokens[part], mask[part]))
        torch.testing.assert_close(normalizer.inverse(normalizer(tokens)), tokens, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(normalizer(tokens)[:40].mean(0), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(per_channel(tokens)[:40].std(0, unbiased=False), torch.ones(3), atol=1e-3, rtol=0)
    torch.testing.assert_close(scalar(tokens)[:40].square().mean(), torch.tensor(1.0), atol=1e-3, rtol=0)
    assert set(per_channel.state_dict()) == {"count", "total", "squares"}


def test_an_untrained_network_predicts_nothing() -> None:
    network = DenoisingMLP(4, 3, 16, 2)
    assert not network(torch.randn(2, 4), torch.tensor([1.0, 50.0]), torch.randn(2, 3)).any()


@pytest.mark.parametrize(
    ("settings", "said", "remedy"),
    [
        ({"sampling_steps": 200, "num_timesteps": 100}, "sampling_steps=200", "at most 100"),
        ({"prediction": "flow", "schedule": "linear"}, "schedule=linear", "leave it out"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], said: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        TokenDiffusionConfig.model_validate(settings)
    assert said in error.value.problem and remedy in error.value.remedy
