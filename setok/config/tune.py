"""Settings of a sweep: many training runs that differ in a few settings, compared."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, field_validator, model_validator

from setok.config.data import ScenesConfig
from setok.config.job import Job
from setok.config.jobs import IngestConfig, TrainConfig, WordsConfig
from setok.config.section import Section
from setok.errors import ConfigError, did_you_mean

METRIC_GROUPS = ("train/", "eval/", "data/", "perf/")
THEN = "then"
"""Where the second stage of a trial lies: below its folder, and in front of its metrics (``then/eval/…``) and keys."""
STAGES = ("tokenizer", "pretrain", "instruct")
_TAKEN_OVER = ("model", "scaling", "seed")
_OF_TRIALS = ("name", "output_dir", "checkpoint.init_from", "checkpoint.store")
_FIRST_STAGE = "the trial's first stage"


def in_section(error: ConfigError, section: str) -> ConfigError:
    """An error of a training run inside a sweep, whose remedy names settings as the sweep has them."""
    remedy = re.sub(r"--set ('?)(?=[a-z])", rf"--set \1{section}.", error.remedy or "")
    return ConfigError(error.problem, remedy)


class Dimension(Section):
    """What one setting may be: one of ``values``, one of ``variants``, or anything between ``low`` and ``high``."""

    values: tuple[Any, ...] = ()
    variants: dict[str, dict[str, Any]] = {}
    """Settings that only make sense together, by a name of yours: each a mapping of dotted keys to values. The key of the
    dimension is then a name, too, and no setting."""
    low: float | None = None
    high: float | None = None
    log: bool = False
    """Of a range: 0.001 to 0.01 is as likely as 0.01 to 0.1."""
    whole: bool = False
    """Of a range: whole numbers only."""
    num_points: int | None = Field(None, ge=2)
    """Of a range in a grid: how many values, evenly spaced (in the logarithm with ``log``), the ends among them."""

    @property
    def is_range(self) -> bool:
        return self.low is not None

    @property
    def choices(self) -> tuple[Any, ...]:
        """All that it may be, for a dimension that is no range: values, or names of variants."""
        return self.values or tuple(self.variants)

    @model_validator(mode="after")
    def _one_of_three(self) -> Dimension:
        has_range = self.low is not None or self.high is not None
        if bool(self.values) + bool(self.variants) + has_range != 1:
            raise ConfigError(
                "a dimension of the space is not exactly one of values, variants and a range",
                "write {values: [1, 2]}, {variants: {soft: {…}, hard: {…}}} or {low: 0.1, high: 1.0}",
            )
        if not has_range and (self.log or self.whole or self.num_points is not None):
            raise ConfigError("log, whole and num_points are for ranges", "leave them out, or give low and high")
        for first, second in itertools.combinations(self.values, 2):
            if first == second and isinstance(first, bool) == isinstance(second, bool):
                raise ConfigError(
                    f"values has {first!r} and {second!r}, which make the same trial twice", "leave one of them out"
                )
        if has_range:
            self._check_range()
        return self

    def _check_range(self) -> None:
        if self.low is None or self.high is None or not self.low < self.high:
            raise ConfigError(
                f"low={self.low} and high={self.high} are no range", "give both, for example {low: 0.1, high: 1.0}"
            )
        if self.log and self.low <= 0:
            raise ConfigError(f"low={self.low:g} has no logarithm", "raise it above 0, or leave log out")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ConfigError(
                f"low={self.low:g} and high={self.high:g} are not whole", "round them, or leave whole out"
            )


class Objective(Section):
    """A metric that a sweep is about."""

    metric: str
    """Any metric that is logged, such as ``train/loss``; those under ``eval/`` are measured by ``train.validation``."""
    best_is: Literal["lowest", "highest"] = "highest"


class HalvingConfig(Section):
    """Asynchronous successive halving (ASHA, Li et al. 2020): trials that fall behind end early."""

    first_step: int = Field(ge=1)
    """The first time that a trial is judged, in optimizer steps: by the first value of the objective from this step on."""
    factor: float = Field(3.0, gt=1.0)
    """It goes on if it is among the best 1/``factor`` of all that have come so far; the next time is ``factor`` times later."""


class TuneConfig(Job):
    """A sweep: training runs that differ in some settings, and what is best.

    ``${run}`` in any value stands for the folder of the sweep.
    """

    job: Literal["tune"] = "tune"
    title: str = ""
    """Headline of the page; the name where it is empty."""
    scenes: dict[str, ScenesConfig] = {}
    """Families to generate, as in a pipeline."""
    ingest: tuple[IngestConfig, ...] = ()
    """Sets to ingest first; all trials read them."""
    words: WordsConfig | None = None
    """A text tokenizer to make of them, for language models from scratch."""
    train: TrainConfig
    """What is the same in all trials. ``scaling.num_workers=0`` trains every trial in one process, which starts sooner."""
    then: TrainConfig | None = None
    """A second stage, which every trial trains on top of its first one: the same language model on every tokenizer, say. Its
    ``model``, ``seed``, ``scaling`` and ``checkpoint.store`` are those of the trial's ``train``, and it starts from that run."""
    space: dict[str, Dimension] = Field(min_length=1)
    """What differs: dotted keys of ``train``, with ``then.`` in front those of ``then``, and what each may be. All combinations
    must be valid."""
    search: Literal["grid", "random", "optuna"] = "grid"
    """``grid``: all combinations; ``random``: drawn from ``seed``; ``optuna``: its tree-structured Parzen estimator."""
    num_trials: int | None = Field(None, ge=1)
    """``grid``: only the first so many; ``random`` and ``optuna`` need it."""
    objectives: tuple[Objective, ...] = Field(min_length=1)
    """The first one says which trial is best. With several, all trials that no other one beats in everything are marked."""
    figures: tuple[str, ...] = ("eval/mean_tokens", "perf/train_seconds")
    """Other metrics that the page shows."""
    questions: dict[str, tuple[str, ...]] = {}
    """What is to be found out, and the metrics that tell: a section of the page each, with one table and one figure."""
    average_over: tuple[str, ...] = ()
    """Dimensions that only repeat trials, such as ``seed``: figures are means over them, with confidence intervals."""
    halving: HalvingConfig | None = None
    max_concurrent: int | None = Field(None, ge=1)
    """Most trials at a time; ``null``: as many as the cluster has room for."""
    max_failures: int = Field(2, ge=0)
    """How often a trial whose process dies goes on by itself."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """Objectives and other figures, each once; those of ``questions`` stand by themselves."""
        return tuple(dict.fromkeys((*(objective.metric for objective in self.objectives), *self.figures)))

    @property
    def stages(self) -> tuple[TrainConfig, ...]:
        """What every trial trains, one after the other."""
        return (self.train,) if self.then is None else (self.train, self.then)

    @property
    def num_combinations(self) -> float:
        """How many trials can differ; infinite with a range, outside of a grid."""
        sizes = [
            (dimension.num_points or math.inf) if dimension.is_range else len(dimension.choices)
            for dimension in self.space.values()
        ]
        return math.prod(sizes)

    @field_validator("train", "then", mode="wrap")
    @classmethod
    def _told_as_of_the_sweep(cls, tree: Any, build: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        try:
            return build(tree)
        except ConfigError as error:
            raise in_section(error, str(info.field_name)) from error

    @model_validator(mode="before")
    @classmethod
    def _take_over(cls, tree: Any) -> Any:
        """Give the second stage what it has from the first one, before it is checked by itself."""
        if not isinstance(tree, Mapping):
            return tree
        train, then = tree.get("train"), tree.get(THEN)
        if not isinstance(train, Mapping) or not isinstance(then, Mapping):
            return tree
        own = {key: value for key, value in then.items() if key not in _TAKEN_OVER}
        taken = {key: train[key] for key in _TAKEN_OVER if key in train}
        checkpoint = then.get("checkpoint") or {}
        if isinstance(checkpoint, Mapping):
            own["checkpoint"] = {**checkpoint, "init_from": _FIRST_STAGE}
        return {**tree, THEN: own | taken}

    @model_validator(mode="after")
    def _consistent(self) -> TuneConfig:
        if self.search == "grid":
            for key, dimension in self.space.items():
                if dimension.is_range and dimension.num_points is None:
                    raise ConfigError(
                        f"space.{key} is a range, and search=grid needs values",
                        "give it num_points, or set search=random and num_trials",
                    )
        elif self.num_trials is None:
            raise ConfigError(f"search={self.search} does not end by itself", "--set num_trials=20")
        keys = [key for name, dimension in self.space.items() for key in _settings_of(name, dimension)]
        twice = [key for key, count in Counter(keys).items() if count > 1]
        if twice:
            raise ConfigError(f"{twice[0]} is set by two dimensions of the space", "let only one of them set it")
        self._check_nesting()
        for key in keys:
            if key in ("name", "output_dir"):
                raise ConfigError(f"space has {key}, which every trial has for itself", f"leave {key} out")
            self._check_then_key(key)
            if key.split(".")[0] == "scaling":
                raise ConfigError(
                    f"space has {key}, and how many trials have room at a time depends on all being alike in this",
                    "set it under train, or compare in sweeps of their own",
                )
        for key in self.average_over:
            if key not in self.space:
                raise ConfigError(
                    f"average_over has {key!r}, which is no dimension of the space",
                    f"{did_you_mean(key, self.space)}; where nothing is repeated: --set 'average_over=[]'",
                )
        if self.then is not None and STAGES.index(self.then.stage) <= STAGES.index(self.train.stage):
            raise ConfigError(
                f"then.stage={self.then.stage} does not come after train.stage={self.train.stage}",
                "set then.stage=instruct, or leave then out",
            )
        self._check_metrics()
        self._check_halving()
        return self

    def _check_nesting(self) -> None:
        """No trial may set a section as a whole and a key in it: what it is would depend on the order."""
        own = [_settings_of(name, dimension) for name, dimension in self.space.items()]
        pairs = [pair for a, b in itertools.permutations(own, 2) for pair in itertools.product(a, b)]
        for dimension in self.space.values():
            for changes in dimension.variants.values():
                pairs += itertools.permutations(changes, 2)
        for parent, key in pairs:
            if key.startswith(f"{parent}."):
                raise ConfigError(
                    f"the space sets {parent} as a whole, and {key} in it", f"let one of them say all of {parent}"
                )

    def _check_then_key(self, key: str) -> None:
        first, _, rest = key.partition(".")
        if first != THEN:
            return
        if self.then is None:
            raise ConfigError(
                f"space has {key}, and there is no second stage", "give the section then, or leave it out"
            )
        if any(rest == taken or rest.startswith(f"{taken}.") for taken in (*_TAKEN_OVER, *_OF_TRIALS)):
            raise ConfigError(
                f"space has {key}, and the second stage takes {rest} from the trial's first one",
                f"set {rest} of the first stage where it may differ, or leave {key} out",
            )

    def _check_metrics(self) -> None:
        for metric in self.metrics + tuple(metric for group in self.questions.values() for metric in group):
            of_then = metric.startswith(f"{THEN}/")
            own = metric.removeprefix(f"{THEN}/")
            if not own.startswith(METRIC_GROUPS):
                group, _, name = own.partition("/")
                close = difflib.get_close_matches(group, [known[:-1] for known in METRIC_GROUPS], n=1, cutoff=0.5)
                meant = f"did you mean '{metric.removesuffix(own)}{close[0]}/{name}'? " if close and name else ""
                raise ConfigError(
                    f"objectives, figures or questions name {metric!r}, which is no metric",
                    f"{meant}metrics begin with {', '.join(METRIC_GROUPS)}: for example train/loss or eval/psnr; those of the"
                    f" second stage with {THEN}/ in front",
                )
            if of_then and self.then is None:
                raise ConfigError(
                    f"{metric} is of a second stage, and there is none", "give the section then, or leave it out"
                )
            run, key = (self.then, THEN) if of_then else (self.train, "train")
            if own.startswith("eval/") and run is not None and run.validation is None and self._is_objective(metric):
                raise ConfigError(
                    f"{metric} is measured by {key}.validation, and that is empty",
                    f"--set {key}.validation.data=FOLDER, or another metric such as train/loss",
                )

    def _is_objective(self, metric: str) -> bool:
        return any(objective.metric == metric for objective in self.objectives)

    def _check_halving(self) -> None:
        if self.halving is not None and self.objectives[0].metric.startswith(f"{THEN}/"):
            raise ConfigError(
                f"halving judges the first stage, and the objective {self.objectives[0].metric} is of the second one",
                "leave halving out, or choose an objective without then/",
            )
        if self.halving is not None and len(self.objectives) > 1:
            raise ConfigError(
                f"halving needs to know which of two trials is better, and there are {len(self.objectives)} objectives",
                "leave halving out, or keep one objective",
            )
        if self.halving is not None and self.average_over:
            raise ConfigError(
                "halving ends trials that a mean over average_over would need", "leave halving or average_over out"
            )
        if self.halving is not None and self.halving.first_step >= self.train.train.steps:
            raise ConfigError(
                f"halving.first_step={self.halving.first_step} is not before the end, train.train.steps={self.train.train.steps}",
                f"--set halving.first_step={max(1, self.train.train.steps // 4)}",
            )


def _settings_of(name: str, dimension: Dimension) -> list[str]:
    """Dotted keys that a dimension sets."""
    if not dimension.variants:
        return [name]
    return list(dict.fromkeys(key for changes in dimension.variants.values() for key in changes))
