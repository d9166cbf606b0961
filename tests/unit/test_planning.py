"""Plans of one step: without memory against a real one, and with twice the work."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from setok.config import TrainConfig, load_config
from setok.data.word_tokenizer import build_word_tokenizer, own_texts
from setok.planning import Samples, Trace, Traces, trace, worker_memory
from setok.planning.batches import sequence_batch
from setok.planning.parts import build_modules
from setok.planning.pretend import Pretend
from setok.planning.serving import cache_bytes
from setok.planning.trace import Turn
from setok.vocabulary import SPECIAL_TOKENS
from tests.golden.first_losses import scenes
from tests.measured import measured_step

ALONE = ["scaling.num_workers=0", "train.threads_per_worker=1"]
TOLERANCE = 0.15
SHALLOW = ("model.detokenizer.depth=1",)
SHALLOW_LANGUAGE = ("setokim.language_model.depth=1", "setokim.diffusion.depth=1", "setokim.mask_decoder.depth=1")


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    build_word_tokenizer(own_texts(), folder)
    return folder


def demo(name: str, *changes: str) -> TrainConfig:
    return load_config(TrainConfig, name, [*ALONE, *changes])


@pytest.mark.parametrize(("micro", "recompute"), [(4, True), (8, False)])
def test_a_tokenizers_step_takes_what_is_planned(*, micro: int, recompute: bool) -> None:
    changes = (
        f"train.micro_batch_size={micro}",
        f"train.gradient_checkpointing={recompute}",
        "train.global_batch_size=8",
    )
    config = demo("tokenizer_demo", *changes)
    measured = measured_step(config, [scenes(start, micro) for start in range(0, 8, micro)])
    planned = worker_memory(config, trace(config, Samples())).total
    assert planned == pytest.approx(measured, rel=TOLERANCE)


@pytest.mark.parametrize(("micro", "recompute"), [(1, False), (4, True)])
def test_a_step_of_packed_rows_takes_what_is_planned(words: Path, *, micro: int, recompute: bool) -> None:
    changes = (
        f"train.micro_batch_size={micro}",
        f"train.gradient_checkpointing={recompute}",
        "train.global_batch_size=4",
    )
    config = demo("instruct_demo", f"setokim.text_tokenizer={words}", *changes)
    measured = measured_step(config, [real_rows(config, words) for _ in range(4 // micro)])
    planned = worker_memory(config, trace(config, Samples())).total
    assert planned == pytest.approx(measured, rel=TOLERANCE)


def real_rows(config: TrainConfig, words: Path) -> Any:
    """Rows of the assumed composition with pictures of noise, which have as many tokens as there may be."""
    from setok.models.text_tokens import load_text_tokenizer

    known = load_text_tokenizer(words).get_vocab()
    image, end, segment = (known[token] for token in SPECIAL_TOKENS)
    batch = sequence_batch(config, Samples(), (image, end, segment))
    noise = torch.randint(0, 256, batch.pixel_values.shape, dtype=torch.uint8)
    return replace(batch, pixel_values=noise)


def test_what_is_planned_with_twice_the_work_is_twice_the_arithmetic() -> None:
    one, two = (trace(demo("tokenizer_demo", f"train.micro_batch_size={n}", *SHALLOW), Samples()) for n in (4, 8))
    small = demo("tokenizer_demo", "train.micro_batch_size=4", *SHALLOW, "train.gradient_checkpointing=true")
    recomputed = trace(small, Samples())
    assert two.flops == pytest.approx(2 * one.flops, rel=0.01)
    assert 1.1 < recomputed.flops / one.flops < 4 / 3, "blocks go forward once more, all else does not"


def test_with_kept_features_a_plan_has_no_work_for_the_encoder() -> None:
    deep = ("optim.learning_rate_scale={encoder: 0.0}", "model.encoder.depth=3", *SHALLOW)
    frozen, shallow = demo("tokenizer_demo", *deep), demo("tokenizer_demo", deep[0], *SHALLOW, "model.encoder.depth=0")
    computed, kept, least = (
        trace(config, Samples()) for config in (frozen, demo("tokenizer_demo", *deep, "data.features=kept"), shallow)
    )
    assert kept.flops < least.flops < computed.flops
    patches, width, floats = 256, 96, 4
    assert kept.batch - computed.batch == frozen.train.micro_batch_size * patches * width * floats
    assert kept.turns[0].parameters == computed.turns[0].parameters, "it is saved with the model"


def test_micro_batches_are_told_from_smaller_ones(words: Path) -> None:
    for name in ("tokenizer_demo", "instruct_demo"):
        sizes = ("train.micro_batch_size=8", "train.global_batch_size=8")
        own = SHALLOW if name == "tokenizer_demo" else (*SHALLOW_LANGUAGE, f"setokim.text_tokenizer={words}")
        config = demo(name, *sizes, *own)
        told, traced = Traces()(config, Samples()), trace(config, Samples())
        assert_alike(told, traced, 0.03)


def test_many_layers_are_told_from_few(words: Path) -> None:
    """Every figure of a model of 7 layers follows from models of 3 and 4 layers."""
    changes = (f"setokim.text_tokenizer={words}", "train.gradient_checkpointing=true", "train.micro_batch_size=1")
    config = demo(
        "pretrain_demo", *changes, *SHALLOW_LANGUAGE[1:], "setokim.language_model.depth=7", "optim.kind=adamw"
    )
    batch = real_rows(config, words)  # a batch that is given is gone through with all layers
    assert_alike(trace(config, Samples()), trace(config, Samples(), batch), 0.02)


def assert_alike(told: Trace, traced: Trace, tolerance: float) -> None:
    for a, b in zip(told.turns, traced.turns, strict=True):
        for field in fields(Turn):
            if field.name not in ("name", "kept"):
                assert getattr(a, field.name) == pytest.approx(getattr(b, field.name), rel=tolerance, abs=65_536), (
                    field.name
                )
    assert (told.images, told.tokens) == (traced.images, traced.tokens)
    assert told.prepare == pytest.approx(traced.prepare, rel=tolerance)


def test_weights_are_counted_without_being_there() -> None:
    """SigLIP-SO400M has 428 M parameters up to its last norm; Vicuna-7B 6.738 G, and three rows more here."""
    pretend = Pretend()
    tokenizer = build_modules(load_config(TrainConfig, "tokenizer_siglip"), pretend)["model"].get_submodule("tokenizer")
    model = build_modules(load_config(TrainConfig, "paper_pretrain"), pretend)["model"].get_submodule("setokim")
    encoder = sum(p.numel() for p in tokenizer.get_submodule("encoder").parameters())
    base = {n: p for n, p in model.get_submodule("language_model.base").named_parameters() if "lora_" not in n}
    assert encoder == 412_987_824 or encoder == pytest.approx(428e6, rel=0.05)
    assert sum(p.numel() for p in base.values()) == 6_738_415_616 + 2 * 3 * 4096


def test_the_cache_of_a_place() -> None:
    """Keys and values of 32 layers and 4096 channels in bf16."""
    assert cache_bytes(load_config(TrainConfig, "paper_pretrain")) == 2 * 32 * 4096 * 2
