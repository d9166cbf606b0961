"""Whole runs of Setokim: stage after stage, stopped and gone on with, on one worker and on two."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_jobs.train import train
from ray_jobs.training.dry_run import dry_run
from ray_jobs.training.tracking import read_metrics
from setok import checkpoint
from setok.config import TrainConfig, build
from setok.data.word_tokenizer import build_word_tokenizer, texts_of_set
from setok.errors import CheckpointError, ConfigError, DataError, SetokError
from setok.models.concepts import build_concept_encoder
from setok.predictor import Predictor
from setok.stages import TokenizerTask
from tests.sequences import setok_config, setokim_config
from tests.squares import SIZE, write_set

LOSSES = ("train/loss", "train/text", "train/diffusion", "train/grad_norm")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set, its words, and an untrained tokenizer's run."""
    folder = tmp_path_factory.mktemp("setokim")
    write_set(folder / "set")
    build_word_tokenizer(texts_of_set(folder / "set"), folder / "words")
    tree = {"name": "tokenizer", "output_dir": str(folder), "model": setok_config().model_dump()}
    config = build(TrainConfig, tree | {"data": {"train": [{"path": "nowhere"}]}, "scaling": {"num_workers": 0}})
    torch.manual_seed(0)
    task = TokenizerTask(config, build_concept_encoder(config.concepts).dim)
    state = checkpoint.TrainerState(step=5, samples=0, world_size=1)
    checkpoint.save(config.run_dir, config, {"model": checkpoint.copy_weights(task)}, {}, state)
    return folder


def config_of(root: Path, name: str, **changes: Any) -> TrainConfig:
    tree: dict[str, Any] = {
        "name": name,
        "stage": "pretrain",
        "output_dir": str(root),
        "model": setok_config().model_dump(),
        "setokim": setokim_config(text_tokenizer=str(root / "words")).model_dump(),
        "sequence": {"max_length": 96, "max_image_tokens": 6, "instructions": "none", "chat": {"template": "plain"}},
        "data": {"train": [{"path": str(root / "set")}], "steps_per_block": 2},
        "optim": {"learning_rate": 2e-3},
        "train": {
            "steps": 6,
            "global_batch_size": 4,
            "micro_batch_size": 2,
            "log_every": 1,
            "deterministic": True,
            "threads_per_worker": 1,
        },
        "scaling": {"num_workers": 0},
        "checkpoint": {"every": 3, "keep": 3, "init_from": str(root / "tokenizer")},
    }
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(tree.get(key), dict) else value
    return build(TrainConfig, tree)


def losses(run: Path) -> dict[int, list[float]]:
    return {int(line["step"]): [line[name] for name in LOSSES] for line in read_metrics(run)}


def test_a_run_goes_on_to_the_bit(root: Path) -> None:
    config = config_of(root, "whole")
    run = train(config)
    whole = losses(run)
    assert list(whole) == [1, 2, 3, 4, 5, 6]
    assert whole[6][0] < whole[1][0]
    last = checkpoint.folder_of(run, 6)
    weights = {name: value.clone() for name, value in load(last).items()}
    shutil.rmtree(last)
    train(config)
    assert losses(run) == whole
    assert all(torch.equal(value, weights[name]) for name, value in load(last).items())


def load(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / checkpoint.MODEL)


def test_two_workers_train_what_one_does(root: Path, ray_local: None) -> None:
    alone = losses(train(config_of(root, "alone", train={"steps": 4})))
    on_ray = train(config_of(root, "two", train={"steps": 4}, scaling={"num_workers": 2}, deepspeed={"zero_stage": 2}))
    shared = losses(on_ray)
    assert shared.keys() == alone.keys()
    for step, values in alone.items():
        assert shared[step] == pytest.approx(values, rel=1e-3), step


def test_the_next_stage_starts_where_the_last_one_ended(root: Path) -> None:
    first = train(config_of(root, "first"))
    run = train(config_of(root, "second", stage="instruct", checkpoint={"init_from": str(first)}))
    assert losses(run)[1][1] < losses(first)[1][1] - 0.5, "it knows some words already"
    predictor = Predictor.from_pretrained(run)
    blank = torch.zeros(3, SIZE, SIZE, dtype=torch.uint8)
    assert isinstance(predictor.caption([blank])[0], str)


def test_a_dry_run_counts_its_parts(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dry_run(config_of(root, "dry"))
    shown = capsys.readouterr().out
    assert "language_model" in shown
    assert "diffusion" in shown
    assert "encoder" in shown


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoint": {"init_from": "nowhere"}}, r"nowhere(.|\n)*name a run's folder"),
        ({"model": {"merger": {"num_heads": 6}}}, r"model.merger.num_heads 3 → 6"),
    ],
)
def test_a_dry_run_looks_at_what_it_starts_from(root: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        dry_run(config_of(root, "dry", **changes))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"checkpoint": {"init_from": "nowhere"}}, CheckpointError, r"nowhere(.|\n)*name a run's folder"),
        ({"setokim": {"text_tokenizer": "no/such/folder"}}, SetokError, r"no/such/folder(.|\n)*tokenizer.json"),
        (
            {"sequence": {"max_length": 12}},
            DataError,
            r"32 of the 32 records of .*set are too long for sequence.max_length=12; the longest, \w+, has \d+ tokens with "
            r"\d picture\(s\), \d+ too many\n.*sequence.max_length=\d+, or lower sequence.max_image_tokens",
        ),
    ],
)
def test_what_cannot_be_trained(root: Path, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    name = f"refused-{next(iter(changes))}"
    with pytest.raises(error, match=message):
        train(config_of(root, name, **changes, train={"steps": 200}))


def test_another_model_under_the_same_name_is_refused(root: Path) -> None:
    train(config_of(root, "same", train={"steps": 3}))
    wider = setokim_config(text_tokenizer=str(root / "words"), diffusion={"width": 96}).model_dump()
    with pytest.raises(CheckpointError, match=r"setokim.diffusion.width 64 → 96"):
        train(config_of(root, "same", setokim=wider))


def test_slots_that_do_not_fit_the_pictures_are_named(root: Path) -> None:
    run = train(config_of(root, "slots", train={"steps": 3}))
    predictor = Predictor.from_pretrained(run)
    from setok.data.schema import Turn

    with pytest.raises(DataError, match=r"1 <image> slots and 0 pictures(.|\n)*one picture for every slot"):
        predictor.chat([[Turn(role="user", text="<image>\nwhat?")]])
    long = "red " * 200
    with pytest.raises(DataError, match=r"more than sequence.max_length=96(.|\n)*shorten it"):
        predictor.chat([[Turn(role="user", text=long)]])
    with pytest.raises(ConfigError, match=r"guidance|temperature"):
        predictor.generate(["a red square"], options=_options(temperature=-1.0))


def _options(**changes: Any) -> Any:
    from setok.models.generation import GenerationOptions

    return GenerationOptions(**changes)


def test_the_running_average_is_what_is_used(root: Path) -> None:
    run = train(config_of(root, "average", train={"steps": 4, "ema_decay": 0.9}))
    raw, average = (Predictor.from_pretrained(run, weights=kind).model.state_dict() for kind in ("raw", "ema"))
    moved = {name.split(".")[0] for name, value in raw.items() if not torch.equal(value, average[name])}
    assert "language_model" in moved
    assert "diffusion" in moved
    assert "tokenizer" not in moved
