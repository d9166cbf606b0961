"""Evaluates a run's checkpoints while the training goes on, on resources that it leaves free.

The process that started the run looks after it: it sees new checkpoints where the run writes them, and hands them to a Ray
task, one at a time. So whatever happens to an evaluation, the training does not know of it. (Ray Train has validation tasks
of its own. In Ray 2.60 a task whose process is killed, as by a full memory, ends the training with a ControllerError; a
finished training waits without end for a task that finds no room; and what was asked for is lost with the controller.)

What comes of it lies in ``evaluations`` beside the checkpoints. Rank 0 logs it, at the step of the checkpoint; what comes
after its end is logged here.
"""

from __future__ import annotations

import logging
import threading
import time
from types import TracebackType
from typing import Any

import torch

from ray_jobs.training.tracking import log_evaluations
from setok import checkpoint
from setok.checkpoint import Evaluation, Evaluations, Store, name_of
from setok.config import EvaluateConfig, TrainConfig, ValidationConfig
from setok.data.storage import beside
from setok.errors import DataError

logger = logging.getLogger(__name__)

POLL_SECONDS = 5.0
LAST_POLL_SECONDS = 0.2
"""Once the training is over, and somebody waits."""
MOST_BEHIND = 2
"""Evaluations that may wait while another one runs; of more, the oldest are skipped."""


def validate_checkpoint(config: TrainConfig, step: int) -> dict[str, float]:
    """Metrics of a checkpoint by names under ``eval/``: those of ``python -m ray_jobs.evaluate``, but for the
    references of pictures."""
    from ray_jobs.evaluation.here import flat, measure_here  # with all models and tasks, for which no start should wait

    section = config.validation
    assert section is not None
    asked = EvaluateConfig.model_validate(
        {
            "name": f"{config.name}-{step}",
            "checkpoint": beside(checkpoint.home_of(config), f"/checkpoints/{name_of(step)}"),
            "data": section.data,
            "limit": section.limit,
            "tasks": section.tasks,
            "batch_size": section.batch_size,
            "max_new_tokens": section.max_new_tokens,
            "use_gpu": section.use_gpu,
            "references": section.references is not None,
            "train_data": section.references,
        }
    )
    return dict(flat(measure_here(asked, num_threads=max(1, int(section.cpus))), "eval"))


def unfinished(config: TrainConfig) -> list[int]:
    """Steps whose checkpoints are there and should be evaluated, newest first."""
    home = checkpoint.home_of(config)
    due = [step for step in Store.of_run(home).steps() if config.validates(step)]
    return Evaluations(home).unfinished(due) if due else []


# ---------------------------------------------------------------- in this process


def validate_here(config: TrainConfig, step: int) -> None:
    """Evaluate a checkpoint in the training's own process, which waits; an error is told and goes by."""
    evaluations = Evaluations(checkpoint.home_of(config))
    contents = evaluations.contents(step)
    threads = torch.get_num_threads()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            found = Evaluation(state="done", manifest=contents, metrics=validate_checkpoint(config, step))
    except Exception as error:
        found = Evaluation(state="failed", manifest=contents, reason=_short(error))
        logger.warning("the checkpoint of step %d is not evaluated: %s", step, found.reason)
    finally:
        torch.set_num_threads(threads)
    evaluations.write(step, found)


# ---------------------------------------------------------------- beside it, on Ray


class Validator:
    """Looks after the evaluations of a run on Ray while a ``with`` block trains; does nothing without ``validation``.

    At the end of the block, if it ended well, it waits for what is still to be evaluated, for ``validation.timeout`` seconds
    at most; if the run is not at its end it leaves that to the next start. No error of its own leaves it.
    """

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self._evaluations = Evaluations(checkpoint.home_of(config))
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._running: _Running | None = None
        self._told: set[str] = set()

    def __enter__(self) -> Validator:
        if self._config.validation is not None:
            self._thread = threading.Thread(target=self._watch, name="validation", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None or self._config.validation is None:
            return
        self._stop.set()
        self._thread.join()
        if kind is None and self._is_at_its_end():
            self._finish(self._config.validation.timeout)
        self._cancel()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._try_to_advance(beside_training=True)

    def _is_at_its_end(self) -> bool:
        """Whether the last step is done: a run that was asked to stop before has no time to wait for evaluations."""
        try:
            steps = Store.of_run(checkpoint.home_of(self._config)).steps()
        except (OSError, DataError):
            return False
        return bool(steps) and steps[0] >= self._config.train.steps

    def _finish(self, timeout: float) -> None:
        """What is left once the training is over, and needs nothing any more."""
        ends = time.monotonic() + timeout
        if self._running is not None or unfinished(self._config):
            logger.info("the training is done, and its last checkpoint is being evaluated")
        while self._try_to_advance(beside_training=False):
            if time.monotonic() > ends:
                logger.warning(
                    "not evaluated within validation.timeout=%g seconds: step %s; the same command tries again",
                    *(timeout, ", ".join(map(str, sorted(unfinished(self._config))))),
                )
                break
            time.sleep(LAST_POLL_SECONDS)
        try:
            log_evaluations(self._config)
        except Exception as error:
            self._tell(f"evaluations are not logged: {_short(error)}")

    def _try_to_advance(self, *, beside_training: bool) -> bool:
        try:
            return self._advance(beside_training=beside_training)
        except Exception as error:  # a store out of reach, Ray that ends: the training has its own way to find out
            self._tell(f"checkpoints are not evaluated: {_short(error)}")
            return False

    def _advance(self, *, beside_training: bool) -> bool:
        """Take what is done and begin what is next; whether there is anything left to do."""
        if self._running is not None and not self._take(self._running):
            return True
        waiting = unfinished(self._config)
        for step in waiting[MOST_BEHIND:]:
            self._settle(step, Evaluation(state="skipped", reason="newer checkpoints came before it was its turn"))
        if not waiting:
            return False
        if (lack := self._lack(beside_training=beside_training)) is None:
            self._begin(min(waiting[:MOST_BEHIND]))
            return True
        self._tell(lack)
        return beside_training

    # ------------------------------------------------------------ one evaluation

    def _begin(self, step: int) -> None:
        import ray

        section, contents = self._section, self._evaluations.contents(step)
        self._evaluations.write(step, Evaluation(state="running", manifest=contents))
        task = ray.remote(validate_checkpoint).options(
            num_cpus=section.cpus,
            num_gpus=1 if section.use_gpu else 0,
            scheduling_strategy="DEFAULT",  # of all the cluster, where a sweep's trial has a placement group of its own
            max_retries=0,
            name=f"validation of step {step}",
        )
        self._running = _Running(step, contents, task.remote(self._config, step), time.monotonic())

    def _take(self, running: _Running) -> bool:
        """Whether the evaluation under way has ended, well or not; then its file says so."""
        import ray

        if not ray.wait([running.result], timeout=0)[0]:
            if time.monotonic() - running.began <= self._section.timeout:
                return False
            ray.cancel(running.result, force=True)
            found = Evaluation(state="failed", reason=f"it took longer than {self._section.timeout:g} seconds")
        else:
            try:
                found = Evaluation(state="done", metrics=ray.get(running.result))
            except Exception as error:
                found = Evaluation(state="failed", reason=_short(error))
        self._running = None
        if found.state == "failed":
            self._tell(f"the checkpoint of step {running.step} is not evaluated: {found.reason}", key=found.reason)
        self._settle(running.step, found, running.contents)
        return True

    def _settle(self, step: int, found: Evaluation, contents: str | None = None) -> None:
        manifest = self._evaluations.contents(step) if contents is None else contents
        whole = Evaluation(state=found.state, manifest=manifest, metrics=found.metrics, reason=found.reason)
        self._evaluations.write(step, whole)

    def _cancel(self) -> None:
        if self._running is None:
            return
        import ray

        running, self._running = self._running, None
        ray.cancel(running.result, force=True)

    # ------------------------------------------------------------ room, and words

    def _lack(self, *, beside_training: bool) -> str | None:
        """Why there is no room for an evaluation, in a sentence; ``None`` if there is.

        Beside a training it may not take what the training needs, not even while that is free: workers that start again, or
        the decoders, would have to wait for it.
        """
        import ray

        has = ray.cluster_resources()
        for kind, wanted in (("CPU", self._section.cpus), ("GPU", float(self._section.use_gpu))):
            all_of_it, taken = has.get(kind, 0.0) + 1e-6, self._config.resources[kind]
            if wanted > all_of_it:
                return (
                    f"no checkpoint is evaluated: validation needs {wanted:g} {kind}s, the cluster has {all_of_it:.3g}"
                )
            if wanted and beside_training and wanted > all_of_it - taken:
                return (
                    f"checkpoints are evaluated once the training is over: validation needs {wanted:g} {kind}s beside the"
                    f" {taken:g} of the training, and the cluster has {all_of_it:.3g}"
                )
        return None

    @property
    def _section(self) -> ValidationConfig:
        assert self._config.validation is not None
        return self._config.validation

    def _tell(self, what: str, *, key: str | None = None) -> None:
        """Warn, once of each thing."""
        if (key or what) not in self._told:
            self._told.add(key or what)
            logger.warning("%s", what)


class _Running:
    """An evaluation under way."""

    def __init__(self, step: int, contents: str, result: Any, began: float) -> None:
        self.step, self.contents, self.result, self.began = step, contents, result, began


def _short(error: BaseException) -> str:
    """The last line of an error, which is the one that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
