"""What a user may hand to a tokenizer: other precisions, odd sizes, empty batches, wrong values, damaged files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from setok.config import EncoderConfig, TokenizerConfig, TrainConfig, load_config
from setok.errors import CheckpointError, ConfigError, DataError
from setok.models.encoder import ScratchEncoder
from setok.models.tokenizer import SeTok


def demo(*settings: str) -> TokenizerConfig:
    return load_config(TrainConfig, "tokenizer_demo", ["model.image_size=32", *settings]).model


def model_of(*settings: str) -> SeTok:
    torch.manual_seed(0)
    return SeTok(demo(*settings)).eval()


def pictures(batch: int = 2, height: int = 32, width: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (batch, 3, height, width), dtype=torch.uint8, generator=generator)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("kind", ["pixels", "flow"])
def test_other_precisions(dtype: torch.dtype, kind: str) -> None:
    model, images = model_of(f"model.detokenizer.kind={kind}"), pictures()
    expected, painted = model.tokenize(images), model.reconstruct(images)
    model = model.to(dtype)
    visual = model.tokenize(images)
    assert torch.isfinite(visual.tokens).all() and visual.tokens.dtype == dtype
    if dtype == torch.float64:
        assert torch.equal(visual.assignment, expected.assignment)
        assert (model.reconstruct(images).int() - painted.int()).abs().max() <= 1
    else:
        assert model.reconstruct(images).shape == images.shape


def test_an_empty_batch() -> None:
    model = model_of()
    visual = model.tokenize(pictures(0))
    assert visual.tokens.shape[0] == 0 and len(visual.counts) == 0
    assert model.reconstruct(pictures(0)).shape == (0, 3, 32, 32)


@pytest.mark.parametrize("size", [(12, 12), (32, 20), (4, 4)])
def test_a_size_that_cannot_be_painted_is_refused(size: tuple[int, int]) -> None:
    model = model_of()
    with pytest.raises(DataError, match=rf"{size[0]} × {size[1]} pixels .*\n.*detokenizer.patch_size=8"):
        model.reconstruct(pictures(1, *size))


def test_what_stands_in_padding_tokens_is_not_looked_at() -> None:
    model = model_of()
    visual = model.tokenize(pictures())
    broken = visual.tokens.masked_fill(~visual.mask.unsqueeze(-1), float("nan"))
    assert not visual.mask.all()
    expected = model.detokenize(visual.tokens, visual.mask, (32, 32))
    torch.testing.assert_close(model.detokenize(broken, visual.mask, (32, 32)), expected)


def test_tokens_of_a_letterboxed_picture_are_those_of_the_picture() -> None:
    model = model_of("model.encoder.depth=2")
    whole = pictures(1, 16, 24)
    boxed = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    boxed[..., :16, :24] = whole
    alone, padded = model.tokenize(whole), model.tokenize(boxed, sizes=torch.tensor([[16, 24]]))
    assert torch.equal(alone.counts, padded.counts)
    torch.testing.assert_close(alone.tokens[alone.mask], padded.tokens[padded.mask], atol=1e-4, rtol=1e-4)


def test_layers_of_the_small_encoder_count_as_those_of_towers_do() -> None:
    def encoder(layer: int) -> ScratchEncoder:
        torch.manual_seed(0)
        return ScratchEncoder(EncoderConfig(width=24, num_heads=3, depth=4, patch_size=8, layer=layer)).eval()

    images = pictures()
    for negative, positive in ((-2, 3), (-4, 1), (-5, 0), (-1, 4)):
        torch.testing.assert_close(encoder(negative)(images), encoder(positive)(images))
    for layer in (5, -6, 99):
        with pytest.raises(ConfigError, match=rf"encoder.layer={layer} is none of the 5 hidden layers"):
            encoder(layer)


@pytest.mark.parametrize("text", ["[]", '{"model_type": "setok", "format": 1}', "{"])
def test_a_damaged_config(tmp_path: Path, text: str) -> None:
    model_of().save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(text.replace('"format": 1', f'"format": {stored["format"]}'))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        SeTok.from_pretrained(tmp_path)
