"""Hosts with addresses of their own on one machine: network namespaces on a bridge, each with a link that can be cut."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

PORT = 6379
START_SECONDS = 300
ENVIRONMENT = {
    "RAY_AUTH_MODE": "disabled",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "GLOO_SOCKET_IFNAME": "eth0",  # the machine's name, which gloo would look up, is an address of no host
    # A host that is cut off is given up after seconds, not after a minute.
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


class Hosts:
    """So many hosts; number 1 has the head of a Ray once it is started."""

    def __init__(self, count: int, folder: Path) -> None:
        """Name them; ``folder`` takes logs and Ray's files, and must have a short path."""
        self.count, self.folder = count, folder
        self._mark, self._net = f"s{os.getpid() % 100_000}", f"10.77.{os.getpid() % 250 + 1}"
        self._starts = 0

    def address(self, host: int) -> str:
        return f"{self._net}.{host}"

    @property
    def ray_address(self) -> str:
        return f"{self.address(1)}:{PORT}"

    def start(
        self, host: int, *command: str, log: Path, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command on a host."""
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with log.open("ab") as file:
            return subprocess.Popen(
                ["ip", "netns", "exec", self._name(host), *command],
                env=clean | ENVIRONMENT | (environment or {}),
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def start_ray(self, host: int) -> None:
        """Start the head on host 1, or a node that joins it on another, and wait until it is there."""
        self._starts += 1
        ray = str(Path(sys.executable).parent / "ray")
        temp = self.folder / f"r{self._starts}"
        role = (
            ["--head", f"--port={PORT}", "--include-dashboard=false"]
            if host == 1
            else [f"--address={self.ray_address}"]
        )
        common = ["--num-cpus=1", f"--object-store-memory={100 * 2**20}", "--disable-usage-stats", "--block"]
        where = [f"--node-ip-address={self.address(host)}", f"--temp-dir={temp}"]
        log = self.folder / f"ray{self._starts}.log"
        process = self.start(host, ray, "start", *role, *common, *where, log=log)
        deadline = time.monotonic() + START_SECONDS
        while b"Ray runtime started" not in log.read_bytes():
            assert time.monotonic() < deadline and process.poll() is None, log.read_text()
            time.sleep(0.2)

    def end_all(self, host: int) -> None:
        """End everything that runs on a host."""
        for _ in range(50):
            pids = self._ip("netns", "pids", self._name(host)).split()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            if not pids:
                return
            time.sleep(0.1)

    def cut(self, host: int) -> None:
        """Take a host's cable out."""
        self._ip("link", "set", f"{self._mark}v{host}", "down")

    def mend(self, host: int) -> None:
        """Put it in again."""
        self._ip("link", "set", f"{self._mark}v{host}", "up")

    def _name(self, host: int) -> str:
        return f"{self._mark}h{host}"

    @staticmethod
    def _ip(*arguments: str) -> str:
        return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout

    def __enter__(self) -> Hosts:
        bridge = f"{self._mark}b"
        self._ip("link", "add", bridge, "type", "bridge")
        self._ip("addr", "add", f"{self._net}.254/24", "dev", bridge)
        self._ip("link", "set", bridge, "up")
        for host in range(1, self.count + 1):
            name, link = self._name(host), f"{self._mark}v{host}"
            self._ip("netns", "add", name)
            self._ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", name)
            self._ip("link", "set", link, "master", bridge)
            self._ip("link", "set", link, "up")
            self._ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
            self._ip("-n", name, "link", "set", "eth0", "up")
            self._ip("-n", name, "link", "set", "lo", "up")
            # Ray asks the way to the internet for its own address; nothing is ever sent there.
            self._ip("-n", name, "route", "add", "default", "via", f"{self._net}.254")
        return self

    def __exit__(self, *_: object) -> None:
        for host in range(1, self.count + 1):
            with contextlib.suppress(subprocess.CalledProcessError):
                self.end_all(host)
                self._ip("netns", "del", self._name(host))
        with contextlib.suppress(subprocess.CalledProcessError):
            self._ip("link", "del", f"{self._mark}b")


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """A Ray over two hosts, of one CPU each."""
    with Hosts(2, folder) as hosts:
        hosts.start_ray(1)
        hosts.start_ray(2)
        yield hosts
