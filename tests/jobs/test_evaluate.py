"""Evaluation with Ray: every row once, the same figures for any number of replicas, and nothing measured twice."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ray_jobs.evaluate import evaluate
from ray_jobs.evaluation import files, tokenizer_files
from ray_jobs.evaluation.files import ANSWERS, EXAMPLES
from ray_jobs.evaluation.journal import SAMPLES, Journal
from ray_jobs.evaluation.references import concepts_of
from ray_jobs.reporting.page import write_report
from setok import checkpoint
from setok.config import EvaluateConfig, TrainConfig, build, dump_config
from setok.data.schema import EncodedImage, Manifest, Record, Segment
from setok.data.shards import write_shard
from setok.data.word_tokenizer import texts_of_set
from setok.errors import CheckpointError, ConfigError, DataError
from setok.models.concepts import build_concept_encoder
from setok.stages import TokenizerTask
from tests.evaluations import Here, write_official_set
from tests.killing import kill_in_the_middle
from tests.setokim_runs import write_run

pytestmark = pytest.mark.usefixtures("ray_local")
SIZE, COUNT = 16, 10


def make_set(folder: Path, *, broken: int | None = None) -> Path:
    """Pictures of a grey square on black, its brightness telling which; the row ``broken`` is no picture."""
    records = []
    for i in range(COUNT):
        pixels = np.zeros((SIZE, SIZE, 3), dtype=np.uint8)
        pixels[4:12, 4 : 6 + i % 3 * 3] = 25 * (i + 1)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        inside = pixels[..., 0].T.ravel() > 0
        edges = np.flatnonzero(np.diff(inside.astype(np.int8), prepend=0, append=0)).tolist()
        runs = np.diff([0, *edges, inside.size]).tolist()
        full = Segment(counts=[0, SIZE * SIZE], height=SIZE, width=SIZE, category="wall", is_thing=False)
        square = Segment(counts=runs, height=SIZE, width=SIZE, category="square", is_thing=True)
        records.append(
            Record(
                id=f"id{i}",
                source="test",
                images=[EncodedImage(data=b"no picture" if i == broken else file.getvalue())],
                caption=f"square {i}",
                concepts=["square", f"shade {i % 3}"],
                segments=[full, square],
            )
        )
    folder.mkdir(parents=True)
    shard = write_shard(folder / "shard.parquet", records)
    assert shard is not None
    Manifest(shards=[shard], records_by_source={"test": COUNT}, quarantined_by_reason={}).save(folder)
    return folder


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained tokenizer's run."""
    root = tmp_path_factory.mktemp("runs")
    model = {
        "image_size": SIZE,
        "encoder": {"patch_size": 4, "width": 12, "depth": 1, "num_heads": 3},
        "clustering": {"max_tokens": 5, "feature_dim": 4},
        "detokenizer": {"width": 12, "depth": 1, "num_heads": 3, "patch_size": 4},
    }
    tree = {"name": "untrained", "output_dir": str(root), "model": model, "data": {"train": [{"path": "nowhere"}]}}
    config = build(TrainConfig, tree | {"train": {"global_batch_size": 16, "micro_batch_size": 8}})
    torch.manual_seed(0)
    task = TokenizerTask(config, build_concept_encoder(config.concepts).dim)
    state = checkpoint.TrainerState(step=7, samples=0, world_size=1)
    checkpoint.save(config.run_dir, config, {"model": checkpoint.copy_weights(task)}, {}, state)
    return config.run_dir


def config_of(tmp_path: Path, run_dir: Path, data: Path, **settings: Any) -> EvaluateConfig:
    tree = {
        "name": "test",
        "output_dir": str(tmp_path),
        "checkpoint": str(run_dir),
        "data": str(data),
        "num_pictures": 6,
    }
    return build(EvaluateConfig, tree | {"batch_size": 4} | settings)


def without_run(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: figures for name, figures in metrics.items() if name != "run"}


def test_figures_do_not_depend_on_replicas(tmp_path: Path, run_dir: Path) -> None:
    data = make_set(tmp_path / "data", broken=5)
    one = evaluate(config_of(tmp_path / "one", run_dir, data))
    three = evaluate(config_of(tmp_path / "three", run_dir, data, num_replicas=3))
    assert (one["num_images"], one["num_skipped"], one["run"]["step"]) == (COUNT - 1, 1, 7)
    assert one["references"]["raw_colour"]["ari"] > one["references"]["grid"]["above"]["ari"]
    assert one["notes"] == {"foreground_ari": "no image has two objects that cover a patch"}
    assert without_run(three) == without_run(one)
    first, third = (tmp_path / name / "test" for name in ("one", "three"))
    for name in (files.IMAGES, files.PICTURES):
        assert (first / name).read_bytes() == (third / name).read_bytes()

    assert json.loads((first / files.METRICS).read_text()) == one
    pictures = tokenizer_files.read_pictures(first)
    assert [picture.kind for picture in pictures] == ["best"] * 2 + ["random"] * 2 + ["worst"] * 2
    assert "id5" not in {picture.id for picture in pictures}
    assert pictures[0].psnr >= pictures[1].psnr > pictures[-1].psnr >= pictures[-2].psnr
    assert all(picture.original.shape == (SIZE, SIZE, 3) and picture.grid == (4, 4) for picture in pictures)
    assert write_report(tmp_path / "one").is_file()

    stamp = (first / files.METRICS).stat().st_mtime_ns
    assert evaluate(config_of(tmp_path / "one", run_dir, data)) == one
    assert (first / files.METRICS).stat().st_mtime_ns == stamp


def test_a_limit_and_no_references(tmp_path: Path, run_dir: Path) -> None:
    data = make_set(tmp_path / "data")
    settings = {"limit": 3, "references": False, "num_pictures": 0}
    metrics = evaluate(config_of(tmp_path, run_dir, data, **settings))
    assert metrics["num_images"] == 3
    assert metrics["references"] == {}
    assert metrics["psnr_mean_image"] is None
    assert metrics["concept_chance"] == pytest.approx(2 / 4)
    assert concepts_of(str(data), 3) == ["shade 0", "shade 1", "shade 2", "square"]
    assert not (tmp_path / "test" / files.PICTURES).exists()


def test_what_cannot_be_is_refused(tmp_path: Path, run_dir: Path) -> None:
    data = make_set(tmp_path / "data")
    with pytest.raises(CheckpointError, match="nothing_here"):
        evaluate(config_of(tmp_path, tmp_path / "nothing_here", data))
    with pytest.raises(DataError, match="does not exist"):
        evaluate(config_of(tmp_path, run_dir, tmp_path / "no_data"))
    with pytest.raises(ConfigError, match=r"guidance=2.0 has no part in the evaluation of stage=tokenizer"):
        evaluate(config_of(tmp_path, run_dir, data, guidance=2.0))
    with pytest.raises(ConfigError, match=r"num_replicas=9 needs .* the cluster has 2"):
        evaluate(config_of(tmp_path, run_dir, data, num_replicas=9))


# ---------------------------------------------------------------- killed in the middle


def test_killed_and_gone_on_with_three_replicas(tmp_path: Path) -> None:
    """Figures and files are those of one model that nobody disturbed, and what was answered is not asked again."""
    (tmp_path / "set").mkdir()
    data = write_official_set(tmp_path / "set")
    run = write_run(tmp_path, " ".join(texts_of_set(data)), sequence__max_length=120)
    more = {"tasks": ["all"], "batch_size": 1, "max_new_tokens": 3, "num_threads": 1}
    config = config_of(tmp_path / "killed", run, data, **more)
    (tmp_path / "job.yaml").write_text(dump_config(config))
    samples = config.run_dir / SAMPLES
    kill_in_the_middle("evaluate", tmp_path / "job.yaml", once=lambda: sum(lines_of(samples).values()) >= 3)
    assert not (config.run_dir / files.METRICS).exists()
    before = lines_of(samples)
    seen: dict[str, int] = {}

    def look(self: Journal) -> None:
        if self.folder == config.run_dir.absolute() / SAMPLES:
            seen.update(lines_of(self.folder))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "clear", look)
        metrics = evaluate(config.model_copy(update={"num_replicas": 3}))
    assert 3 <= sum(before.values()) < sum(seen.values())
    assert before.items() <= seen.items(), "a file of the first start was changed"
    alone = config_of(tmp_path / "alone", run, data, **more)
    with pytest.MonkeyPatch.context() as patch:
        Here(patch)
        expected = evaluate(alone)
    assert without_run(metrics) == without_run(expected)
    assert sum(seen.values()) == sum(1 for _ in (alone.run_dir / ANSWERS).open()), "something was asked twice"
    written = [path for path in alone.run_dir.rglob("*") if path.is_file() and path.parent != alone.run_dir]
    assert len(written) > 20  # predictions and annotations
    for path in (*written, alone.run_dir / ANSWERS, alone.run_dir / EXAMPLES, alone.run_dir / "table.md"):
        assert path.read_bytes() == (config.run_dir / path.relative_to(alone.run_dir)).read_bytes(), path


def lines_of(folder: Path) -> dict[str, int]:
    """How many samples every replica has written."""
    return {path.name: path.read_bytes().count(b"\n") for path in folder.glob("*.jsonl")}
