"""A run on a cluster: does it fit, how long does a step take, what does the whole cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from setok.config import TrainConfig
from setok.planning.batches import Samples
from setok.planning.hardware import GIB, Assumptions, Cluster, Hardware
from setok.planning.memory import (
    WorkerMemory,
    block_bytes,
    checkpoint_bytes,
    snapshot_bytes,
    worker_memory,
    zero_stage_of,
)
from setok.planning.parts import concept_tower
from setok.planning.trace import Trace

Tracer = Callable[[TrainConfig, Samples], Trace]
HOUR = 3600.0
TERA = 1e12


@dataclass(frozen=True, kw_only=True)
class Need:
    """Something that a run needs, and whether the cluster has it."""

    what: str
    needed: float
    available: float
    unit: str

    @property
    def is_met(self) -> bool:
        """Whether there is enough."""
        return self.needed <= self.available * (1 + 1e-9)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Of a step, in seconds, and of the data behind it."""

    compute_s: float
    communication_s: float
    """All of it; part of it hides behind the computing."""
    data_s: float
    """Time in which the run's decoders make a step's pictures."""
    step_s: float
    """The slower of computing with what communication does not hide, and decoding."""
    flops: float
    """Of all workers in a step."""
    images_per_s: float
    decode_cores: float
    """Cores that keep up with the computing."""

    @property
    def waits_for_data(self) -> bool:
        """Whether decoding is the slower one."""
        return self.data_s >= self.step_s


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What is to be said of a run on a cluster."""

    config: TrainConfig
    """With its number of workers."""
    cluster: Cluster
    trace: Trace
    memory: WorkerMemory
    host_bytes: int
    """Of the node that needs most."""
    object_store_bytes: int
    """Part of it, in shared memory."""
    needs: tuple[Need, ...]
    speed: Speed
    seconds: float
    """Of the whole run."""
    dollars: float | None
    dollars_spot: float | None
    checkpoint_bytes: int
    checkpoints: int
    """How many there are at once."""
    images: int
    """That the run sees; each counts as often as it comes."""
    data_bytes: int
    """Of these, if all were different ones."""
    storage_per_month: float
    """Dollars for data and checkpoints."""

    @property
    def fits(self) -> bool:
        """Whether the cluster can run it."""
        return all(need.is_met for need in self.needs)


def estimate(config: TrainConfig, cluster: Cluster, hardware: Hardware, tracer: Tracer) -> Estimate:
    """Plan a run.

    Args:
        config: as the job gets it; an elastic run takes as many workers as there is room for.
        tracer: ``setok.planning.trace.trace``, or one that remembers.

    Raises:
        CheckpointError: a pretrained part is not here, and its architecture is not known.
    """
    assumed = hardware.assumptions
    config = config.with_workers(num_workers(config, cluster))
    seen = tracer(config, Samples(text_tokens=assumed.text_tokens, concepts=assumed.concepts, regions=assumed.regions))
    memory = worker_memory(config, seen)
    host, store = _host_memory(config, cluster, seen, memory, assumed)
    speed = _speed(config, cluster, seen, assumed)
    seconds = config.train.steps * speed.step_s * (1 + assumed.pauses)
    images = config.train.steps * config.num_micro_batches * seen.images
    saved, kept = checkpoint_bytes(config, seen), config.checkpoint.keep + config.checkpoint.keep_best + 1
    data = round(images * assumed.image_kb * 1e3)
    rates = [sum(getattr(node, kind) * count for _, node, count in cluster.nodes) for kind in ("on_demand", "spot")]
    on_demand, spot = (
        seconds / HOUR * rate if cluster.has_prices and math.isfinite(seconds) else None for rate in rates
    )
    return Estimate(
        config=config,
        cluster=cluster,
        trace=seen,
        memory=memory,
        host_bytes=host,
        object_store_bytes=store,
        needs=_needs(config, cluster, memory, host, assumed),
        speed=speed,
        seconds=seconds,
        dollars=on_demand,
        dollars_spot=spot,
        checkpoint_bytes=saved,
        checkpoints=kept,
        images=images,
        data_bytes=data,
        storage_per_month=(data + saved * kept) / TERA * hardware.storage_per_tb_month,
    )


def num_workers(config: TrainConfig, cluster: Cluster) -> int:
    """Workers of the run: as many as it asks for; of an elastic one as many as there is room for."""
    scaling = config.scaling
    if not scaling.is_elastic:
        return max(1, scaling.min_workers)
    free = cluster.cpus - config.data.decode_workers * config.data.decode_cpus
    room = cluster.gpus if scaling.use_gpu else int(free / scaling.cpus_per_worker)
    return max(scaling.min_workers, min(scaling.max_workers, room))


def _needs(
    config: TrainConfig, cluster: Cluster, memory: WorkerMemory, host: int, assumed: Assumptions
) -> tuple[Need, ...]:
    workers, scaling, data = config.num_ranks, config.scaling, config.data
    cpus = workers * scaling.cpus_per_worker + data.decode_workers * data.decode_cpus if scaling.num_workers else 1.0
    hosts = cluster.hosts(use_gpu=scaling.use_gpu)
    needs = [Need(what="CPUs", needed=cpus, available=cluster.cpus, unit="")]
    if scaling.use_gpu:
        least = min((node.gpu_memory_gib for _, node, _ in hosts), default=0.0)
        needs.append(Need(what="GPUs", needed=workers, available=cluster.gpus, unit=""))
        wanted = memory.total / GIB + assumed.gpu_overhead_gib
        needs.append(Need(what="memory of a GPU", needed=wanted, available=least, unit="GiB"))
    smallest = min((node.memory_gib for _, node, _ in hosts), default=0.0)
    needs.append(Need(what="memory of a node", needed=host / GIB, available=smallest, unit="GiB"))
    return tuple(needs)


def workers_on_a_node(config: TrainConfig, cluster: Cluster) -> int:
    """The most that are on one node: Ray fills nodes one after the other."""
    hosts = cluster.hosts(use_gpu=config.scaling.use_gpu)
    if config.scaling.use_gpu:
        most = max((node.gpus for _, node, _ in hosts), default=1)
    else:
        most = max(int(node.cpus / config.scaling.cpus_per_worker) for _, node, _ in hosts)
    return max(1, min(most, config.num_ranks))


def _host_memory(
    config: TrainConfig, cluster: Cluster, seen: Trace, memory: WorkerMemory, assumed: Assumptions
) -> tuple[int, int]:
    """Bytes of the node that needs most, the first worker's, and of the object store among them."""
    here = workers_on_a_node(config, cluster)
    tower = concept_tower(config.concepts)[1] if config.stage == "tokenizer" else 0
    worker = assumed.worker_gib * GIB + tower + memory.offloaded
    if not config.scaling.use_gpu:
        worker += memory.total
    decoders = math.ceil(config.data.decode_workers / cluster.num_nodes) if config.scaling.num_workers else 0
    store = here * assumed.blocks_per_worker * block_bytes(config, seen)
    node = assumed.node_gib * GIB + decoders * assumed.decoder_gib * GIB
    return round(node + here * worker + snapshot_bytes(config, seen, here) + store), store


def _speed(config: TrainConfig, cluster: Cluster, seen: Trace, assumed: Assumptions) -> Speed:
    scaling, workers = config.scaling, config.num_ranks
    flops = config.gradient_accumulation_steps * seen.flops
    hosts = [node for _, node, _ in cluster.hosts(use_gpu=scaling.use_gpu)]
    if scaling.use_gpu:
        slowest = min((node.tflops for node in hosts), default=0.0)
        rate = slowest * TERA * assumed.efficiency
    else:
        share = min(node.cpus for node in hosts) / workers_on_a_node(config, cluster)
        rate = min(config.train.threads_per_worker or share, share) * assumed.cpu_gflops * 1e9
    compute = flops / rate if rate else math.inf
    communication = _communication_bytes(config, seen) / (_bandwidth(config, cluster) * assumed.link_efficiency)
    busy = compute + (1 - assumed.overlap) * communication
    pictures = config.num_micro_batches * seen.images
    cores = config.data.decode_workers * min(1.0, config.data.decode_cpus) if scaling.num_workers else 1.0
    data = pictures / (cores * assumed.decode_per_core)
    step = max(busy, data)
    return Speed(
        compute_s=compute,
        communication_s=communication,
        data_s=data,
        step_s=step,
        flops=flops * workers,
        images_per_s=pictures / step,
        decode_cores=pictures / busy / assumed.decode_per_core,
    )


def _communication_bytes(config: TrainConfig, seen: Trace) -> float:
    """What a worker sends in a step: each collective over w workers moves (w − 1) / w of its size (Rajbhandari et al. 2020)."""
    workers, steps, total = config.num_ranks, config.gradient_accumulation_steps, 0.0
    for turn in seen.turns:
        stage = zero_stage_of(config, turn.name)
        if stage == 3:  # weights for forward, backward and recomputation, and gradients, with every micro-batch
            gathers = 3 if config.train.gradient_checkpointing else 2
            total += steps * (gathers * turn.weights + turn.gradients)
        elif stage == 2:  # gradients with every micro-batch, weights once
            total += (steps + 1) * turn.gradients
        else:
            total += 2 * turn.gradients
    return total * (workers - 1) / workers


def _bandwidth(config: TrainConfig, cluster: Cluster) -> float:
    """Bytes a second that a worker can send to the next one, over the slowest link of the ring."""
    hosts = cluster.hosts(use_gpu=config.scaling.use_gpu) or cluster.nodes
    here = workers_on_a_node(config, cluster)
    inside = min(node.gpu_link_gbs for _, node, _ in hosts) * 1e9
    if config.num_ranks <= here:
        return inside
    return min(inside, min(node.network_gbits for _, node, _ in hosts) * 1e9 / 8 / here)
