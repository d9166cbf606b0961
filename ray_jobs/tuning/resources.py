"""How many trials a cluster has room for at a time.

Tune knows only of the processes that look after trials; the workers of their Ray Train runs, decoders and evaluations ask
for room of their own. Ray would start trial after trial until each has a part of what it needs and waits for the rest for
ever, so the number of trials is what surely fits.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from setok.config import TrainConfig
from setok.errors import ConfigError

Resources = Mapping[str, float]
LOOK_AFTER = 0.01
"""CPUs of the process that looks after a trial on Ray Train; Tune cannot start one with none."""
_TINY = 1e-6


def own_resources(config: TrainConfig) -> dict[str, float]:
    """What a trial's own process takes: nearly nothing beside workers, or all where it trains by itself."""
    scaling = config.scaling
    if scaling.max_workers:
        return {"CPU": LOOK_AFTER}
    return {"CPU": scaling.cpus_per_worker} | ({"GPU": 1.0} if scaling.use_gpu else {})


def bundles_of(config: TrainConfig, num_workers: int | None = None) -> list[Resources]:
    """All that a trial takes, in parts that each lie on one node; what is largest comes first.

    Args:
        num_workers: how many it starts with; ``None`` for as many as it may have.
    """
    scaling, data = config.scaling, config.data
    own = own_resources(config)
    if not scaling.max_workers:
        return [own]
    worker = {"CPU": scaling.cpus_per_worker} | ({"GPU": 1.0} if scaling.use_gpu else {})
    decoders: list[Resources] = [{"CPU": data.decode_cpus}] * data.decode_workers
    return [*([worker] * (num_workers or scaling.max_workers)), *decoders, *_evaluation(config), own]


def _evaluation(config: TrainConfig) -> list[Resources]:
    section = config.validation
    if section is None:
        return []
    return [{"CPU": section.cpus} | ({"GPU": 1.0} if section.use_gpu else {})]


def num_that_fit(nodes: Sequence[Resources], bundles: Sequence[Resources]) -> int:
    """How often all bundles together find room on some nodes, each bundle on one of them, placed where it first fits."""
    free = [dict(node) for node in nodes]
    count = 0
    while all(_place(free, bundle) for bundle in bundles):
        count += 1
    return count


def _place(free: Sequence[dict[str, float]], bundle: Resources) -> bool:
    """Take a bundle from the first node that has room for it."""
    for node in free:
        if all(node.get(kind, 0.0) >= amount - _TINY for kind, amount in bundle.items()):
            for kind, amount in bundle.items():
                node[kind] = node.get(kind, 0.0) - amount
            return True
    return False


def this_node() -> dict[str, float]:
    """What a Ray that is started on this machine would hand out."""
    import torch

    return {"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}


def most_at_a_time(config: TrainConfig, nodes: Sequence[Resources]) -> int:
    """Trials that surely fit at the same time.

    A checkpoint is evaluated beside the training where there is room, and after it otherwise; so where not even one trial has
    room for both, room for the training is enough, and where that may have fewer workers, room for those.

    Raises:
        ConfigError: not even one trial fits.
    """
    alone = config.model_copy(update={"validation": None})
    without = bundles_of(alone, config.scaling.min_workers)
    fits = num_that_fit(nodes, bundles_of(config)) or min(1, num_that_fit(nodes, without))
    if not fits:
        needs, has = _total(without), _total(nodes)
        raise ConfigError(
            f"a trial needs {_told(needs)}, and the cluster has {_told({kind: has.get(kind, 0.0) for kind in needs})}",
            "lower train.scaling.num_workers or train.scaling.cpus_per_worker, or set train.scaling.num_workers=0"
            if config.scaling.max_workers
            else "lower train.scaling.cpus_per_worker, or set train.scaling.use_gpu=false where that is what is missing",
        )
    return fits


def _total(parts: Sequence[Resources]) -> dict[str, float]:
    kinds = dict.fromkeys(kind for part in parts for kind in part)
    return {kind: sum(part.get(kind, 0.0) for part in parts) for kind in kinds}


def _told(resources: Resources) -> str:
    return " and ".join(f"{amount:g} {kind}s" for kind, amount in resources.items())
