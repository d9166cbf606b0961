"""Which clusterings a threshold sweep goes through, and how its figures add up."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ray_jobs import sweep_thresholds as command
from ray_jobs.evaluation.thresholds import SETTINGS, ThresholdReplica, ThresholdRows, ThresholdTask
from ray_jobs.evaluation.tokenizer_replica import score_reconstruction
from ray_jobs.reporting.thresholds import FIGURES, render_thresholds
from ray_jobs.sweep_thresholds import settings_of
from setok.config import ClusteringConfig, ThresholdsConfig, TokenizerConfig, build
from setok.errors import ConfigError, DataError
from setok.metrics import scoring
from setok.metrics.running import INDEX, ImageRows
from tests.pages import check
from tests.untrained import predictor_of, scenes_batch

TRAINED = ClusteringConfig.model_validate({"feature_dim": 8, "max_tokens": 6, "sharpness": 3.0, "split_regions": 2})


def config(**changes: Any) -> ThresholdsConfig:
    tree = {"name": "x", "checkpoint": "runs/x", "data": "d", "vary": "stop_mass", "over": {"values": [1.0, 2.0]}}
    return build(ThresholdsConfig, tree | changes)


def test_everything_else_stays_as_it_was_trained() -> None:
    found = settings_of(config(), TRAINED)
    assert found == [TRAINED.model_copy(update={"stop_mass": value}) for value in (1.0, 2.0)]


def test_another_method_takes_over_what_it_uses() -> None:
    asked = config(
        clustering={"method": "dpc_knn"}, vary="score_threshold", over={"low": 0.0, "high": 1.0, "num_points": 5}
    )
    found = settings_of(asked, TRAINED)
    assert [one.score_threshold for one in found] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert {(one.method, one.feature_dim, one.max_tokens, one.split_regions) for one in found} == {("dpc_knn", 8, 6, 2)}
    tuned = TRAINED.model_copy(update={"num_neighbors": 9})
    graph = config(clustering={"method": "cosine_graph"}, vary="similarity_threshold", over={"values": [0.5]})
    assert settings_of(graph, tuned)[0].method == "cosine_graph"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"vary": "score_threshold"}, "belongs to dpc_knn"),
        ({"over": {"values": [-1.0]}}, "greater than or equal to 0"),
        ({"clustering": {"method": "kmeans"}, "vary": "max_tokens", "over": {"values": [3]}}, "no threshold"),
        ({"clustering": {"method": "dpc_knn"}}, "dpc_knn does not read vary=stop_mass(.|\\n)*score_threshold"),
        ({"clustering": {"method": "cosine_graph"}, "vary": "sharpness"}, "does not read vary=sharpness"),
        (
            {"clustering": {"method": "dpc_knn", "num_clusters": 3}, "vary": "score_threshold"},
            "num_clusters=3 ignores vary=score_threshold",
        ),
        ({"clustering": {"stop_mass": 3.0}}, "clustering sets stop_mass(.|\\n)*leave stop_mass out"),
        ({"clustering": {"feature_dim": 4}}, "leave feature_dim out"),
        ({"clustering": {"sharpnes": 4}}, "sharpnes|[Ee]xtra"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        settings_of(config(**changes), TRAINED)


def test_a_set_that_is_not_there_is_refused_by_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = TokenizerConfig.model_validate({"clustering": TRAINED.model_dump()})
    trained = SimpleNamespace(model=model)
    monkeypatch.setattr(command, "tokenizer_of", lambda config: trained)
    with pytest.raises(DataError, match="nope"):
        command.describe(config(data=str(tmp_path / "nope")))


def test_a_range_needs_its_number_of_values() -> None:
    with pytest.raises(ConfigError, match="num_points: 200"):
        config(over={"low": 0.0, "high": 1.0})


def test_figures_of_every_setting_are_those_of_an_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that come in parts, in another order, from outcomes that stand for several settings."""
    model = TokenizerConfig.model_validate(
        {
            "image_size": 32,
            "encoder": {"patch_size": 4, "width": 24, "depth": 1, "num_heads": 3},
            "clustering": TRAINED.model_dump(),
            "merger": {"num_heads": 3},
            "detokenizer": {"width": 24, "depth": 1, "num_heads": 3},
        }
    )
    predictor, batch = predictor_of(model), scenes_batch(6, size=32)
    settings = settings_of(config(over={"values": [0.0, 2.0, 2.1, 20.0, 64.0]}), TRAINED)
    monkeypatch.setattr("ray_jobs.evaluation.thresholds.TokenizerPredictor.from_checkpoint", lambda *_, **__: predictor)
    monkeypatch.setattr("ray_jobs.evaluation.thresholds.rows_to_batch", lambda rows: rows["batch"])
    task = ThresholdTask(
        path="p", device="cpu", weights="ema", sampling_steps=None, settings=tuple(settings), num_threads=1
    )
    replica, gathered = ThresholdReplica(task), ThresholdRows(len(settings))
    from setok.predictor.thresholds import take

    num_outcomes = 0
    for part in ([4, 5], [0, 1, 2], [3]):
        rows = replica({INDEX: np.array(part), "batch": take(batch, part)})
        num_outcomes += len(rows[SETTINGS])
        gathered.update(rows)
    assert num_outcomes < len(settings) * len(batch), "some settings come to the same"
    for number, setting in enumerate(settings):
        alone = ImageRows()
        columns = score_reconstruction(batch, predictor.reconstruct(batch, clustering=setting))
        alone.update({INDEX: np.arange(6), scoring.VALID: batch.valid.numpy(), **columns})
        expected, found = scoring.summarise(alone), gathered.summarise(number)
        assert found["num_images"] == 5
        for name in FIGURES:
            assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), (name, setting.stop_mass)


def test_the_page_is_well_formed(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {name: [0.1 * row for row in range(100)] for name in FIGURES}
    columns["stop_mass"] = [float(row) for row in range(100)]
    columns["ari"] = [None] * 100
    asked = config(title="<b>&", data="<script>")
    page = check(render_thresholds(asked, columns, num_images=1000, seconds=61.0, trained_value=2.0))
    assert page.unlabelled == [] and page.loads == []
    assert "100 values of stop mass" in page.text and "trained with 2" in page.text
    assert page.tags.count("svg") == len(FIGURES) - 1 + 4
    assert 20 <= page.tags.count("tr") <= 30
