"""Stages pretrain and instruct: what is one loss, what starts from what, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from setok import checkpoint
from setok.batch import SequenceBatch
from setok.config import TrainConfig, build
from setok.errors import CheckpointError, ConfigError
from setok.models.concepts import build_concept_encoder
from setok.stages import SetokimStage, SetokimTask, TokenizerTask, build_stage, load_initial_weights
from tests.sequences import sequence_batch, setok_config, text_tokenizer
from tests.setokim_runs import ROOM, Sample, config_of, samples


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    text_tokenizer().save_pretrained(str(folder))
    return folder


def stage_of(words: Path, **changes: Any) -> SetokimStage:
    torch.manual_seed(0)
    stage = build_stage(config_of(words, **changes))
    assert isinstance(stage, SetokimStage)
    return stage


def batch_of(rows: list[list[Sample]], stage: SetokimStage) -> SequenceBatch:
    return sequence_batch(rows, stage.task.setokim.text_tokenizer, ROOM)


def losses_and_gradients(
    stage: SetokimStage, micro_batches: list[list[list[Sample]]]
) -> tuple[float, dict[str, Tensor]]:
    stage.task.zero_grad()
    batches = [batch_of(rows, stage) for rows in micro_batches]
    total = 0.0
    for batch, context in zip(batches, stage.prepare(batches, step=3), strict=True):
        output = stage.task(batch, context)
        output.loss.backward()
        total += output.loss.item()
    return total, {name: p.grad for name, p in stage.task.named_parameters() if p.grad is not None}


def test_packing_and_micro_batches_change_nothing(words: Path) -> None:
    every = samples()
    splits = {
        "one row": [[every]],
        "a row each": [[[sample] for sample in every]],
        "two micro-batches": [[every[:3], [every[3]]], [every[4:]]],
        "one by one": [[[sample]] for sample in every],
    }
    results = {name: losses_and_gradients(stage_of(words), split) for name, split in splits.items()}
    loss, gradients = results["one row"]
    assert loss > 1
    for name, (other, theirs) in results.items():
        assert other == pytest.approx(loss, rel=1e-5), name
        assert theirs.keys() >= gradients.keys() - {"setokim.mask_decoder"}
        for key, gradient in gradients.items():
            torch.testing.assert_close(
                theirs[key], gradient, atol=2e-5, rtol=2e-4, msg=lambda m, n=name, k=key: f"{n}, {k}: {m}"
            )


def test_a_weight_of_zero_takes_a_term_out(words: Path) -> None:
    _, with_masks = losses_and_gradients(stage_of(words), [[samples()]])
    off = {"setokim_loss__mask_dice": 0.0, "setokim_loss__mask_cross_entropy": 0.0}
    _, without = losses_and_gradients(stage_of(words, **off), [[samples()]])
    masked = "setokim.mask_projector.0.weight"
    assert with_masks[masked].abs().sum() > 0
    assert without[masked].abs().sum() == 0
    assert without["setokim.diffusion.network.leave.weight"].abs().sum() > 0


def test_what_learns_and_what_does_not(words: Path) -> None:
    stage = stage_of(words)
    _, gradients = losses_and_gradients(stage, [[samples()]])
    learning = {name for name, p in stage.task.named_parameters() if p.requires_grad}
    assert not any(".tokenizer." in name for name in learning)
    assert learning == gradients.keys(), "all that learns has a gradient, and nothing else"
    frozen = stage_of(words, optim__learning_rate_scale={"language_model": 0.0, "mask_decoder": 0.1})
    names = {name for name, p in frozen.task.named_parameters() if p.requires_grad}
    assert names
    assert not any(".language_model." in name for name in names)
    rates = {group["initial_lr"] for group in frozen.optimizer("model").param_groups}
    assert rates == {1e-3, 1e-4}


def test_muon_takes_the_matrices_of_layers_and_heads(words: Path) -> None:
    stage = stage_of(words, optim__kind="muon")
    groups = stage.optimizer("model").param_groups
    taken = {id(p) for group in groups if group["kind"] == "muon" for p in group["params"]}
    names = {name for name, p in stage.task.named_parameters() if id(p) in taken}
    for part in ("self_attn.q_proj", "mlp.up_proj", "diffusion.network.blocks.0.modulation", "output_projector.0"):
        assert any(part in name for name in names), part
    assert any("mask_decoder.blocks.0" in name for name in names)
    assert not any(word in name for name in names for word in ("embed_tokens", "leave", "enter", "from_"))
    assert {group["kind"] for group in groups} == {"muon", "adamw"}
    sizes = [p.ndim for group in groups if group["kind"] == "muon" for p in group["params"]]
    assert len(sizes) >= 2 * 7
    assert set(sizes) == {2}


def test_the_normaliser_learns_the_tokens_and_then_stands_still(words: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("setok.stages.setokim.NORMALIZER_TOKENS", 40)
    stage = stage_of(words)
    normalizer = stage.task.setokim.diffusion.normalizer
    batch = batch_of([samples()], stage)
    seen = []
    for step in range(4):
        (context,) = stage.prepare([batch], step=step)
        seen.append(float(normalizer.count))
    real = context.images.visual.mask[batch.image_valid]
    assert seen[0] == real.sum()
    assert seen[-1] == seen[-2] >= 40
    tokens = context.images.visual.tokens[batch.image_valid][real]
    torch.testing.assert_close(normalizer(tokens).mean(0), torch.zeros(tokens.shape[1]), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def tokenizer_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer's run of the width that ``tests.sequences`` has."""
    root = tmp_path_factory.mktemp("runs")
    settings = {"name": "tokens", "output_dir": str(root), "model": setok_config().model_dump()}
    config = build(TrainConfig, settings | {"data": {"train": [{"path": "nowhere"}]}, "scaling": {"num_workers": 0}})
    torch.manual_seed(5)
    task = TokenizerTask(config, build_concept_encoder(config.concepts).dim)
    state = checkpoint.TrainerState(step=7, samples=0, world_size=1)
    return checkpoint.save(config.run_dir, config, {"model": checkpoint.copy_weights(task)}, {}, state)


def test_each_stage_starts_from_the_one_before(words: Path, tokenizer_run: Path, tmp_path: Path) -> None:
    first = stage_of(words)
    load_initial_weights(tokenizer_run, first.task, "model")
    stored = TokenizerTask(checkpoint.read_config(tokenizer_run), 64)
    checkpoint.load_model(tokenizer_run, stored, "model")
    for name, tensor in stored.tokenizer.state_dict().items():
        assert torch.equal(first.task.setokim.tokenizer.state_dict()[name], tensor), name
    config = config_of(words, output_dir=str(tmp_path))
    state = checkpoint.TrainerState(step=3, samples=0, world_size=1)
    written = checkpoint.save(config.run_dir, config, {"model": checkpoint.copy_weights(first.task)}, {}, state)
    torch.manual_seed(99)
    second = SetokimTask(config_of(words, stage="instruct"))
    load_initial_weights(written, second, "model")
    for name, tensor in first.task.state_dict().items():
        assert torch.equal(second.state_dict()[name], tensor), name


def test_a_tokenizer_of_another_width_is_refused(words: Path, tokenizer_run: Path) -> None:
    wide = setok_config(detokenizer={"width": 60, "depth": 1}).model_dump()
    stage = stage_of(words, model=wide)
    with pytest.raises(
        CheckpointError, match=r"width 48, and this run's model section has width 60(.|\n)*model section of"
    ):
        load_initial_weights(tokenizer_run, stage.task, "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__resize": "fit"}, r"model.resize=fit has no part in stage=pretrain(.|\n)*set model.resize=crop"),
        ({"stage": "tokenizer"}, r"setokim has no part in stage=tokenizer(.|\n)*set stage to pretrain or instruct"),
        ({"loss__contrast": 0.7}, r"loss has no part in stage=pretrain(.|\n)*leave the section loss out"),
        ({"setokim": None}, r"stage=pretrain needs the section setokim(.|\n)*--config pretrain"),
        ({"checkpoint__init_from": None}, r"starts from a tokenizer run(.|\n)*checkpoint.init_from=runs/NAME"),
        ({"setokim__text_tokenizer": None}, r"setokim.text_tokenizer is empty(.|\n)*setok.data.word_tokenizer"),
        ({"sequence__max_image_tokens": 4}, r"max_image_tokens=4 leaves no room (.|\n)*max_image_tokens=6"),
        ({"sequence__max_length": 300}, r"max_length=300 is above (.|\n)*max_positions=300"),
        ({"optim__learning_rate_scale": {"lm": 0.1}}, r"no part of the model: 'lm'(.|\n)*language_model"),
        (
            {"optim__kind": "muon", "setokim__language_model__train": "lora"},
            r"optim.kind=muon is for whole matrices(.|\n)*adamw",
        ),
    ],
)
def test_settings_that_contradict_each_other(words: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(words, **changes)


def test_presets_take_the_tokenizers_model_section() -> None:
    from setok.config import load_config

    tokenizer = load_config(TrainConfig, "tokenizer_demo")
    for name in ("pretrain_demo", "instruct_demo"):
        assert load_config(TrainConfig, name).model == tokenizer.model


@pytest.mark.parametrize(
    ("extends", "message"),
    [
        ("tokenizer_demo/modle", r"no section 'modle'(.|\n)*model"),
        ("tokenizer_demo/name", r"is a value and no section"),
    ],
)
def test_a_section_that_a_preset_lacks(tmp_path: Path, extends: str, message: str) -> None:
    from setok.config import load_config

    file = tmp_path / "mine.yaml"
    file.write_text(f"extends: pretrain_demo\nmodel: {{extends: {extends}}}\n")
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"merger": {"num_heads": 6}}, r"model.merger.num_heads 3 → 6"),
        ({"encoder": {"width": 48, "num_heads": 6}}, r"model.encoder.num_heads 3 → 6"),
        ({"clustering": {"stop_scope": 0.1}}, r"model.clustering.stop_scope 0.2 → 0.1"),
        ({"detokenizer": {"width": 48, "depth": 1, "num_heads": 6}}, r"model.detokenizer.num_heads 3 → 6"),
    ],
)
def test_a_tokenizer_that_would_be_another_function_is_refused(
    words: Path, tokenizer_run: Path, changes: dict[str, Any], message: str
) -> None:
    tree = setok_config().model_dump()
    for section, values in changes.items():
        tree[section] = tree[section] | values
    stage = stage_of(words, model=tree)
    with pytest.raises(CheckpointError, match=rf"of another model.*{message}(.|\n)*use the model section of"):
        load_initial_weights(tokenizer_run, stage.task, "model")


@pytest.mark.parametrize(
    ("key", "value", "refused"),
    [
        ("setokim__language_model__num_heads", 2, True),
        ("setokim__language_model__width", 32, True),
        ("setokim__diffusion__prediction", "epsilon", True),
        ("setokim__mask_decoder__num_heads", 4, True),
        ("setokim__diffusion__sampling_steps", 3, False),
        ("setokim__language_model__loss_chunks", 3, False),
    ],
)
def test_a_language_model_that_would_be_another_function_is_refused(
    words: Path, tmp_path: Path, key: str, value: Any, refused: bool
) -> None:
    first = stage_of(words)
    config = config_of(words, output_dir=str(tmp_path))
    state = checkpoint.TrainerState(step=3, samples=0, world_size=1)
    written = checkpoint.save(config.run_dir, config, {"model": checkpoint.copy_weights(first.task)}, {}, state)
    other = config_of(words, stage="instruct", **{key: value})
    if refused:
        with pytest.raises(CheckpointError, match=rf"{key.replace('__', '.')} .* → {value!r}(.|\n)*model and setokim"):
            load_initial_weights(written, SetokimTask(other), "model")
    else:
        load_initial_weights(written, SetokimTask(other), "model")


def test_a_tokenizer_that_was_trained_on_whole_pictures_is_taken(words: Path, tmp_path: Path) -> None:
    tree = {"name": "fit", "output_dir": str(tmp_path), "model": setok_config(resize="fit").model_dump()}
    config = build(TrainConfig, tree | {"data": {"train": [{"path": "nowhere"}]}, "scaling": {"num_workers": 0}})
    task = TokenizerTask(config, build_concept_encoder(config.concepts).dim)
    state = checkpoint.TrainerState(step=7, samples=0, world_size=1)
    written = checkpoint.save(config.run_dir, config, {"model": checkpoint.copy_weights(task)}, {}, state)
    load_initial_weights(written, stage_of(words).task, "model")
