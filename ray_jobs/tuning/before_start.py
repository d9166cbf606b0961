"""What a sweep refuses before its first trial, and what it says of itself."""

from __future__ import annotations

import logging
import math
from pathlib import Path

from ray_jobs.ingesting.journal import heldout_folder
from ray_jobs.training.preflight import check_features
from ray_jobs.tuning.known_metrics import check_metrics
from ray_jobs.tuning.space import check_space
from ray_jobs.tuning.trials import Trials
from setok.config import TrainConfig, TuneConfig
from setok.data.schema import Manifest

logger = logging.getLogger(__name__)


def check_before_start(sweep: TuneConfig) -> None:
    """Refuse trials that cannot be, figures that no trial has, and sets that are not there and that the sweep does not make.

    Raises:
        ConfigError, DataError: naming the first of them.
    """
    check_space(sweep)
    check_metrics(sweep)
    made = {_place(folder) for part in sweep.ingest for folder in (part.output, heldout_folder(part))}
    for stage in sweep.stages:
        if stage.data.features is not None:
            check_features(Path(stage.data.features))
        for folder in sets_of(stage):
            if _place(folder) not in made:
                Manifest.load(folder)
    for stranger in Trials(sweep).strangers():
        logger.warning("%s is no trial of this sweep, and is left alone", stranger)
    if sweep.num_trials is not None and sweep.num_trials > sweep.num_combinations:
        logger.warning(
            "num_trials=%d, and the space has only %d combinations: there will be no more trials than those",
            sweep.num_trials,
            math.floor(sweep.num_combinations),
        )


def sets_of(stage: TrainConfig) -> list[str]:
    """The ingested sets that a stage reads, those that it is measured on among them."""
    section = stage.validation
    measured = () if section is None else (section.data, section.references)
    return [*(entry.path for entry in stage.data.train), *filter(None, measured)]


def _place(folder: str) -> str:
    return folder if "://" in folder else str(Path(folder).absolute())
