"""The server that is measured, in processes of its own, and the computing time that these take."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from setok.errors import SetokError

START_TIMEOUT_S = 180.0
MODEL_PROCESSES = ("multiprocessing.spawn", "ray::ServeReplica:setok:model")
"""What command lines of processes that hold a model have in them: without Ray and with it."""


@dataclass(frozen=True, kw_only=True)
class CpuSeconds:
    """Computing time, of user and system together."""

    client: float
    """Of this process, which asks or which answers by itself."""
    server: float
    """Of all the server's processes without a model: HTTP, JSON and pictures; with Ray its own too."""
    model: float
    """Of the processes with a model."""

    def __sub__(self, before: CpuSeconds) -> CpuSeconds:
        return CpuSeconds(
            client=self.client - before.client, server=self.server - before.server, model=self.model - before.model
        )


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server."""

    address: str
    pid: int | None = None
    """Of its first process; ``None`` where it is not ours, and nothing is known of what it takes."""

    def cpu_seconds(self) -> CpuSeconds:
        """So far."""
        server = model = 0.0
        if self.pid is not None:
            first = psutil.Process(self.pid)
            for process in (first, *first.children(recursive=True)):
                try:
                    with process.oneshot():
                        times, line = process.cpu_times(), " ".join(process.cmdline())
                except psutil.Error:  # it has ended just now
                    continue
                if any(name in line for name in MODEL_PROCESSES):
                    model += times.user + times.system
                else:
                    server += times.user + times.system
        own = os.times()
        return CpuSeconds(client=own.user + own.system, server=server, model=model)


@contextmanager
def started(checkpoint: str, settings: Sequence[str], *, threads: int) -> Iterator[Running]:
    """A server of our own in another process, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    own = [f"checkpoint={checkpoint}", f"server.port={port}", f"replicas.threads={threads}", "server.log_level=warning"]
    command = [sys.executable, "-m", "ray_jobs.serve", "--config", "serve", "--set", *own, *settings]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address, process)
        yield Running(address=address, pid=process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _wait_until_ready(address: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SetokError(f"the server ended with exit code {process.returncode}", "its message is above")
        try:
            with urllib.request.urlopen(f"{address}/ready", timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise SetokError(f"the server was not ready after {START_TIMEOUT_S:g} s", "start it by itself to see why")
