"""From a sweep's space to the settings of its trials."""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ray_jobs.training.before_start import with_absolute_paths
from setok.checkpoint import home_of
from setok.config import THEN, Dimension, TrainConfig, TuneConfig, build, in_section, set_value
from setok.data.storage import beside
from setok.errors import ConfigError

Values = Mapping[str, Any]
"""One value of every dimension; of variants their name."""
DIGITS = 6
"""Significant digits of values from a range: enough for every purpose, and they can be read."""
_OF_THEN = f"{THEN}."
NUM_CHECKED = 100
"""Combinations that are tried before a sweep whose trials are not known in advance."""


def identity(values: Values) -> str:
    """The same for equal values: what makes two trials the same trial."""
    return json.dumps(values, sort_keys=True)


def grid(space: Mapping[str, Dimension]) -> Iterator[dict[str, Any]]:
    """All combinations; the last dimension changes fastest."""
    points = [points_of(dimension) for dimension in space.values()]
    for combination in itertools.product(*points):
        yield dict(zip(space, combination, strict=True))


def draw(space: Mapping[str, Dimension], *, seed: int, number: int) -> dict[str, Any]:
    """Values drawn independently and evenly: those of draw ``number``, the same whenever they are asked for."""
    rng = np.random.default_rng([seed, number])
    return {key: _draw_one(dimension, float(rng.random())) for key, dimension in space.items()}


def between(dimension: Dimension, share: float) -> float | int:
    """The value of a range at ``share`` of the way from its low to its high end."""
    low, high = dimension.low, dimension.high
    assert low is not None and high is not None
    if dimension.log:
        value = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    else:
        value = low + share * (high - low)
    return tidy(dimension, value)


def tidy(dimension: Dimension, value: float) -> float | int:
    """A value of a range with few digits, not beyond its ends."""
    low, high = dimension.low, dimension.high
    assert low is not None and high is not None
    if dimension.whole:
        return int(min(max(round(value), low), high))
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)


def points_of(dimension: Dimension) -> list[Any]:
    """All values in a grid; a range must have ``num_points``."""
    if not dimension.is_range:
        return list(dimension.choices)
    assert dimension.num_points is not None  # the configs have seen to it
    shares = np.linspace(0, 1, dimension.num_points)
    return list(dict.fromkeys(between(dimension, float(share)) for share in shares))  # whole numbers may coincide


def _draw_one(dimension: Dimension, share: float) -> Any:
    if not dimension.is_range:
        return dimension.choices[int(share * len(dimension.choices))]
    if dimension.whole and not dimension.log:  # every number as likely as any other, the ends too
        assert dimension.low is not None and dimension.high is not None
        return int(dimension.low + math.floor(share * (dimension.high - dimension.low + 1)))
    return between(dimension, share)


# ---------------------------------------------------------------- to configs


def changes_of(sweep: TuneConfig, values: Values) -> dict[str, Any]:
    """The settings that some values stand for, by dotted key."""
    changes: dict[str, Any] = {}
    for name, value in values.items():
        variants = sweep.space[name].variants
        changes |= variants[value] if variants else {name: value}
    return changes


def train_config(sweep: TuneConfig, values: Values, *, name: str, output_dir: str) -> TrainConfig:
    """The training run of some values: the first one of their trial.

    Raises:
        ConfigError: there is no such setting, or the values do not go together.
    """
    tree = sweep.train.model_dump(mode="json") | {"name": name, "output_dir": output_dir}
    tree["checkpoint"]["store"] = store_of_trials(sweep)
    own = {key: value for key, value in changes_of(sweep, values).items() if not key.startswith(_OF_THEN)}
    return _changed(tree, own, values, "train")


def then_config(sweep: TuneConfig, values: Values, first: TrainConfig) -> TrainConfig | None:
    """The second training run of some values, which starts from the first one and lies below it; ``None`` without one.

    Raises:
        ConfigError: there is no such setting, or the values do not go together.
    """
    if sweep.then is None:
        return None
    store = first.checkpoint.store
    taken: dict[str, Any] = {
        "name": THEN,
        "output_dir": str(first.run_dir),
        "seed": first.seed,
        **{section: getattr(first, section).model_dump(mode="json") for section in ("model", "scaling")},
    }
    tree = sweep.then.model_dump(mode="json") | taken
    tree["checkpoint"] |= {"init_from": home_of(first), "store": store and beside(store, f"/{first.name}")}
    changes = changes_of(sweep, values).items()
    own = {key.removeprefix(_OF_THEN): value for key, value in changes if key.startswith(_OF_THEN)}
    return _changed(tree, own, values, THEN)


def _changed(tree: dict[str, Any], changes: Mapping[str, Any], values: Values, section: str) -> TrainConfig:
    """A run's settings with some changes; ``values`` are what to name where they cannot be, ``section`` is the sweep's."""
    try:
        for key, value in changes.items():
            set_value(tree, key, copy.deepcopy(value))  # a longer key may be written into it
        return build(TrainConfig, tree)
    except ConfigError as error:
        told = ", ".join(f"{key}={value}" for key, value in values.items())
        remedy = in_section(error, section).remedy or "see --print-config"
        raise ConfigError(
            f"the space has a trial that cannot be, {told}:\n{error.problem}",
            f"{remedy}; settings that only go together make one dimension with variants",
        ) from error


def store_of_trials(sweep: TuneConfig) -> str | None:
    """Where trials have their checkpoints, if not in their folders: below the sweep's name, for theirs are mere numbers."""
    store = sweep.train.checkpoint.store
    return None if store is None else beside(store, f"/{sweep.name}")


def known_values(sweep: TuneConfig) -> list[dict[str, Any]]:
    """The values of all trials, in their order, of a search that does not learn from results.

    Random draws that come twice count once, so that there may be fewer than ``num_trials`` where few can differ.
    """
    if sweep.search == "grid":
        found: Iterator[dict[str, Any]] = grid(sweep.space)
        return list(itertools.islice(found, sweep.num_trials))
    assert sweep.num_trials is not None  # every other search has it
    wanted = min(sweep.num_trials, sweep.num_combinations)
    chosen: dict[str, dict[str, Any]] = {}
    for number in range(NUM_CHECKED * sweep.num_trials):
        if len(chosen) >= wanted:
            break
        values = draw(sweep.space, seed=sweep.seed, number=number)
        chosen.setdefault(identity(values), values)
    return list(chosen.values())


def check_space(sweep: TuneConfig) -> None:
    """Refuse a space with combinations that cannot be trained: all of a known list, a hundred draws otherwise.

    Raises:
        ConfigError: naming the first of them.
    """
    if sweep.search == "optuna":
        candidates = [draw(sweep.space, seed=sweep.seed, number=number) for number in range(NUM_CHECKED)]
    else:
        candidates = known_values(sweep)
    for values in candidates:
        then_config(sweep, values, train_config(sweep, values, name="check", output_dir=sweep.output_dir))


def with_absolute_base(sweep: TuneConfig) -> TuneConfig:
    """The same sweep with paths that mean the same in Ray's processes."""
    folder = str(Path(sweep.output_dir).absolute())
    update: dict[str, Any] = {"output_dir": folder, "train": with_absolute_paths(sweep.train)}
    if sweep.then is not None:
        then = with_absolute_paths(sweep.then)
        if sweep.words is not None and then.setokim is not None and then.setokim.text_tokenizer == sweep.words.output:
            # Not there yet when the sweep is started for the first time, and the same run when it is later.
            words = str(Path(sweep.words.output).absolute())
            then = then.model_copy(update={"setokim": then.setokim.model_copy(update={"text_tokenizer": words})})
        starts = then.checkpoint.model_copy(update={"init_from": sweep.then.checkpoint.init_from})  # no path
        update["then"] = then.model_copy(update={"checkpoint": starts})
    return sweep.model_copy(update=update)
