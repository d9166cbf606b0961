"""What a run needs of its nodes besides processors, found out within seconds: a folder that all share, and shared memory.

What the driver writes to the run's folder must be there on every node; checkpoints, packs of the data and the report of a
failure rely on it.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from setok.config import TrainConfig
from setok.errors import ConfigError

ANSWER_SECONDS = 30.0
"""A node that says nothing for so long is busy, not wrong: the run goes on without its answer."""
_PROBE = ".probe"
SHARED_MEMORY = Path("/dev/shm")
LEAST_SHARED_BYTES = 256 * 2**20
"""For the blocks under way to a node's ranks and what NCCL and torch put there; Docker gives 64 MiB if not asked for more."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a node found."""

    node: str
    token: str | None
    """What stands in the probe file; ``None`` where there is none."""
    problem: str = ""
    """Why the node cannot write to the folder."""
    shared_bytes: int | None = None
    """Size of ``/dev/shm``; ``None`` where there is none."""


def check_folder(run_dir: Path) -> None:
    """Make the run's folder, and refuse one that cannot be written to.

    Raises:
        ConfigError: naming the folder and why.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        _write_probe(run_dir, "driver")
        (run_dir / f"{_PROBE}-driver").unlink()
    except OSError as error:
        raise ConfigError(
            f"the run's folder {run_dir} cannot be written to: {error.strerror or error}",
            "check its permissions and the free space, or set output_dir to another place",
        ) from error


def check_features(folder: Path) -> None:
    """Refuse a folder for kept features that cannot be written to; none is left that was not there.

    Raises:
        ConfigError: naming the folder and why.
    """
    made: list[Path] = []
    try:
        made = [place for place in (folder, *folder.parents) if not place.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{os.uname().nodename}-{os.getpid()}"
        _write_probe(folder, name)
        (folder / f"{_PROBE}-{name}").unlink()
    except OSError as error:
        raise ConfigError(
            f"data.features={folder} cannot be written to: {error.strerror or error}",
            "check its permissions and the free space, or name another folder; --set data.features=null keeps none",
        ) from error
    finally:
        with contextlib.suppress(OSError):  # another run may have begun to use it
            for place in made:
                place.rmdir()


def check_nodes(config: TrainConfig) -> None:
    """Ask every node of the cluster what it sees; Ray must be running, and the folder be there.

    Raises:
        ConfigError: naming the first node that does not share the folder, cannot write to it, or has too little shared memory.
    """
    token = secrets.token_hex(8)
    path = config.run_dir / f"{_PROBE}-shared"
    path.write_text(token, encoding="utf-8")
    try:
        answers = _ask(config.run_dir)
    finally:
        path.unlink(missing_ok=True)
    check_answers(config.run_dir, token, answers)


def check_answers(run_dir: Path, token: str, answers: Sequence[Answer]) -> None:
    """Refuse the first node whose answer is not as it should be.

    Raises:
        ConfigError: naming it.
    """
    for answer in answers:
        if answer.token != token:
            raise ConfigError(
                f"node {answer.node} does not see {run_dir} as this process has it: the folder is local to a node, and the"
                f" run has {len(answers)} nodes",
                "set output_dir to storage that all nodes share (NFS, EFS, Filestore, a mounted bucket)",
            )
        if answer.problem:
            raise ConfigError(
                f"node {answer.node} cannot write to {run_dir}: {answer.problem}",
                "give the workers' user write access to output_dir on all nodes",
            )
        if answer.shared_bytes is not None and answer.shared_bytes < LEAST_SHARED_BYTES:
            raise ConfigError(
                f"/dev/shm of node {answer.node} holds {answer.shared_bytes / 2**20:.0f} MiB, and a run needs at least"
                f" {LEAST_SHARED_BYTES / 2**20:.0f} MiB for batches and collectives",
                "start its container with --shm-size=8g, or mount an emptyDir of medium Memory at /dev/shm",
            )


def look(run_dir: Path) -> Answer:
    """What this node finds."""
    node = os.uname().nodename
    shared = os.statvfs(SHARED_MEMORY) if SHARED_MEMORY.is_dir() else None
    shared_bytes = shared and shared.f_blocks * shared.f_frsize
    try:
        token = (run_dir / f"{_PROBE}-shared").read_text(encoding="utf-8")
    except OSError:
        return Answer(node=node, token=None, shared_bytes=shared_bytes)
    name = f"node-{node}-{os.getpid()}"
    try:
        _write_probe(run_dir, name)
        (run_dir / f"{_PROBE}-{name}").unlink()
    except OSError as error:
        return Answer(node=node, token=token, problem=error.strerror or str(error), shared_bytes=shared_bytes)
    return Answer(node=node, token=token, shared_bytes=shared_bytes)


def _write_probe(run_dir: Path, name: str) -> None:
    path = run_dir / f"{_PROBE}-{name}"
    with path.open("wb") as file:
        file.write(b"\0" * 4096)
        file.flush()
        os.fsync(file.fileno())  # a full disk may only say so here


def _ask(run_dir: Path) -> list[Answer]:
    """The answers of all nodes that can run workers, of those that answer in time."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def ask(node: dict[str, Any]) -> Any:
        here = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        task = ray.remote(look).options(num_cpus=0, scheduling_strategy=here, max_retries=0)
        return task.remote(run_dir)

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]
    asked = [ask(node) for node in nodes]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=ANSWER_SECONDS)
    answers: list[Answer] = ray.get(answered)
    return answers
