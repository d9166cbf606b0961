"""The flow decoder: the formula, the same picture whatever surrounds it, and pictures instead of means."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from setok.config import DetokenizerConfig, TrainConfig, build, load_config
from setok.errors import ConfigError
from setok.models.flow import FlowHead, flow_loss, sample, starting_point, time_embedding
from setok.models.tokenizer import SeTok
from setok.optim import learning_rate_factor
from setok.stages import block_matrices, build_stage
from tests.tiny import batch_of, pictures, tiny

FLOW = {"kind": "flow", "width": 48, "flow": {"patch_size": 4, "depth": 1}}
MODEL = {"image_size": 32, "encoder": {"width": 48}, "clustering": {"feature_dim": 16, "sharpness": 4.0}}


def flow_config(**changes: Any) -> TrainConfig:
    return tiny(model=MODEL | {"detokenizer": FLOW}, **changes)


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """With random weights also where training starts from zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def decoded(model: SeTok, images: Tensor, **settings: int) -> Tensor:
    with torch.no_grad():
        visual = model.tokenize(images)
        return model.detokenize(visual.tokens, visual.mask, (32, 32), **settings)


# ---------------------------------------------------------------- formulas


class Recorder(FlowHead):
    """Stands for the head, remembers what it was asked, and answers ``answer(noisy, base, time)``."""

    def __init__(self, answer: Any) -> None:
        super().__init__(DetokenizerConfig.model_validate(FLOW | {"flow": {"noise": 0.3}}))
        self.answer, self.asked = answer, []

    def forward(
        self, noisy: Tensor, base: Tensor, time: Tensor, tokens: Tensor, mask: Tensor, sizes: Tensor | None = None
    ) -> Tensor:
        self.asked.append((noisy, base, time))
        return self.answer(noisy, base, time)


def conditions(batch: int) -> tuple[Tensor, Tensor]:
    return torch.zeros(batch, 1, 48), torch.ones(batch, 1, dtype=torch.bool)


def test_the_loss_is_flow_matching_on_the_straight_line() -> None:
    painted, target = torch.rand(3, 3, 8, 8) * 1.2, torch.rand(3, 3, 8, 8)
    head = Recorder(lambda noisy, base, time: torch.full_like(noisy, 0.5))
    loss = flow_loss(head, painted, target, *conditions(3), ["a", "b", "c"])
    ((noisy, base, time),) = head.asked
    torch.testing.assert_close(base, painted.clamp(0, 1) * 2 - 1)
    assert time.unique().numel() == 3 and ((time >= 0) & (time < 1)).all()
    for i in range(3):
        end = target[i] * 2 - 1
        start = (noisy[i] - time[i] * end) / (1 - time[i])
        noise = (start - base[i]) / 0.3
        assert abs(noise.mean().item()) < 0.3 and 0.8 < noise.std().item() < 1.2
        expected = (0.5 - (end - start)).square().mean()
        torch.testing.assert_close(loss[i], expected, atol=1e-4, rtol=1e-3)


def test_random_numbers_belong_to_the_key_and_not_to_the_place() -> None:
    painted, target = torch.rand(1, 3, 8, 8).expand(3, -1, -1, -1), torch.rand(1, 3, 8, 8).expand(3, -1, -1, -1)
    head = Recorder(lambda noisy, base, time: torch.zeros_like(noisy))
    one = flow_loss(head, painted, target, *conditions(3), ["0/5/x", "0/5/y", "0/6/x"])
    other = flow_loss(head, painted[:2], target[:2], *conditions(2), ["0/6/x", "0/5/x"])
    assert torch.equal(other, one[[2, 0]])
    assert one.unique().numel() == 3


def test_sampling_takes_euler_steps() -> None:
    painted = torch.rand(2, 3, 8, 8)
    head = Recorder(lambda noisy, base, time: 0.5 * noisy + time.view(-1, 1, 1, 1))
    made = sample(head, painted, *conditions(2), seed=3, steps=4)
    noise = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(3))
    x = (painted * 2 - 1) + 0.3 * noise
    for t in (0.0, 0.25, 0.5, 0.75):
        x = x + 0.25 * (0.5 * x + t)
    torch.testing.assert_close(made, (x + 1) / 2)


def test_an_untrained_head_takes_the_noise_away_and_times_differ() -> None:
    head = FlowHead(DetokenizerConfig.model_validate(FLOW))
    painted = torch.rand(2, 3, 16, 16)
    made = sample(head, painted, *conditions(2), seed=0, steps=1)
    torch.testing.assert_close(made, painted, atol=1e-5, rtol=0)
    embedded = time_embedding(torch.linspace(0, 1, 9), 32)
    assert torch.pdist(embedded).min() > 0.5


def test_no_gradient_reaches_the_plain_decoder_and_the_tokens_learn() -> None:
    head = shaken(FlowHead(DetokenizerConfig.model_validate(FLOW)))
    painted, (tokens, mask) = torch.rand(2, 3, 16, 16, requires_grad=True), conditions(2)
    tokens = torch.randn_like(tokens).requires_grad_()
    flow_loss(head, painted, torch.rand(2, 3, 16, 16), tokens, mask, ["a", "b"]).sum().backward()
    assert painted.grad is None and not starting_point(painted).requires_grad
    assert tokens.grad is not None and tokens.grad.abs().sum() > 0
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())


# ---------------------------------------------------------------- in the model


def test_a_seed_gives_one_picture_and_another_seed_another() -> None:
    model = shaken(SeTok(flow_config().model))
    one = decoded(model, pictures())
    assert one.shape == (3, 3, 32, 32)
    assert torch.equal(one, decoded(model, pictures(), seed=0))
    assert not torch.allclose(one, decoded(model, pictures(), seed=1), atol=1e-3)
    assert not torch.allclose(one, decoded(model, pictures(), sampling_steps=3), atol=1e-4)
    plain = decoded(model, pictures(), sampling_steps=0)
    visual = model.tokenize(pictures())
    assert torch.equal(plain, model.detokenizer(visual.tokens, visual.mask, (32, 32)).pixels)
    assert not torch.allclose(one, plain, atol=1e-3)
    torch.testing.assert_close(model(pictures())[1], one)


def test_batch_mates_and_padding_tokens_change_nothing() -> None:
    model = shaken(SeTok(flow_config().model))
    together = decoded(model, pictures(4))
    for i in range(4):
        torch.testing.assert_close(decoded(model, pictures(4)[i : i + 1])[0], together[i], atol=1e-4, rtol=1e-4)
    visual = model.tokenize(pictures(4))
    garbage = visual.tokens.masked_fill(~visual.mask.unsqueeze(-1), 1e3)
    torch.testing.assert_close(model.detokenize(garbage, visual.mask, (32, 32)), together, atol=1e-4, rtol=1e-4)


def test_micro_batches_do_not_change_loss_or_gradient() -> None:
    stage = build_stage(flow_config(loss={"contrast": 0.0}))
    model = shaken(stage.modules["model"])
    whole = batch_of(pictures(4))
    parts = [
        replace(batch_of(pictures(4)[i : i + 2]), ids=whole.ids[i : i + 2]) for i in (2, 0)
    ]  # and in another order, as other ranks would have them
    found = []
    for batches in ([whole], parts):
        model.zero_grad()
        loss = torch.zeros(())
        for batch, context in zip(batches, stage.prepare(batches, step=7), strict=True):
            output = model(batch, context)
            output.loss.backward()
            loss += output.parts["flow"]
        found.append((loss, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    torch.testing.assert_close(found[0][0], found[1][0])
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)
    (context,) = stage.prepare([whole], step=8)
    assert model(whole, context).parts["flow"] != found[0][0], "every step draws other noise"


def test_overfits_two_pictures() -> None:
    torch.set_num_threads(1)  # quicker at this size
    torch.manual_seed(0)
    config = flow_config(
        loss={"contrast": 0.0, "l2": 5.0, "feature_target": 2.0},
        optim={"learning_rate": 3e-3},
        train={"global_batch_size": 2, "micro_batch_size": 2, "steps": 220},
    )
    stage = build_stage(config)
    model, optimizer, batch = stage.modules["model"], stage.optimizer("model"), batch_of(pictures(2))
    for step in range(config.train.steps):
        (context,) = stage.prepare([batch], step=step)
        output = model(batch, context)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * learning_rate_factor(step, config)
        optimizer.step()
    target = batch.pixel_values / 255
    psnr = {
        steps: -10
        * (decoded(model.tokenizer, batch.pixel_values, sampling_steps=steps) - target).square().mean().log10()
        for steps in (0, 1, 8)
    }
    assert psnr[8] > 21 and psnr[1] > 22, psnr
    assert psnr[8] > psnr[0] - 3, "a sample from what fits costs at most 3 dB against its mean"


def test_it_paints_pictures_where_the_plain_decoder_can_only_paint_the_mean() -> None:
    """Black and white squares behind one and the same token: the mean is grey, a picture is black or white."""
    torch.set_num_threads(1)  # quicker at this size
    torch.manual_seed(0)
    head = FlowHead(DetokenizerConfig.model_validate(FLOW | {"width": 24, "flow": {"patch_size": 2, "depth": 1}}))
    optimizer = torch.optim.Adam(head.parameters(), 3e-3)
    tokens, mask = torch.zeros(32, 1, 24), torch.ones(32, 1, dtype=torch.bool)
    grey, target = torch.full((32, 3, 4, 4), 0.5), (torch.arange(32) % 2).float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    for step in range(300):
        optimizer.zero_grad()
        flow_loss(head, grey, target, tokens, mask, [f"{step}/{i}" for i in range(32)]).mean().backward()
        optimizer.step()
    made = torch.cat([sample(head, grey[:1], tokens[:1], mask[:1], seed=s, steps=8) for s in range(24)])
    distance = torch.minimum(made.abs(), (made - 1).abs()).mean((1, 2, 3))
    assert distance.median() < 0.12, distance
    white = (made.mean((1, 2, 3)) > 0.5).float().mean()
    assert 0.2 < white < 0.8, white


# ---------------------------------------------------------------- settings


def test_the_preset_learns_its_matrices_with_muon() -> None:
    config = load_config(TrainConfig, "tokenizer_flow_demo")
    assert config.model.detokenizer.kind == "flow" and config.train.ema_decay > 0
    names = block_matrices(build_stage(config).modules["model"])
    assert [name for name in names if ".flow.blocks." in name]


def test_the_plain_decoder_has_no_flow() -> None:
    stage = build_stage(tiny())
    assert not [name for name, _ in stage.modules["model"].named_parameters() if "flow" in name]


@pytest.mark.parametrize(
    ("detokenizer", "problem", "remedy"),
    [
        ({"kind": "flow", "flow": {"patch_size": 8}}, r"flow\.patch_size=8 .*192 values.*width=96", "at most 5"),
        ({"kind": "flow", "flow": {"patch_size": 3}}, r"image_size=64 .*flow\.patch_size=3", "fit 64"),
    ],
)
def test_wrong_settings(detokenizer: dict[str, Any], problem: str, remedy: str) -> None:
    tree = {"name": "x", "data": {"train": [{"path": "d"}]}, "model": {"detokenizer": detokenizer}}
    with pytest.raises(ConfigError, match=problem) as caught:
        build(TrainConfig, tree)
    assert remedy in caught.value.remedy
