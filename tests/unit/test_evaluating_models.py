"""What can be evaluated: exported folders, tokenizers beside Setokim, and the networks that some figures are taken with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ray_jobs import launch
from ray_jobs.evaluate import describe, evaluate, main
from ray_jobs.evaluation.trained import trained_of
from setok.errors import CheckpointError, ConfigError, SetokError
from setok.export import export_setokim, export_tokenizer
from tests.evaluations import Here
from tests.unit.test_evaluating import config_of, data, runs

__all__ = ["data", "runs"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, runs: dict[str, Path]) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("exported")
    export_tokenizer(runs["tokenizer"], root / "my-tokenizer")
    export_setokim(runs["setokim"], root / "my-setokim")
    return {"tokenizer": root / "my-tokenizer", "setokim": root / "my-setokim"}


def figures(metrics: dict[str, Any]) -> dict[str, Any]:
    """Without what an exported folder cannot know: how it was trained, and the head that scores concepts."""
    unknown = ("run", "concept_hit_rate", "concept_chance", "notes")
    return {name: value for name, value in metrics.items() if name not in unknown}


def test_exported_folders_beside_each_other(
    tmp_path: Path,
    runs: dict[str, Path],
    exported: dict[str, Path],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A folder gives what its run gives; a setting of Setokim's may be given where one stands beside a tokenizer."""
    Here(monkeypatch)
    settings = {"tasks": ["tokens", "vqa", "edit"], "max_new_tokens": 3, "num_pictures": 3}
    of_runs = config_of(tmp_path, runs["tokenizer"], data, beside=[str(runs["setokim"])], **settings)
    of_folders = config_of(
        tmp_path, exported["tokenizer"], data, beside=[str(exported["setokim"])], name="f", **settings
    )
    expected, found = (list(evaluate(config)["checkpoints"].values()) for config in (of_runs, of_folders))
    assert [one["run"]["tasks"] for one in found] == [["tokens"], ["vqa", "edit"]]
    assert [one["run"]["step"] for one in found] == [None, None]
    for own, other in zip(expected, found, strict=True):
        assert json.loads(json.dumps(figures(other))) == json.loads(json.dumps(figures(own)))
    page = (of_folders.run_dir / "report.html").read_text()
    assert "my-tokenizer" in page and "my-setokim" in page
    again = of_folders.model_copy(update={"max_new_tokens": 4})
    with pytest.raises(ConfigError, match="my-setokim holds a finished evaluation of something else: max_new_tokens"):
        evaluate(again)  # the tokenizer's own evaluation would stand


def test_exported_folders_that_cannot_be_evaluated(tmp_path: Path, exported: dict[str, Path], data: Path) -> None:
    with pytest.raises(ConfigError, match=r"weights=raw has no part in .*my-tokenizer"):
        describe(config_of(tmp_path, exported["tokenizer"], data, weights="raw", max_new_tokens=64))
    first = trained_of(str(exported["setokim"])).fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(exported["setokim"], copy)
    assert trained_of(str(copy)).fingerprint == first
    weights = copy / "setok" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"setok/model\.safetensors cannot be read"):
        trained_of(str(copy))
    (copy / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(CheckpointError, match=r"type 'llama', which is neither(.|\n)*that setok\.export wrote"):
        trained_of(str(copy))
    (copy / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        trained_of(str(copy))


def test_what_fits_none_of_several(tmp_path: Path, runs: dict[str, Path], data: Path) -> None:
    both = {"beside": [str(runs["setokim"])], "max_new_tokens": 3}
    with pytest.raises(
        ConfigError, match=r"none of the tasks takes .*tokenizer, which is of stage=tokenizer(.|\n)*: tokens"
    ):
        describe(config_of(tmp_path, runs["tokenizer"], data, tasks=["vqa"], **both))
    with pytest.raises(ConfigError, match=r"none of the tasks takes .*tokenizer, which is of stage=tokenizer"):
        describe(config_of(tmp_path, runs["tokenizer"], data, tasks=["questions"]))
    describe(config_of(tmp_path, runs["tokenizer"], data, tasks=["tokens", "questions"], **both))


# ---------------------------------------------------------------- networks


def wrong_lpips(path: Path) -> None:
    save_file({"features.0.weight": torch.zeros(3)}, path)


def wrong_inception(path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(3)}, path)


def no_weights(path: Path) -> None:
    path.write_bytes(b"weights, so they say")


def empty_folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "write", "told"),
    [
        ("lpips", wrong_lpips, r"networks\.lpips: .*net hold\(s\) no LPIPS on VGG16"),
        ("lpips", no_weights, r"networks\.lpips: .*net cannot be read"),
        ("inception", wrong_inception, r"networks\.inception: .*net holds no Inception of FID"),
        ("inception", no_weights, r"networks\.inception: .*net cannot be read as weights"),
        ("clip", empty_folder, r"networks\.clip: .*net has no config\.json"),
        ("dino", empty_folder, r"networks\.dino: .*net has no config\.json"),
    ],
)
def test_networks_that_do_not_fit_are_seen_before_anything_is_asked(
    tmp_path: Path, runs: dict[str, Path], data: Path, name: str, write: Any, told: str
) -> None:
    write(tmp_path / "net")
    task, run = ("reconstruction", "tokenizer") if name in ("lpips", "inception") else ("editing", "setokim")
    networks = {name: str(tmp_path / "net")} | ({"variant": "pytorch-fid"} if name == "inception" else {})
    with pytest.raises(SetokError, match=told) as caught:
        describe(config_of(tmp_path, runs[run], data, tasks=[task], networks=networks))
    assert "loss.perceptual_path" not in str(caught.value)


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        ((), "--checkpoints RUN and --data SET must be given"),
        (("--checkpoints", "runs/a"), "named: --data SET must be given"),
        (("--set", "data=x", "--dry-run"), "named: --checkpoints RUN must be given"),
    ],
)
def test_what_nobody_named_is_asked_for(monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], lacking: str) -> None:
    monkeypatch.setattr("sys.argv", ["evaluate", *given])
    with pytest.raises(ConfigError, match=lacking) as caught:
        main()
    assert "data/test" not in str(caught.value)


def test_the_terminal_names_checkpoints_as_the_table_does(
    tmp_path: Path,
    runs: dict[str, Path],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Here(monkeypatch)
    given = ("--checkpoints", str(runs["tokenizer"]), "--data", str(data), "--limit", "3")
    monkeypatch.setattr("sys.argv", ["evaluate", *given, "--set", f"output_dir={tmp_path}", "num_threads=1"])
    launch.console.cache_clear()  # the one of before writes where the test before was captured
    main()
    launch.console.cache_clear()
    printed = capsys.readouterr().out.splitlines()
    table = (tmp_path / "evaluate" / "table.md").read_text().splitlines()
    assert printed[0].split() == table[0].strip("| ").split(" | ") == ["task", "figure", "tokenizer"]
