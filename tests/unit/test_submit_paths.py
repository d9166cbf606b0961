"""Paths of a config that is sent to a cluster: made absolute where it is this machine, refused where nodes cannot see them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_jobs.submitting.paths import check_paths, with_paths_of_here
from setok.config import (
    EvaluateConfig,
    PipelineConfig,
    TrainConfig,
    dump_config,
    list_presets,
    load_any_config,
    load_config,
)
from setok.errors import ConfigError


def test_paths_are_made_absolute_for_a_cluster_of_this_machine(tmp_path: Path) -> None:
    config = load_config(PipelineConfig, "demo")
    moved = with_paths_of_here(config, tmp_path)
    assert moved.run_dir == tmp_path / "runs" / "demo"
    assert moved.tokenizer.data.train[0].path == str(tmp_path / "runs/demo/data/plain-train")
    assert moved.words is not None and moved.words.sets[0].startswith(str(tmp_path))
    assert "runs/demo" not in dump_config(moved).replace(str(tmp_path / "runs/demo"), "")
    check_paths(moved, tmp_path)


def test_addresses_and_names_on_a_hub_stay(tmp_path: Path) -> None:
    config = load_config(
        TrainConfig, "pretrain", ["data.train.0.path=s3://bucket/captions", "checkpoint.store=gs://b/c"]
    )
    moved = with_paths_of_here(config, tmp_path)
    assert moved.data.train[0].path == "s3://bucket/captions" and moved.checkpoint.store == "gs://b/c"
    assert moved.setokim is not None and moved.setokim.language_model.path == "lmsys/vicuna-7b-v1.5"
    (tmp_path / "lmsys" / "vicuna-7b-v1.5").mkdir(parents=True)
    moved = with_paths_of_here(config, tmp_path)
    assert moved.setokim is not None and moved.setokim.language_model.path == str(tmp_path / "lmsys/vicuna-7b-v1.5")


def test_relative_paths_are_refused_for_other_machines(tmp_path: Path) -> None:
    config = load_config(EvaluateConfig, "evaluate", ["checkpoint=/shared/runs/a"])
    with pytest.raises(ConfigError, match=r"output_dir=runs, data=data/test[\s\S]*→ give them as the nodes see them"):
        check_paths(config, tmp_path)
    check_paths(
        load_config(EvaluateConfig, "evaluate", ["checkpoint=/s/a", "data=s3://b/c", "output_dir=/s"]), tmp_path
    )
    frozen = ["optim.learning_rate_scale={encoder: 0}", "output_dir=/s", "data.train.0.path=/s/data"]
    kept = load_config(TrainConfig, "tokenizer", [*frozen, "data.features=kept"])
    with pytest.raises(ConfigError, match=r"data.features=kept\n"):
        check_paths(kept, tmp_path)


def test_every_preset_names_its_job(tmp_path: Path) -> None:
    jobs = {name: load_any_config(name) for name in list_presets()}
    assert len(jobs) >= 19
    for config in jobs.values():
        check_paths(with_paths_of_here(config, tmp_path), tmp_path)
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    with pytest.raises(ConfigError, match=r"does not say which job[\s\S]*add job: ingest or train"):
        load_any_config(tmp_path / "mine.yaml")
