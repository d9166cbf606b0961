"""What a model that answers needs of this machine, for the dry runs of the jobs that ask one."""

from __future__ import annotations

from ray_jobs.launch import console
from ray_jobs.planning.table import show_serving
from setok.config import EvaluateConfig, ServeConfig
from setok.planning import load_hardware, serving_fits, serving_memory, this_machine


def show_here(config: ServeConfig | EvaluateConfig) -> None:
    """Show the memory of a config's model beside this machine's, as ``python -m ray_jobs.plan`` does.

    Raises:
        CheckpointError: there is no such model.
    """
    memory = serving_memory(config)
    show_serving(console(), config.name, memory, serving_fits(memory, this_machine(), load_hardware()))
