"""A probe on every node of a cluster: what each says about itself, its clock and storage, and the way between them."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from ray_jobs.checking.findings import Finding, fail, ok, warn
from ray_jobs.checking.machine import Facts, look
from ray_jobs.checking.storage import Speeds, check_storage, measure
from setok.errors import SetokError

ANSWER_SECONDS = 90.0
"""For a node's first answer: a process is started there, which imports torch."""
REDUCE_SECONDS = 60.0
REDUCE_BYTES, REDUCE_ROUNDS = 16 * 2**20, 5
SKEW_WARNED, SKEW_FAILED = 1.0, 60.0
"""Seconds. Deadlines of drained nodes and the times of checkpoints suffer early; signatures of object stores fail at minutes."""
SLOW_GB_PER_SECOND = {"gloo": 0.05, "nccl": 1.0}


@dataclass(frozen=True, kw_only=True)
class Clock:
    """How far a node's clock is from this one's, and by how much that may be wrong; seconds."""

    node: str
    skew: float
    error: float


class Probe:
    """What runs on a node; made an actor of each."""

    def look(self) -> Facts:
        return look()

    def now(self) -> float:
        return time.time()

    def measure(self, address: str, num_bytes: int) -> Speeds:
        return measure(address, num_bytes=num_bytes)

    def address(self) -> str:
        """Where the other nodes find a port of this one that is free."""
        import ray

        with socket.socket() as free:
            free.bind(("", 0))
            return f"tcp://{ray.util.get_node_ip_address()}:{free.getsockname()[1]}"

    def reduce(self, address: str, rank: int, world_size: int, backend: str) -> float:
        """Join the others and sum; GB/s that went over this node's link, as the ring algorithm moves them."""
        import torch
        import torch.distributed as dist

        device = "cuda" if backend == "nccl" else "cpu"
        limit = timedelta(seconds=REDUCE_SECONDS / 2)
        dist.init_process_group(backend, init_method=address, rank=rank, world_size=world_size, timeout=limit)
        try:
            values = torch.ones(REDUCE_BYTES // 4, device=device)
            dist.all_reduce(values)  # connects
            dist.barrier()
            start = time.perf_counter()
            for _ in range(REDUCE_ROUNDS):
                dist.all_reduce(values)
            if device == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
        finally:
            dist.destroy_process_group()
        return 2 * (world_size - 1) / world_size * REDUCE_BYTES * REDUCE_ROUNDS / seconds / 1e9


class Nodes:
    """The nodes of a running Ray, with a probe on each; a block that ends takes them away."""

    def __init__(self, *, use_gpu: bool = False) -> None:
        """Start the probes.

        Args:
            use_gpu: measure NCCL, if every node that runs workers has a GPU to spare.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._alive = [node for node in ray.nodes() if node["Alive"]]
        self.lost = [node["NodeManagerHostname"] for node in ray.nodes() if not node["Alive"]]
        self.workers = [node for node in self._alive if node["Resources"].get("CPU", 0) > 0] or self._alive
        free = ray._private.state.available_resources_per_node()  # a GPU of a run that is going on would be waited for
        has_gpus = all(free.get(node["NodeID"], {}).get("GPU", 0) >= 1 for node in self.workers)
        self.backend = "nccl" if use_gpu and has_gpus else "gloo"
        self._probes: dict[str, Any] = {}
        for node in self._alive:
            here = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
            gpus = 1 if self.backend == "nccl" and node in self.workers else 0
            probe = ray.remote(Probe).options(num_cpus=0, num_gpus=gpus, scheduling_strategy=here)
            self._probes[self.name(node)] = probe.remote()

    def __enter__(self) -> Nodes:
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        for probe in self._probes.values():
            with contextlib.suppress(ray.exceptions.RayError):
                ray.kill(probe)

    @staticmethod
    def name(node: Mapping[str, Any]) -> str:
        """For people: host and address, which several nodes of one machine share."""
        return f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']}, {node['NodeID'][:6]})"

    @property
    def names(self) -> list[str]:
        return list(self._probes)

    def object_store_bytes(self, name: str) -> int:
        """What Ray gives a node's object store."""
        node = next(node for node in self._alive if self.name(node) == name)
        return int(node["Resources"].get("object_store_memory", 0))

    def ask(self, method: str, *arguments: object, seconds: float = ANSWER_SECONDS) -> dict[str, Any]:
        """The answers of all nodes; ``None`` for one that gave none in time, or the exception that it raised."""
        import ray

        asked = {name: getattr(probe, method).remote(*arguments) for name, probe in self._probes.items()}
        done, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=seconds)
        return {name: _result(reference) if reference in done else None for name, reference in asked.items()}

    def clocks(self, rounds: int = 5) -> list[Clock]:
        """The clocks of nodes that answered before, by the quickest of some questions to each."""
        return [_clock(name, lambda probe=probe: _now(probe), rounds) for name, probe in self._probes.items()]  # type: ignore[misc]

    def reduce(self) -> list[Finding]:
        """Sum over all nodes that run workers, and judge the bandwidth."""
        import ray

        names = [self.name(node) for node in self.workers]
        if len(names) < 2:
            return [ok("network", "one node, and nothing between")]
        probes = [self._probes[name] for name in names]
        address = ray.get(probes[0].address.remote(), timeout=ANSWER_SECONDS)
        asked = [probe.reduce.remote(address, rank, len(probes), self.backend) for rank, probe in enumerate(probes)]
        done, _ = ray.wait(asked, num_returns=len(asked), timeout=REDUCE_SECONDS)
        results = {name: _result(one) if one in done else None for name, one in zip(names, asked, strict=True)}
        return check_reduce(results, self.backend)


def _result(reference: Any) -> Any:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        return getattr(error, "cause", None) or error


def _now(probe: Any) -> float:
    import ray

    return float(ray.get(probe.now.remote(), timeout=ANSWER_SECONDS))


def _clock(node: str, now: Callable[[], float], rounds: int, clock: Callable[[], float] = time.time) -> Clock:
    """Compare a node's clock with this one's: the answer was given in the middle of asking, by at most half of its time off."""
    best: Clock | None = None
    for _ in range(rounds):
        before, there, after = clock(), now(), clock()
        found = Clock(node=node, skew=there - (before + after) / 2, error=(after - before) / 2)
        if best is None or found.error < best.error:
            best = found
    assert best is not None, "at least one round"
    return best


# ---------------------------------------------------------------- what it means


def check_answers(answers: Mapping[str, Any]) -> list[Finding]:
    """Nodes that gave no answer, or broke over it."""
    findings = []
    for node, answer in answers.items():
        if answer is None:
            text = f"node {node} did not answer in {ANSWER_SECONDS:g} s"
            findings.append(fail("nodes", text, "look at its load, its network and its Ray log; or take it out"))
        elif isinstance(answer, BaseException):
            text = f"node {node}: {type(answer).__name__}: {str(answer).strip().splitlines()[-1]}"
            findings.append(fail("nodes", text, "give it the environment and the code of the others"))
    return findings or [ok("nodes", f"{len(answers)} answer")]


def check_clocks(clocks: Sequence[Clock]) -> list[Finding]:
    """Clocks that differ from this one by more than the question's own time explains."""
    findings = []
    for clock in clocks:
        sure = abs(clock.skew) - clock.error
        text = f"node {clock.node} is {clock.skew:+.1f} s from this clock"
        remedy = "start chrony or systemd-timesyncd on all nodes"
        if sure > SKEW_FAILED:
            findings.append(fail("clock", text, remedy))
        elif sure > SKEW_WARNED:
            findings.append(warn("clock", text, remedy))
    most = max((abs(clock.skew) for clock in clocks), default=0.0)
    return findings or [ok("clock", f"{len(clocks)} node(s) within {most:.3f} s")]


def check_reduce(results: Mapping[str, Any], backend: str) -> list[Finding]:
    """The bandwidth that each node measured.

    Args:
        results: GB/s by node, an exception, or ``None`` for no answer.
    """
    remedy = (
        "let the nodes reach each other on all ports (security group, network policy), and name the right interface with"
        f" {'NCCL' if backend == 'nccl' else 'GLOO'}_SOCKET_IFNAME"
    )
    silent = [name for name, result in results.items() if not isinstance(result, float)]
    if silent:
        raised = next((str(result).strip() for result in results.values() if isinstance(result, BaseException)), "")
        why = f": {raised.splitlines()[-1]}" if raised else f" in {REDUCE_SECONDS:g} s"
        return [fail("network", f"{backend} does not connect {', '.join(silent)}{why}", remedy)]
    slowest = min(results.values())
    text = f"{backend} all-reduce over {len(results)} nodes: {slowest:.2f} GB/s"
    if slowest < SLOW_GB_PER_SECOND[backend]:
        return [warn("network", f"{text}, which gradients will wait for", f"{remedy}; use nodes of one zone")]
    return [ok("network", text)]


def check_shared_storage(answers: Mapping[str, Any], address: str, what: str) -> list[Finding]:
    """What each node measured of a place that all must write to."""
    findings = []
    for node, answer in answers.items():

        def probe(_: str, answer: Any = answer) -> Speeds:
            if isinstance(answer, Speeds):
                return answer
            if isinstance(answer, SetokError):
                raise answer
            raise SetokError(
                f"{address} cannot be probed: {answer or f'no answer in {ANSWER_SECONDS:g} s'}",
                "mount it on this node, or see what its server is doing",
            )

        findings += [replace(finding, node=node) for finding in check_storage(address, what, probe)]
    return findings
