"""The command: who is let in, what a cluster must have, a server in a process of its own that drains when told to stop."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ray_jobs import serve
from ray_jobs.serving.listening import bound
from setok.config import ServeConfig, load_config
from setok.errors import CheckpointError, ConfigError, SetokError
from setok.export import SETTINGS, PredictorSettings
from setok.serving.keys import ENVIRONMENT
from tests.served import predictor, serve_config


def test_other_machines_are_let_in_with_keys_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    assert len(serve.access_of(serve_config())) == 0
    open_to_all = {"server__host": "0.0.0.0"}
    with pytest.raises(ConfigError, match=r"server.host=0.0.0.0 lets other machines in(.|\n)*--new-key NAME"):
        serve.access_of(serve_config(**open_to_all))
    assert len(serve.access_of(serve_config(**open_to_all, access__allow_anonymous=True))) == 0
    monkeypatch.setenv(ENVIRONMENT, f"ann sha256:{'0' * 64}")
    assert len(serve.access_of(serve_config(**open_to_all))) == 1


def test_a_new_key_is_printed_with_its_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["serve", "--new-key", "ann"])
    with pytest.raises(SystemExit) as done:
        serve.main()
    assert done.value.code == 0
    out = capsys.readouterr().out
    key, line = re.findall(r"^  (.*)$", out, re.MULTILINE)
    monkeypatch.setenv(ENVIRONMENT, line)
    assert serve.access_of(serve_config()).name_of(key) == "ann"


def test_what_a_cluster_cannot_run_is_refused() -> None:
    config = serve_config(replicas={"min": 2, "max": 3, "cpus": 2.0, "gpus": 1.0})
    serve._check_resources(config, {"CPU": 4.5, "GPU": 2.0})
    with pytest.raises(ConfigError, match=r"need 4.5 CPUs, and the cluster has 4(.|\n)*replicas.max=0"):
        serve._check_resources(config, {"CPU": 4.0, "GPU": 2.0})
    with pytest.raises(ConfigError, match=r"need 2 GPUs, and the cluster has 0(.|\n)*replicas.gpus=0"):
        serve._check_resources(config, {"CPU": 8.0})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicas": {"min": 2, "max": 1}}, r"replicas.min=2 is above replicas.max=1(.|\n)*replicas.max=2"),
        ({"limits": {"max_new_tokens": 5}}, r"default_new_tokens=256 is above limits.max_new_tokens=5"),
        ({"server": {"port": 99999}}, "server.port=99999"),
    ],
)
def test_settings_that_contradict_each_other(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        serve_config(**changes)


def test_the_name_of_the_model() -> None:
    assert load_config(ServeConfig, "serve").served_name == "instruct"
    assert load_config(ServeConfig, "serve", ["checkpoint=a/b/", "model_name=null"]).served_name == "b"
    assert load_config(ServeConfig, "serve", ["model_name=mine"]).served_name == "mine"


class LostModel:
    """A process that ends as soon as somebody cares."""

    exitcode = -9
    stopped = False

    def __init__(self, config: ServeConfig) -> None: ...

    def __setattr__(self, name: str, value: Any) -> None:
        assert name == "on_lost"
        value()

    def stop(self, *, timeout_s: float) -> None:
        LostModel.stopped = True


def test_a_server_ends_with_its_model(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("ray_jobs.serving.process.ModelProcess", LostModel)
    monkeypatch.setattr(serve, "check_model", lambda checkpoint, *, here: None)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.raises(SetokError, match=r"ended with exit code -9(.|\n)*start the server again"):
            serve.run(serve_config(server__port=0))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert LostModel.stopped
    assert "answers at" not in capsys.readouterr().out


def never(*_: object, **__: object) -> None:
    raise AssertionError("it was too early for this")


@pytest.mark.parametrize("replicas", [0, 1])
def test_a_port_that_is_taken_is_told_before_anything_is_loaded(replicas: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray_jobs.serving.process.ModelProcess", never)
    monkeypatch.setattr("ray_jobs.launch.start_ray", never)
    monkeypatch.setattr(serve, "check_model", lambda checkpoint, *, here: None)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        changes = {"server__port": port, "replicas__min": replicas, "replicas__max": replicas}
        with pytest.raises(ConfigError, match=rf"port {port}: Address already in use(.|\n)*--set server.port="):
            serve.run(serve_config(**changes))


def test_a_host_that_is_not_of_this_machine_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen at 192.0.2.1, port 8000: (.|\n)*check server.host"):
        bound(serve_config(server__host="192.0.2.1").server)


@pytest.mark.parametrize("replicas", [0, 1])
def test_a_model_that_is_missing_is_told_before_anything_is_started(
    replicas: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray_jobs.serving.process.ModelProcess", never)
    monkeypatch.setattr("ray_jobs.launch.start_ray", never)
    checkpoint = str(tmp_path / "none")
    config = serve_config(checkpoint=checkpoint, replicas__min=replicas, replicas__max=replicas)
    with pytest.raises(CheckpointError, match="none cannot be used"):
        serve.run(config)


def test_a_model_that_is_missing_is_not_deployed_where_it_can_be_seen(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built: list[ServeConfig] = []
    monkeypatch.setattr("ray_jobs.serving.deployments.application", lambda config, keys: built.append(config))
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(CheckpointError, match="cannot be used"):
            serve.build({"set": {"checkpoint": str(missing)}})
    assert not built
    elsewhere = (str(tmp_path / "not-mounted" / "model"), "s3://bucket/runs/demo")
    for unseen in elsewhere:
        serve.build({"set": {"checkpoint": unseen}})
    folder = tmp_path / "tiny"
    predictor().model.save_pretrained(folder)
    (folder / SETTINGS).write_text(PredictorSettings(sequence=predictor().sequence).model_dump_json())
    serve.build({"set": {"checkpoint": str(folder)}})
    assert [config.checkpoint for config in built] == [*elsewhere, str(folder)]


def test_a_server_without_ray_drains_when_it_is_told_to_stop(tmp_path: Path, repo_root: Path) -> None:
    folder = tmp_path / "tiny"
    predictor().model.save_pretrained(folder)
    (folder / SETTINGS).write_text(PredictorSettings(sequence=predictor().sequence).model_dump_json())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = [f"checkpoint={folder}", f"server.port={port}", "replicas.min=0", "replicas.max=0"]
    command = [sys.executable, "-m", "ray_jobs.serve", "--config", "serve", "--set", *settings]
    environment = os.environ | {"PYTHONPATH": str(repo_root)}
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while True:
            assert process.poll() is None, process.communicate()
            try:
                assert httpx2.get(f"{address}/ready").status_code == 200
                break
            except httpx2.TransportError:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        body = {
            "model": "tiny",
            "messages": [{"role": "user", "content": "a secret"}],
            "max_tokens": 150,
            "temperature": 2.0,
            "modalities": ["text"],
            "stop": None,
            "seed": 4,
        }
        answers: list[httpx2.Response] = []

        def ask() -> None:
            answers.append(httpx2.post(f"{address}/v1/chat/completions", json=body, timeout=60))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        while "setok_requests_in_progress 9.0" not in httpx2.get(f"{address}/metrics").text and len(answers) < 8:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
        told, logged = process.communicate(timeout=60)
    finally:
        process.kill()
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len({answer.json()["choices"][0]["message"]["content"] for answer in answers}) == 1
    assert process.returncode == 0
    assert told == f"tiny answers at {address}\n"
    assert logged.count("POST /v1/chat/completions 200") == 8
    assert "secret" not in logged and "Traceback" not in logged
