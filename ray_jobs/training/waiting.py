"""Looks after a run from outside while none of its workers lives: it tells what is waited for, and ends the wait.

Ray Train waits for room without an end, and hears nothing meanwhile: its controller stands in a call. So whoever started the
run watches for it. While there are no workers, a wish to stop has nothing to save and is granted at once, and a cluster that has
no room is told with the run's progress, or given up.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from ray_jobs.progress import Progress, read_progress, write_progress
from ray_jobs.training.room import Lack, lack_of
from ray_jobs.training.stopping import is_asked_to_stop
from setok.config import TrainConfig
from setok.errors import ConfigError

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
LOOK_SECONDS = 5.0
"""Between two questions to the cluster, while nobody asks for a stop."""
_WORKER = "RayTrainWorker"
"""Ray Train's name for the actors that train."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the watch asks of Ray, and does with it."""

    has_workers: Callable[[], bool]
    """Whether any worker of the run lives."""
    resources: Callable[[], Mapping[str, float]]
    """All CPUs and GPUs there are now, by Ray's names of them."""
    end: Callable[[], bool]
    """Ends the run, and says whether it could: it cannot before the run has begun."""


class Watch:
    """A thread that looks after a run while a ``with`` block trains."""

    def __init__(self, config: TrainConfig, cluster: Cluster, *, clock: Callable[[], float] = time.time) -> None:
        self._config, self._cluster, self._clock = config, cluster, clock
        self._lacks_since: float | None = None
        self._looked = float("-inf")
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work, name="waiting", daemon=True)
        self._gave_up: ConfigError | None = None
        self.has_ended_it = False
        """Whether the run ended because of this, and not by itself."""

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._thread.join()

    def settle(self) -> None:
        """Raise what the run was given up for; a stop that was asked for is no error.

        Raises:
            ConfigError: nodes have not come in ``scaling.wait_for_nodes`` minutes.
        """
        if self.has_ended_it and self._gave_up is not None:
            raise self._gave_up

    def _work(self) -> None:
        while not (self._is_over.wait(POLL_SECONDS) or self.has_ended_it):
            try:
                self.look()
            except Exception as error:  # a cluster out of reach: the training has its own way to find out
                logger.debug("the run is not looked after: %s", error)

    def look(self) -> None:
        """Look, unless it is too early, and do what is to be done."""
        now, stops = self._clock(), is_asked_to_stop(self._config.run_dir)
        if not stops and now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        if self._cluster.has_workers():
            self._lacks_since = None
            return
        lack = None if stops else lack_of(self._config, self._config.scaling.min_workers, self._cluster.resources())
        if lack is not None:
            self._wait_for(lack, now)
        else:
            self._lacks_since = None
        if stops or self._gave_up is not None:
            self.has_ended_it = True  # before it is so, for whoever sees it end
            self.has_ended_it = self._cluster.end()

    def _wait_for(self, lack: Lack, now: float) -> None:
        if self._lacks_since is None:
            self._lacks_since = now
        limit = self._config.scaling.wait_for_nodes
        if not isinstance(limit, bool) and now - self._lacks_since > 60 * limit:
            self._gave_up = ConfigError(
                f"no nodes have come in scaling.wait_for_nodes={limit:g} minutes: the run needs {lack}",
                f"see in `ray status` what keeps them away, raise the limit, or {lack.lower}",
            )
            return
        before, since = read_progress(self._config.run_dir), time.strftime("%X", time.localtime(self._lacks_since))
        progress = Progress(
            step=0 if before is None else before.step,
            steps=self._config.train.steps,
            phase=f"waiting for nodes since {since}: {lack.needed:g} {lack.kind} needed, {lack.there:g} there",
            time=now,
        )
        with contextlib.suppress(OSError):  # a full disk is for the run to complain about
            write_progress(self._config.run_dir, progress)


def cluster_of(controller: Callable[[], Any]) -> Cluster:
    """Ray, where it runs a training.

    Args:
        controller: gives Ray Train's controller; ``None`` while there is none.
    """
    import ray

    job = ray.JobID.from_hex(ray.get_runtime_context().get_job_id())

    def has_workers() -> bool:
        alive = ray._private.state.actors(job_id=job, actor_state_name="ALIVE")
        return any(actor["ActorClassName"] == _WORKER for actor in alive.values())

    def end() -> bool:
        if (found := controller()) is None:
            return False
        ray.kill(found)  # what it waits for, and holds, goes with it
        return True

    return Cluster(has_workers=has_workers, resources=ray.cluster_resources, end=end)
