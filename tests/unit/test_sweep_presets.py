"""Every trial of the comparisons that ship with the package trains."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from ray_jobs.train import train
from ray_jobs.training.tracking import read_metrics
from ray_jobs.tuning.space import known_values, train_config
from setok.config import TuneConfig, load_config
from tests import squares

COMPARISONS = {"sweep_ablations": ("ablation", 7), "sweep_tokenizers": ("tokenizer", 8)}
SMALL = (
    "train.model.image_size=32",
    "train.train.steps=2",
    "train.train.global_batch_size=4",
    "train.train.micro_batch_size=4",
    "train.checkpoint.every=2",
    "train.logging.tensorboard=false",
    "train.train.log_every=1",
)
CASES = [
    (preset, name)
    for preset, (key, _) in COMPARISONS.items()
    for name in load_config(TuneConfig, preset).space[key].variants
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares.write_set(tmp_path_factory.mktemp("squares") / "data")


def test_all_comparisons_are_here() -> None:
    for preset, (key, count) in COMPARISONS.items():
        sweep = load_config(TuneConfig, preset)
        assert len(sweep.space[key].variants) == count
        assert len(known_values(sweep)) == 3 * count, "three seeds each"
        assert sweep.average_over == ("seed",)


@pytest.mark.parametrize(("preset", "name"), CASES)
def test_every_variant_takes_steps(data: Path, tmp_path: Path, preset: str, name: str) -> None:
    paths = (f"train.data.train=[{{path: {data}}}]", f"train.validation.data={data}")
    # At half the side there are a quarter of the patches.
    sweep = load_config(TuneConfig, preset, [*SMALL, *paths])
    values = {COMPARISONS[preset][0]: name, "seed": 0}
    run = train(train_config(sweep, values, name="trial", output_dir=str(tmp_path)))
    rows = read_metrics(run)
    assert [row["step"] for row in rows] == [1, 2]
    assert all(math.isfinite(row["train/loss"]) for row in rows)
    assert rows[-1]["eval/psnr"] > 0
    tokens = rows[-1]["eval/mean_tokens"]
    fixed = {"k-means": 5, "grid": 5, "resampler": 5, "all patches": 64}
    assert tokens == fixed.get(name, tokens) >= 1
