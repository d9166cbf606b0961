"""Configs of tiny runs of Setokim, and samples of every kind to train them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from setok import checkpoint
from setok.config import TrainConfig, build
from setok.data.word_tokenizer import build_word_tokenizer
from setok.stages import SetokimTask
from tests.sequences import Picture, Point, Say, setok_config, setokim_config, square

ROOM = 8
"""Places that a picture has in a row."""
Sample = tuple[str, list[Any]]


def tree(words: Path, **changes: Any) -> dict[str, Any]:
    """A config as a mapping; ``changes`` are dotted keys with ``__`` for the dot."""
    result: dict[str, Any] = {
        "job": "train",
        "name": "tiny",
        "stage": "pretrain",
        "model": setok_config().model_dump(),
        "setokim": setokim_config(text_tokenizer=str(words)).model_dump(),
        "sequence": {"max_length": 200, "max_image_tokens": ROOM},
        "data": {"train": [{"path": "nowhere"}]},
        "checkpoint": {"init_from": "nowhere"},
        "scaling": {"num_workers": 0},
    }
    for key, value in changes.items():
        *parents, last = key.split("__")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return result


def config_of(words: Path, **changes: Any) -> TrainConfig:
    return build(TrainConfig, tree(words, **changes))


def write_run(folder: Path, text: str, **changes: Any) -> Path:
    """A run of random weights whose tokenizer has the words of a text; asked without wordings of ours."""
    build_word_tokenizer([text], folder / "words")
    config = config_of(
        folder / "words",
        output_dir=str(folder),
        sequence__instructions="none",
        sequence__chat={"template": "plain"},
        sequence__short_answer=False,
        **changes,
    )
    torch.manual_seed(0)
    task = SetokimTask(config)
    with torch.no_grad():
        for parameter in task.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    state = checkpoint.TrainerState(step=1, samples=0, world_size=1)
    checkpoint.save(config.run_dir, config, {"model": checkpoint.copy_weights(task)}, {}, state)
    return config.run_dir


def samples() -> list[Sample]:
    """Of every kind; one with a picture that cannot be read."""
    red, where = square("red", 4, 8)
    blue, there = square("blue", 16, 12, side=8)
    return [
        ("ask", ["what colour is", Picture(red), Say("red </s>")]),
        ("draw", ["draw a blue square", Picture(blue, draw=True), Say("</s>")]),
        ("point", ["where is the square", Picture(blue), Point(there)]),
        ("edit", [Picture(red), "move it to right", Picture(square("red", 18, 8)[0], draw=True), Say("</s>")]),
        ("text", ["how many", Say("one two </s>")]),
        ("broken", ["draw a red circle", Picture(red, draw=True, valid=False)]),
        ("two", [Picture(red), Picture(blue), "where is the square", Point(where), "and", Point(there, picture=1)]),
        ("no", ["is it red", Picture(blue), Say("no </s>")]),
    ]
