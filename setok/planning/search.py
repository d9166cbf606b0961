"""The smallest change that makes a run fit, found by planning it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

from setok.config import TrainConfig, build, set_value
from setok.errors import ConfigError
from setok.planning.batches import Samples
from setok.planning.estimate import Estimate, Tracer, estimate
from setok.planning.hardware import Cluster, Hardware
from setok.planning.trace import Trace, trace


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """Settings that make a run fit, and the run with them."""

    settings: tuple[str, ...]
    """As ``--set`` takes them; empty where only more nodes help."""
    nodes: str
    """As ``--nodes`` takes them; empty where these will do."""
    estimate: Estimate


class Traces:
    """Traces that are remembered.

    Where there is no data yet, micro-batches of more than two samples are told from those of one and two, which they follow
    exactly.

    Args:
        batch_of: gives a real micro-batch of a config whose data is here, else ``None``.
    """

    def __init__(self, batch_of: Callable[[TrainConfig], Any] = lambda config: None) -> None:
        self._batch_of = batch_of
        self._known: dict[tuple[Any, ...], Trace] = {}

    def __call__(self, config: TrainConfig, samples: Samples) -> Trace:
        """As ``setok.planning.trace.trace``."""
        size = config.train.micro_batch_size
        batch = self._batch_of(config)
        if size <= 2 or batch is not None:
            return self._of(config, samples, size, batch)
        one, two = (self._of(config, samples, number, None) for number in (1, 2))
        return _larger(one, two, size - 2)

    def _of(self, config: TrainConfig, samples: Samples, size: int, batch: Any) -> Trace:
        key = (
            *(size, config.train.gradient_checkpointing, config.train.precision, config.scaling.use_gpu),
            *(config.name, config.stage, config.train.global_batch_size, samples),
        )
        if key not in self._known:
            train = config.train.model_copy(update={"micro_batch_size": size})
            self._known[key] = trace(config.model_copy(update={"train": train}), samples, batch)
        return self._known[key]


def _larger(one: Trace, two: Trace, more: int) -> Trace:
    """The trace of a micro-batch with ``more`` samples than two."""

    def on(before: Any, after: Any, kind: type[Any]) -> dict[str, Any]:
        pairs = {f.name: (getattr(before, f.name), getattr(after, f.name)) for f in fields(kind)}
        return {name: max(0, b + more * (b - a)) for name, (a, b) in pairs.items() if isinstance(b, (int, float))}

    turns = tuple(replace(b, **on(a, b, type(b))) for a, b in zip(one.turns, two.turns, strict=True))
    return replace(two, turns=turns, **on(one, two, Trace))


def suggest(config: TrainConfig, cluster: Cluster, hardware: Hardware, tracer: Tracer) -> Suggestion | None:
    """The smallest change with which the run fits the cluster, else the smallest larger cluster; ``None`` if neither is found."""
    if config.scaling.use_gpu and not cluster.gpus:
        return None
    for settings, changed in _changes(config, cluster):
        planned = estimate(changed, cluster, hardware, tracer)
        if planned.fits:
            return Suggestion(settings=settings, nodes="", estimate=planned)
    if not cluster.has_prices:
        return None
    for times, (settings, changed) in itertools.product((2, 4, 8, 16), _changes(config, cluster)):
        larger = replace(cluster, nodes=tuple((name, node, times * count) for name, node, count in cluster.nodes))
        planned = estimate(changed, larger, hardware, tracer)
        if planned.fits:
            nodes = " ".join(f"{name}:{count}" for name, _, count in larger.nodes)
            return Suggestion(settings=settings, nodes=nodes, estimate=planned)
    return None


def _changes(config: TrainConfig, cluster: Cluster) -> Iterator[tuple[tuple[str, ...], TrainConfig]]:
    """Changes of a run that need less of a cluster, those of fewer settings first; the global batch stays what it is."""
    train, zero, scaling = config.train, config.deepspeed, config.scaling
    options: list[list[tuple[str, Any] | None]] = [
        [None, *([("train.gradient_checkpointing", True)] if not train.gradient_checkpointing else [])],
        [None, *(("deepspeed.zero_stage", stage) for stage in range(zero.zero_stage + 1, 4))],
        [None, *(("train.micro_batch_size", size) for size in _halves(train.micro_batch_size))],
        [None, *(("scaling.num_workers", number) for number in _fewer(config, cluster))],
        [None, *([("deepspeed.offload_optimizer", True)] if scaling.use_gpu and not zero.offload_optimizer else [])],
    ]
    combinations = [[change for change in chosen if change is not None] for chosen in itertools.product(*options)]
    for chosen in sorted(combinations, key=len):
        tree = config.model_dump(mode="json")
        for key, value in chosen:
            set_value(tree, key, value)
        try:
            changed = build(TrainConfig, tree)
        except ConfigError:  # the settings do not go together
            continue
        yield tuple(f"{key}={str(value).lower()}" for key, value in chosen), changed


def _halves(size: int) -> Iterator[int]:
    while size > 1:
        size //= 2
        yield size


def _fewer(config: TrainConfig, cluster: Cluster) -> Iterator[int]:
    """Numbers of workers that the cluster has room for, where the run asks for more."""
    scaling = config.scaling
    if scaling.use_gpu and not scaling.is_elastic and 0 < cluster.gpus < scaling.min_workers:
        yield cluster.gpus
