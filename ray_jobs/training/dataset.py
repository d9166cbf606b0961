"""The plan as a Ray Dataset.

One block carries ``steps_per_block`` steps of one rank. With ``preserve_order`` Ray hands block ``b`` to rank
``b mod W`` as long as blocks have equal numbers of rows. So every rank finds the steps in order, and the ranks' parts
of a step make up the plan's global batch, whatever the number of workers and wherever the run starts. Where it does not
come out even, rows of padding make the ranks' parts equal. Every row carries its step and position, and the loop's iterator
refuses any other than the expected ones.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from ray_jobs.ray_data import MAX_BLOCK_BYTES, data_context
from ray_jobs.training.decoding import DataSpec, Decoder, image_row_bytes, open_decoder
from ray_jobs.training.packs import Packing
from setok.config import DataConfig, TrainConfig
from setok.data.features import features_of
from setok.errors import ConfigError

if TYPE_CHECKING:  # this module is imported by data workers, which need neither torch nor Ray Train
    import ray.data


def check_block_size(config: TrainConfig, *, num_workers: int) -> None:
    """Refuse blocks that Ray Data would cut.

    Raises:
        ConfigError: naming the largest ``data.steps_per_block`` that fits.
    """
    side, features = config.model.image_size, features_of(config)
    samples = config.with_workers(num_workers).gradient_accumulation_steps * config.train.micro_batch_size
    step_bytes = samples * image_row_bytes(side, features)
    fits = MAX_BLOCK_BYTES // step_bytes
    if config.data.steps_per_block <= fits:
        return
    problem = (
        f"data.steps_per_block={config.data.steps_per_block} makes blocks of"
        f" {config.data.steps_per_block * step_bytes / 2**20:.0f} MiB ({samples} images of {side} × {side} pixels"
        f"{' with their features' if features else ''} in each step of a worker), and"
        f" {MAX_BLOCK_BYTES / 2**20:.0f} MiB is the most"
    )
    if fits:
        raise ConfigError(problem, f"--set data.steps_per_block={fits}")
    raise ConfigError(problem, "even one step is too large: lower train.global_batch_size, or use more workers")


def training_dataset(
    config: TrainConfig, *, start_step: int, num_workers: int, packing: Packing | None = None
) -> ray.data.Dataset:
    """The samples of a run from ``start_step`` on, for ``num_workers`` ranks; call it whenever workers start.

    Args:
        config: of the run; for packs ``train.global_batch_size`` and ``train.micro_batch_size`` count packs.
        start_step: first step.
        num_workers: ranks that share every step.
        packing: makes every row of the dataset a pack of samples.

    Raises:
        ConfigError: blocks would be too large, or the capped sets have too few samples for all steps.
        DataError: a set is missing; see ``DataSpec.of`` for packs.
    """
    if packing is None:
        check_block_size(config, num_workers=num_workers)
    spec = DataSpec.of(config, start_step=start_step, num_workers=num_workers, packing=packing)
    return planned_dataset(spec, config.data)


def planned_dataset(spec: DataSpec, config: DataConfig) -> ray.data.Dataset:
    """The dataset that a spec describes."""
    import ray.data

    context = data_context()
    if spec.packing is not None:
        context.target_max_block_size = None  # packs differ in size: no block is cut, whatever the size
    blocks = max(spec.num_workers, spec.num_blocks)  # past the last step: empty ones, since Ray cannot split nothing
    with ray.data.DataContext.current(context):
        return ray.data.read_datasource(
            _blocks_of(spec, blocks),
            num_cpus=config.decode_cpus,
            concurrency=config.decode_workers,
            override_num_blocks=blocks,
        )


def _blocks_of(spec: DataSpec, blocks: int) -> ray.data.Datasource:
    """The plan's blocks as a Ray data source: one read task for each, in order.

    Reading and decoding are one operator on purpose. With an operator of its own, whatever names the blocks to the decoders
    reserves a whole CPU, which on a small machine is never free while workers and decoders hold theirs.
    """
    import ray.data
    from ray.data.block import BlockMetadata

    class PlannedBlocks(ray.data.Datasource):
        def get_name(self) -> str:
            return "PlannedBlocks"

        def estimate_inmemory_data_size(self) -> int:
            return spec.num_rows_read * spec.row_bytes

        def get_read_tasks(
            self, parallelism: int, per_task_row_limit: int | None = None, data_context: Any = None
        ) -> list[ray.data.ReadTask]:
            tasks = []
            for number in range(blocks):
                rows = len(spec.block_positions(number)) if number < spec.num_blocks else 0
                metadata = BlockMetadata(num_rows=rows, size_bytes=rows * spec.row_bytes, exec_stats=None)
                tasks.append(ray.data.ReadTask(functools.partial(_read_block, spec, number), metadata))
            return tasks

    return PlannedBlocks()


def _read_block(spec: DataSpec, number: int) -> list[pa.Table]:
    from ray.data.block import BlockAccessor

    return [BlockAccessor.batch_to_block(_decoder(spec).block(number))]


@functools.lru_cache(maxsize=1)
def _decoder(spec: DataSpec) -> Decoder:
    """The process's decoder, kept for its open files and cached row groups."""
    return open_decoder(spec)
