"""The tokenizer's parts: shapes, invariances, pretrained towers from disk, and where gradients go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from setok.batch import ImageTextBatch
from setok.config import ClusteringConfig, ConceptConfig, EncoderConfig, TokenizerConfig, TokenizerLossConfig
from setok.errors import CheckpointError, TrainingError
from setok.models.concepts import build_concept_encoder
from setok.models.encoder import build_encoder
from setok.models.layers import Attention, sincos_positions
from setok.models.tokenizer import SeTok, patchify
from setok.optim import learning_rate_factor
from setok.stages import build_stage
from tests.tiny import batch_of, pictures, tiny

# ---------------------------------------------------------------- tokenizer


def test_tokenizer_shapes_follow_the_picture() -> None:
    model = SeTok(tiny().model).eval()
    visual, pixels = model(pictures())
    assert pixels.shape == (3, 3, 32, 32)
    assert visual.grid == (8, 8)
    assert visual.assignment.shape == (3, 64)
    assert visual.tokens.shape == (3, 12, 48)
    wide = torch.zeros(1, 3, 32, 64, dtype=torch.uint8)
    visual, pixels = model(wide)
    assert visual.grid == (8, 16)
    assert pixels.shape == (1, 3, 32, 64)


def test_batch_mates_and_padding_tokens_change_nothing() -> None:
    model = SeTok(tiny().model).eval()
    together, painted = model(pictures(4))
    for i in range(4):
        alone, pixels = model(pictures(4)[i : i + 1])
        count = int(alone.counts[0])
        torch.testing.assert_close(alone.tokens[0, :count], together.tokens[i, :count], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(pixels[0], painted[i], atol=1e-5, rtol=1e-5)
    garbage = together.tokens.masked_fill(~together.mask.unsqueeze(-1), 1e3)
    torch.testing.assert_close(model.detokenize(garbage, together.mask, (32, 32)), painted)


def test_threshold_and_budget_change_at_inference() -> None:
    model = SeTok(tiny().model).eval()
    few = model.tokenize(pictures(), ClusteringConfig(feature_dim=16, max_tokens=2))
    exact = model.tokenize(pictures(), ClusteringConfig(feature_dim=16, min_tokens=5, max_tokens=5))
    assert (few.counts <= 2).all()
    assert exact.counts.tolist() == [5, 5, 5]


def test_attention_inside_clusters_ignores_other_clusters() -> None:
    attention = Attention(16, 2)
    x = torch.randn(1, 6, 16)
    cluster = torch.tensor([0, 0, 0, 1, 1, 1])
    same = (cluster[:, None] == cluster[None, :])[None]
    changed = x.clone()
    changed[:, 3:] += 1.0
    before, after = attention(x, x, same), attention(changed, changed, same)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    torch.testing.assert_close(before[:, :3], attention(x[:, :3], x[:, :3]))


def test_positions_tell_every_patch_apart() -> None:
    positions = sincos_positions((5, 7), 32)
    assert positions.shape == (35, 32)
    distances = torch.cdist(positions, positions) + 10 * torch.eye(35)
    assert distances.min() > 0.1


def test_patchify_cuts_as_the_encoder_does() -> None:
    image = torch.arange(2 * 3 * 8 * 12, dtype=torch.float32).reshape(2, 3, 8, 12)
    patches = patchify(image, (2, 3))
    assert patches.shape == (2, 6, 3, 16)
    torch.testing.assert_close(patches[1, 4].reshape(3, 4, 4), image[1, :, 4:8, 4:8])


# ---------------------------------------------------------------- pretrained towers, saved to disk


def save_tower(kind: str, path: Path) -> None:
    import transformers

    common = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    image = {"image_size": 32, "patch_size": 8}
    if kind == "siglip_vision":
        model = transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**common, **image))
    elif kind == "clip_vision":
        model = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**common, **image))
    elif kind == "siglip":
        text = common | {"vocab_size": 64, "max_position_embeddings": 16, "projection_size": 32}
        model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=common | image))
    else:
        config = {k: v for k, v in common.items() if k != "intermediate_size"}
        model = transformers.Dinov2Model(transformers.Dinov2Config(**config, **image))
    model.save_pretrained(path)


@pytest.mark.parametrize("kind", ["siglip_vision", "siglip", "clip_vision", "dinov2"])
def test_any_vision_tower_gives_one_feature_per_patch(tmp_path: Path, kind: str) -> None:
    save_tower(kind, tmp_path)
    encoder = build_encoder(EncoderConfig(kind="huggingface", path=str(tmp_path))).eval()
    assert encoder(pictures(2, 32)).shape == (2, 16, 32)
    assert encoder(pictures(2, 64)).shape == (2, 64, 32), "positions are interpolated for other sizes"
    inner = build_encoder(EncoderConfig(kind="huggingface", path=str(tmp_path), layer=1)).eval()
    assert not torch.allclose(inner(pictures(2, 32)), encoder(pictures(2, 32)))


def test_tokenizer_on_a_pretrained_tower(tmp_path: Path) -> None:
    save_tower("siglip_vision", tmp_path)
    model = {"image_size": 32, "encoder": {"kind": "huggingface", "path": str(tmp_path)}, "detokenizer": {"width": 48}}
    visual, pixels = SeTok(TokenizerConfig.model_validate(model)).eval()(pictures())
    assert visual.grid == (4, 4)
    assert pixels.shape == (3, 3, 32, 32)


def test_a_folder_without_a_tower_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds no vision tower[\s\S]*→ point it to a folder"):
        build_encoder(EncoderConfig(kind="huggingface", path=str(tmp_path)))


def test_hashed_concepts_are_the_same_everywhere() -> None:
    one, two = (build_concept_encoder(ConceptConfig(dim=256)) for _ in range(2))
    phrases = ["red circle", "red square", "blue star"]
    torch.testing.assert_close(one(phrases), two(phrases))
    similarity = one(phrases) @ one(phrases).T
    torch.testing.assert_close(similarity.diagonal(), torch.ones(3))
    assert similarity[0, 1] > similarity[0, 2] + 0.15, "phrases that share a word are nearer"
    assert one([]).shape == (0, 256)


def test_concepts_from_a_text_tower(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    save_tower("siglip", tmp_path)
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "[PAD]": 1, "red": 2, "circle": 3, "photo": 4}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="[UNK]", pad_token="[PAD]", model_max_length=16
    ).save_pretrained(tmp_path)
    encoder = build_concept_encoder(ConceptConfig(kind="huggingface", path=str(tmp_path)))
    vectors = encoder(["red circle", "circle", "red circle"])
    assert vectors.shape == (3, 32)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(3))
    torch.testing.assert_close(vectors[0], vectors[2])
    assert not torch.allclose(vectors[0], vectors[1])


# ---------------------------------------------------------------- stage


def test_gradients_reach_exactly_the_trainable_parts() -> None:
    config = tiny(
        loss={"feature_target": 2.0, "adversarial": 0.5},
        optim={"learning_rate_scale": {"encoder": 0.0, "merger": 0.5}, "learning_rate": 1e-3},
    )
    stage = build_stage(config)
    batch = batch_of(pictures(4))
    (context,) = stage.prepare([batch], step=0)
    stage.modules["model"](batch, context).loss.backward()
    for name, parameter in stage.modules["model"].named_parameters():
        frozen = ".encoder." in name
        assert (parameter.grad is None) == frozen, name
    assert all(p.grad is None for p in stage.modules["discriminator"].parameters()), "its turn is another one"
    rates = {group["initial_lr"] for group in stage.optimizer("model").param_groups}
    assert rates == {1e-3, 5e-4}
    stage.modules["discriminator"](batch, context).loss.backward()
    assert all(p.grad is not None for p in stage.modules["discriminator"].parameters())


@pytest.mark.parametrize("contrast", [0.0, 1.0])
def test_micro_batches_do_not_change_the_gradient(contrast: float) -> None:
    config = tiny(loss={"contrast": contrast, "feature_target": 1.0, "l2": 5.0})
    torch.manual_seed(0)
    stage = build_stage(config)
    model = stage.modules["model"]
    images = pictures(4)
    concepts = (("a", "b"), ("b",), (), ("c", "d", "a"))
    whole = [batch_of(images, concepts)]
    parts = [batch_of(images[i : i + 2], concepts[i : i + 2]) for i in (0, 2)]
    gradients = []
    for batches in (whole, parts):
        model.zero_grad()
        for batch, context in zip(batches, stage.prepare(batches, step=0), strict=True):
            model(batch, context).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("method", ["stick_breaking", "dpc_knn", "cosine_graph", "kmeans", "grid", "resampler"])
def test_features_that_are_not_finite_come_out_at_the_loss(method: str) -> None:
    """In training all ranks have to notice, and they look at losses; in use it is an error at once."""
    fixed = {"max_tokens": 4} if method in ("kmeans", "grid", "resampler") else {}
    model = {"clustering": {"method": method, "feature_dim": 16, **fixed}, "image_size": 32, "encoder": {"width": 48}}
    stage = build_stage(tiny(model=model | {"detokenizer": {"width": 48}}))
    module = stage.modules["model"]
    batch = batch_of(pictures(3))
    (context,) = stage.prepare([batch], step=0)
    assert module(batch, context).loss.isfinite()

    def poison(_: torch.nn.Module, __: object, features: torch.Tensor) -> torch.Tensor:
        return features.index_fill(0, torch.tensor([1]), torch.nan)

    module.tokenizer.encoder.register_forward_hook(poison)
    loss = module(batch, context).loss
    loss.backward()
    assert loss.isnan()
    with pytest.raises(TrainingError, match="NaN or infinity"):
        module.eval()(batch, context)


def test_masked_rows_change_nothing() -> None:
    stage = build_stage(tiny(loss={"feature_target": 1.0}))
    model = stage.modules["model"]
    good = batch_of(pictures(3))
    junk = torch.cat([good.pixel_values, torch.zeros(1, 3, 32, 32, dtype=torch.uint8)])
    padded = ImageTextBatch(
        pixel_values=junk,
        valid=torch.tensor([True, True, True, False]),
        concepts=(*good.concepts, ()),
        ids=(*good.ids, "bad"),
    )
    losses = [model(b, stage.prepare([b], step=0)[0]).loss for b in (good, padded)]
    torch.testing.assert_close(losses[0], losses[1])


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_overfits_a_few_pictures(kind: str) -> None:
    torch.manual_seed(0)
    config = tiny(
        model={
            "image_size": 16,
            "encoder": {"width": 24},
            "clustering": {"feature_dim": 8, "sharpness": 4.0, "max_tokens": 4},
            "detokenizer": {"width": 24, "depth": 1, "patch_size": 4},
        },
        loss={"contrast": 0.1, "l2": 5.0, "feature_target": 1.0},
        optim={"kind": kind, "learning_rate": 5e-3, "muon_learning_rate": 0.04},
        train={"global_batch_size": 2, "micro_batch_size": 2, "steps": 250},
    )
    stage = build_stage(config)
    model, optimizer = stage.modules["model"], stage.optimizer("model")
    batch = batch_of(pictures(2, size=16))
    for step in range(config.train.steps):
        (context,) = stage.prepare([batch], step=step)
        output = model(batch, context)
        optimizer.zero_grad()
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * learning_rate_factor(step, config)
        optimizer.step()
    assert output.parts["psnr"].item() > 25
    assert output.parts["contrast"].item() < 0.3


def test_loss_config_can_switch_everything_but_pixels_off() -> None:
    config = tiny(loss=TokenizerLossConfig(contrast=0.0).model_dump())
    stage = build_stage(config)
    batch = batch_of(pictures(2))
    output = stage.modules["model"](batch, stage.prepare([batch], step=0)[0])
    assert set(output.parts) == {"l1", "l2", "tokens", "psnr"}
    assert list(stage.modules) == ["model"]


def test_learning_rate_warms_up_and_falls() -> None:
    config = tiny(train={"steps": 100, "global_batch_size": 4, "micro_batch_size": 4}, optim={"warmup_fraction": 0.1})
    factors = [learning_rate_factor(step, config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == factors[10] == 1.0
    assert factors[-1] < 0.001
    assert factors[10:] == sorted(factors[10:], reverse=True)
