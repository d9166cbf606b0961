"""Setokim as one folder: it comes back the same, each part loads by itself, and folders that do not fit are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from setok.config import SetokimConfig
from setok.data.processor import SeTokImageProcessor
from setok.errors import CheckpointError, ConfigError
from setok.models.setokim import Setokim
from setok.models.tokenizer import SeTok
from tests.sequences import Picture, Point, Say, sequence_batch, setok_config, setokim, setokim_config, shaken, square

LOSSES = ("text", "stop", "diffusion", "mask_cross_entropy", "mask_dice")


@pytest.fixture
def model() -> Setokim:
    model = shaken(setokim(language_model={"tie_embeddings": False}))
    model.diffusion.normalizer.update(model.diffusion.normalizer.moments(torch.randn(9, 48) * 3, torch.ones(9) > 0))
    return model


def losses(model: Setokim) -> list[torch.Tensor]:
    pixels, mask = square("red", 4, 4)
    parts = ["draw a red square", Picture(pixels), Picture(pixels, draw=True), Point(mask), Say("red </s>")]
    batch = sequence_batch([[("x", parts)]], model.text_tokenizer, model.max_image_tokens)
    with torch.no_grad():
        output = model(batch, noise_key="0")
    return [getattr(output, name) for name in LOSSES]


@pytest.mark.parametrize("adapted", [False, True])
def test_a_folder_comes_back_the_same(tmp_path: Path, model: Setokim, adapted: bool) -> None:
    if adapted:
        model = shaken(setokim(language_model={"train": "lora", "lora": {"rank": 4, "dropout": 0.0}}))
        with pytest.raises(ConfigError, match="train=lora") as error:
            model.save_pretrained(tmp_path / "no")
        assert "merge_lora()" in error.value.remedy and not (tmp_path / "no").exists()
        before = losses(model)
        model.merge_lora()
        torch.testing.assert_close(losses(model), before, atol=1e-3, rtol=1e-3)
    model.save_pretrained(tmp_path)
    loaded = Setokim.from_pretrained(tmp_path)
    assert not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(losses(loaded), losses(model), strict=True))
    wanted, found = model.state_dict(), loaded.state_dict()
    assert set(wanted) == set(found) and all(torch.equal(found[name], value) for name, value in wanted.items())
    again = tmp_path / "again"
    loaded.save_pretrained(again)
    assert all(torch.equal(a, b) for a, b in zip(losses(Setokim.from_pretrained(again)), losses(model), strict=True))
    half = Setokim.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_a_moved_folder_needs_nothing_from_elsewhere(tmp_path: Path, model: Setokim) -> None:
    model.save_pretrained(tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert all(
        torch.equal(a, b)
        for a, b in zip(losses(Setokim.from_pretrained(tmp_path / "there")), losses(model), strict=True)
    )


def test_every_part_loads_by_itself(tmp_path: Path, model: Setokim) -> None:
    model.save_pretrained(tmp_path)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "language_model")
    ids = torch.tensor([[3, 4, 27, 5]])
    with torch.no_grad():
        torch.testing.assert_close(base.eval()(ids).logits, model.language_model.base(ids).logits)
    pixels = square("blue", 8, 8)[0].unsqueeze(0)
    tokens = SeTok.from_pretrained(tmp_path / "setok").tokenize(pixels).tokens
    assert torch.equal(tokens, model.tokenizer.tokenize(pixels).tokens)
    assert SeTokImageProcessor.from_pretrained(tmp_path).size == 32
    assert AutoTokenizer.from_pretrained(tmp_path).encode("red [Seg]") == model.text_tokenizer.encode("red [Seg]")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as heads:
        parts = {name.split(".")[0] for name in heads.keys()}
    assert parts == {"input_projector", "output_projector", "diffusion", "mask_projector", "mask_decoder"}
    card = (tmp_path / "README.md").read_text()
    assert "Setokim.from_pretrained" in card and "`[Seg]`" in card and "width 48, at most 6" in card
    assert f"{sum(p.numel() for p in model.parameters()):,}" in card


def test_another_tokenizer_width_is_refused_with_both(tmp_path: Path, model: Setokim) -> None:
    model.save_pretrained(tmp_path)
    narrow = {"width": 24, "depth": 1}
    SeTok(setok_config(detokenizer=narrow)).save_pretrained(tmp_path / "setok")
    with pytest.raises(CheckpointError) as error:
        Setokim.from_pretrained(tmp_path)
    assert "width 48" in error.value.problem and "width 24" in error.value.problem
    assert "the tokenizer it was trained with" in error.value.remedy


def test_folders_that_do_not_fit_are_refused(tmp_path: Path, model: Setokim) -> None:
    with pytest.raises(CheckpointError, match=r"holds no config\.json"):
        Setokim.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no local folder"):
        Setokim.from_pretrained(tmp_path / "nowhere")
    model.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="type 'setok', not 'setokim'"):
        Setokim.from_pretrained(tmp_path / "setok")
    stored = json.loads((tmp_path / "config.json").read_text())
    for change, said in (
        ({"format": 9}, "format 9"),
        ({"setokim": {"nonsense": 1}}, "not valid"),
        ({"token_width": None}, "not valid"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(stored | change))
        with pytest.raises(CheckpointError, match=said):
            Setokim.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="no JSON object"):
        Setokim.from_pretrained(tmp_path)
    stored["setokim"]["diffusion"]["width"] = 32
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(CheckpointError, match="of another shape: "):
        Setokim.from_pretrained(tmp_path)
    weights = tmp_path / "language_model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"language_model.path=.* gives no causal language model"):
        Setokim.from_pretrained(tmp_path)


def test_a_new_model_from_the_parts_a_config_names(tmp_path: Path, model: Setokim) -> None:
    model.save_pretrained(tmp_path)
    parts = {"tokenizer": str(tmp_path / "setok"), "text_tokenizer": str(tmp_path)}
    fresh = Setokim.from_config(setokim_config(**parts))
    assert torch.equal(fresh.tokenizer.detokenizer.query, model.tokenizer.detokenizer.query)
    assert len(fresh.text_tokenizer) == 30 and fresh.token_width == 48
    for lacking in parts:
        with pytest.raises(ConfigError, match=f"{lacking} is empty"):
            Setokim.from_config(SetokimConfig.model_validate({k: v for k, v in parts.items() if k != lacking}))
