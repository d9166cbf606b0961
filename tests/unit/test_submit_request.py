"""Who is asked, with which command, and what a cluster that refuses or is gone makes of it."""

from __future__ import annotations

import http.server
import re
import socket
import threading
from pathlib import Path

import pytest
from ray.exceptions import AuthenticationError

from ray_jobs import launch, reaching, submit
from ray_jobs.submitting import cluster
from ray_jobs.submitting.request import environment_of
from setok.errors import ConfigError


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


@pytest.mark.parametrize(
    ("error", "problem", "remedy"),
    [
        (
            ConnectionError("Failed to connect to Ray at address: x."),
            "Failed to connect to Ray at address: x$",
            "--address",
        ),
        (
            RuntimeError("Request failed with status code 401: Unauthorized"),
            "code 401: Unauthorized$",
            "RAY_AUTH_TOKEN",
        ),
        (
            AuthenticationError("RAY_AUTH_TOKEN_PATH is set but file cannot be opened or is empty: /nope.txt"),
            "or is empty: /nope.txt$",
            "RAY_AUTH_TOKEN_PATH",
        ),
        (
            AuthenticationError(
                "Authentication required: Missing authentication token\n\nToken authentication is enabled"
            ),
            "required: Missing authentication token$",
            "RAY_AUTH_MODE=token",
        ),
    ],
)
def test_what_a_cluster_refuses_is_told_in_one_line(error: Exception, problem: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as raised, cluster.explained("x"):
        raise error
    assert re.search(f"^the cluster at x: .*{problem}", raised.value.problem)
    assert remedy in raised.value.remedy


class Guard(http.server.BaseHTTPRequestHandler):
    """A dashboard that lets nobody in."""

    def do_GET(self) -> None:
        self.send_response(401)
        self.end_headers()
        self.wfile.write(b"Unauthorized: Missing authentication token")

    def log_message(self, *_: object) -> None: ...


def test_a_token_that_a_real_client_has_not(monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Guard) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv(cluster.ADDRESS, "")
        with pytest.raises(ConfigError, match=r"Authentication required: Unauthorized(.|\n)*→ set RAY_AUTH_MODE=token"):
            cluster.connect(f"http://127.0.0.1:{server.server_port}").list_jobs()
        server.shutdown()


def test_a_head_that_is_gone_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """By everything that connects: Ray would try for more than a minute, and print what it meets."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setenv(cluster.ADDRESS, "")
        with pytest.raises(ConfigError, match=f"nobody listens at {where}: Connection refused"):
            cluster.connect(f"http://{where}")
        monkeypatch.setenv("RAY_ADDRESS", where)
        monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray need not try"))
        with pytest.raises(ConfigError, match=f"nobody listens at {where}") as raised:
            launch.start_ray()
        assert "that the head runs" in raised.value.remedy
        taken.listen()
        reaching.knock(f"ray://{where}", "")
    for nobody in ("auto", "local", "this machine"):
        reaching.knock(nobody, "")
    with pytest.raises(ConfigError, match="is no address of a cluster"):
        reaching.knock("head:many", "")


def test_a_proxy_is_left_to_find_the_head(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    reaching.knock("http://only.behind.the.proxy.invalid:8265", "", seconds=0.1)
    with pytest.raises(ConfigError, match="nobody listens at"):
        reaching.knock("only.behind.the.proxy.invalid:6379", "", seconds=0.1)
