"""What a run needs of its nodes: each thing that is missing is refused with the node's name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ray_jobs.training import preflight
from ray_jobs.training.before_start import check_before_start
from ray_jobs.training.preflight import Answer, check_answers, check_folder, look
from setok.errors import ConfigError, DataError
from tests import squares
from tests.fakes import train_config

GOOD = Answer(node="node-0", token="abc", shared_bytes=2**30)


def test_a_folder_is_made_and_left_empty(tmp_path: Path) -> None:
    check_folder(tmp_path / "runs" / "one")
    assert list((tmp_path / "runs" / "one").iterdir()) == []


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/one cannot be written to: Not a directory[\s\S]*→ .*output_dir"):
        check_folder(tmp_path / "file" / "one")


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as root, whom no permission stops."""

    def fsync(number: int) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(ConfigError, match=r"one cannot be written to: Permission denied[\s\S]*→ check its permissions"):
        check_folder(tmp_path / "one")
    (tmp_path / ".probe-shared").write_text("abc")
    answer = look(tmp_path)
    assert (answer.token, answer.problem) == ("abc", "Permission denied")


def test_what_a_node_finds(tmp_path: Path) -> None:
    answer = look(tmp_path)
    assert answer.token is None and answer.node == os.uname().nodename
    (tmp_path / ".probe-shared").write_text("abc")
    answer = look(tmp_path)
    assert (answer.token, answer.problem) == ("abc", "")
    assert answer.shared_bytes is None or answer.shared_bytes > 0
    assert [path.name for path in tmp_path.iterdir()] == [".probe-shared"]


def test_good_answers_pass(tmp_path: Path) -> None:
    check_answers(tmp_path, "abc", [GOOD, Answer(node="mac", token="abc", shared_bytes=None)])


@pytest.mark.parametrize(
    ("answer", "problem", "remedy"),
    [
        (
            Answer(node="node-7", token=None),
            "node node-7 does not see .* local to a node, .* 2 nodes",
            "all nodes share",
        ),
        (Answer(node="node-7", token="old"), "node node-7 does not see", "all nodes share"),
        (
            Answer(node="node-7", token="abc", problem="Read-only file system"),
            "node-7 cannot write .*: Read-only",
            "access",
        ),
        (
            Answer(node="node-7", token="abc", shared_bytes=64 * 2**20),
            "/dev/shm of node node-7 holds 64 MiB, .* at least 256 MiB",
            "--shm-size",
        ),
    ],
)
def test_a_node_that_lacks_something_is_named(tmp_path: Path, answer: Answer, problem: str, remedy: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        check_answers(tmp_path, "abc", [GOOD, answer])
    assert remedy in raised.value.remedy


def test_the_least_is_more_than_a_container_has_unasked() -> None:
    assert preflight.LEAST_SHARED_BYTES > 64 * 2**20


def test_a_missing_set_is_refused_before_anything_starts(tmp_path: Path) -> None:
    """By the driver, in words: a worker's error comes late, and with a traceback around it."""
    there = squares.write_set(tmp_path / "there")
    for entries, gone in (([there, tmp_path / "gone"], "gone"), ([tmp_path / "away"], "away")):
        config = train_config(output_dir=str(tmp_path / "runs"), data={"train": [{"path": str(e)} for e in entries]})
        with pytest.raises(DataError, match=f"{gone}' does not exist(.|\n)*python -m ray_jobs.ingest"):
            check_before_start(config, None)
        assert not config.run_dir.exists(), "it has not come that far"
    check_before_start(train_config(output_dir=str(tmp_path / "runs"), data={"train": [{"path": str(there)}]}), None)
