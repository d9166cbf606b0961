"""``model.resize: fit``: a picture padded to the square is what it is alone, in tokens, losses, gradients and figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ray_jobs.evaluation.tokenizer_replica import without_padding
from setok.batch import ImageTextBatch, LossOutput
from setok.config import TokenizerConfig, TrainConfig
from setok.data.processor import SeTokImageProcessor
from setok.drawing import draw_tokens
from setok.errors import ConfigError
from setok.losses import patch_statistics
from setok.metrics import scoring
from setok.metrics.running import MeanImage
from setok.models.perceptual import Perceptual, weight_shapes
from setok.models.tokenizer import SeTok, patchify
from setok.predictor import Reconstruction
from setok.stages import build_stage
from tests.tiny import batch_of, pictures, tiny
from tests.towers import save_tower

SIZES = [(16, 32), (32, 8), (32, 32), (24, 32)]
METHODS = ["stick_breaking", "dpc_knn", "cosine_graph", "grid", "kmeans", "resampler"]


def padded(batch: ImageTextBatch, sizes: list[tuple[int, int]], filling: int = 0) -> ImageTextBatch:
    """The upper left of every picture, the rest filled."""
    pixels = torch.full_like(batch.pixel_values, filling)
    for image, (height, width) in enumerate(sizes):
        pixels[image, :, :height, :width] = batch.pixel_values[image, :, :height, :width]
    return replace(batch, pixel_values=pixels, sizes=torch.tensor(sizes))


def config_of(tmp_path: Path, encoder: str, **changes: object) -> TrainConfig:
    base = tiny().model.model_dump()
    if encoder == "naflex":
        save_tower("siglip2_naflex", tmp_path)
        base["encoder"] = {"kind": "huggingface", "path": str(tmp_path), "patch_size": 8}
    elif encoder == "deep":
        base["encoder"] = {"width": 48, "depth": 3, "patch_size": 8}
    return tiny(model=base | {"resize": "fit"}, **changes)


@pytest.mark.parametrize("encoder", ["scratch", "deep", "naflex"])
@pytest.mark.parametrize("method", METHODS)
def test_tokens_and_pixels_are_those_of_the_picture_alone(tmp_path: Path, encoder: str, method: str) -> None:
    config = config_of(tmp_path, encoder).model
    clustering = {"method": method, "max_tokens": 5, "feature_dim": 16}
    model = SeTok(TokenizerConfig.model_validate(config.model_dump() | {"clustering": clustering})).eval()
    batch = padded(batch_of(pictures(4)), SIZES, filling=200)
    with torch.no_grad():
        together = model.tokenize(batch.pixel_values, sizes=batch.sizes)
        painted = model.detokenize(together.tokens, together.mask, (32, 32), sizes=batch.sizes)
        for image, (height, width) in enumerate(SIZES):
            one = batch.alone(image).pixel_values
            visual = model.tokenize(one)
            count = int(visual.counts[0])
            assert int(together.counts[image]) == count
            torch.testing.assert_close(together.tokens[image, :count], visual.tokens[0, :count], atol=1e-4, rtol=1e-4)
            lattice = together.assignment[image].unflatten(0, together.grid)
            rows, columns = visual.grid
            assert lattice[:rows, :columns].flatten().equal(visual.assignment[0])
            assert (lattice[rows:] == -1).all() and (lattice[:, columns:] == -1).all()
            own = model.detokenize(visual.tokens, visual.mask, (height, width))
            torch.testing.assert_close(painted[image, :, :height, :width], own[0], atol=1e-4, rtol=1e-4)
            assert not painted[image, :, height:].any() and not painted[image, :, :, width:].any()


def test_the_filling_of_the_padding_changes_nothing(tmp_path: Path) -> None:
    model = SeTok(config_of(tmp_path, "deep").model).eval()
    one, other = (padded(batch_of(pictures(4)), SIZES, filling) for filling in (0, 255))
    assert not one.pixel_values.equal(other.pixel_values)
    assert model.reconstruct(one.pixel_values, sizes=one.sizes).equal(
        model.reconstruct(other.pixel_values, sizes=one.sizes)
    )


def losses_and_gradients(
    config: TrainConfig, batches: list[ImageTextBatch], *, adversarial: bool
) -> tuple[list[LossOutput], dict[str, torch.Tensor]]:
    """All losses of a step, and the gradients it leaves, of the model's and the discriminator's turn."""
    torch.manual_seed(0)
    stage = build_stage(config)
    model = stage.modules["model"]
    torch.manual_seed(1)
    if config.model.detokenizer.kind == "flow":
        torch.nn.init.normal_(model.tokenizer.detokenizer.flow.to_velocity.weight, std=0.05)
    outputs, contexts = [], stage.prepare(batches, step=0)
    for name, module in stage.modules.items():
        if name == "discriminator" and not adversarial:
            continue
        for batch, context in zip(batches, contexts, strict=True):
            outputs.append(module(batch, context))
            outputs[-1].loss.backward()
    gradients = {
        f"{name}.{key}": p.grad
        for name, module in stage.modules.items()
        for key, p in module.named_parameters()
        if p.grad is not None
    }
    return outputs, gradients


@pytest.mark.parametrize("encoder", ["scratch", "naflex"])
def test_losses_and_gradients_are_those_of_the_pictures_alone(tmp_path: Path, encoder: str) -> None:
    """Per-pixel, per-patch and per-token terms, exactly; the discriminator and LPIPS look across the edge, see below."""
    loss = {"contrast": 0.3, "l1": 1.0, "l2": 5.0, "feature_target": 1.0, "distillation": 1.0}
    loss["feature_statistics"] = ("mean", "deviation", "edges", "context")
    config = config_of(tmp_path, encoder, loss=loss)
    batch = padded(batch_of(pictures(4)), SIZES, filling=90)
    whole = losses_and_gradients(config, [batch], adversarial=False)
    parts = losses_and_gradients(config, [batch.alone(i) for i in range(4)], adversarial=False)
    for name, value in whole[0][0].parts.items():
        torch.testing.assert_close(value, sum(p.parts[name] for p in parts[0]), atol=1e-5, rtol=1e-4, msg=name)
    assert whole[1].keys() == parts[1].keys() and len(whole[1]) > 20
    for name, gradient in whole[1].items():
        torch.testing.assert_close(gradient, parts[1][name], atol=2e-5, rtol=2e-3, msg=lambda m, n=name: f"{n}: {m}")


def test_every_other_term_ignores_the_padding(tmp_path: Path) -> None:
    """Discriminator, LPIPS and flow: other pixels in the padding, and in its reconstruction, change no loss."""
    model = tiny().model.model_dump() | {"resize": "fit"}
    model["detokenizer"]["kind"] = "flow"
    config = tiny(
        model=model, loss={"adversarial": 0.5, "flow": 1.0, "perceptual": 0.0}, discriminator={"width": 8, "depth": 2}
    )
    batch = padded(batch_of(pictures(4)), SIZES)
    outputs, gradients = losses_and_gradients(config, [batch], adversarial=True)
    assert {"adversarial", "flow"} <= outputs[0].parts.keys() and "discriminator" in outputs[1].parts
    assert all(g.isfinite().all() for g in gradients.values())
    shown = outputs[0].reconstruction
    outside = ~batch.pixel_mask.expand_as(shown)
    assert shown[outside].equal((batch.pixel_values / 255)[outside]), "the discriminator sees the same padding in both"


def test_flow_matching_of_padding_does_not_count(tmp_path: Path) -> None:
    from setok.models.flow import flow_loss

    config = tiny().model.model_dump() | {"resize": "fit"}
    config["detokenizer"]["kind"] = "flow"
    head = SeTok(TokenizerConfig.model_validate(config)).detokenizer.flow
    torch.nn.init.normal_(head.to_velocity.weight, std=0.05)
    tokens, mask = torch.randn(2, 3, 48), torch.ones(2, 3, dtype=torch.bool)
    sizes = torch.tensor([[16, 32], [32, 8]])
    painted, target = torch.rand(2, 2, 3, 32, 32).unbind(0)
    first = flow_loss(head, painted, target, tokens, mask, ["a", "b"], sizes)
    for image, (height, width) in enumerate(sizes.tolist()):
        painted[image, :, height:], painted[image, :, :, width:] = 0.3, 0.9
        target[image, :, height:], target[image, :, :, width:] = 0.1, 0.0
    torch.testing.assert_close(flow_loss(head, painted, target, tokens, mask, ["a", "b"], sizes), first)
    assert not torch.allclose(flow_loss(head, painted, target, tokens, mask, ["a", "b"]), first)


def test_lpips_is_a_mean_over_the_picture(tmp_path: Path) -> None:
    """Half a canvas of equal pixels halves the mean, and the stage takes that back; what the edge adds is small."""
    torch.manual_seed(0)
    weights = {name: torch.randn(shape) * 0.1 for name, shape in weight_shapes().items()}
    weights = {name: w.abs() if name.startswith("heads") else w for name, w in weights.items()}
    stage = build_stage(tiny(model=tiny().model.model_dump() | {"resize": "fit", "image_size": 64}))
    model = stage.modules["model"]
    model.perceptual, model.loss = Perceptual(weights), model.loss.model_copy(update={"perceptual": 1.0})
    batch = padded(batch_of(pictures(2, size=64)), [(32, 64), (64, 64)])
    found = model(batch, stage.prepare([batch], step=0)[0]).parts["perceptual"]
    singles = [batch.alone(i) for i in range(2)]
    apart = [model(b, c).parts["perceptual"] for b, c in zip(singles, stage.prepare(singles, step=0), strict=True)]
    assert found.item() == pytest.approx(sum(apart).item(), rel=0.25)


def test_statistics_of_a_patch_at_the_edge_know_nothing_of_the_padding() -> None:
    image, names = torch.rand(1, 3, 16, 24), ("mean", "deviation", "edges", "context")
    alone_ = patch_statistics(patchify(image, (4, 6)), (4, 6), names)
    canvas = torch.full((1, 3, 24, 24), 0.7)
    canvas[..., :16, :] = image
    real = torch.arange(36).unsqueeze(0) < 24
    whole = patch_statistics(patchify(canvas, (6, 6)), (6, 6), names, real)
    torch.testing.assert_close(whole[:, :24], alone_, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(patch_statistics(patchify(canvas, (6, 6)), (6, 6), names)[:, :24], alone_)


def test_figures_are_those_of_the_picture_alone(tmp_path: Path) -> None:
    model = SeTok(config_of(tmp_path, "scratch").model).eval()
    segments = torch.randint(0, 3, (4, 32, 32))
    batch = padded(batch_of(pictures(4)), SIZES)
    batch = replace(
        batch, segments=segments.masked_fill(~batch.pixel_mask[:, 0], -1), is_thing=((True, True, False),) * 4
    )
    with torch.no_grad():
        visual = model.tokenize(batch.pixel_values, sizes=batch.sizes)
        pixels = model.detokenize(visual.tokens, visual.mask, (32, 32), sizes=batch.sizes).clamp(0, 1)
        for image, (height, width) in enumerate(SIZES):
            made = Reconstruction(pixels=pixels, tokens=visual, concept_scores=None)
            cut, its = without_padding(batch, made, image)
            one = batch.alone(image)
            own = model.tokenize(one.pixel_values)
            painted = model.detokenize(own.tokens, own.mask, (height, width)).clamp(0, 1)
            found, expected = scoring.score_images(cut, its.pixels, its.tokens), scoring.score_images(one, painted, own)
            assert found.keys() == expected.keys()
            for name, values in expected.items():
                np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4, err_msg=name)


def test_the_mean_image_is_over_pictures_that_reach_there() -> None:
    mean, pixels = MeanImage(), np.full((2, 3, 4, 4), 100, np.uint8)
    pixels[1] = 200
    real = np.ones((2, 1, 4, 4), bool)
    real[1, :, 2:] = False
    real[:, :, :, 3] = False
    mean.update(pixels, real)
    found = MeanImage().merge(mean).compute() * 255
    np.testing.assert_allclose(found[0], [[150] * 3 + [0]] * 2 + [[100] * 3 + [0]] * 2, rtol=1e-5)


def test_padding_is_drawn_black(tmp_path: Path) -> None:
    model = SeTok(config_of(tmp_path, "scratch").model).eval()
    batch = padded(batch_of(pictures(4)), SIZES)
    drawn = draw_tokens(batch.pixel_values[0], model.tokenize(batch.pixel_values, sizes=batch.sizes), opacity=1.0)
    assert not drawn[16:].any() and drawn[:16].any(-1).all()


def test_an_exported_model_pads_as_it_was_trained(tmp_path: Path) -> None:
    model = SeTok(config_of(tmp_path, "scratch").model).eval()
    model.save_pretrained(tmp_path / "model")
    processor = SeTokImageProcessor.from_pretrained(tmp_path / "model")
    assert (processor.resize, processor.multiple_of) == ("fit", 8)
    rng = np.random.default_rng(0)
    inputs = processor([rng.integers(0, 256, size, dtype=np.uint8) for size in ((40, 90, 3), (90, 40, 3))])
    loaded = SeTok.from_pretrained(tmp_path / "model")
    assert loaded.tokenize(**inputs).counts.shape == (2,)
    assert loaded.reconstruct(**inputs).shape == (2, 3, 32, 32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {"kind": "timm", "path": "vit"}}, r"encoder.kind=timm cannot[\s\S]*crop"),
        (
            {"image_size": 40, "encoder": {"kind": "huggingface", "path": "naflex", "patch_size": 16}},
            r"40 is no multiple of 16[\s\S]*→ set image_size=32",
        ),
    ],
)
def test_what_cannot_be_fitted(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TokenizerConfig.model_validate({"resize": "fit"} | changes)


def test_towers_without_a_mask_are_refused(tmp_path: Path) -> None:
    save_tower("dinov2", tmp_path / "dino")
    encoder = {"kind": "huggingface", "path": str(tmp_path / "dino"), "patch_size": 8}
    settings = {"image_size": 32, "encoder": encoder, "detokenizer": {"width": 48}}
    with pytest.raises(ConfigError, match=r"cannot[\s\S]*→ use resize: crop"):
        SeTok(TokenizerConfig.model_validate(settings | {"resize": "fit"}))
    model = SeTok(TokenizerConfig.model_validate(settings))
    with pytest.raises(ConfigError, match=r"padding were given[\s\S]*dinov2[\s\S]*→ use model.resize=crop"):
        model.tokenize(pictures(1), sizes=torch.tensor([[16, 32]]))
    save_tower("siglip2_naflex", tmp_path / "naflex")
    settings["encoder"] = {"kind": "huggingface", "path": str(tmp_path / "naflex"), "patch_size": 4}
    with pytest.raises(ConfigError, match=r"encoder.patch_size=4[\s\S]*→ set encoder.patch_size=8"):
        SeTok(TokenizerConfig.model_validate(settings | {"resize": "fit"}))
