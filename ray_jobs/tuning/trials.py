"""The trials of a sweep as files, which are all that a sweep knows: it can be killed at any moment, and go on.

    runs/SWEEP/trials/0003/trial.json     its values, written before it starts
                          /halted.json    that it fell behind and is to end early, and why
                          /result.json    what became of it
                          /…              the training run itself: checkpoints, metrics.jsonl
                          /then/…         the run of its second stage, where the sweep has one

Every file is written once, in one move. Whoever starts a sweep writes the first two; the trial's process writes the third, or
whoever started the sweep where that process died.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from ray_jobs.training.stopping import STOP
from ray_jobs.training.tracking import read_metrics
from ray_jobs.tuning.space import Values, identity, store_of_trials, then_config, train_config
from setok.checkpoint import Evaluations
from setok.config import THEN, TrainConfig, TuneConfig
from setok.data.storage import beside

TRIALS = "trials"
_TRIAL, _HALTED, _RESULT = "trial.json", "halted.json", "result.json"
_NAME = re.compile(r"[0-9]{4,}")
State = Literal["done", "halted", "failed"]
AVERAGED = frozenset({"train/sequence_tokens"})
"""What a step happens to have, which does not change as the training goes on: one step's value says little."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What became of a trial."""

    state: State
    """``done``: all steps; ``halted``: it ended early, because others were better; ``failed``: see ``reason``."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The newest value of everything that was logged; of ``AVERAGED`` the mean."""
    reason: str = ""
    time: float = 0.0
    """When it ended, in seconds since 1970."""


@dataclass(frozen=True, kw_only=True)
class Halted:
    """Why a trial ends early."""

    step: int
    value: float
    """Of the objective, at that step."""
    cutoff: float
    """What it would have needed."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One trial."""

    number: int
    values: Values
    folder: Path
    """Of its training run."""
    home: str | Path
    """Where that has its checkpoints and evaluations."""

    @property
    def name(self) -> str:
        """Name of its training run."""
        return self.folder.name

    @property
    def result(self) -> Result | None:
        """What became of it, if it has ended."""
        return _read(self.folder / _RESULT, Result)

    @property
    def halted(self) -> Halted | None:
        """Why it is to end early, if it is."""
        return _read(self.folder / _HALTED, Halted)

    @property
    def is_finished(self) -> bool:
        """Whether it is over for good: a failed one is tried again when the sweep is started again."""
        return (result := self.result) is not None and result.state != "failed"

    def finish(self, result: Result) -> None:
        """Say what became of it."""
        _write(self.folder / _RESULT, asdict(result) | {"time": time.time()})

    def forget_failure(self) -> None:
        """Let it be tried again."""
        (self.folder / _RESULT).unlink(missing_ok=True)

    def halt(self, why: Halted) -> None:
        """Note that it is to end early."""
        _write(self.folder / _HALTED, asdict(why))

    def ask_to_stop(self) -> None:
        """Have its run save and stop; to be repeated while it runs, since a run that starts forgets older requests."""
        for folder in (self.folder, self.folder / THEN):
            if folder.is_dir():
                (folder / STOP).touch()

    def history(self, metric: str) -> dict[int, float]:
        """Values of a metric of the first stage by optimizer step, oldest first, as far as they are known."""
        if metric.startswith("eval/"):
            evaluations = Evaluations(self.home)
            found = ((step, evaluations.read(step)) for step in evaluations.steps())
            return {step: one.metrics[metric] for step, one in found if one is not None and metric in one.metrics}
        return {int(row["step"]): row[metric] for row in read_metrics(self.folder) if metric in row}

    def metrics(self) -> dict[str, float]:
        """The newest value of everything that was logged, evaluations included, and the mean of what is in ``AVERAGED``; of a
        second stage under ``then/``."""
        first = _newest(self.folder, self.home)
        second = _newest(self.folder / THEN, beside(str(self.home), f"/{THEN}"))
        return first | {f"{THEN}/{name}": value for name, value in second.items()}


class Trials:
    """All trials of a sweep."""

    def __init__(self, sweep: TuneConfig) -> None:
        self._sweep = sweep
        self.folder = sweep.run_dir / TRIALS

    def all(self) -> list[Trial]:
        """Those that have been planned so far, by number."""
        found = (self._trial_in(folder) for folder in self._folders())
        return [trial for trial in found if trial is not None]

    def _folders(self) -> list[Path]:
        return [folder for folder in sorted(self.folder.glob("[0-9]*")) if _NAME.fullmatch(folder.name)]

    def strangers(self) -> list[Path]:
        """Folders among those of the trials that are none, such as copies that somebody has made."""
        return sorted(set(self.folder.glob("*")) - set(self._folders()))

    def read(self, number: int) -> Trial:
        """One that has been planned."""
        trial = self._trial_in(self.folder / f"{number:04d}")
        assert trial is not None, f"trial {number} was planned before it was started"
        return trial

    def plan(self, values: Values) -> Trial:
        """A new trial with the next number, on disk before anybody hears of it."""
        number = max((int(folder.name) for folder in self._folders()), default=-1) + 1
        folder = self.folder / f"{number:04d}"
        folder.mkdir(parents=True)
        _write(folder / _TRIAL, {"number": number, "values": dict(values)})
        return self.read(number)

    def by_identity(self) -> dict[str, Trial]:
        """Trials by what makes them the same."""
        return {identity(trial.values): trial for trial in self.all()}

    def configs(self, trial: Trial) -> list[TrainConfig]:
        """The training runs of a trial, in their order.

        Raises:
            ConfigError: its values are no longer possible, since the sweep's settings were changed.
        """
        first = train_config(self._sweep, trial.values, name=trial.name, output_dir=str(self.folder))
        second = then_config(self._sweep, trial.values, first)
        return [first] if second is None else [first, second]

    def _trial_in(self, folder: Path) -> Trial | None:
        """The trial of a folder; a sweep that was killed may have left one without a file."""
        try:
            found = json.loads((folder / _TRIAL).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        store = store_of_trials(self._sweep)
        home = folder if store is None else beside(store, f"/{folder.name}")
        return Trial(number=found["number"], values=found["values"], folder=folder, home=home)


def _newest(folder: Path, home: str | Path) -> dict[str, float]:
    """The newest value of everything that a run logged, and means of what only comes and goes."""
    rows = [{name: value for name, value in row.items() if name != "time"} for row in read_metrics(folder)]
    newest = {name: value for row in rows for name, value in row.items()}
    for name in AVERAGED & newest.keys():
        newest[name] = fmean(row[name] for row in rows if name in row)
    evaluations = Evaluations(home)
    for step in evaluations.steps():
        if (one := evaluations.read(step)) is not None:
            newest |= one.metrics
    return newest


def _read(path: Path, kind: Any) -> Any:
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _write(path: Path, body: Mapping[str, Any]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
