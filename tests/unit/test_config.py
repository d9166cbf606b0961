"""Configs are strict, say what is wrong where, and survive a round trip."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from setok.config import (
    JOBS,
    EvaluateConfig,
    IngestConfig,
    Job,
    PipelineConfig,
    TrainConfig,
    build,
    dump_config,
    list_presets,
    load_config,
)
from setok.errors import ConfigError
from tests import fakes
from tests.configs import INGEST, TRAIN, write

NUM_PRESETS = 22


HALF_LEARNS = {
    "stage": "pretrain",
    "setokim": {"text_tokenizer": "w", "language_model": {"dtype": "bf16"}},
    "checkpoint": {"init_from": "runs/x"},
}


def job_of(preset: str) -> type[Job]:
    """The config class of a preset, following ``extends``."""
    tree = yaml.safe_load((Path(__file__).parents[2] / "setok" / "presets" / f"{preset}.yaml").read_text())
    return JOBS[tree["job"]] if "job" in tree else job_of(tree["extends"])


# ---------------------------------------------------------------- presets


def test_the_presets_are_all_here(repo_root: Path) -> None:
    assert len(list_presets()) == NUM_PRESETS
    assert list_presets() == sorted(file.stem for file in (repo_root / "setok" / "presets").iterdir())


@pytest.mark.parametrize("preset", list_presets())
def test_every_preset_is_valid_and_survives_the_round_trip(preset: str, tmp_path: Path) -> None:
    config = load_config(job_of(preset), preset)
    dumped = write(tmp_path, "dumped.yaml", dump_config(config))
    assert load_config(type(config), dumped) == config
    assert pickle.loads(pickle.dumps(config)) == config


# ---------------------------------------------------------------- strictness


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"trian": {}}, ["'trian'", "did you mean 'train'"]),
        ({"train": {"step": 3}}, ["'train.step'", "did you mean 'steps'"]),
        ({"model": {"encoder": {"patchsize": 4}}}, ["'model.encoder.patchsize'", "'patch_size'"]),
        (
            {"data": {"train": [{"path": "d"}, {"pth": "e"}]}},
            ["'data.train.1.pth'", "'path'", "data.train.1.path is required"],
        ),
        ({"logging": {"wandb": {"mdoe": "offline"}}}, ["'logging.wandb.mdoe'", "did you mean 'mode'"]),
        ({"optim": {"zebra": 1}}, ["'optim.zebra'", "choose one of:", "learning_rate"]),
        ({"train": {"steps": "many"}}, ["train.steps='many'", "valid integer"]),
        ({"train": {"steps": 1.5}}, ["train.steps=1.5", "valid integer"]),
        ({"train": {"steps": 0}}, ["train.steps=0", "greater than or equal to 1"]),
        ({"train": {"precision": "fp16"}}, ["train.precision='fp16'", "'fp32' or 'bf16'"]),
        ({"train": [1, 2]}, ["train=[1, 2]", "dictionary"]),
        ({"train": {"steps": list(range(1000))}}, ["train.steps=[0, 1,", "…"]),
        ({"optim": {"learning_rate": float("inf")}}, ["optim.learning_rate=inf", "finite"]),
        ({"optim": {"learning_rate": float("nan")}}, ["optim.learning_rate=nan"]),
        ({"optim": {"learning_rate_scale": {"encodr": 0}}}, ["'encodr'", "did you mean 'encoder'"]),
        ({"data": {"train": []}}, ["data.train=[]", "at least 1 item"]),
        ({"name": "a/b"}, ["name='a/b'", "pattern"]),
        ({"data": {}}, ["data.train is required and missing"]),
    ],
)
def test_a_wrong_setting_is_named_with_its_place_and_remedy(change: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        build(TrainConfig, TRAIN | change)
    for words in expected:
        assert words in str(caught.value)


def test_an_unknown_key_in_a_mapping_of_sections_is_named() -> None:
    tree = {"name": "x", "scenes": {"plain": {"trian": 3}}, "ingest": [INGEST], "tokenizer": TRAIN, "evaluate": []}
    with pytest.raises(ConfigError, match=r"'scenes\.plain\.trian': did you mean 'train'"):
        build(PipelineConfig, tree)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        build(TrainConfig, TRAIN | {"trian": 1, "train": {"steps": 0}})
    assert "trian" in caught.value.problem
    assert "train.steps=0" in caught.value.problem
    assert "--print-config" in caught.value.remedy


def test_configs_do_not_change() -> None:
    config = build(TrainConfig, TRAIN)
    with pytest.raises(ValidationError, match="frozen"):
        config.train.steps = 5  # type: ignore[misc]


# ---------------------------------------------------------------- settings that contradict each other


@pytest.mark.parametrize(
    ("change", "problem", "remedy"),
    [
        (
            {"train": {"global_batch_size": 20, "micro_batch_size": 8}, "scaling": {"num_workers": 2}},
            r"global_batch_size=20 .*micro_batch_size=8 on 2 worker.*20 / \(8 × 2\) = 1.25",
            "--set train.global_batch_size=16",
        ),
        (
            {"train": {"global_batch_size": 4, "micro_batch_size": 8}, "scaling": {"num_workers": 0}},
            r"4 / \(8 × 1\) = 0.5",
            "--set train.global_batch_size=8",
        ),
        ({"optim": {"kind": "muon"}, "deepspeed": {"zero_stage": 2}}, "zero_stage=2", "deepspeed.zero_stage=0"),
        ({"model": {"image_size": 63}}, "image_size=63 .* detokenizer.patch_size=8", "fit 63: 7"),
        ({"model": {"encoder": {"width": 97}}}, "width=97 .*num_heads=3", "99"),
        ({"model": {"clustering": {"min_tokens": 9, "max_tokens": 4}}}, "min_tokens=9 .*max_tokens=4", "lower"),
        ({"model": {"clustering": {"num_clusters": 20}}}, "num_clusters=20", "max_tokens=20"),
        ({"model": {"encoder": {"kind": "huggingface"}}}, "encoder.path", "local folder"),
        (
            {"loss": {"perceptual": 0.5}, "model": {"image_size": 8, "detokenizer": {"patch_size": 8}}},
            r"loss.perceptual=0.5 .*at least 16 pixels.*image_size=8",
            "loss.perceptual=0",
        ),
        ({"concepts": {"prompt": "A photo"}}, "'A photo'", "{}"),
        (HALF_LEARNS, "dtype=bf16 with train=full", "precision=bf16"),
    ],
)
def test_contradictions_say_what_to_change(change: dict[str, Any], problem: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        build(TrainConfig, TRAIN | change)
    assert remedy in caught.value.remedy


@pytest.mark.parametrize(("workers", "accumulation"), [(0, 6), (1, 6), (2, 3), (3, 2)])
def test_gradient_accumulation_follows_from_the_batch(workers: int, accumulation: int) -> None:
    sizes = {"train": {"global_batch_size": 24, "micro_batch_size": 4}, "scaling": {"num_workers": workers}}
    assert build(TrainConfig, TRAIN | sizes).gradient_accumulation_steps == accumulation


@pytest.mark.parametrize(("workers", "accumulation"), [(1, 5), (2, 3), (3, 2), (5, 1)])
def test_an_elastic_run_fills_up_what_does_not_come_out_even(workers: int, accumulation: int) -> None:
    sizes = {"train": {"global_batch_size": 18, "micro_batch_size": 4}, "scaling": {"num_workers": [1, 5]}}
    config = build(TrainConfig, TRAIN | sizes)
    assert config.with_workers(workers).gradient_accumulation_steps == accumulation
    with pytest.raises(AssertionError, match="with_workers"):
        _ = config.gradient_accumulation_steps


def test_the_workers_that_came_are_nothing_to_be_written() -> None:
    """Else a checkpoint of three workers could not be read again, where three do not divide the batch."""
    sizes = {"train": {"global_batch_size": 8, "micro_batch_size": 2}, "scaling": {"num_workers": [1, 3]}}
    config = build(TrainConfig, TRAIN | sizes)
    three = pickle.loads(pickle.dumps(config.with_workers(3)))
    assert three.num_ranks == 3
    assert dump_config(three) == dump_config(config)
    assert build(TrainConfig, yaml.safe_load(dump_config(three))) == config


@pytest.mark.parametrize(
    ("scaling", "problem", "remedy"),
    [
        ({"num_workers": [3, 1]}, r"num_workers=\[3, 1\] is no range", "[1, 4]"),
        ({"num_workers": [0, 2]}, r"num_workers=\[0, 2\] is no range", "at least 1"),
        ({"num_workers": -1}, r"num_workers=-1 is below 0", "range [min, max]"),
        (
            {"num_workers": 2.5},
            r"^scaling\.num_workers=2\.5: input .* integer.*; or input should be a valid list\n",
            "",
        ),
        ({"num_workers": 50}, r"cannot be split", "=100, or at most --set scaling.num_workers=8"),
        ({"num_workers": [2, 9]}, r"gives 8 micro-batches .*up to 9", "scaling.num_workers=[2, 8]"),
    ],
)
def test_ranges_that_no_run_can_have(scaling: dict[str, Any], problem: str, remedy: str) -> None:
    sizes = {"train": {"global_batch_size": 16, "micro_batch_size": 2}, "scaling": scaling}
    with pytest.raises(ConfigError, match=problem) as caught:
        build(TrainConfig, TRAIN | sizes)
    assert remedy in caught.value.remedy


def test_defaults_and_dump_of_every_job_agree() -> None:
    trees = {IngestConfig: INGEST, TrainConfig: TRAIN, EvaluateConfig: {"name": "e", "checkpoint": "c", "data": "d"}}
    for kind, tree in trees.items():
        config = build(kind, tree)
        assert build(kind, yaml.safe_load(dump_config(config))) == config


def test_config_errors_survive_pickling() -> None:
    with pytest.raises(ConfigError) as caught:
        build(TrainConfig, TRAIN | {"trian": 1})
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_a_typo_in_a_list_item_is_told_once() -> None:
    tree = {"name": "x", "data": {"train": [{"paht": "a"}]}}
    with pytest.raises(ConfigError) as raised:
        build(TrainConfig, tree)
    assert "did you mean 'path'?" in str(raised.value)
    assert "at least 1 item" not in str(raised.value)


def test_rank_0_may_not_wait_for_longer_than_the_others_wait_for_it() -> None:
    changes = {"scaling__num_workers": 2, "checkpoint__commit_timeout": 700.0}
    with pytest.raises(ConfigError, match=r"commit_timeout=700 .*collective_timeout_s=600\)\n  → .*timeout_s=1400"):
        fakes.train_config(**changes)
    assert fakes.train_config(**changes, scaling__collective_timeout_s=1400.0)
    assert fakes.train_config(**changes | {"scaling__num_workers": 0})


@pytest.mark.parametrize("store", ["", "s3://", "gs:///", "memory://here"])
def test_a_store_that_keeps_nothing_is_refused(store: str) -> None:
    with pytest.raises(ConfigError, match=r"names no place|is gone with its process"):
        fakes.train_config(checkpoint__store=store)
