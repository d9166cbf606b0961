"""``train --verify``: what is good, what would be resumed, and an exit code for scripts."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from ray_jobs import train
from ray_jobs.training.verifying import FALLS_BACK, GOOD, NONE_GOOD, verify_run
from setok import checkpoint
from setok.checkpoint import Draft, Evaluation, Evaluations
from setok.errors import CheckpointError
from tests.checkpoints import FILES, STEPS, damage, flipped, truncated, write
from tests.fakes import train_config


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    run = str(tmp_path / "run") if request.param == "local" else request.getfixturevalue("s3_folder")
    for step in STEPS:
        write(run, step, train__loss=abs(step - 4) + 0.25)
    return run


def verified(run: str) -> tuple[int, str]:
    """Exit code and what is printed."""
    output = io.StringIO()
    return verify_run(run, Console(file=output, width=140)), output.getvalue()


def rows(text: str) -> list[list[str]]:
    """Cells of the table."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def test_all_good(run: str) -> None:
    code, text = verified(run)
    assert code == GOOD == 0
    assert len(rows(text)) == len(STEPS) * len(FILES)
    assert [row[0] for row in rows(text) if row[0]] == ["step_00000006", "step_00000004", "step_00000002"]
    assert {row[1] for row in rows(text)} == set(FILES) and {row[3] for row in rows(text)} == {"good"}
    assert "Training goes on from step_00000006, the newest one." in text
    assert "@best is step_00000004: lowest train/loss, 0.25." in text
    assert "secret" not in text, "no credentials of the address"


def test_a_checkpoint_stands_for_its_run(run: str) -> None:
    if "://" in run:
        return
    for named in (f"{run}@best", f"{run}/", f"{run}/checkpoints", f"{run}/checkpoints/step_00000004"):
        assert verified(named) == verified(run)


@pytest.mark.parametrize("named", ["", "nowhere", "nowhere/checkpoints/step_00000001", "setok/errors.py"])
def test_what_is_no_folder_is_told(named: str) -> None:
    with pytest.raises(CheckpointError, match="is no folder"):
        verified(named)


def test_the_best_is_that_of_the_evaluations(tmp_path: Path) -> None:
    """They come after the checkpoint, and have files of their own."""
    config = train_config(
        checkpoint__best_metric="eval/psnr", checkpoint__best_is="highest", validation__data=str(tmp_path / "set")
    )
    for step, psnr in zip(STEPS, (20.0, 25.5, 21.0), strict=True):
        write(tmp_path, step, config)
        evaluations = Evaluations(tmp_path)
        done = Evaluation(state="done", manifest=evaluations.contents(step), metrics={"eval/psnr": psnr})
        evaluations.write(step, done)
    code, text = verified(str(tmp_path))
    assert code == GOOD and "@best is step_00000004: highest eval/psnr, 25.5." in text
    assert checkpoint.resolve(f"{tmp_path}@best").name == "step_00000004"


def test_a_fallback(run: str) -> None:
    damage(run, 6, "model.safetensors", flipped)
    damage(run, 6, "trainer.json", None)
    damage(run, 4, "manifest.json", truncated)
    code, text = verified(run)
    assert code == FALLS_BACK == 1
    states = {(row[1], row[3]) for row in rows(text)}
    assert ("model.safetensors", "has another checksum than when it was written") in states
    assert ("trainer.json", "is missing") in states
    assert ("manifest.json", "has another checksum than when it was written") in states
    assert "Training goes on from step_00000002: step_00000006, step_00000004 cannot be used." in text
    assert "@best is step_00000002" in text


def test_none_good(run: str) -> None:
    for step in STEPS:
        damage(run, step, "model.safetensors", truncated)
    code, text = verified(run)
    assert code == NONE_GOOD == 2
    assert "None of 3 is good" in text and len(re.findall(r"has \d+ bytes instead of \d+", text)) == 3


def test_an_interrupted_save_is_named(tmp_path: Path) -> None:
    write(tmp_path, 2)
    draft = Draft(tmp_path, 4)
    draft.write_part({}, rank=0, world_size=2)
    code, text = verified(str(tmp_path))
    assert code == GOOD and "writing_step_00000004 is being written" in text
    assert "No good checkpoint says what it measured." in text


def test_the_command_needs_no_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path, 2)
    write(tmp_path, 4)
    damage(tmp_path, 4, "config.yaml", None)
    with pytest.raises(SystemExit) as ended:
        train.main(["--verify", str(tmp_path)])
    assert ended.value.code == FALLS_BACK
    with pytest.raises(CheckpointError, match=r"holds no checkpoint\n.*runs/NAME"):
        train.main(["--verify", str(tmp_path / "nothing")])
    with pytest.raises(SystemExit) as ended:
        train.main(["--verify"])
    assert ended.value.code == 2
