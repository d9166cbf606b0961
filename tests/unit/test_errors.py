"""Errors say what happened and what to do, also after a trip between processes."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from setok.errors import CheckpointError, ConfigError, DataError, SetokError, TrainingError, did_you_mean, how_to_get

ERRORS = [SetokError, ConfigError, DataError, CheckpointError, TrainingError]


@pytest.mark.parametrize("kind", ERRORS)
def test_problem_and_remedy_survive_pickling(kind: type[SetokError]) -> None:
    error = pickle.loads(pickle.dumps(kind("steps=0 is too few", "use 1 or more")))
    assert type(error) is kind
    assert (error.problem, error.remedy) == ("steps=0 is too few", "use 1 or more")
    assert str(error) == "steps=0 is too few\n  → use 1 or more"


@pytest.mark.parametrize("kind", ERRORS)
def test_all_are_caught_as_one(kind: type[SetokError]) -> None:
    with pytest.raises(SetokError, match="steps=0"):
        raise kind("steps=0 is too few")


def test_without_a_remedy_there_is_no_arrow() -> None:
    assert str(SetokError("it broke")) == "it broke"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("stpes", "did you mean 'steps'?"),
        ("num_token", "did you mean 'num_tokens' or 'max_tokens'?"),
        ("STEPS", "did you mean 'steps'?"),
        ("zebra", "choose one of: max_tokens, num_tokens, steps"),
    ],
)
def test_did_you_mean_names_the_closest_or_all(name: str, expected: str) -> None:
    assert did_you_mean(name, {"steps", "num_tokens", "max_tokens"}) == expected


def test_a_missing_model_is_told_by_what_its_name_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "words").mkdir(parents=True)

    def told(path: str, hub_id: str | None = None) -> str:
        return how_to_get(path, "config.json", setting="model.path", hub_id=hub_id)

    assert told("runs/words") == "point model.path to a folder with config.json"
    for local in ("runs/wrods", "/nowhere/words", "./words", "~/words"):
        assert told(local).startswith("there is no such folder: set model.path"), local
    assert "hf download org/model --local-dir" in told("org/model")
    assert "hf download gpt2 --local-dir" in told("gpt2")
    assert "hf download timm/vit --local-dir" in told("vit", hub_id="timm/vit")
