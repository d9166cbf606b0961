"""When and how a run's checkpoints are written: a copy in host memory in the step, everything else behind the training."""

from __future__ import annotations

import json
import logging
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import torch
import torch.distributed as dist
from torch import Tensor

from ray_jobs.training.engine import Engine
from ray_jobs.training.machine import WorkerContext, barrier
from setok import checkpoint
from setok.checkpoint import MOST_WAITING, Draft, Evaluations, Retention, Store, TrainerState
from setok.collectives import all_reduce_sum, world_size
from setok.config import TrainConfig
from setok.ema import WeightAverage
from setok.errors import CheckpointError, DataError

logger = logging.getLogger(__name__)

OWNER = "owner.json"
"""Beside the checkpoints: which start of the run they belong to, so that no two write at the same time."""
_DONE, _TOLERATED, _TOO_MUCH = 0, 1, 2


def is_due(config: TrainConfig, done: int) -> bool:
    """Whether the schedule asks for a checkpoint after ``done`` steps."""
    return done % config.checkpoint.every == 0 or done == config.train.steps


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One rank's part of a checkpoint, in host memory: training goes on without touching it."""

    state: TrainerState
    weights: Mapping[str, Mapping[str, Tensor]]
    """Of all modules; empty on all ranks but the first."""
    optimizer: Mapping[str, Mapping[str, Tensor]]
    """This rank's share."""


class _TakenOverError(CheckpointError):
    """Another start of the same run writes its checkpoints now."""


class Saver:
    """Writes a run's checkpoints, all ranks together, each its part.

    As a context manager it begins by taking the checkpoints over from an earlier start of the run that may still be about (its
    driver was killed, and ``alone.check_alone`` did not see its workers), which ends at its next save. It ends with everything
    written that was saved; where the block ends by an error, it writes what it was writing and does not wait for other
    ranks for long.

    A save that fails (a full disk, a store out of reach) leaves the run with the checkpoint before, and is told with a
    warning. The run ends by it if there is none before, if it is one more in a row than ``checkpoint.max_failures``, or if
    nothing comes after it that could make it good.
    """

    def __init__(self, config: TrainConfig, worker: WorkerContext) -> None:
        self._config, self._worker = config, worker
        self._home = checkpoint.home_of(config)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[float] | None = None
        self._leaving = threading.Event()
        self._failed: CheckpointError | None = None
        self._num_failed = 0
        self._has_good = False
        self._start = 0
        self.seconds: dict[str, float] = {}
        """Of the last save, as metrics: the loop's wait for the save before, its whole time in ``save``, and how long the
        save before took to be written behind it."""

    def __enter__(self) -> Saver:
        store = Store.of_run(self._home)
        self._take_over(store)
        if self._worker.is_main:
            self._has_good = any(not store.problems(step, checksums=False) for step in store.steps())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.wait()
            elif self._writing is not None:
                self._leaving.set()
                if (failed := self._writing.exception()) is not None:
                    logger.warning("the checkpoint under way is lost: %s", failed)
        finally:
            self._thread.shutdown()

    def save(self, engines: Mapping[str, Engine], state: TrainerState, average: WeightAverage | None) -> None:
        """Take a checkpoint as of now, and write it behind the training; a collective over all ranks.

        It first waits until the one before is written, so that at most one is under way and host memory holds one copy.

        Raises:
            CheckpointError: that one, or this one, cannot be written, and the run should not go on without.
        """
        began = time.perf_counter()
        self._settle()
        self.seconds["perf/save_wait_seconds"] = time.perf_counter() - began
        draft = Draft(self._home, state.step)
        if self._succeeded(self._begin(draft)):
            snapshot = self._take_snapshot(engines, state, average)
            self._writing = self._thread.submit(self._write, draft, snapshot)
            if not self._config.checkpoint.asynchronous:
                self._settle()
        self.seconds["perf/save_blocked_seconds"] = time.perf_counter() - began

    def wait(self) -> None:
        """Return when what was saved last is written for good; a collective over all ranks.

        Raises:
            CheckpointError: it cannot be written.
        """
        self._settle()
        if self._failed is not None:
            raise self._failed

    # ---------------------------------------------------------------- in the step

    def _take_snapshot(
        self, engines: Mapping[str, Engine], state: TrainerState, average: WeightAverage | None
    ) -> Snapshot:
        weights = {name: engine.full_weights() for name, engine in engines.items()}
        if average is not None:
            weights[f"{checkpoint.AVERAGE}.model"] = average.state()
        rank, world = self._worker.rank, self._worker.world_size
        optimizer = {name: engine.named_state(rank, world) for name, engine in engines.items()}
        return Snapshot(state=state, weights=weights, optimizer=optimizer)

    def _take_over(self, store: Store) -> None:
        """Make the checkpoints those of this start of the run, and see that all ranks mean the same ones; a collective."""
        store.probe()
        drawn = torch.tensor(secrets.randbits(48) if self._worker.is_main else 0, device=self._worker.device)
        self._start = int(all_reduce_sum(drawn))
        if self._worker.is_main:
            store.storage.write(OWNER, json.dumps({"start": self._start, "node": socket.gethostname()}).encode())
        barrier()
        if self._worker.is_main or self._owner() == self._start:
            return
        raise CheckpointError(
            f"rank {self._worker.rank} does not see what rank 0 writes to {store.storage.name}",
            "set output_dir to storage that all nodes share, or checkpoint.store to a bucket",
        )

    def _owner(self) -> int | None:
        """Which start of the run the checkpoints belong to."""
        data = Store.of_run(self._home).storage.read(OWNER)
        return None if data is None else int(json.loads(data)["start"])

    def _check_owner(self) -> None:
        """Refuse to write beside another start of the same run."""
        if self._owner() != self._start:
            raise _TakenOverError(
                f"the run in {Store.of_run(self._home).storage.name} was started again elsewhere, and this start of it ends",
                f"let the other one go on; for a run of its own, give it another name (--set name={self._config.name}-2)",
            )

    def _begin(self, draft: Draft) -> Exception | None:
        """Make the store ready for all ranks, on rank 0; what hinders that."""
        if self._worker.is_main:
            try:
                self._check_owner()
                draft.begin()
            except (OSError, DataError, CheckpointError) as error:
                return error
        return None

    def _settle(self) -> None:
        """Wait for the save under way, and let all ranks know how it ended."""
        writing, self._writing = self._writing, None
        if writing is None:
            return
        error = writing.exception()
        if error is None:
            self.seconds["perf/save_write_seconds"] = writing.result()
        elif not isinstance(error, (OSError, DataError, CheckpointError)):
            raise error
        if self._succeeded(error):
            self._failed, self._num_failed, self._has_good = None, 0, True

    def _succeeded(self, error: BaseException | None) -> bool:
        """Whether rank 0's work on a checkpoint ended well, told to all ranks; raises on all what is not tolerated."""
        verdict = _DONE
        if self._worker.is_main and error is not None:
            tolerated = self._has_good and self._num_failed < self._config.checkpoint.max_failures
            tolerated &= not isinstance(error, _TakenOverError)
            verdict = _TOLERATED if tolerated else _TOO_MUCH
        shared = torch.tensor(verdict, device=self._worker.device)
        verdict = int(all_reduce_sum(shared))  # the other ranks add 0
        if verdict == _DONE:
            return True
        self._num_failed += 1
        self._failed = self._share(self._explained(error))
        if verdict == _TOO_MUCH:
            raise self._failed
        if self._worker.is_main:
            logger.warning("%s; the run goes on, and could resume only from the checkpoint before", self._failed)
        return False

    def _share(self, error: CheckpointError) -> CheckpointError:
        """The error of rank 0, on all ranks."""
        box = [error.problem, error.remedy]
        if world_size() > 1:
            dist.broadcast_object_list(box, src=0, device=self._worker.device)
        return CheckpointError(*box)

    def _explained(self, error: BaseException | None) -> CheckpointError:
        if isinstance(error, CheckpointError):
            return error
        keep = self._config.checkpoint.keep
        return CheckpointError(
            f"a checkpoint cannot be written to {Store.of_run(self._home).storage.name}: {error}",
            f"free space there (checkpoint.keep={keep}), or set checkpoint.store or output_dir to another place",
        )

    # ---------------------------------------------------------------- behind the training

    def _write(self, draft: Draft, snapshot: Snapshot) -> float:
        """Write this rank's part, and on rank 0 make a checkpoint of all parts; no collectives here. Its seconds."""
        began = time.perf_counter()
        rank, world = self._worker.rank, self._worker.world_size
        try:
            draft.write_part(snapshot.optimizer, rank=rank, world_size=world)
        except (OSError, DataError) as error:
            if self._worker.is_main:
                self._discard(draft)
            else:
                logger.warning("rank %d cannot write its part of a checkpoint: %s", rank, error)
                draft.report_failure(error, rank=rank, world_size=world)
            raise
        if self._worker.is_main:
            try:
                draft.finish(
                    self._config,
                    snapshot.weights,
                    snapshot.state,
                    seconds=self._config.checkpoint.commit_timeout,
                    leaving=self._leaving,
                    confirm=self._check_owner,
                )
            except _TakenOverError:
                raise  # what lies there is the other start's
            except (OSError, DataError, CheckpointError):
                self._discard(draft)
                raise
            self._prune(snapshot.state)
        return time.perf_counter() - began

    def _prune(self, state: TrainerState) -> None:
        """Delete what need not be kept; that this fails is no reason to end a run."""
        retention = Retention.of(self._config.checkpoint)
        measured_later = self._config.validation is not None and retention.best.metric.startswith("eval/")
        if retention.keep_best and retention.best.metric not in state.metrics and not measured_later:
            known = ", ".join(sorted(state.metrics)) or "none yet"
            logger.warning(
                "the checkpoint of step %d has no checkpoint.best_metric=%s and counts as none of the best; logged are: %s",
                *(state.step, retention.best.metric, known),
            )
        try:
            checkpoint.prune(self._home, retention, written=state.step, needed=self._to_evaluate())
        except (OSError, DataError) as error:
            logger.warning("old checkpoints are not deleted: %s", error)

    def _to_evaluate(self) -> list[int]:
        """Checkpoints that wait for their evaluation, or are under it."""
        if self._config.validation is None:
            return []
        due = [step for step in Store.of_run(self._home).steps() if self._config.validates(step)]
        return Evaluations(self._home).unfinished(due)[:MOST_WAITING]

    def _discard(self, draft: Draft) -> None:
        """Make room again after a save that failed."""
        try:
            draft.discard()
        except (OSError, DataError) as error:
            logger.warning("what is left of the checkpoint of step %d is not deleted: %s", draft.step, error)
