"""Micro-batches that are filled up with padding, as elastic runs do: losses and gradients are those without it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from setok.batch import Batch, ImageTextBatch
from setok.config import TrainConfig
from setok.data.collate import columns_to_sequences, rows_to_batch
from setok.data.decode import padding_columns
from setok.data.pack import pack_row, row_columns
from setok.stages import Stage, build_stage
from tests.sequences import text_tokenizer
from tests.setokim_runs import config_of, samples
from tests.tiny import batch_of, pictures, tiny
from tests.unit.test_setokim_stage import batch_of as sequences_of


def losses_and_gradients(
    config: TrainConfig, micro_batches: Sequence[Batch]
) -> dict[str, tuple[dict[str, float], dict[str, Tensor]]]:
    """Of every module of the stage, over the micro-batches of one step: its loss, the loss's parts, its gradients."""
    torch.manual_seed(0)
    stage: Stage = build_stage(config)
    contexts = stage.prepare(micro_batches, step=3)
    found = {}
    for name, module in stage.modules.items():
        sums: dict[str, float] = {}
        for number, (batch, context) in enumerate(zip(micro_batches, contexts, strict=True)):
            torch.manual_seed(number)
            output = module(batch, context)
            output.loss.backward()
            for part, value in {"loss": output.loss.detach(), **output.parts}.items():
                sums[part] = sums.get(part, 0.0) + float(value)
        found[name] = sums, {key: p.grad for key, p in module.named_parameters() if p.grad is not None}
    return found


def assert_same(config: TrainConfig, plain: Sequence[Batch], filled: Sequence[Batch], *, modules: int) -> None:
    expected, got = losses_and_gradients(config, plain), losses_and_gradients(config, filled)
    assert len(expected) == modules
    for name, (sums, gradients) in expected.items():
        theirs, other = got[name]
        assert theirs == pytest.approx(sums, rel=1e-5, abs=1e-6)
        assert any(float(gradient.abs().max()) > 1e-4 for gradient in gradients.values())
        assert other.keys() >= gradients.keys()
        for key, gradient in other.items():
            wanted = gradients.get(key, torch.zeros_like(gradient))
            torch.testing.assert_close(
                gradient, wanted, rtol=1e-4, atol=1e-6, msg=lambda m, at=f"{name} {key}": f"{at}: {m}"
            )


def images(count: int, size: int) -> ImageTextBatch:
    """So many rows of padding, as the data workers make them."""
    row = padding_columns(image_size=size)
    columns = {key: np.concatenate([np.asarray(value)] * count) for key, value in row.items()}
    return rows_to_batch(columns)


def joined(first: ImageTextBatch, second: ImageTextBatch) -> ImageTextBatch:
    return ImageTextBatch(
        pixel_values=torch.cat([first.pixel_values, second.pixel_values]),
        valid=torch.cat([first.valid, second.valid]),
        concepts=first.concepts + second.concepts,
        ids=first.ids + second.ids,
    )


@pytest.mark.parametrize("decoder", ["pixels", "flow"])
@pytest.mark.parametrize("adaptive", [True, False])
def test_padding_adds_nothing_to_a_tokenizer_and_its_discriminator(adaptive: bool, decoder: str) -> None:
    loss = {
        "contrast": 0.3,
        "feature_target": 1.0,
        "distillation": 0.5,
        "adversarial": 0.1,
        "adversarial_start_step": 0,
        "adversarial_adaptive": adaptive,
    }
    model = tiny().model.model_dump()
    model["detokenizer"] |= {"kind": decoder}
    config = tiny(model=model, loss=loss, discriminator={"width": 8, "depth": 1})
    size = config.model.image_size
    plain = batch_of(pictures(3, size=size))
    assert_same(config, [plain], [joined(plain, images(2, size)), images(2, size)], modules=2)


def sequence_padding(rows: int, config: TrainConfig) -> Any:
    size = config.model.image_size
    blank = pack_row([], max_length=config.sequence.max_length, pad_id=0, image_size=size)
    return columns_to_sequences(row_columns([blank] * rows), image_size=size)


@pytest.mark.parametrize("stage", ["pretrain", "instruct"])
def test_a_micro_batch_of_padding_alone_adds_nothing_to_a_language_model(tmp_path: Path, stage: str) -> None:
    text_tokenizer().save_pretrained(str(tmp_path))
    config = config_of(tmp_path, stage=stage)
    built: Any = build_stage(config)
    every = samples()
    plain = [sequences_of([every[:4]], built), sequences_of([every[4:]], built)]
    assert_same(config, plain, [*plain, sequence_padding(1, config)], modules=1)


def test_rows_of_padding_beside_others_add_nothing_to_a_language_model(tmp_path: Path) -> None:
    text_tokenizer().save_pretrained(str(tmp_path))
    config = config_of(tmp_path)
    built: Any = build_stage(config)
    every = samples()
    assert_same(config, [sequences_of([every], built)], [sequences_of([every, [], []], built)], modules=1)
