"""The names of all that a run may log, so that a sweep over something else is refused before its first trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ray_jobs.training.run_log import OF_ALL_MODULES, OF_EVERY_RUN
from setok.config import THEN, TrainConfig, TuneConfig
from setok.config.evaluation import EVALUATED_TASKS
from setok.errors import ConfigError, did_you_mean
from setok.metrics import scoring, setokim
from setok.metrics.running import ImageRows
from setok.stages import setokim as setokim_stage
from setok.stages import tokenizer as tokenizer_stage

_OPEN = ("vqa/by_type", "segment/references", "generate/references", "edit/references")
"""Groups of figures that are named by what the data holds."""
_NOT_MEASURED = "psnr_"
"""Figures of a tokenizer beside the mean picture, which the evaluation of checkpoints leaves out."""
_ANSWERED: dict[str, Mapping[str, Any]] = {
    "vqa": {"accuracy": 1.0, "constant": 1.0, "by_question": 1.0, "blind": 1.0, "kind": "all"},
    "caption": {},
    "segment": {"overlap": (1, 1)},
    "generate": {},
    "edit": {},
}
"""One answer to every task, to see which figures come of it."""


def known_metrics(config: TrainConfig) -> set[str]:
    """Names that a run may log; whether it does may depend on its weights of losses, and on what the data has."""
    modules = ["", "discriminator_"] if config.stage == "tokenizer" and config.loss.adversarial else [""]
    names = {f"train/{module}{name}" for module in modules for name in OF_ALL_MODULES} | set(OF_EVERY_RUN)
    parts = tokenizer_stage.PARTS if config.stage == "tokenizer" else setokim_stage.PARTS
    return names | {f"train/{name}" for name in parts} | {f"eval/{name}" for name in _evaluated(config)}


def _evaluated(config: TrainConfig) -> Iterator[str]:
    if config.validation is None:
        return
    if config.stage == "tokenizer":
        figures = scoring.summarise(ImageRows()).items()
        yield from (n for n, value in figures if not isinstance(value, Mapping) and not n.startswith(_NOT_MEASURED))
        return
    asked = config.validation.tasks or EVALUATED_TASKS
    yield "num_skipped"
    yield from _flat(setokim.summarise([{"task": task, **_ANSWERED[task]} for task in asked]))


def _flat(figures: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Names of figures, whatever they are."""
    for name, value in figures.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        else:
            yield f"{prefix}{name}"


def check_metrics(sweep: TuneConfig) -> None:
    """Refuse a sweep over what no trial will log.

    Raises:
        ConfigError: naming the metric, and what may have been meant.
    """
    stages = {"": sweep.train} if sweep.then is None else {"": sweep.train, f"{THEN}/": sweep.then}
    known = {f"{prefix}{name}": prefix for prefix, stage in stages.items() for name in known_metrics(stage)}
    open_groups = tuple(f"{prefix}eval/{group}/" for prefix in stages for group in _OPEN)
    asked = {f"objectives.{number}.metric": one.metric for number, one in enumerate(sweep.objectives)}
    asked |= {f"questions.{question}": name for question, names in sweep.questions.items() for name in names}
    if "figures" in sweep.model_fields_set:
        asked |= {f"figures.{number}": name for number, name in enumerate(sweep.figures)}
    for key, metric in asked.items():
        if metric in known or metric.startswith(open_groups):
            continue
        prefix = f"{THEN}/" if metric.startswith(f"{THEN}/") else ""
        own = [name for name, of in known.items() if of == prefix]
        group = metric.removeprefix(prefix).partition("/")[0]
        raise ConfigError(
            f"{key}={metric} is nothing that stage {stages[prefix].stage} logs",
            did_you_mean(metric, [name for name in own if name.startswith(f"{prefix}{group}/")] or own),
        )
