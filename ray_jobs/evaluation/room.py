"""Room for the replicas of an evaluation."""

from __future__ import annotations

from setok.errors import ConfigError

DECODE_CPUS, REPLICA_CPUS = 0.25, 0.5


def check_room(*, num_replicas: int, use_gpu: bool) -> None:
    """Refuse what the cluster could never run, instead of waiting for it; Ray must be running.

    Raises:
        ConfigError: naming what is missing.
    """
    import ray

    has = ray.cluster_resources()
    cpus = num_replicas * REPLICA_CPUS + DECODE_CPUS
    if has.get("CPU", 0) < cpus:
        most = int((has.get("CPU", 0) - DECODE_CPUS) / REPLICA_CPUS)
        raise ConfigError(
            f"num_replicas={num_replicas} needs {cpus:g} CPUs, and the cluster has {has.get('CPU', 0):g}",
            f"--set num_replicas={max(1, most)}",
        )
    if use_gpu and has.get("GPU", 0) < num_replicas:
        raise ConfigError(
            f"num_replicas={num_replicas} needs as many GPUs, and the cluster has {has.get('GPU', 0):g}",
            "--set use_gpu=false, or fewer replicas",
        )
