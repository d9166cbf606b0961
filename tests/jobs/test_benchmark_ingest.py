"""The benchmark of reading: all three ways see the same pictures, and the figures belong together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ray_jobs import benchmark
from ray_jobs.benchmarks import ingest as benchmark_ingest
from setok.data.images import decode_and_resize, decode_image
from setok.errors import ConfigError


@pytest.fixture(scope="module")
def photographs() -> list[bytes]:
    generator = np.random.default_rng(0)
    return [benchmark_ingest.photograph(generator) for _ in range(6)]


def test_photographs_are_like_those_of_a_camera(photographs: list[bytes]) -> None:
    for data in photographs:
        assert 80_000 < len(data) < 160_000
        pixels = decode_image(data)
        assert pixels.shape == (480, 640, 3)
        assert 25 < pixels.std() < 80
        red, green = (pixels[..., channel].ravel().astype(float) for channel in (0, 1))
        assert np.corrcoef(red, green)[0, 1] > 0.7
    assert len(set(photographs)) == 6


@pytest.mark.usefixtures("ray_local")
def test_small_run(photographs: list[bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, data in enumerate(photographs):
        (tmp_path / f"{number}.jpg").write_bytes(data)
    file = tmp_path / "new" / "figures.json"
    numbers = ["--size", "32", "--batch", "4", "--batches", "8", "--repeats", "1"]
    benchmark.main(["ingest", "--images", str(tmp_path), *numbers, "--output", str(file)])
    figures = json.loads(file.read_text())["figures"]
    assert figures["images"] == 32
    assert figures["mean_bytes"] == pytest.approx(np.mean([len(data) for data in photographs]))
    assert figures["per_core"] == figures["training_data"] > 0
    assert figures["over_data_loader"] == pytest.approx(figures["training_data"] / figures["data_loader"])
    assert figures["of_bare_decoding"] == pytest.approx(figures["training_data"] / figures["bare_decoding"])
    assert figures["first_batch_seconds"] > 0 and figures["plan_seconds"] > 0
    assert "torch DataLoader with Pillow" in capsys.readouterr().out


def test_the_loader_makes_the_same_pictures(photographs: list[bytes], tmp_path: Path) -> None:
    benchmark_ingest.write_set(tmp_path, photographs)
    files = benchmark_ingest._Files(sorted(tmp_path.glob("*.jpg")), 384)
    for number, data in enumerate(photographs):
        ours = torch.from_numpy(decode_and_resize(data, 384)).float()
        assert files[number].shape == ours.shape
        assert files[number].dtype == torch.uint8
        assert (files[number].float() - ours).abs().mean() < 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "--batch 0"),
        (["--cores", "100000"], "--cores 100000: this machine has"),
        (["--images", "nowhere"], "--images nowhere: no .jpg"),
    ],
)
@pytest.mark.usefixtures("ray_local")
def test_wrong_arguments_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmark.main(["ingest", *arguments])
