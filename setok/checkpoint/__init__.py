"""Checkpoints that say whether they are whole, and that depend on no number of workers.

A checkpoint is a folder::

    runs/NAME/checkpoints/step_00000500/
        config.yaml                            the run's config
        model.safetensors                      weights of every module: model.…, discriminator.…, and their running
                                               average where the run keeps one: ema.model.…
        optimizer-00000-of-00002.safetensors   module/parameter/state, each parameter whole and in one of the files
        trainer.json                           step, samples, counters
        manifest.json                          size and SHA-256 of the files above, written last

It is written under a temporary name and renamed when complete, so a crash while saving leaves nothing that looks like a
checkpoint. Only safetensors and JSON: nothing is unpickled.
"""

from setok.checkpoint.finding import (
    AVERAGE,
    CONFIG,
    FORMAT,
    MANIFEST,
    MODEL,
    TRAINER,
    folder_of,
    list_checkpoints,
    newest_good,
    resolve,
    step_of,
    verify,
)
from setok.checkpoint.reading import OptimizerState, holds, load_model, read_average, read_config, read_state
from setok.checkpoint.state import TrainerState
from setok.checkpoint.writing import (
    begin,
    copy_weights,
    finish,
    prune,
    save,
    temporary_folder,
    write_rank_part,
)

__all__ = [
    "AVERAGE",
    "CONFIG",
    "FORMAT",
    "MANIFEST",
    "MODEL",
    "TRAINER",
    "OptimizerState",
    "TrainerState",
    "begin",
    "copy_weights",
    "finish",
    "folder_of",
    "holds",
    "list_checkpoints",
    "load_model",
    "newest_good",
    "prune",
    "read_average",
    "read_config",
    "read_state",
    "resolve",
    "save",
    "step_of",
    "temporary_folder",
    "verify",
    "write_rank_part",
]
