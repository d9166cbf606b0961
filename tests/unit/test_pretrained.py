"""A trained tokenizer in other people's hands: export, load, tokenize, paint back, bf16."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from setok import checkpoint
from setok.checkpoint import TrainerState, copy_weights
from setok.config import ClusteringConfig, TokenizerConfig
from setok.data.processor import SeTokImageProcessor
from setok.drawing import PALETTE, draw_tokens
from setok.errors import CheckpointError
from setok.export import export_tokenizer
from setok.models.tokenizer import SeTok
from setok.stages import build_stage
from tests.tiny import pictures, tiny
from tests.towers import save_tower


def on_tower(path: Path, layer: int = -1) -> TokenizerConfig:
    save_tower("dinov2_registers", path)
    encoder = {"kind": "huggingface", "path": str(path), "layer": layer}
    return TokenizerConfig.model_validate({"image_size": 32, "encoder": encoder, "detokenizer": {"width": 48}})


def test_what_is_saved_comes_back(tmp_path: Path) -> None:
    for name, config in (("scratch", tiny().model), ("tower", on_tower(tmp_path / "dino", -2))):
        model = SeTok(config).eval()
        model.save_pretrained(tmp_path / name)
        files = {str(p.relative_to(tmp_path / name)) for p in (tmp_path / name).rglob("*") if p.is_file()}
        architecture = {"encoder/config.json", "encoder/preprocessor_config.json"} if name == "tower" else set()
        assert files == {"config.json", "model.safetensors", "preprocessor_config.json"} | architecture
        moved = (tmp_path / name).rename(tmp_path / f"{name} elsewhere")
        if name == "tower":
            (tmp_path / "dino").rename(tmp_path / "gone")
        loaded = SeTok.from_pretrained(moved)
        assert not loaded.training
        for one, other in zip(model(pictures()), loaded(pictures()), strict=True):
            if isinstance(one, torch.Tensor):
                torch.testing.assert_close(one, other)
            else:
                torch.testing.assert_close(one.tokens, other.tokens)
        loaded.save_pretrained(tmp_path / f"{name} again")
        again = SeTok.from_pretrained(tmp_path / f"{name} again")
        torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_run_is_exported_without_what_only_training_needs(tmp_path: Path) -> None:
    config = tiny(loss={"feature_target": 1.0, "adversarial": 0.5, "distillation": 1.0})
    stage = build_stage(config)
    weights = {name: copy_weights(module) for name, module in stage.modules.items()}
    state = TrainerState(step=7, samples=28, world_size=1)
    checkpoint.save(tmp_path / "run", config, weights, {name: {} for name in weights}, state)
    exported = export_tokenizer(tmp_path / "run", tmp_path / "exported")
    loaded = SeTok.from_pretrained(tmp_path / "exported")
    trained = stage.modules["model"].tokenizer.state_dict()
    torch.testing.assert_close(loaded.state_dict(), trained, rtol=0, atol=0)
    torch.testing.assert_close(exported.state_dict(), trained, rtol=0, atol=0)
    with pytest.raises(CheckpointError, match=r"no exported tokenizer[\s\S]*→ [\s\S]*export_tokenizer"):
        SeTok.from_pretrained(tmp_path / "run")


def test_what_cannot_be_loaded_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    folder = tmp_path / "model"
    SeTok(tiny().model).save_pretrained(folder)
    config, weights = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")

    def rewrite(new_config: dict, new_weights: dict) -> None:
        (folder / "config.json").write_text(json.dumps(new_config))
        save_file(new_weights, folder / "model.safetensors")

    rewrite(config, {k: v for k, v in weights.items() if k != "detokenizer.query"} | {"extra": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"1 missing: detokenizer\.query; 1 unexpected: extra"):
        SeTok.from_pretrained(folder)
    rewrite(config, weights | {"detokenizer.query": torch.ones(7)})
    with pytest.raises(CheckpointError, match=r"detokenizer\.query \[7\] instead of \[48\]"):
        SeTok.from_pretrained(folder)
    rewrite(config | {"format": 99}, weights)
    with pytest.raises(CheckpointError, match=r"format 99[\s\S]*reads 1"):
        SeTok.from_pretrained(folder)
    rewrite(config | {"model_type": "siglip"}, weights)
    with pytest.raises(CheckpointError, match=r"'siglip', not 'setok'"):
        SeTok.from_pretrained(folder)
    rewrite(config | {"setok": config["setok"] | {"colour": 1}}, weights)
    with pytest.raises(CheckpointError, match=r"colour"):
        SeTok.from_pretrained(folder)
    rewrite(config, weights)
    (folder / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        SeTok.from_pretrained(folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for read in (SeTok.from_pretrained, SeTokImageProcessor.from_pretrained):
        with pytest.raises(CheckpointError, match=r"'nobody/nothing' is no local folder[\s\S]*→ [\s\S]*local path"):
            read("nobody/nothing")


def test_tokenize_and_reconstruct(tmp_path: Path) -> None:
    model = SeTok(tiny().model).eval()
    for height, width in ((32, 32), (24, 56)):
        images = torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8)
        few = ClusteringConfig(feature_dim=16, max_tokens=3)
        visual, painted = model.tokenize(images, few), model.reconstruct(images, few)
        assert (visual.counts <= 3).all()
        assert visual.assignment.shape == visual.scores.shape == (2, height * width // 16)
        assert painted.dtype == torch.uint8 and not painted.requires_grad
        exact = model.detokenize(visual.tokens, visual.mask, (height, width)).clamp(0, 1) * 255
        assert (painted.float() - exact).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize("kind", ["scratch", "tower"])
def test_bf16_weights_and_autocast(tmp_path: Path, kind: str) -> None:
    model = SeTok(tiny().model if kind == "scratch" else on_tower(tmp_path)).eval()
    images = pictures(4)
    with torch.no_grad():
        exact = model.reconstruct(images).float()
        with torch.autocast("cpu", torch.bfloat16):
            mixed, _ = model(images)
        half = model.to(torch.bfloat16)
        visual, painted = half(images)
    assert visual.tokens.dtype == torch.bfloat16
    assert mixed.counts.shape == visual.counts.shape
    assert painted.isfinite().all()
    assert (half.reconstruct(images).float() - exact).abs().mean() < 6
    half.save_pretrained(tmp_path / "half")
    assert {w.dtype for w in load_file(tmp_path / "half" / "model.safetensors").values()} == {torch.bfloat16}
    assert {p.dtype for p in SeTok.from_pretrained(tmp_path / "half").parameters()} == {torch.float32}
    again = SeTok.from_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    torch.testing.assert_close(again.reconstruct(images), half.reconstruct(images), rtol=0, atol=0)


def same_pairs(one: torch.Tensor, other: torch.Tensor) -> float:
    """Rand index: the share of pairs of patches that both partitions treat alike."""
    together = [a.unsqueeze(-1) == a.unsqueeze(-2) for a in (one, other)]
    return (together[0] == together[1]).float().mean().item()


@pytest.mark.parametrize("how", ["weights", "autocast"])
@pytest.mark.parametrize("method", ["stick_breaking", "dpc_knn", "cosine_graph", "grid", "kmeans", "resampler"])
def test_tokens_in_bf16_are_near_those_in_fp32(method: str, how: str) -> None:
    model = SeTok(tiny(model=tiny().model.model_dump() | {"clustering": {"method": method, "max_tokens": 6}}).model)
    model = model.eval().requires_grad_(False)
    images = pictures(6)
    exact, picture = model.tokenize(images), model.reconstruct(images).float()
    half = model if how == "autocast" else model.to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"):
        found, painted = half.tokenize(images), half.reconstruct(images).float()
    assert same_pairs(found.assignment, exact.assignment) > 0.95
    alike = (found.assignment == exact.assignment).all(1)
    assert alike.any(), "some pictures fall into the very same clusters"
    mask = exact.mask[alike]
    cosine = torch.nn.functional.cosine_similarity(found.tokens[alike][mask].float(), exact.tokens[alike][mask], dim=-1)
    assert cosine.min() > 0.995
    assert (painted - picture)[alike].abs().mean() < 3


def test_gradients_in_bf16() -> None:
    model = SeTok(tiny().model).to(torch.bfloat16).train()
    model.gradient_checkpointing_enable()
    _, painted = model(pictures())
    painted.pow(2).mean().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


def test_the_example_of_the_readme_runs(repo_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = (repo_root / "README.md").read_text(encoding="utf-8").split("## Use a trained model")[1]
    example = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert example is not None
    monkeypatch.chdir(tmp_path)
    SeTok(tiny().model).save_pretrained("my-tokenizer")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)).save("cat.jpg")
    names: dict[str, object] = {}
    exec(compile(example.group(1), "README.md", "exec"), names)
    assert Image.open("tokens.png").size == (32, 32)
    assert isinstance(names["painted"], torch.Tensor) and names["painted"].shape == (1, 3, 32, 32)


def test_tokens_are_drawn_over_the_picture() -> None:
    model = SeTok(tiny().model).eval()
    images = pictures(2)
    visual = model.tokenize(images)
    plain = draw_tokens(images[1], visual, index=1, opacity=0.0)
    np.testing.assert_array_equal(plain, images[1].permute(1, 2, 0).numpy())
    alone = draw_tokens(plain, visual, index=1, opacity=1.0)
    assert alone.shape == (32, 32, 3) and alone.dtype == np.uint8
    assert alone[0, 0].tolist() == PALETTE[int(visual.assignment[1, 0])].tolist()
    half = draw_tokens(images[1], visual, index=1)
    assert np.abs(half.astype(int) - (plain.astype(int) + alone) / 2).max() <= 1
