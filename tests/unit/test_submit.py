"""The same run sent again, its log and its end; with a cluster that is faked."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_jobs import submit
from ray_jobs.launch import EXIT_INTERRUPTED, EXIT_STOPPED
from ray_jobs.submitting import cluster
from ray_jobs.submitting.package import CONFIG
from ray_jobs.submitting.request import Request
from setok.config import TrainConfig, build
from setok.errors import ConfigError
from tests.submitted import FakeClient, folder, job, request

__all__ = ["folder"]

# ---------------------------------------------------------------- the same run again


def test_a_new_run_is_sent_under_a_name_that_says_what_it_is(tmp_path: Path) -> None:
    client, asked = FakeClient(job("other", "RUNNING")), request()
    assert cluster.submit(client, asked, tmp_path / "p.zip") == cluster.Submission(id="train-fake", is_new=True)
    (sent,) = client.sent
    assert sent["runtime_env"] == {"working_dir": str(tmp_path / "p.zip"), "env_vars": asked.environment}
    assert sent["metadata"] == {"setok_run": "train:/shared/runs/fake", "setok_settings": asked.settings}


def test_a_run_that_has_ended_is_sent_again_under_the_next_name(tmp_path: Path) -> None:
    asked = request()
    ended = [job("train-fake", "FAILED", asked.metadata), job("train-fake-2", "STOPPED", asked.metadata)]
    assert cluster.submit(FakeClient(*ended), asked, tmp_path).id == "train-fake-3"


def test_a_run_that_goes_on_is_followed(tmp_path: Path) -> None:
    client = FakeClient(job("train-fake", "RUNNING", request().metadata))
    assert cluster.submit(client, request(), tmp_path) == cluster.Submission(id="train-fake", is_new=False)
    assert client.sent == []


def test_a_run_that_goes_on_with_other_settings_is_refused(tmp_path: Path) -> None:
    client = FakeClient(job("train-fake", "PENDING", request().metadata))
    with pytest.raises(ConfigError, match="is going on as train-fake, with other settings") as raised:
        cluster.submit(client, request(seed=7), tmp_path)
    assert "ray job stop train-fake" in raised.value.remedy and "name=fake-2" in raised.value.remedy
    elsewhere = build(TrainConfig, request().config.model_dump() | {"output_dir": "/other"})
    other = Request(job="train", config=elsewhere, environment={})
    assert cluster.submit(client, other, tmp_path).id == "train-fake-2", "another folder is another run"


# ---------------------------------------------------------------- the log and the end


def test_a_log_comes_once_though_the_connection_breaks() -> None:
    client = FakeClient(connections=[["one\n", "tw", RuntimeError("closed")], ["one\ntwo\n", "three\n"]])
    client.infos = [job("a", "RUNNING"), job("a", "SUCCEEDED")]
    written: list[str] = []
    assert cluster.follow(client, "a", written.append, sleep=lambda seconds: None) == 0
    assert "".join(written) == "one\ntwo\nthree\n"


def test_a_cluster_that_is_gone_is_given_up() -> None:
    client = FakeClient(connections=[[ConnectionError("refused")] for _ in range(1000)])
    client.infos = [ConnectionError("refused") for _ in range(1000)]
    waited: list[float] = []
    with pytest.raises(ConfigError, match=r"cannot be reached any more: refused[\s\S]*the same command follows"):
        cluster.follow(client, "a", lambda text: None, sleep=waited.append)
    assert sum(waited) == pytest.approx(cluster.PATIENCE_SECONDS, abs=3)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 2, 2),
        ("FAILED", 75, EXIT_STOPPED),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, EXIT_STOPPED),
    ],
)
def test_exit_codes(status: str, code: int | None, expected: int) -> None:
    assert cluster.exit_code(job("a", status, driver_exit_code=code)) == expected


def test_the_command_from_end_to_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    client = FakeClient(connections=[["step 1\n"]])
    client.infos = [
        job("train-tokenizer", "FAILED", driver_exit_code=2),
        job("a", "FAILED", message="the reason, last available logs (truncated to 20,000 chars):\nmore"),
    ]
    seen: list[Any] = []

    def submit_job(**sent: Any) -> str:
        with zipfile.ZipFile(sent["runtime_env"]["working_dir"]) as archive:
            seen.append(yaml.safe_load(archive.read(CONFIG)))
        return "train-tokenizer"

    client.submit_job = submit_job  # type: ignore[method-assign]
    monkeypatch.setattr(cluster, "connect", lambda address: client)
    with pytest.raises(SystemExit) as ended:
        submit.main(["--config", "tokenizer", "--set", "train.steps=3"])
    assert ended.value.code == 2
    assert seen[0]["train"]["steps"] == 3 and seen[0]["output_dir"] == str(folder / "runs")
    shown = capsys.readouterr()
    assert "step 1" in shown.out
    assert shown.err.replace("\n", " ").endswith("failed with exit code 2. the reason ")


def test_ctrl_c_leaves_the_job_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    client = FakeClient(connections=[["step 1\n", KeyboardInterrupt()]])  # type: ignore[list-item]
    monkeypatch.setattr(cluster, "connect", lambda address: client)
    with pytest.raises(SystemExit) as ended:
        submit.main(["--config", "tokenizer"])
    assert ended.value.code == EXIT_INTERRUPTED
    told = capsys.readouterr().err
    assert (
        "train-tokenizer goes on" in told and "ray job stop train-tokenizer" in told and "runs/tokenizer/stop" in told
    )
