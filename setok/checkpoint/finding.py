"""Which checkpoint a run goes on from, and which one a user's words mean."""

from __future__ import annotations

import logging
from pathlib import Path

from setok.checkpoint.evaluations import Evaluations
from setok.checkpoint.manifest import Best
from setok.checkpoint.store import CONFIG, MANIFEST, NAME, DamagedError, Store, name_of
from setok.config import TrainConfig, load_config
from setok.data.storage import beside
from setok.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)

AVERAGE = "ema"
"""Stands before the name of a module whose weights' running average it is."""
BEST = "@best"
"""Behind a run's folder or address: its best checkpoint, and not its newest."""


def home_of(config: TrainConfig) -> str:
    """The folder or address whose ``checkpoints`` are those of a run: its own folder, or one in ``checkpoint.store``."""
    store = config.checkpoint.store
    return str(config.run_dir) if store is None else beside(store, f"/{config.name}")


def keeps_in(run: str) -> str:
    """Where a run has its checkpoints, given its folder or address: a store, if that is what the config in the folder says."""
    file = Path(run) / CONFIG
    if "://" in run or not file.is_file():
        return run
    try:
        config = load_config(TrainConfig, file)
    except ConfigError:  # of another version; what lies in the folder may still be of use
        return run
    return run if config.checkpoint.store is None else home_of(config)


def folder_of(run_dir: Path, step: int) -> Path:
    """Where the checkpoint of a step lies in a run's folder."""
    return run_dir / "checkpoints" / name_of(step)


def list_checkpoints(run_dir: Path) -> list[Path]:
    """All checkpoint folders in a run's folder, good or not, newest first."""
    return [folder_of(run_dir, step) for step in Store.of_run(run_dir).steps()]


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    match = NAME.fullmatch(path.name)
    if match is None:
        raise CheckpointError(f"{path} is not named like a checkpoint", "name a folder such as step_00000500, or a run")
    return int(match.group(1))


def verify(path: Path, *, checksums: bool = True) -> list[str]:
    """What is wrong with a checkpoint's folder, one sentence each; empty if it is whole.

    Args:
        checksums: read every byte; without it only names and sizes are compared, which takes no time.
    """
    return Store(path.parent).problems(step_of(path), checksums=checksums)


def newest_good(run: str | Path) -> Path | None:
    """The newest checkpoint of a run that is whole, or ``None``; damaged ones are skipped with a warning.

    Args:
        run: its folder, or an address in a store, from which the checkpoint is downloaded.
    """
    store = Store.of_run(run)
    return _first_good(store, store.steps())


def best_good(run: str | Path) -> Path | None:
    """The best checkpoint of a run that is whole, by the metric that the run was told to go by; else like ``newest_good``."""
    return _first_good(Store.of_run(run), _best_first(run))


def locate(run: str | Path, step: int) -> Path:
    """A local folder with the checkpoint of a step that is known to be whole; other than a local one it is verified again.

    Raises:
        CheckpointError: it is not there.
    """
    store = Store.of_run(run)
    if store.storage.local is None:
        return _whole(store, step)
    path = store.storage.local / name_of(step)
    if not path.is_dir():
        raise CheckpointError(
            f"{path} is not to be seen on this machine", "set output_dir to storage that all nodes share"
        )
    return path


def is_place(path: str | Path) -> bool:
    """Whether a user's path can mean a run or a checkpoint, and not a model of a hub."""
    return "://" in str(path) or str(path).endswith(BEST) or Path(path).exists()


def pin(path: str | Path, found: Path) -> str:
    """Names the checkpoint that ``resolve`` found, in words that mean the same on every machine.

    Args:
        path: what ``resolve`` was given.
        found: what it returned.
    """
    address = str(path)
    run = keeps_in(_without_best(address)[0])
    if "://" not in run:
        return str(found)
    return address if NAME.fullmatch(_split(address)[1]) else beside(run, f"/checkpoints/{found.name}")


def resolve(path: str | Path) -> Path:
    """A local folder with the checkpoint that a user's path means, verified.

    Args:
        path: a checkpoint, or a run, which means its newest good one, or with ``@best`` behind it its best one; each of
            them a folder or an address in a store. A run's folder also finds what the run keeps in a store.

    Raises:
        CheckpointError: nothing there, or what is there is damaged.
    """
    address = str(path)
    parent, name = _split(address)
    if NAME.fullmatch(name):
        return _whole(Store(parent), step_of(Path(name)))
    if "://" not in address and (Path(address) / MANIFEST).is_file():
        raise CheckpointError(
            f"{address} is not named like a checkpoint", "rename it to step_00000500, with its own step"
        )
    run, best = _without_best(address)
    if "://" not in run and not Path(run).is_dir():
        raise _unusable(address, "the folder does not exist")
    run = keeps_in(run)
    found = (best_good if best else newest_good)(run)
    if found is None:
        damaged = len(Store.of_run(run).steps())
        what = f"its {damaged} checkpoint(s) are all damaged" if damaged else "it holds no checkpoint"
        raise _unusable(address, what)
    return found


def _unusable(address: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{address} cannot be used: {what}",
        "name a run's folder (runs/NAME, or runs/NAME@best) or a checkpoint in it (runs/NAME/checkpoints/step_…)",
    )


def _whole(store: Store, step: int) -> Path:
    try:
        return store.fetch(step)
    except DamagedError as error:
        missing = step not in store.steps()
        raise CheckpointError(
            f"checkpoint {store.shown(step)} cannot be used: {'it does not exist' if missing else error}",
            "name the run's folder instead, and its newest good checkpoint is taken",
        ) from error


def _first_good(store: Store, steps: list[int]) -> Path | None:
    for step in steps:
        try:
            return store.fetch(step)
        except DamagedError as error:
            logger.warning("checkpoint %s is damaged and is skipped: %s", store.shown(step), error)
    return None


def _best_first(run: str | Path) -> list[int]:
    """All steps, those with the best metric first, the newer one first where it is the same."""
    metrics: dict[int, dict[str, float]] = {}
    best: Best | None = None
    evaluations = Evaluations(run)
    store = Store.of_run(run)
    for step in store.steps():
        try:
            manifest = store.manifest(step)
        except DamagedError:
            metrics[step] = {}
            continue
        metrics[step] = {**manifest.metrics, **evaluations.metrics(step, manifest)}
        best = best or manifest.best  # the newest one's
    return sorted(metrics, key=lambda step: (best.key(metrics[step]) if best else 0.0, -step))


def _split(address: str) -> tuple[str, str]:
    """The address of the folder around an address, and the last name of it."""
    head, mark, query = address.partition("?") if "://" in address else (address, "", "")
    parent, _, name = head.rstrip("/").rpartition("/")
    return (parent or ".") + mark + query, name


def _without_best(address: str) -> tuple[str, bool]:
    """A run's address, and whether its best checkpoint is meant."""
    head, mark, query = address.partition("?") if "://" in address else (address, "", "")
    return head.removesuffix(BEST) + mark + query, head.endswith(BEST)
