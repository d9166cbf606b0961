"""A Ray head that was started as people start one, by ``ray start``, with a dashboard and a token."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

TOKEN = "a-token-of-no-other-cluster-" + "0" * 36
BIN = Path(sys.executable).parent


@dataclass(frozen=True, kw_only=True)
class Head:
    """Where it is, and what a process needs to reach it."""

    address: str
    """Where jobs are sent to."""
    gcs: str
    """Where processes join."""
    environment: dict[str, str]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens at now, each another one."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def started(temp_dir: Path, *, num_cpus: int = 2) -> Iterator[Head]:
    """A head of its own processes, which end with the block."""
    gcs, dashboard, agent, client = free_ports(4)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment = clean | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        "PATH": f"{BIN}:{os.environ['PATH']}",
    }
    command = [BIN / "ray", "start", "--head", "--block", "--disable-usage-stats", "--node-ip-address=127.0.0.1"]
    command += [f"--port={gcs}", f"--dashboard-port={dashboard}", f"--dashboard-agent-listen-port={agent}"]
    command += [f"--ray-client-server-port={client}", f"--num-cpus={num_cpus}", f"--object-store-memory={200 * 2**20}"]
    command += ["--dashboard-host=127.0.0.1", f"--temp-dir={temp_dir}"]
    with (temp_dir / "head.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            address = f"http://127.0.0.1:{dashboard}"
            _wait_until_it_answers(address, process, temp_dir / "head.log")
            yield Head(
                address=address, gcs=f"127.0.0.1:{gcs}", environment=environment | {"RAY_API_SERVER_ADDRESS": address}
            )
        finally:
            family = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
            for member in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    member.kill()
            process.wait()


def _wait_until_it_answers(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 300
    request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {TOKEN}"})
    while time.monotonic() < deadline:
        assert process.poll() is None, f"the head ended\n{log.read_text()[-2000:]}"
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(request, timeout=5).close()
            return
        time.sleep(0.5)
    raise AssertionError(f"the head does not answer\n{log.read_text()[-2000:]}")
