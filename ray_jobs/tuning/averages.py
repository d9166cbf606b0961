"""Trials that only repeat each other (other seeds), taken together: means with confidence intervals.

averages.md   tables of them, one for each question, for a README or a paper
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from ray_jobs.tuning.names import name_of, value_name
from ray_jobs.tuning.space import Values, identity
from ray_jobs.tuning.trials import Trial
from setok.config import TuneConfig

AVERAGES = "averages.md"
_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131),
    *(2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""Quantile 0.975 of Student's t distribution with 1, 2, … 30 degrees of freedom."""
_NORMAL = 1.96
"""What it comes down to with many."""

_WHOLE = 100
"""Figures from here on are told without a fraction."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean over repetitions, and half the width of its 95 % confidence interval."""

    mean: float
    half: float | None
    """``None`` for a single repetition."""
    count: int

    @classmethod
    def of(cls, figures: Sequence[float]) -> Interval | None:
        """Of some repetitions, which are taken to be normally distributed; ``None`` without any."""
        count = len(figures)
        if not count:
            return None
        mean = math.fsum(figures) / count
        if count == 1:
            return cls(mean=mean, half=None, count=1)
        deviation = math.sqrt(math.fsum((figure - mean) ** 2 for figure in figures) / (count - 1))
        quantile = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else _NORMAL
        return cls(mean=mean, half=quantile * deviation / math.sqrt(count), count=count)

    def told(self) -> str:
        """For people: the interval to two digits, and the mean as far as it goes, for further ones would say nothing."""
        if not self.half or not math.isfinite(self.half):
            mean = f"{self.mean:,.0f}" if abs(self.mean) >= _WHOLE else f"{self.mean:.3g}"
            return mean if self.half is None else f"{mean} ± {self.half:.2g}"
        exponent = math.floor(math.log10(float(f"{self.half:.1e}")))  # rounding may carry: 0.0996 is 0.10
        places = max(0, 1 - exponent)
        return f"{self.mean:,.{places}f} ± {self.half:,.{places}f}"


@dataclass(frozen=True, kw_only=True)
class Group:
    """Finished trials that repeat each other."""

    values: Values
    """What they have in common."""
    trials: tuple[Trial, ...]

    @property
    def label(self) -> str:
        """Their values, in a few words."""
        return ", ".join(map(value_name, self.values.values())) or "all"

    @property
    def size(self) -> str:
        """How many there are, in words."""
        return "1 trial" if len(self.trials) == 1 else f"{len(self.trials)} trials"

    def interval(self, metric: str) -> Interval | None:
        """Of one of their figures, over those that have it."""
        results = [result for trial in self.trials if (result := trial.result) is not None]
        return Interval.of([result.metrics[metric] for result in results if metric in result.metrics])


def groups_of(sweep: TuneConfig, trials: Sequence[Trial]) -> list[Group]:
    """Finished trials by what is not averaged over, the best group by the first objective first."""
    found: dict[str, list[Trial]] = {}
    for trial in trials:
        if (result := trial.result) is not None and result.state == "done":
            found.setdefault(identity(_common(sweep, trial)), []).append(trial)
    groups = [Group(values=_common(sweep, together[0]), trials=tuple(together)) for together in found.values()]
    return sorted(groups, key=lambda group: rank_of(sweep, group))


def is_repeated(groups: Sequence[Group]) -> bool:
    """Whether any of them has more than one trial so far; without that there are no intervals."""
    return any(len(group.trials) > 1 for group in groups)


def rank_of(sweep: TuneConfig, group: Group) -> tuple[float, ...]:
    """Smaller is better: means of the objectives, the first one first; what is no number is worst."""
    means = [group.interval(objective.metric) for objective in sweep.objectives]
    signs = [-1.0 if objective.best_is == "highest" else 1.0 for objective in sweep.objectives]
    return tuple(
        math.inf if mean is None or math.isnan(mean.mean) else sign * mean.mean
        for mean, sign in zip(means, signs, strict=True)
    )


def _common(sweep: TuneConfig, trial: Trial) -> dict[str, object]:
    return {key: value for key, value in trial.values.items() if key not in sweep.average_over}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the trials say to one question."""

    question: str
    metrics: tuple[str, ...]
    """Those that are known, in the order of the config."""
    groups: tuple[Group, ...]
    """In the order of the space, so that all tables can be read side by side."""


def answers_of(sweep: TuneConfig, trials: Sequence[Trial]) -> list[Answer]:
    """Every question of the sweep that anything is known of; of a sweep without questions, its metrics as one."""
    ranked = groups_of(sweep, trials)
    groups = tuple(sorted(ranked, key=lambda group: group.trials[0].number)) if sweep.questions else tuple(ranked)
    asked = sweep.questions or {"Compared": sweep.metrics}
    found = []
    for question, metrics in asked.items():
        known = tuple(metric for metric in metrics if any(group.interval(metric) for group in groups))
        if known:
            found.append(Answer(question=question, metrics=known, groups=groups))
    return found


def markdown_of(sweep: TuneConfig, answer: Answer) -> str:
    """The table of a question, in Markdown."""
    keys = [key for key in sweep.space if key not in sweep.average_over]
    columns = [*keys, "trials", *(name_of(metric) for metric in answer.metrics)]
    lines = [_row(columns), f"|{'---|' * len(keys)}{'---:|' * (1 + len(answer.metrics))}"]
    for group in answer.groups:
        cells = [value_name(group.values[key]) for key in keys] + [str(len(group.trials))]
        cells += ["–" if (one := group.interval(metric)) is None else one.told() for metric in answer.metrics]
        lines.append(_row(cells))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_escaped, cells))} |"


def _escaped(text: str) -> str:
    """A name of somebody's own as plain text in Markdown, on one line."""
    return escape(" ".join(text.split()), quote=False).replace("|", "\\|")


def write_averages(sweep: TuneConfig, trials: Sequence[Trial]) -> Path | None:
    """Write ``averages.md``, if the sweep averages over anything."""
    if not sweep.average_over:
        return None
    parts = []
    for answer in answers_of(sweep, trials):
        parts += [f"### {_escaped(answer.question)}", ""] if sweep.questions else []
        parts += [markdown_of(sweep, answer), ""]
    over = ", ".join(sweep.average_over)
    if is_repeated(groups_of(sweep, trials)):
        parts.append(f"Means over {over}, ± half the width of their 95 % confidence interval (Student's t).")
    else:
        parts.append(f"One trial each: not repeated over {over} yet, so that there are no intervals.")
    path = sweep.run_dir / AVERAGES
    temporary = path.with_suffix(".tmp")
    temporary.write_text("\n".join(parts) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path
