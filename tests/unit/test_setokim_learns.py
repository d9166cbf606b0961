"""Eight samples of every task are learned by heart, through records, packing, the stage and back through the Predictor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ray_jobs.training.batches import packed_local_batches
from ray_jobs.training.sequences import collate_of, packing_of
from setok import checkpoint
from setok.batch import ImageTextBatch
from setok.config import TrainConfig, build
from setok.data.schema import Turn
from setok.data.word_tokenizer import build_word_tokenizer, texts_of_set
from setok.models.generation import GenerationOptions
from setok.optim import learning_rate_factor
from setok.predictor import Predictor
from setok.stages import build_stage
from tests.squares import COUNT, SIZE, records, scene, write_set

TOKENIZER_STEPS, STEPS = 320, 230


def settings(root: Path, stage: str, **changes: Any) -> TrainConfig:
    tree: dict[str, Any] = {
        "name": stage,
        "stage": stage,
        "output_dir": str(root),
        "model": {
            "image_size": SIZE,
            "encoder": {"width": 48},
            "clustering": {"feature_dim": 16, "sharpness": 4.0, "max_tokens": 6, "split_regions": 2},
            "merger": {"relative_position": True, "outline": 6},
            "detokenizer": {"width": 48, "depth": 1, "patch_size": 4},
        },
        "data": {"train": [{"path": str(root / "set")}]},
        "scaling": {"num_workers": 0},
        "optim": {"kind": "muon", "learning_rate": 3e-3, "muon_learning_rate": 0.03, "warmup_fraction": 0.05},
    }
    return build(TrainConfig, tree | changes)


def fit(config: TrainConfig, task: torch.nn.Module, stage: Any, batches: Iterator[list[Any]]) -> dict[str, float]:
    """The loop without its machine; the parts of the last loss."""
    optimizer = stage.optimizer("model")
    parts: dict[str, float] = {}
    for step in range(config.train.steps):
        micro_batches = next(batches)
        optimizer.zero_grad()
        for batch, context in zip(micro_batches, stage.prepare(micro_batches, step=step), strict=True):
            output = task(batch, context)
            output.loss.backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * learning_rate_factor(step, config)
        optimizer.step()
        parts |= {
            name: float(value) for name, value in output.parts.items()
        }  # a step may lack masks, or drawn pictures
    return parts


def store(config: TrainConfig, task: torch.nn.Module) -> Path:
    state = checkpoint.TrainerState(step=config.train.steps, samples=0, world_size=1)
    checkpoint.save(config.run_dir, config, {"model": checkpoint.copy_weights(task)}, {}, state)
    return config.run_dir


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Predictor, dict[str, float]]:
    """A tokenizer that knows the eight pictures, and a Setokim that knows the samples; the last parts of its loss."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("heart")
    write_set(root / "set")
    build_word_tokenizer(texts_of_set(root / "set"), root / "words")

    torch.manual_seed(0)
    first = settings(
        root,
        "tokenizer",
        loss={"contrast": 0.0, "feature_target": 2.0},
        train={"steps": TOKENIZER_STEPS, "global_batch_size": COUNT, "micro_batch_size": COUNT},
    )
    stage = build_stage(first)
    pixels = torch.stack([torch.from_numpy(scene(n)[0]).permute(2, 0, 1) for n in range(COUNT)]).contiguous()
    batch = ImageTextBatch(
        pixel_values=pixels,
        valid=torch.ones(COUNT, dtype=torch.bool),
        concepts=((),) * COUNT,
        ids=tuple(str(n) for n in range(COUNT)),
    )
    parts = fit(first, stage.modules["model"], stage, iter([[batch]] * TOKENIZER_STEPS))
    assert parts["psnr"] > 27, "the tokenizer knows the pictures"
    tokenizer_run = store(first, stage.modules["model"])

    second = settings(
        root,
        "instruct",
        setokim={
            "text_tokenizer": str(root / "words"),
            "language_model": {"width": 96, "depth": 2, "num_heads": 4, "max_positions": 256},
            "diffusion": {
                "prediction": "flow",
                "width": 128,
                "depth": 3,
                "batch_multiplier": 16,
                "condition_drop": 0.0,
            },
            "mask_decoder": {"width": 32, "depth": 2, "num_heads": 2},
        },
        sequence={
            "max_length": 160,
            "max_image_tokens": 6,
            "instructions": "none",
            "drop_condition": 0.0,
            "short_answer": False,
            "chat": {"template": "plain"},
        },
        checkpoint={"init_from": str(tokenizer_run)},
        train={"steps": STEPS, "global_batch_size": 4, "micro_batch_size": 4},
    )
    torch.manual_seed(0)
    from setok.stages import load_initial_weights

    stage = build_stage(second)
    task = stage.modules["model"]
    load_initial_weights(checkpoint.resolve(tokenizer_run), task, "model")
    packing = packing_of(second)
    assert packing is not None
    batches = packed_local_batches(second, packing, collate_of(second), start_step=0)
    parts = fit(second, task.train(), stage, iter(batches))
    batches.close()
    return Predictor.from_pretrained(store(second, task)), parts


def pictures() -> list[np.ndarray]:
    return [scene(number)[0] for number in range(COUNT)]


def psnr(drawn: torch.Tensor, truth: np.ndarray) -> float:
    error = (drawn.float() - torch.from_numpy(truth).permute(2, 0, 1).float()) / 255
    return float(-10 * error.square().mean().log10())


def test_losses_are_near_zero(learned: tuple[Predictor, dict[str, float]]) -> None:
    parts = learned[1]
    assert parts["text"] < 0.02
    assert parts["stop"] < 0.02
    assert parts["mask_cross_entropy"] < 0.05
    assert parts["mask_dice"] < 0.05
    assert parts["text_accuracy"] == 1


def test_captions_come_back_word_for_word(learned: tuple[Predictor, dict[str, float]]) -> None:
    wanted = [record.caption for record in records() if record.task == "caption"]
    assert learned[0].caption(pictures()) == wanted


def test_answers_come_back_word_for_word(learned: tuple[Predictor, dict[str, float]]) -> None:
    predictor = learned[0]
    assert predictor.answer(pictures(), ["where is the square?"] * COUNT) == [scene(n)[3] for n in range(COUNT)]
    talk = [
        Turn(role="user", text="<image>\nwhere is the square?"),
        Turn(role="assistant", text="left"),
        Turn(role="user", text="which colour?"),
    ]
    replies = predictor.chat([talk], [[pictures()[1]]])
    assert replies[0].text == scene(1)[2]


def test_regions_come_back(learned: tuple[Predictor, dict[str, float]]) -> None:
    found = learned[0].segment(pictures(), [f"the {scene(n)[2]} square" for n in range(COUNT)])
    for number, mask in enumerate(found):
        truth = scene(number)[1]
        both, either = (mask.numpy() & truth).sum(), (mask.numpy() | truth).sum()
        assert both / either > 0.9, number


def test_pictures_come_back_from_captions_and_edits(learned: tuple[Predictor, dict[str, float]]) -> None:
    predictor, options = learned[0], GenerationOptions(image_temperature=0.0, sampling_steps=20)
    captions = [record.caption for record in records() if record.task == "caption"]
    drawn = predictor.generate(captions, options=options)
    assert min(psnr(one, truth) for one, truth in zip(drawn, pictures(), strict=True)) > 25
    edited = predictor.edit(pictures(), [f"make it number {n}" for n in range(COUNT)], options=options)
    wanted = [scene((number + 3) % COUNT)[0] for number in range(COUNT)]
    assert min(psnr(one, truth) for one, truth in zip(edited, wanted, strict=True)) > 25


def test_batches_streams_and_seeds(learned: tuple[Predictor, dict[str, float]]) -> None:
    predictor = learned[0]
    talks = [[Turn(role="user", text="<image>")], [Turn(role="user", text="<image>\nSegment the red square")]]
    shown = [[pictures()[2]], [pictures()[0]]]
    together = predictor.chat(talks, shown)
    for talk, own, reply in zip(talks, shown, together, strict=True):
        (alone,) = predictor.chat([talk], [own])
        assert alone.text == reply.text
        assert len(alone.masks) == len(reply.masks)
        parts = list(predictor.stream(talk, own))
        assert "".join(part.text for part in parts if hasattr(part, "text")).strip() == reply.text
        assert sum(hasattr(part, "mask") for part in parts) == len(reply.masks)
    assert len(together[1].masks) == 1, "it points by itself"
    prompt = [records()[0].caption]
    first, again, other = (predictor.generate(prompt, seeds=[seed])[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
