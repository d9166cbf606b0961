"""What a sweep refuses before its first trial: metrics that nothing logs, and sets that are not there."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import tune as command
from ray_jobs.train import train
from ray_jobs.training.tracking import read_metrics
from ray_jobs.tune import check_same_sweep, dry_run, tune
from ray_jobs.tuning import running
from ray_jobs.tuning.known_metrics import check_metrics, known_metrics
from ray_jobs.tuning.space import known_values
from ray_jobs.tuning.trials import Trials
from setok.config import TrainConfig, TuneConfig, build, dump_config, load_config
from setok.errors import ConfigError, DataError
from tests import setokim_runs, squares
from tests.sweeps import sweep_config

ALL_LOSSES = {"l1": 1.0, "l2": 1.0, "contrast": 1.0, "feature_target": 1.0, "adversarial": 0.5, "flow": 1.0}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(squares.write_set(tmp_path_factory.mktemp("squares") / "data"))


def tokenizer_config(data: str, folder: Path) -> TrainConfig:
    tree = {
        "name": "tokenizer",
        "output_dir": str(folder),
        "model": {
            "image_size": 32,
            "encoder": {"width": 24},
            "clustering": {"feature_dim": 8, "max_tokens": 4},
            "detokenizer": {"width": 48, "depth": 1, "kind": "flow", "flow": {"depth": 1}},
        },
        "discriminator": {"width": 4, "depth": 1},
        "loss": ALL_LOSSES | {"distillation": 1.0},
        "data": {"train": [{"path": data}]},
        "optim": {"learning_rate_scale": {"encoder": 0.1}},
        "train": {"steps": 2, "global_batch_size": 4, "micro_batch_size": 4, "log_every": 1},
        "scaling": {"num_workers": 0},
        "checkpoint": {"every": 1},
        "validation": {"data": data},
        "logging": {"tensorboard": False},
    }
    return build(TrainConfig, tree)


def logged(run: Path) -> set[str]:
    return {name for row in read_metrics(run) for name in row} - {"step", "time"}


def test_a_tokenizers_run_logs_what_is_known_and_nothing_else(data: str, tmp_path: Path) -> None:
    config = tokenizer_config(data, tmp_path)
    known, found = known_metrics(config), logged(train(config))
    assert found <= known
    at_times = {"perf/save_write_seconds"}  # of a save that had ended by then
    assert known - found - at_times == {
        *("perf/straggler_ratio", "perf/straggler_rank"),  # of several workers
        "train/perceptual",  # needs weights
        *("train/contrast", "eval/concept_hit_rate", "eval/concept_chance"),  # squares have no concepts
        *(f"eval/{name}" for name in ("ari", "foreground_ari", "pixel_ari", "mbo", "miou")),  # nor segments
        "eval/tokens_objects_correlation",
    }


def test_of_a_setokim_everything_that_it_is_asked_is_known(data: str, tmp_path: Path) -> None:
    config = setokim_runs.config_of(tmp_path / "words", stage="instruct")
    assert {f"train/{name}" for name in ("text", "diffusion", "mask_iou", "sequence_tokens")} <= known_metrics(config)
    asked = config.model_copy(update={"validation": tokenizer_config(data, tmp_path).validation})
    assert {"eval/vqa/accuracy", "eval/caption/recall", "eval/segment/giou", "eval/edit/psnr"} <= known_metrics(asked)
    assert not any(name.startswith("eval/") for name in known_metrics(config))


@pytest.mark.parametrize("preset", ["sweep_scenes", "sweep_ablations", "sweep_tokenizers"])
def test_presets_ask_for_what_is_known(preset: str) -> None:
    check_metrics(load_config(TuneConfig, preset))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"objectives": [{"metric": "eval/psrn"}]}, r"objectives.0.metric=eval/psrn is nothing(.|\n)*'eval/psnr'"),
        ({"objectives": [{"metric": "vla/psnr"}]}, r"'vla/psnr'(.|\n)*did you mean 'eval/psnr'"),
        ({"figures": ["perf/train_second"]}, r"figures.0=perf/train_second is nothing(.|\n)*'perf/train_seconds'"),
        ({"questions": {"Good?": ["eval/arii"]}}, r"questions.Good\?=eval/arii is nothing(.|\n)*'eval/ari'"),
        ({"objectives": [{"metric": "train/txt"}]}, r"stage tokenizer logs"),
    ],
)
@pytest.mark.parametrize("start", [dry_run, tune], ids=["dry run", "run"])
def test_what_nothing_logs_is_refused(
    data: str, tmp_path: Path, start: Any, changes: dict[str, Any], expected: str
) -> None:
    train_changes = {"data": {"train": [{"path": data}]}, "validation": {"data": data}}
    with pytest.raises(ConfigError, match=expected):
        start(sweep_config(output_dir=str(tmp_path), train=train_changes, **changes))
    assert not list(tmp_path.iterdir()), "nothing was begun"


@pytest.mark.parametrize("start", [dry_run, tune], ids=["dry run", "run"])
def test_a_set_that_is_not_there_is_refused(data: str, tmp_path: Path, start: Any) -> None:
    missing = str(tmp_path / "heldout")
    changes = {"data": {"train": [{"path": data}]}, "validation": {"data": missing}}
    with pytest.raises(DataError, match=rf"{re.escape(missing)}' does not exist(.|\n)*ray_jobs.ingest"):
        start(sweep_config(output_dir=str(tmp_path), train=changes))


def test_sets_that_the_sweep_makes_need_not_be_there(tmp_path: Path) -> None:
    made = {
        "name": "ingest",
        "sources": [{"kind": "coco", "path": "nowhere"}],
        "output": str(tmp_path / "made"),
        "holdout_fraction": 0.1,
    }
    changes = {
        "data": {"train": [{"path": str(tmp_path / "made")}]},
        "validation": {"data": str(tmp_path / "made-heldout")},
    }
    dry_run(sweep_config(output_dir=str(tmp_path), train=changes, ingest=[made]))


def test_more_trials_than_the_space_has_are_told(data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes = {"data": {"train": [{"path": data}]}}
    dry_run(sweep_config(output_dir=str(tmp_path), train=changes, num_trials=3))
    assert not caplog.records
    dry_run(sweep_config(output_dir=str(tmp_path), train=changes, num_trials=40))
    assert "num_trials=40, and the space has only 3 combinations" in caplog.text


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("optim.betas", [[0.9, 0.95], [0.8, 0.9]]),
        ("model.encoder", [{"width": 24}, {"width": 48}]),
        ("model.clustering.sharpness", [1.0, None]),
    ],
)
def test_a_sweep_over_lists_and_mappings_goes_on(tmp_path: Path, key: str, values: list[Any]) -> None:
    def sweep_of(values: list[Any]) -> TuneConfig:
        return sweep_config(output_dir=str(tmp_path), space={key: {"values": values}})

    sweep = sweep_of(values)
    Trials(sweep).plan(known_values(sweep)[0])
    (sweep.run_dir / "config.yaml").write_text(dump_config(sweep))
    check_same_sweep(sweep)
    with pytest.raises(ConfigError, match=rf"space.{key}.{re.escape(json.dumps(values[1]))} "):
        check_same_sweep(sweep_of(values[:1]))


def test_a_copy_of_a_trial_is_none(data: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sweep = sweep_config(output_dir=str(tmp_path), train={"data": {"train": [{"path": data}]}})
    trials = Trials(sweep)
    trial = trials.plan(known_values(sweep)[0])
    shutil.copytree(trial.folder, trial.folder.with_name("0000-old"))
    assert trials.all() == [trial]
    assert trials.plan(known_values(sweep)[1]).number == 1
    dry_run(sweep)
    assert "0000-old is no trial of this sweep" in caplog.text


def test_features_may_be_kept_from_the_middle_of_a_sweep_on(tmp_path: Path) -> None:
    def sweep_of(**data: Any) -> TuneConfig:
        frozen = {"optim": {"learning_rate_scale": {"encoder": 0.0}}, "data": {"train": [{"path": "d"}], **data}}
        return sweep_config(output_dir=str(tmp_path), train=frozen)

    sweep = sweep_of()
    Trials(sweep).plan(known_values(sweep)[0])
    (sweep.run_dir / "config.yaml").write_text(dump_config(sweep))
    check_same_sweep(sweep_of(features="features"))
    with pytest.raises(ConfigError, match=r"data.max_bad_fraction 0.05 → 0.1"):
        check_same_sweep(sweep_of(features="features", max_bad_fraction=0.1))


def test_room_is_looked_for_before_anything_is_made(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"data": {"train": [{"path": data}]}, "scaling": {"num_workers": 0, "cpus_per_worker": 4000}}
    sweep = sweep_config(output_dir=str(tmp_path), train=changes, scenes={"plain": {"train": 4, "test": 4}})
    expected = r"a trial needs 4000 CPUs(.|\n)*lower train.scaling.cpus_per_worker"
    with pytest.raises(ConfigError, match=expected):
        dry_run(sweep)
    monkeypatch.setattr(command.launch, "start_ray", lambda: None)
    monkeypatch.setattr(running, "most_to_come", dict)
    monkeypatch.setattr(running.ray, "nodes", lambda: [{"Alive": True, "Resources": {"CPU": 2.0}}])
    with pytest.raises(ConfigError, match=expected):
        tune(sweep)
    assert not (sweep.run_dir / "scenes").exists()
