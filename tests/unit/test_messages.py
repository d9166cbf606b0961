"""What ranks warn of is kept in the run's folder, and shown by whoever started the run."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from rich.console import Console

from ray_jobs.progress import ProgressView
from ray_jobs.training import messages
from ray_jobs.training.messages import Messages, warnings_kept

logger = logging.getLogger("ray_jobs.training.saving")


def test_warnings_come_once_and_from_all_ranks(tmp_path: Path) -> None:
    with warnings_kept(tmp_path, 10), warnings_kept(tmp_path, 2):
        logger.warning("before anyone looked")
    reader = Messages(tmp_path)
    assert reader.new() == []
    with warnings_kept(tmp_path, 2):
        logger.warning("the disk of %s\nis full", "node-1")
        logger.info("all is well")
    with warnings_kept(tmp_path, 10):
        logger.error("gone")
        logging.getLogger("elsewhere").warning("not ours")
    assert reader.new() == ["rank 2: WARNING the disk of node-1 is full", "rank 10: ERROR gone"]
    assert reader.new() == []
    logger.warning("after the end")
    assert reader.new() == []


def test_half_a_line_waits_for_its_end(tmp_path: Path) -> None:
    reader = Messages(tmp_path)
    file = tmp_path / messages.FOLDER / "rank0.log"
    file.parent.mkdir()
    file.write_text("2026-01-02 03:04:05 WARNING the")
    assert reader.new() == []
    with file.open("a") as stream:
        stream.write(" end\n2026-01-02 03:04:06 WAR")
    assert reader.new() == ["rank 0: WARNING the end"]


def test_a_rank_that_never_ends_warning_fills_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "MOST_BYTES", 500)
    with warnings_kept(tmp_path, 0):
        for _ in range(100):
            logger.warning("again")
    assert (tmp_path / messages.FOLDER / "rank0.log").stat().st_size < 600


def test_a_file_that_takes_nothing_ends_no_training(tmp_path: Path) -> None:
    (tmp_path / messages.FOLDER / "rank0.log").mkdir(parents=True)
    with warnings_kept(tmp_path, 0):
        logger.warning("no room for this")
    assert Messages(tmp_path).new() == []


def test_they_stand_between_the_lines_of_progress(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    news = [["rank 0: WARNING [a save] failed"]]
    with ProgressView(tmp_path, Console(), poll_seconds=0.01, messages=lambda: news.pop() if news else []):
        pass
    assert capsys.readouterr().out.splitlines() == ["rank 0: WARNING [a save] failed"]
