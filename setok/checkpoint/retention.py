"""Which checkpoints stay."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from setok.checkpoint.evaluations import Evaluations
from setok.checkpoint.manifest import Best
from setok.checkpoint.store import DamagedError, Store
from setok.config import CheckpointConfig


@dataclass(frozen=True, kw_only=True)
class Retention:
    """What a run keeps of its checkpoints; one that is kept for any reason stays."""

    keep: int
    """The newest ones, at least one."""
    keep_best: int = 0
    """The best ones, by ``best``; those that did not measure it do not count."""
    best: Best
    keep_every: int | None = None
    """All whose step is a multiple."""

    @staticmethod
    def of(config: CheckpointConfig) -> Retention:
        """As a run's settings say."""
        return Retention(
            keep=config.keep,
            keep_best=config.keep_best,
            best=Best(metric=config.best_metric, order=config.best_is),
            keep_every=config.keep_every,
        )

    def kept(self, metrics: Mapping[int, Mapping[str, float]]) -> set[int]:
        """The steps that stay, of good checkpoints and what each of them measured."""
        newest_first = sorted(metrics, reverse=True)
        measured = [step for step in newest_first if self.best.key(metrics[step]) < float("inf")]
        best = sorted(measured, key=lambda step: self.best.key(metrics[step]))[: self.keep_best]
        spaced = [step for step in newest_first if self.keep_every and step % self.keep_every == 0]
        return {*newest_first[: self.keep], *best, *spaced}


def prune(
    run: str | Path, retention: Retention, *, written: int | None = None, needed: Collection[int] = ()
) -> list[int]:
    """Delete the checkpoints of a run that it need not keep, and those that are damaged.

    Args:
        written: step of the checkpoint that was just written and is known to be good. Newer ones are of a time that the
            run went back from because it could not use them, so they are not taken for good by their sizes alone.
        needed: steps that stay, such as those that are to be evaluated.

    Returns:
        The deleted steps, newest first; none if no checkpoint is good.
    """
    store, evaluations = Store.of_run(run), Evaluations(run)
    steps = store.steps()
    good: dict[int, dict[str, float]] = {}
    for step in steps:
        checksums = written is not None and step > written
        try:
            manifest = store.manifest(step)
        except DamagedError:
            continue
        if step == written or not store.problems(step, checksums=checksums):
            good[step] = {**manifest.metrics, **evaluations.metrics(step, manifest)}
    if not good:
        return []
    kept = retention.kept(good) | (good.keys() & set(needed))
    deleted = [step for step in steps if step not in kept]
    for step in deleted:
        store.delete(step)
    return deleted
