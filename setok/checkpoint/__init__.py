"""Checkpoints that say whether they are whole, and that depend on no number of workers.

A checkpoint is a folder on a disk, or the same names under a prefix of a bucket::

    runs/NAME/checkpoints/step_00000500/
        config.yaml                            the run's config
        model.safetensors                      weights of every module: model.…, discriminator.…, and their running
                                               average where the run keeps one: ema.model.…
        optimizer-00000-of-00002.safetensors   module/parameter/state, each parameter whole and in one of the files
        trainer.json                           step, samples, counters, what was measured last
        manifest.json                          size and SHA-256 of the files above and of itself, written last

On a disk it is written under a temporary name and renamed when complete, and in a bucket it counts from its manifest on, so
a crash while saving leaves nothing that looks like a checkpoint. Only safetensors and JSON: nothing is unpickled.
"""

from setok.checkpoint.evaluations import MOST_WAITING, Evaluation, Evaluations, identity
from setok.checkpoint.finding import (
    AVERAGE,
    BEST,
    best_good,
    folder_of,
    home_of,
    is_place,
    keeps_in,
    list_checkpoints,
    locate,
    newest_good,
    pin,
    resolve,
    step_of,
    verify,
)
from setok.checkpoint.manifest import FORMAT, Best, Manifest
from setok.checkpoint.reading import OptimizerState, holds, load_model, read_average, read_config, read_state
from setok.checkpoint.retention import Retention, prune
from setok.checkpoint.state import TrainerState
from setok.checkpoint.store import CONFIG, MANIFEST, MODEL, TRAINER, WRITING, FileState, Store, name_of
from setok.checkpoint.writing import Draft, copy_weights, save

__all__ = [
    "AVERAGE",
    "BEST",
    "CONFIG",
    "FORMAT",
    "MANIFEST",
    "MODEL",
    "MOST_WAITING",
    "TRAINER",
    "WRITING",
    "Best",
    "Draft",
    "Evaluation",
    "Evaluations",
    "FileState",
    "Manifest",
    "OptimizerState",
    "Retention",
    "Store",
    "TrainerState",
    "best_good",
    "copy_weights",
    "folder_of",
    "holds",
    "home_of",
    "identity",
    "is_place",
    "keeps_in",
    "list_checkpoints",
    "load_model",
    "locate",
    "name_of",
    "newest_good",
    "pin",
    "prune",
    "read_average",
    "read_config",
    "read_state",
    "resolve",
    "save",
    "step_of",
    "verify",
]
