"""What a run says of itself: numbers, pictures and progress, summed over ranks and written by rank 0."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ray_jobs.progress import Progress, write_progress
from ray_jobs.training import history
from ray_jobs.training.engine import Engine
from ray_jobs.training.machine import Batches, WorkerContext
from ray_jobs.training.pulse import Pulse
from ray_jobs.training.skipping import Skips
from ray_jobs.training.stragglers import StragglerGauge
from ray_jobs.training.tracking import EvaluationFeed, Tracker, open_trackers, picture_of
from setok.batch import Batch, LossOutput
from setok.checkpoint import Evaluations, TrainerState, home_of
from setok.collectives import all_reduce_sum
from setok.config import TrainConfig
from setok.errors import DataError

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5
LOG_LINE_SECONDS = 60.0
OF_ALL_MODULES = ("loss", "grad_norm")
"""What is logged of every module's turn, besides the parts of its loss."""
OF_EVERY_RUN = (
    *("train/learning_rate", "train/skipped_updates", "data/bad_samples"),
    *("perf/images_per_second", "perf/step_seconds", "perf/data_wait_fraction", "perf/train_seconds"),
    *("perf/save_wait_seconds", "perf/save_blocked_seconds", "perf/save_write_seconds"),
    *("perf/straggler_ratio", "perf/straggler_rank"),
)
"""Names of all other numbers, some of which need several workers or a save."""
EVALUATIONS_SECONDS = 5.0
"""Between two looks for what is known of checkpoints."""


class RunLog:
    """Numbers, pictures and progress of a run. All ranks call it, since sums go over ranks; rank 0 writes."""

    def __init__(
        self, config: TrainConfig, worker: WorkerContext, state: TrainerState, skips: Skips, pulse: Pulse
    ) -> None:
        self._config, self._worker = config, worker
        self._skips, self._pulse = skips, pulse
        self._start = state.step
        self._trackers: list[Tracker] = []
        self._before = {"train_seconds": 0.0, "bad_samples": 0.0} | dict(state.counters)
        self._stragglers = StragglerGauge(worker, config.scaling.straggler_factor)
        self._feed: EvaluationFeed | None = None
        self._began = self._window_began = time.perf_counter()
        self._window_step, self._window_wait = state.step, 0.0
        self._shown = self._said = self._looked = 0.0
        self._latest: dict[str, float] = {}
        self._done = state.step
        self._noted: dict[str, float] = {}
        self.metrics: dict[str, float] = {}
        """What was logged last, by its whole name; the same on all ranks."""

    def __enter__(self) -> RunLog:
        if self._worker.is_main:
            self._trackers = open_trackers(self._config, self._config.run_dir, self._start)
            if self._config.validation is not None:
                Evaluations(home_of(self._config)).forget_after(self._start)
                self._feed = EvaluationFeed(self._config)
            self.phase("starting", self._start)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._take_evaluations(self._config.train.steps, at_once=True)
        for tracker in self._trackers:
            tracker.close()
        if kind is None:
            self.phase("done" if self._done == self._config.train.steps else "stopped", self._done)

    @property
    def train_seconds(self) -> float:
        """Time spent in the loop, over restarts."""
        return self._before["train_seconds"] + time.perf_counter() - self._began

    def counters(self, batches: Batches) -> dict[str, float]:
        """What a checkpoint keeps, so that a restart counts on; a collective over all ranks."""
        own = {"train_seconds": self.train_seconds, "bad_samples": self._bad_samples(batches)}
        return own | self._skips.counters

    def _bad_samples(self, batches: Batches) -> float:
        bad = torch.tensor(float(batches.num_bad), dtype=torch.float64, device=self._worker.device)
        return self._before["bad_samples"] + float(all_reduce_sum(bad))

    def step(
        self,
        done: int,
        engines: Mapping[str, Engine],
        outputs: Mapping[str, list[LossOutput]],
        norms: Mapping[str, float],
        factor: float,
        batches: Batches,
    ) -> None:
        """Take note of a finished step, and log it if it is its turn; then it is a collective over all ranks.

        Args:
            done: optimizer steps that are done.
            engines: of all modules.
            outputs: by module, of this step's micro-batches.
            norms: by module, of the updates that were made; others were left out.
            factor: on the learning rate.
            batches: where the data comes from.
        """
        self._done = done
        if done == self._start + 1 and self._worker.is_main:
            history.note_step(self._config.run_dir, resumed_from=self._start)
        if "model" in norms:
            self._latest["loss"] = engines["model"].loss
        if done % self._config.train.log_every == 0 or done == self._config.train.steps:
            metrics = self._timings(done, batches) | {"train/learning_rate": self._config.optim.learning_rate * factor}
            metrics |= self._stragglers.look(*self._pulse.take_own_seconds())
            for name in norms:
                suffix = "" if name == "model" else f"{name}_"
                metrics |= {f"train/{suffix}loss": engines[name].loss, f"train/{suffix}grad_norm": norms[name]}
                metrics |= {f"train/{part}": value for part, value in _global_parts(outputs[name]).items()}
            metrics["data/bad_samples"] = self._bad_samples(batches)
            metrics["train/skipped_updates"] = float(self._skips.total)
            metrics |= self._noted
            self._noted = {}
            for tracker in self._trackers:
                tracker.scalars(metrics, done)
            self._take_evaluations(done)
            self.metrics = self.metrics | metrics
            self._latest |= {name.partition("/")[2]: value for name, value in metrics.items()}
            self._worker.report({"step": done, **metrics})
        if time.perf_counter() - self._shown > PROGRESS_SECONDS:
            self.phase("training", done)

    def _take_evaluations(self, done: int, *, at_once: bool = False) -> None:
        """Log what has become known of checkpoints, at their steps; that nothing can be read is no reason to end a run."""
        if self._feed is None or not (at_once or time.perf_counter() - self._looked > EVALUATIONS_SECONDS):
            return
        self._looked = time.perf_counter()
        try:
            found = self._feed.new(done)
        except (OSError, DataError) as error:
            logger.warning("evaluations of checkpoints cannot be read: %s", error)
            return
        for step, metrics in found:
            for tracker in self._trackers:
                tracker.scalars(metrics, step)
            logger.info(
                "evaluated step %d: %s", step, ", ".join(f"{k} {v:.4g}" for k, v in sorted(metrics.items())[:6])
            )

    def note(self, metrics: Mapping[str, float]) -> None:
        """Numbers from elsewhere, for the next line that is logged."""
        self._noted |= metrics

    def picture(self, done: int, micro_batches: Sequence[Batch], outputs: Mapping[str, list[LossOutput]]) -> None:
        """Log originals, token maps and reconstructions of the step's last micro-batch."""
        if not self._trackers:
            return
        picture = picture_of(micro_batches[-1], outputs["model"][-1])
        if picture is not None:
            for tracker in self._trackers:
                tracker.image("train/images", picture, done)

    def flush(self) -> None:
        """Have all that was logged on disk: what a checkpoint has passed is not logged again."""
        for tracker in self._trackers:
            tracker.flush()

    def phase(self, phase: str, done: int) -> None:
        """Tell people where the run stands."""
        if not self._worker.is_main:
            return
        steps, rate = self._config.train.steps, self._latest.get("images_per_second")
        progress = Progress(
            step=done,
            steps=steps,
            phase=phase,
            time=time.time(),
            resumed_from=self._start,
            loss=self._latest.get("loss"),
            psnr=self._latest.get("psnr"),
            images_per_second=rate,
            seconds_left=(steps - done) * self._config.train.global_batch_size / rate if rate else None,
            wait_fraction=self._latest.get("data_wait_fraction"),
        )
        write_progress(self._config.run_dir, progress)
        self._shown = time.perf_counter()
        if self._shown - self._said > LOG_LINE_SECONDS and self._worker.world_size > 1:
            # For a driver that does not see the folder: Ray brings it the workers' log.
            self._said = self._shown
            logger.info(progress.line())

    def _timings(self, done: int, batches: Batches) -> dict[str, float]:
        now = time.perf_counter()
        seconds = max(now - self._window_began, 1e-9)
        steps, waited = done - self._window_step, batches.wait_seconds - self._window_wait
        self._window_began, self._window_step, self._window_wait = now, done, batches.wait_seconds
        return {
            "perf/images_per_second": steps * self._config.train.global_batch_size / seconds,
            "perf/step_seconds": seconds / steps,
            "perf/data_wait_fraction": min(1.0, waited / seconds),
            "perf/train_seconds": self.train_seconds,
        }


def _global_parts(outputs: Sequence[LossOutput]) -> dict[str, float]:
    """The parts of a loss, summed over micro-batches and ranks."""
    names = sorted(outputs[0].parts)
    if not names:
        return {}
    shares: list[Tensor] = [torch.stack([output.parts[name].double() for name in names]) for output in outputs]
    return dict(zip(names, all_reduce_sum(torch.stack(shares).sum(0)).tolist(), strict=True))
