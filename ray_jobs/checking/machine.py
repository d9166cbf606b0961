"""What a node is: facts that it gathers about itself, and what they mean for a run."""

from __future__ import annotations

import contextlib
import os
import platform
import resource
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from ray_jobs.checking.findings import Finding, fail, ok, warn
from ray_jobs.checking.versions import DECISIVE, installed
from ray_jobs.training.preflight import LEAST_SHARED_BYTES, SHARED_MEMORY

GIBIBYTE = 2**30
LEAST_FILES, GOOD_FILES = 1024, 8192
"""Open files that a process may have; Ray's processes hold a connection to each worker and node."""
FULL = 0.95
"""Ray stops putting objects on a disk that is fuller, ``RAY_local_fs_capacity_threshold``."""
MOST_SESSIONS = 10
RAY_PORTS = {6379: "GCS", 8265: "dashboard and jobs", 10001: "Ray Client"}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a node says about itself."""

    node: str
    cpus: int
    gpus: tuple[str, ...] = ()
    """Names of the GPUs that torch sees."""
    driver: str | None = None
    """Version of the NVIDIA driver, as ``nvidia-smi`` tells it; ``None`` without it."""
    torch_cuda: str | None = None
    """CUDA that torch was built for; ``None`` for a CPU build."""
    shared_bytes: int | None = None
    """Size of ``/dev/shm``."""
    disks: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Total and free bytes by folder."""
    open_files: int = 0
    """Soft limit."""
    python: str = ""
    versions: Mapping[str, str | None] = field(default_factory=dict)
    sessions: int = 0
    """Folders of Ray sessions that are no longer used."""
    listening: Mapping[int, str] = field(default_factory=dict)
    """Of Ray's usual ports those that somebody listens at, with the address."""


def look() -> Facts:
    """Gather the facts of this node."""
    import torch

    temp = ray_temp_dir()
    return Facts(
        node=socket.gethostname(),
        cpus=os.cpu_count() or 1,
        gpus=tuple(torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())),
        driver=_driver(),
        torch_cuda=torch.version.cuda,
        shared_bytes=shutil.disk_usage(SHARED_MEMORY).total if SHARED_MEMORY.is_dir() else None,
        disks={str(folder): _disk(folder) for folder in dict.fromkeys((_existing(temp), Path(tempfile.gettempdir())))},
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        python=platform.python_version(),
        versions={name: installed(name) for name in DECISIVE},
        sessions=_dead_sessions(temp),
        listening=_listening(),
    )


def ray_temp_dir() -> Path:
    """Where Ray keeps its sessions."""
    return Path(os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()) / "ray"


def _existing(path: Path) -> Path:
    return next(parent for parent in (path, *path.parents) if parent.exists())


def _disk(folder: Path) -> tuple[int, int]:
    usage = shutil.disk_usage(folder)
    return usage.total, usage.free


def _driver() -> str | None:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.split()
        return told[0] if told else None
    return None


def _dead_sessions(temp: Path) -> int:
    """Sessions that no process has in its command line any more."""
    names = {path.name for path in temp.glob("session_2*") if path.is_dir()}
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or ())
        names = {name for name in names if name not in line}
    return len(names)


def _listening() -> dict[int, str]:
    with contextlib.suppress(psutil.AccessDenied):
        sockets = [one for one in psutil.net_connections(kind="tcp") if one.status == psutil.CONN_LISTEN]
        return {one.laddr.port: one.laddr.ip for one in sockets if one.laddr.port in RAY_PORTS}
    return {}


# ---------------------------------------------------------------- what it means


def check_gpus(facts: Facts, *, wanted: bool) -> list[Finding]:
    """GPUs, their driver and torch's build; ``wanted``: a run asks for them."""
    if facts.gpus:
        names = ", ".join(f"{facts.gpus.count(name)} × {name}" for name in dict.fromkeys(facts.gpus))
        return [ok("gpu", f"{names}, driver {facts.driver or 'unknown'}, torch for CUDA {facts.torch_cuda}")]
    if facts.driver and facts.torch_cuda is None:
        judge = fail if wanted else warn
        return [
            judge("gpu", f"driver {facts.driver} is there, and torch is a CPU build", "make clean && make CUDA=1 setup")
        ]
    if wanted:
        seen = "torch sees no GPU" + ("" if facts.driver else ", and nvidia-smi finds no driver")
        remedy = "install the driver, pass the GPUs to the container (--gpus all), or --set scaling.use_gpu=false"
        return [fail("gpu", f"scaling.use_gpu is on, and {seen}", remedy)]
    return [ok("gpu", "none, and none is asked for")]


def check_shared_memory(facts: Facts, *, object_store_bytes: int = 0) -> list[Finding]:
    """``/dev/shm`` against what a run puts there.

    Args:
        object_store_bytes: what Ray gives its object store on this node, where a Ray is running.
    """
    size = facts.shared_bytes
    remedy = "start the container with --shm-size=8g, or mount an emptyDir of medium Memory at /dev/shm"
    if size is None:
        return [warn("memory", "there is no /dev/shm: Ray keeps its objects on disk", "use Linux for anything large")]
    if size < LEAST_SHARED_BYTES:
        least = f"at least {LEAST_SHARED_BYTES / 2**20:.0f} MiB"
        return [fail("memory", f"/dev/shm has {size / 2**20:.0f} MiB, and a run needs {least}", remedy)]
    if object_store_bytes > size:
        store = f"the object store has {object_store_bytes / GIBIBYTE:.1f} GiB, above the {size / GIBIBYTE:.1f} GiB of /dev/shm"
        return [fail("memory", store, f"{remedy}, or ray start --object-store-memory={int(0.9 * size)}")]
    if size < 2 * GIBIBYTE:
        return [warn("memory", f"/dev/shm has {size / 2**20:.0f} MiB, little for NCCL and large batches", remedy)]
    store = f", object store {object_store_bytes / GIBIBYTE:.1f} GiB" if object_store_bytes else ""
    return [ok("memory", f"/dev/shm {size / GIBIBYTE:.1f} GiB{store}")]


def check_disks(facts: Facts, *, least_free: int = 10 * GIBIBYTE) -> list[Finding]:
    """Free space where Ray spills objects and packages go."""
    findings = []
    for folder, (total, free) in facts.disks.items():
        told = f"{folder} has {free / GIBIBYTE:.1f} of {total / GIBIBYTE:.1f} GiB free"
        remedy = "make room, or set RAY_TMPDIR (or ray start --temp-dir) to a larger disk"
        if free < (1 - FULL) * total:
            findings.append(fail("disk", f"{told}; Ray stops at {FULL:.0%}", remedy))
        elif free < least_free:
            findings.append(warn("disk", f"{told}; less than {least_free / GIBIBYTE:.0f} GiB", remedy))
        else:
            findings.append(ok("disk", told))
    return findings


def check_limits(facts: Facts) -> list[Finding]:
    """Open files."""
    remedy = "ulimit -n 65536 before ray start, LimitNOFILE= in a unit, --ulimit nofile=65536 for a container"
    if facts.open_files < LEAST_FILES:
        text = f"a process may open {facts.open_files} files, and Ray needs {LEAST_FILES} at least"
        return [fail("limits", text, remedy)]
    if facts.open_files < GOOD_FILES:
        return [warn("limits", f"a process may open {facts.open_files} files: too few for many nodes", remedy)]
    return [ok("limits", f"{facts.open_files} open files")]


def check_sessions(facts: Facts) -> list[Finding]:
    """What earlier Rays left on the disk."""
    if facts.sessions > MOST_SESSIONS:
        remedy = f"delete the folders {ray_temp_dir()}/session_2… of Rays that have ended"
        return [warn("sessions", f"{facts.sessions} Ray sessions lie around that nobody uses", remedy)]
    return [ok("sessions", f"{facts.sessions} left over")]


def check_ports(facts: Facts, *, token: bool) -> list[Finding]:
    """Who may reach Ray: its job API runs whatever it is sent.

    Args:
        token: whether Ray asks for one.
    """
    local = ("127.", "::1")
    shown = {port: ip for port, ip in facts.listening.items() if not ip.startswith(local)}
    listed = ", ".join(f"{port} ({RAY_PORTS[port]})" for port in sorted(facts.listening)) or "none of Ray's usual ports"
    if shown.keys() & {8265, 10001} and not token:
        text = f"{', '.join(map(str, sorted(shown)))} can be reached from outside, and no token is asked for"
        remedy = "start Ray with RAY_AUTH_MODE=token, or close the ports: whoever reaches them runs code here"
        return [warn("ports", text, remedy)]
    return [ok("ports", f"in use: {listed}; token {'asked for' if token else 'not asked for'}")]
