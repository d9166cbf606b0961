"""Whether a cluster has room for a run: what its workers and decoders take, beside what there is."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from setok.config import TrainConfig
from setok.errors import ConfigError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Lack:
    """What a cluster has too little of."""

    kind: str
    """``CPUs`` or ``GPUs``."""
    needed: float
    there: float
    parts: str
    """How what is needed comes about."""
    lower: str
    """What to lower."""

    def __str__(self) -> str:
        return f"{self.needed:g} {self.kind} ({self.parts}), and the cluster has {self.there:g}"


def lack_of(config: TrainConfig, num_workers: int, available: Mapping[str, float]) -> Lack | None:
    """What so many workers lack on a cluster, or ``None``.

    Args:
        available: CPUs and GPUs, by Ray's names of them.
    """
    scaling, data = config.scaling, config.data
    cpus = num_workers * scaling.cpus_per_worker + data.decode_workers * data.decode_cpus
    if cpus > available.get("CPU", 0.0) + 1e-6:
        return Lack(
            kind="CPUs",
            needed=cpus,
            there=available.get("CPU", 0.0),
            parts=f"{num_workers} workers × {scaling.cpus_per_worker:g} + {data.decode_workers} decoders × {data.decode_cpus:g}",
            lower="lower scaling.num_workers, scaling.cpus_per_worker or data.decode_workers",
        )
    if scaling.use_gpu and num_workers > available.get("GPU", 0.0):
        return Lack(
            kind="GPUs",
            needed=num_workers,
            there=available.get("GPU", 0.0),
            parts=f"{num_workers} workers × 1",
            lower="lower scaling.num_workers, or set scaling.use_gpu=false",
        )
    return None


def most_to_come() -> dict[str, float]:
    """What the cluster's autoscaler may add up to; empty where nodes do not come by themselves. Ray must be running."""
    import ray

    return ray._private.state.state.get_max_resources_from_cluster_config() or {}


def check_cluster(config: TrainConfig) -> None:
    """Refuse what the cluster does not have, unless it adds nodes by itself; Ray would wait for ever.

    Raises:
        ConfigError: with what is needed, and what to lower.
    """
    import ray

    now, largest = ray.cluster_resources(), most_to_come()
    available = {kind: max(now.get(kind, 0.0), largest.get(kind, 0.0)) for kind in ("CPU", "GPU")}
    scaling = config.scaling
    grows = "add nodes; where the cluster adds them itself, --set scaling.wait_for_nodes=true"
    if (lack := lack_of(config, scaling.min_workers, available)) is not None:
        if not scaling.wait_for_nodes:
            fewest = " at least" if scaling.is_elastic else ""
            raise ConfigError(f"the run needs{fewest} {lack}", f"{lack.lower}, or {grows}")
    elif (lack := lack_of(config, scaling.max_workers, available)) is not None:
        logger.warning(
            "scaling.num_workers of %d need %s: the run starts with fewer, and takes more when nodes come",
            *(scaling.max_workers, lack),
        )
    if config.validation is not None and not scaling.wait_for_nodes:
        for kind, wanted in (("CPU", config.validation.cpus), ("GPU", float(config.validation.use_gpu))):
            if wanted > available[kind] + 1e-6:
                raise ConfigError(
                    f"validation beside the run needs {wanted:g} {kind}s, and the cluster has {available[kind]:g}",
                    f"lower validation.cpus, set validation.use_gpu=false or validation=null, or {grows}",
                )
