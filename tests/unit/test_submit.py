"""What is sent to a cluster, under which name, and how its end is told; with a cluster that is faked."""

from __future__ import annotations

import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from ray_jobs import submit
from ray_jobs.launch import EXIT_INTERRUPTED, EXIT_STOPPED
from ray_jobs.submitting import cluster, package
from ray_jobs.submitting.package import CONFIG, collect, write_zip
from ray_jobs.submitting.paths import check_paths, with_paths_of_here
from ray_jobs.submitting.request import Request, environment_of
from setok.config import (
    EvaluateConfig,
    PipelineConfig,
    TrainConfig,
    build,
    dump_config,
    list_presets,
    load_any_config,
    load_config,
)
from setok.errors import ConfigError
from tests.fakes import train_config


class Status:
    def __init__(self, value: str) -> None:
        self.value = value

    def is_terminal(self) -> bool:
        return self.value in {"SUCCEEDED", "FAILED", "STOPPED"}


def job(name: str, status: str, metadata: dict[str, str] | None = None, **more: Any) -> SimpleNamespace:
    fields = {"driver_exit_code": None, "message": "", **more}
    return SimpleNamespace(submission_id=name, status=Status(status), metadata=metadata, **fields)


class FakeClient:
    """A cluster with some jobs; connections give their parts of a log, an exception breaking one off."""

    def __init__(self, *jobs: SimpleNamespace, connections: list[list[str | Exception]] | None = None) -> None:
        self.jobs = list(jobs)
        self.sent: list[dict[str, Any]] = []
        self.connections = connections or []
        self.infos: list[Any] = []

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.jobs

    def submit_job(self, **sent: Any) -> str:
        self.sent.append(sent)
        return str(sent["submission_id"])

    def get_job_info(self, job_id: str) -> Any:
        info = self.infos.pop(0)
        if isinstance(info, Exception):
            raise info
        return info

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for part in self.connections.pop(0):
            if isinstance(part, BaseException):
                raise part
            yield part


def request(**changes: Any) -> Request:
    config = train_config(output_dir="/shared/runs", **changes)
    return Request(job="train", config=config, environment=environment_of([]))


# ---------------------------------------------------------------- the package


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with what must travel, and what must not."""
    stays = (
        "runs/a/model data/x.parquet .venv/bin/python .git/HEAD setok/__pycache__/a.pyc .env secret.pem weights/w.bin"
    )
    travels = "setok/data/plan.py ray_jobs/train.py README.md tests/data/x.txt"
    for name in f"{stays} {travels}".split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".gitignore").write_text("weights/\n")
    return tmp_path


def test_code_travels_and_nothing_else(folder: Path) -> None:
    assert list(collect(folder).sizes) == sorted(
        [".gitignore", "README.md", "ray_jobs/train.py", "setok/data/plan.py", "tests/data/x.txt"]
    )
    (folder / ".rayignore").write_text("README.md\n")
    assert list(collect(folder, ["tests"]).sizes) == sorted(
        [".gitignore", ".rayignore", "ray_jobs/train.py", "setok/data/plan.py"]
    )


def test_the_repository_itself_is_small_and_complete(repo_root: Path) -> None:
    found = collect(repo_root)
    for name in ("setok/presets/tokenizer.yaml", "ray_jobs/train.py", "setok/data/plan.py", "constraints.txt"):
        assert name in found.sizes
    assert found.num_bytes < 20e6
    assert not [name for name in found.sizes if name.startswith((".venv", ".git/", "runs/"))]


def test_too_much_is_refused_with_the_largest_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "setok" / "model.safetensors").write_bytes(b"x" * 3_000_000)
    monkeypatch.setattr(package, "MOST_BYTES", 2_000_000)
    with pytest.raises(
        ConfigError, match=r"3\.0 MB in 6 files, and 2 MB may travel[\s\S]*3\.0 MB  setok/model\.saf"
    ) as raised:
        collect(folder)
    assert "--exclude" in raised.value.remedy
    assert collect(folder, ["*.safetensors"]).num_bytes < 1000


def test_a_folder_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere is no folder[\s\S]*--working-dir"):
        collect(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no file of"):
        collect(tmp_path)


def test_the_same_files_make_the_same_package(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("out")
    (folder / CONFIG).write_text("of an earlier submission")
    write_zip(collect(folder), "job: train\n", out / "1.zip")
    (folder / "README.md").touch()
    write_zip(collect(folder), "job: train\n", out / "2.zip")
    assert (out / "1.zip").read_bytes() == (out / "2.zip").read_bytes()
    with zipfile.ZipFile(out / "1.zip") as archive:
        assert archive.read(CONFIG) == b"job: train\n"
        assert archive.read("setok/data/plan.py") == b"setok/data/plan.py"


# ---------------------------------------------------------------- paths


def test_paths_are_made_absolute_for_a_cluster_of_this_machine(tmp_path: Path) -> None:
    config = load_config(PipelineConfig, "demo")
    moved = with_paths_of_here(config, tmp_path)
    assert moved.run_dir == tmp_path / "runs" / "demo"
    assert moved.tokenizer.data.train[0].path == str(tmp_path / "runs/demo/data/plain-train")
    assert moved.words is not None and moved.words.sets[0].startswith(str(tmp_path))
    assert "runs/demo" not in dump_config(moved).replace(str(tmp_path / "runs/demo"), "")
    check_paths(moved, tmp_path)


def test_addresses_and_names_on_a_hub_stay(tmp_path: Path) -> None:
    config = load_config(
        TrainConfig, "pretrain", ["data.train.0.path=s3://bucket/captions", "checkpoint.store=gs://b/c"]
    )
    moved = with_paths_of_here(config, tmp_path)
    assert moved.data.train[0].path == "s3://bucket/captions" and moved.checkpoint.store == "gs://b/c"
    assert moved.setokim is not None and moved.setokim.language_model.path == "lmsys/vicuna-7b-v1.5"
    (tmp_path / "lmsys" / "vicuna-7b-v1.5").mkdir(parents=True)
    moved = with_paths_of_here(config, tmp_path)
    assert moved.setokim is not None and moved.setokim.language_model.path == str(tmp_path / "lmsys/vicuna-7b-v1.5")


def test_relative_paths_are_refused_for_other_machines(tmp_path: Path) -> None:
    config = load_config(EvaluateConfig, "evaluate", ["checkpoint=/shared/runs/a"])
    with pytest.raises(ConfigError, match=r"output_dir=runs, data=data/test[\s\S]*→ give them as the nodes see them"):
        check_paths(config, tmp_path)
    check_paths(
        load_config(EvaluateConfig, "evaluate", ["checkpoint=/s/a", "data=s3://b/c", "output_dir=/s"]), tmp_path
    )
    frozen = ["optim.learning_rate_scale={encoder: 0}", "output_dir=/s", "data.train.0.path=/s/data"]
    kept = load_config(TrainConfig, "tokenizer", [*frozen, "data.features=kept"])
    with pytest.raises(ConfigError, match=r"data.features=kept\n"):
        check_paths(kept, tmp_path)


def test_every_preset_names_its_job(tmp_path: Path) -> None:
    jobs = {name: load_any_config(name) for name in list_presets()}
    assert len(jobs) >= 19
    for config in jobs.values():
        check_paths(with_paths_of_here(config, tmp_path), tmp_path)
    (tmp_path / "mine.yaml").write_text("name: mine\n")
    with pytest.raises(ConfigError, match=r"does not say which job[\s\S]*add job: ingest or train"):
        load_any_config(tmp_path / "mine.yaml")


# ---------------------------------------------------------------- the request


def test_the_command_line_makes_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    (tmp_path / "mine.yaml").write_text("extends: tokenizer\nname: mine\n")
    argv = ["--config", str(tmp_path / "mine.yaml"), "--set", "seed=7", "--", "--verify", "runs/it is"]
    made = submit.request_of(submit.arguments_of(argv), here=tmp_path)
    assert made.command == "python -m ray_jobs.train --config submitted.yaml --verify 'runs/it is'"
    assert made.run == f"train:{tmp_path}/runs/mine"
    assert made.config.seed == 7
    doctor = submit.arguments_of(["--config", "tokenizer", "--job", "doctor", "--python", "/opt/python"])
    assert submit.request_of(doctor, here=tmp_path).command == "/opt/python -m ray_jobs.doctor --config submitted.yaml"
    far = submit.arguments_of(["--config", "tokenizer", "--address", "http://10.0.0.1:8265"])
    with pytest.raises(ConfigError, match="relative paths mean nothing on another machine"):
        submit.request_of(far, here=tmp_path)


def test_variables_travel_by_name_or_value_and_tokens_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    found = environment_of(["WANDB_API_KEY", "SETOK_LOG=DEBUG"])
    assert found["WANDB_API_KEY"] == "very-secret" and found["SETOK_LOG"] == "DEBUG"
    assert found["RAY_TRAIN_ENABLE_STATE_TRACKING"] == "1"
    with pytest.raises(ConfigError, match=r"--env NOT_HERE: no such variable[\s\S]*NOT_HERE=VALUE"):
        environment_of(["NOT_HERE"])
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN=abc"):
        with pytest.raises(ConfigError, match="can be read on the dashboard") as raised:
            environment_of([name])
        assert "abc" not in str(raised.value)


def test_dry_run_shows_names_and_no_values(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cluster, "connect", lambda address: pytest.fail("a dry run sends nothing"))
    submit.main(["--config", "tokenizer", "--dry-run", "--env", "WANDB_API_KEY"])
    shown = capsys.readouterr().out
    assert "WANDB_API_KEY" in shown and "very-secret" not in shown
    assert "ray_jobs/train.py" in shown and "Nothing was sent" in shown


@pytest.mark.parametrize(
    ("address", "here"),
    [
        (None, True),
        ("auto", True),
        ("http://127.0.0.1:8265", True),
        ("localhost:6379", True),
        ("http://10.1.2.3:8265", False),
        ("ray://head:10001", False),
        ("head:6379", False),
    ],
)
def test_what_is_this_machine(address: str | None, here: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    assert cluster.is_here(address) is here
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    assert cluster.is_here(None) is False


def test_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for error, remedy in (
        (ConnectionError("Failed to connect to Ray at address: x."), "--address"),
        (RuntimeError("Request failed with status code 401: Unauthorized"), "RAY_AUTH_TOKEN"),
    ):
        with pytest.raises(ConfigError, match="the cluster at x") as raised, cluster.explained("x"):
            raise error
        assert remedy in raised.value.remedy


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
        job("a", "FAILED", message="the reason\nmore"),
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
    assert "step 1" in capsys.readouterr().out


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
