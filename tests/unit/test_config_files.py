"""Config files: what extends another, what the command line overrides, and what is wrong with a file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from setok.config import Job, PipelineConfig, TrainConfig, TuneConfig, load_config
from setok.errors import ConfigError
from tests.configs import INGEST, TRAIN, write


def test_overrides_reach_sections_lists_and_missing_sections(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", TRAIN)
    sets = ["train.steps=7", "data.train.0.weight=2.5", "optim.betas=[0.8, 0.9]", "optim.betas.1=0.95"]
    sets += ["logging.wandb.mode=offline", "checkpoint.init_from=runs/a=b", "optim.learning_rate=1e-4"]
    config = load_config(TrainConfig, file, sets)
    assert config.train.steps == 7
    assert config.data.train[0].weight == 2.5
    assert config.optim.betas == (0.8, 0.95)
    assert config.logging.wandb is not None
    assert config.logging.wandb.mode == "offline"
    assert config.checkpoint.init_from == "runs/a=b"
    assert config.optim.learning_rate == 1e-4


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.stpes=3", "did you mean 'steps'"),
        ("data.train.1.path=x", "'1' is no index of a list of 1"),
        ("data.train.first.path=x", "'first' is no index"),
        ("data.train.²=x", "no index"),
        ("name.first=x", "'name' is a value, not a section"),
        ("train.steps", "no form key=value"),
        ("=3", "no form key=value"),
        ("train.steps=[1", "not a YAML value"),
        ("train.steps=null", "train.steps=None"),
    ],
)
def test_wrong_overrides_are_errors(override: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, write(tmp_path, "a.yaml", TRAIN), [override])
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "preset", "override"),
    [
        (TuneConfig, "sweep_scenes", "train.stpes=4"),
        (TuneConfig, "sweep_tokenizers", "then.stpes=4"),
        (TuneConfig, "sweep_scenes", "train.sharpnes=4"),
        (TuneConfig, "sweep_scenes", "train.train.stpes=4"),
        (TrainConfig, "tokenizer_demo", "stpes=4"),
        (TrainConfig, "tokenizer_demo", "model.sharpnes=4"),
        (PipelineConfig, "demo", "tokenizer.stpes=4"),
    ],
)
def test_the_key_that_is_suggested_would_be_taken(kind: type[Job], preset: str, override: str) -> None:
    with pytest.raises(ConfigError, match="did you mean '") as caught:
        load_config(kind, preset, [override])
    wrong, _, value = override.partition("=")
    meant = re.findall(r"did you mean '([a-z_.]+)'", str(caught.value))[0]
    key = meant if "." in meant else ".".join([*wrong.split(".")[:-1], meant])
    assert key.endswith((".steps", ".sharpness"))
    assert load_config(kind, preset, [f"{key}={value}"]) != load_config(kind, preset)


def test_a_space_takes_the_place_of_the_presets(tmp_path: Path) -> None:
    own = {"loss.l1": {"values": [1.0, 2.0]}}
    file = write(tmp_path, "a.yaml", {"extends": "sweep_scenes", "name": "mine", "space": own})
    assert list(load_config(TuneConfig, file).space) == ["loss.l1"]
    without = write(tmp_path, "b.yaml", {"extends": "sweep_scenes", "name": "mine"})
    preset = load_config(TuneConfig, "sweep_scenes").space
    assert load_config(TuneConfig, without).space == preset and len(preset) == 2


def test_a_title_goes_with_the_space_that_it_is_about(tmp_path: Path) -> None:
    own = {"extends": "sweep_ablations", "name": "mine", "average_over": [], "space": {"loss.l1": {"values": [1.0]}}}
    assert load_config(TuneConfig, write(tmp_path, "a.yaml", own)).title == ""
    assert load_config(TuneConfig, write(tmp_path, "b.yaml", own | {"title": "Mine"})).title == "Mine"
    without = {"extends": "sweep_ablations", "name": "mine"}
    assert load_config(TuneConfig, write(tmp_path, "c.yaml", without)).title == "The tokenizer without its parts"


def test_an_index_of_an_empty_list_says_to_give_the_list(tmp_path: Path) -> None:
    file = write(tmp_path, "a.yaml", TRAIN | {"data": {"train": []}})
    with pytest.raises(ConfigError, match="list of 0") as caught:
        load_config(TrainConfig, file, ["data.train.0=x"])
    assert "--set data.train=[…]" in caught.value.remedy


def test_extends_changes_only_what_it_names(tmp_path: Path) -> None:
    base = write(tmp_path, "base.yaml", TRAIN | {"train": {"steps": 5, "log_every": 9}})
    middle = write(tmp_path, "middle.yaml", {"extends": base, "train": {"steps": 6}})
    config = load_config(TrainConfig, write(tmp_path, "top.yaml", {"extends": middle, "name": "top"}))
    assert (config.name, config.train.steps, config.train.log_every) == ("top", 6, 9)


def test_extends_works_inside_sections_and_lists(tmp_path: Path) -> None:
    train, ingest = write(tmp_path, "train.yaml", TRAIN), write(tmp_path, "ingest.yaml", INGEST)
    tree = {
        "job": "pipeline",
        "name": "p",
        "ingest": [{"extends": ingest, "name": "one"}, {"extends": ingest, "name": "two"}],
        "tokenizer": {"extends": train, "seed": 4},
        "evaluate": [{"name": "e", "checkpoint": "${run}/tokenizer", "data": "d"}],
    }
    config = load_config(
        PipelineConfig, write(tmp_path, "p.yaml", tree), ["ingest.1.sources.0.path=q", "output_dir=/r"]
    )
    assert [part.name for part in config.ingest] == ["one", "two"]
    assert [part.sources[0].path for part in config.ingest] == ["p", "q"]
    assert config.tokenizer.seed == 4
    assert config.evaluate[0].checkpoint == "/r/p/tokenizer"
    assert config.run_dir == Path("/r/p")


def test_a_circle_is_named(tmp_path: Path) -> None:
    first, second = str(tmp_path / "first.yaml"), str(tmp_path / "second.yaml")
    write(tmp_path, "first.yaml", {"extends": second})
    write(tmp_path, "second.yaml", {"extends": first})
    with pytest.raises(ConfigError, match=r"circle: .*first.yaml → .*second.yaml → .*first.yaml"):
        load_config(TrainConfig, first)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "NoneType, not a mapping"),
        ("- 1", "list, not a mapping"),
        ("a: [1", "not valid YAML"),
        ("extends: tokeniser", "did you mean 'tokenizer"),
        ("1: x\njob: train", "the key 1 is no string"),
        ("job: trian", "job: trian is unknown\n  → did you mean 'train'"),
        ("job: evaluate", "python -m ray_jobs.evaluate"),
    ],
)
def test_a_wrong_file_is_explained(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(TrainConfig, write(tmp_path, "a.yaml", text))
    assert expected in str(caught.value)


def test_a_file_that_is_no_text_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\x89PNG\xff")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(TrainConfig, tmp_path / "a.yaml")


def test_an_unknown_preset_names_the_closest() -> None:
    with pytest.raises(ConfigError, match="'tokenizr'") as caught:
        load_config(TrainConfig, "tokenizr")
    assert "'tokenizer'" in caught.value.remedy
