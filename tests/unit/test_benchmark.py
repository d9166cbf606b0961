"""The benchmark measures what it says: its loop makes the same tokens, and its table holds every part."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ray_jobs import benchmark
from ray_jobs.benchmarks import tokenizer as benchmark_tokenizer
from ray_jobs.benchmarks.loop import tokens_by_loops
from setok.config import ClusteringConfig, MergerConfig
from setok.errors import ConfigError, TrainingError
from setok.models.merger import TokenMerger
from setok.models.tokenizer import ClusteringHead


def test_demo_size_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "new" / "figures.json"
    benchmark.main(["tokenizer", "--batch", "1,2", "--repeats", "1", "--threads", "1", "--output", str(file)])
    saved = json.loads(file.read_text())
    assert [row["batch"] for row in saved["rows"]] == [1, 2]
    for row in saved["rows"]:
        assert (row["patches"], row["width"]) == (256, 96)
        assert 1 < row["tokens"] <= 12
        spent = row["encoder"] + row["clustering"] + row["merger"]
        assert row["images_per_second"] == pytest.approx(row["batch"] / spent)
        assert row["over_encoder"] == pytest.approx(spent / row["encoder"])
        assert row["over_loop"] == pytest.approx(row["loop"] / (row["clustering"] + row["merger"]))
        assert row["milliseconds_per_image"] == pytest.approx(1000 * (row["clustering"] + row["merger"]) / row["batch"])
        assert sum(part["share"] for part in row["parts"].values()) == pytest.approx(1)
        for name in ("encoder", "clustering", "merger"):
            assert row["parts"][name]["images_per_second"] == pytest.approx(row["batch"] / row[name])
    assert saved["machine"]["device"] and saved["machine"]["threads"] == 1
    out = capsys.readouterr().out
    assert "| demo | 2 |" in out and "ms/image" in out


def test_references_can_be_left_out_at_large_batches(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tokenizer", "--batch", "1,3", "--repeats", "1", "--threads", "1", "--references-up-to", "2"]
    benchmark.main(arguments)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| demo |")]
    assert "–" not in rows[0] and rows[1].count("–") == 3  # encoder, × encoder, × loop


@pytest.mark.parametrize("stop_mass", [2.0, 20.0])
def test_loop_makes_the_same_tokens(stop_mass: float) -> None:
    config = ClusteringConfig(sharpness=4.0, max_tokens=6, stop_mass=stop_mass)
    head = ClusteringHead(config, 16)
    merger = TokenMerger(MergerConfig(num_heads=2), 16, 16)
    features = benchmark_tokenizer.planted(3, (6, 7), 16, 5, torch.Generator().manual_seed(0))
    with torch.no_grad():
        clusters = head(features)[0]
        weights = clusters.pooling_weights("soft")
        tokens = merger(features, clusters.assignment, weights, clusters.mask, (6, 7))
        for image, own in enumerate(tokens_by_loops(head, merger, features, (6, 7))):
            torch.testing.assert_close(tokens[image, clusters.mask[image]], own, atol=1e-5, rtol=1e-5)


def test_a_loop_that_disagrees_stops_the_benchmark() -> None:
    bench = benchmark_tokenizer.Bench(
        "demo", torch.device("cpu"), torch.float32, with_encoder=False, clock=benchmark_tokenizer.CLOCKS["wall"]
    )
    with pytest.raises(TrainingError, match=r"image 0: the loop's 3 tokens are not the 2"):
        bench._same(torch.zeros(1, 4, 8), torch.tensor([[True, True, False, False]]), [torch.zeros(3, 8)])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "8,x"], "--batch 8,x"),
        (["--repeats", "0"], "--repeats 0"),
        (["--parts", "encoder"], "--parts encoder is unknown"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        benchmark.main(["tokenizer", *arguments])


def test_loop_says_what_it_cannot_do() -> None:
    head = ClusteringHead(ClusteringConfig(method="dpc_knn"), 16)
    with pytest.raises(ConfigError, match="not soft dpc_knn"):
        tokens_by_loops(head, TokenMerger(MergerConfig(num_heads=2), 16, 16), torch.randn(1, 4, 16), (2, 2))
