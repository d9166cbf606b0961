"""A threshold sweep on Ray gives, at the trained value, what the evaluation of the same checkpoint gives."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ray_jobs.benchmarks.fault_run import small_run
from ray_jobs.evaluation.here import measure_here
from ray_jobs.reporting.thresholds import FIGURES
from ray_jobs.sweep_thresholds import sweep_thresholds
from ray_jobs.train import train
from setok.config import EvaluateConfig, ThresholdsConfig, build
from setok.export import export_tokenizer
from tests import squares


def test_a_sweep_over_thresholds_and_an_evaluation_agree(ray_local: None, tmp_path: Path) -> None:
    data = squares.write_set(tmp_path / "data")
    run = train(small_run(data, tmp_path, "run", scaling={"num_workers": 0}, train={"steps": 30}))
    sweep = {
        "name": "sweep",
        "output_dir": str(tmp_path),
        "checkpoint": str(run),
        "data": str(data),
        "vary": "stop_mass",
        "over": {"low": 0.0, "high": 8.0, "num_points": 33},
        "batch_size": 5,
        "num_replicas": 2,
    }
    config = build(ThresholdsConfig, sweep)
    table = sweep_thresholds(config).to_pydict()
    assert table["stop_mass"][0] == 0.0 and table["stop_mass"][-1] == 8.0 and len(table["stop_mass"]) == 33
    asked = {"name": "e", "checkpoint": str(run), "data": str(data), "references": False}
    for threshold, changes in ((2.0, {}), (2.0, {"stop_mass": 2.0}), (7.0, {"stop_mass": 7.0})):
        alone = measure_here(build(EvaluateConfig, asked | {"clustering": changes}))
        row = table["stop_mass"].index(threshold)
        assert table["num_images"][row] == alone["num_images"] > 0
        figures = {name: alone[name] for name in FIGURES}
        assert {name for name, value in figures.items() if value is None} == {
            name for name in FIGURES if table[name][row] is None
        }, "what the set has no truth for is known to neither"
        for name, value in figures.items():
            if value is not None:
                assert table[name][row] == pytest.approx(value, rel=1e-4, abs=1e-6), (name, threshold)
    export_tokenizer(run, exported := tmp_path / "exported")
    again = sweep_thresholds(build(ThresholdsConfig, sweep | {"name": "again", "checkpoint": str(exported)}))
    assert again.to_pydict() == table, "what is exported is the same tokenizer"
    assert pq.read_table(config.run_dir / "thresholds.parquet").num_rows == 33
    assert "33 values" in (config.run_dir / "report.html").read_text()
