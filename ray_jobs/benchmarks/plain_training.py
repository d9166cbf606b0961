"""A tokenizer's training as one writes it by hand: torchrun, DeepSpeed, a torch DataLoader, a line now and then.

    python -m torch.distributed.run --standalone --nproc-per-node 2 -m ray_jobs.benchmarks.plain_training run.yaml seconds.json

Model, loss, optimizer and decoding are those of our runs, and the ranks share a step in the same way; but nothing is checked,
kept or resumed, and samples come by chance. It is what ``benchmark training`` puts beside our own loop.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from setok.batch import ImageTextBatch, StepContext
from setok.config import TrainConfig, load_config
from setok.data.collate import rows_to_batch
from setok.data.decode import STORED_COLUMNS, decode_rows
from setok.data.images import configure_opencv
from setok.data.shards import ShardReader
from setok.optim import learning_rate_factor
from setok.stages import build_stage

log = logging.getLogger(__name__)


class Pictures(Dataset[ImageTextBatch]):
    """Micro-batches of an ingested set, by their rows; every process of the DataLoader opens the set for itself."""

    def __init__(self, config: TrainConfig) -> None:
        self.folder, self.image_size = config.data.train[0].path, config.model.image_size
        self._reader: ShardReader | None = None

    def __getitem__(self, rows: list[int]) -> ImageTextBatch:
        if self._reader is None:
            configure_opencv(num_threads=1)
            self._reader = ShardReader(self.folder, columns=STORED_COLUMNS)
        table = self._reader.take(np.array(rows, np.int64))
        return rows_to_batch(decode_rows(table, image_size=self.image_size, with_segments=False))


class LossOnly(nn.Module):
    """The module as DeepSpeed wants it, with one tensor for its output."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: ImageTextBatch, context: StepContext) -> Tensor:
        loss: Tensor = self.module(batch, context).loss
        return loss


def loader(config: TrainConfig, rank: int) -> DataLoader[ImageTextBatch]:
    """As many micro-batches as a rank needs, of rows that it draws by chance; one process decodes for each rank."""
    data = Pictures(config)
    number = config.train.steps * config.gradient_accumulation_steps
    size = (number, config.train.micro_batch_size)
    rows = np.random.default_rng((config.seed, rank)).integers(ShardReader(data.folder).num_rows, size=size)
    return DataLoader(data, batch_size=None, sampler=rows.tolist(), num_workers=1, persistent_workers=True)


def train(config: TrainConfig, device: torch.device) -> list[float]:
    """Train in an open process group.

    Returns:
        Seconds of a step, the mean of each ``train.log_every`` steps.
    """
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    torch.set_num_threads(config.train.threads_per_worker or max(1, (os.cpu_count() or 1) // dist.get_world_size()))
    torch.manual_seed(config.seed)
    stage = build_stage(config)
    module = LossOnly(stage.modules["model"]).to(device).train()
    optimizer = stage.optimizer("model")
    settings = {
        "train_micro_batch_size_per_gpu": config.train.micro_batch_size,
        "gradient_accumulation_steps": config.gradient_accumulation_steps,
        "gradient_clipping": config.optim.max_grad_norm,
        "zero_optimization": {"stage": config.deepspeed.zero_stage},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": None,
    }
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings, dist_init_required=False)
    batches = iter(loader(config, dist.get_rank()))
    seconds, began = [], time.perf_counter()
    for step in range(config.train.steps):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * learning_rate_factor(step, config)
        micro_batches = [next(batches).to(device) for _ in range(config.gradient_accumulation_steps)]
        for batch, context in zip(micro_batches, stage.prepare(micro_batches, step=step), strict=True):
            loss = engine(batch, context)
            # Each loss is a share of the step's; DeepSpeed would take the mean of them over ranks and micro-batches.
            engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)
            engine.step()
        if (step + 1) % config.train.log_every == 0:
            log.info("step %d: loss %.4f", step + 1, loss.item())
            seconds.append((time.perf_counter() - began) / config.train.log_every)
            began = time.perf_counter()
    return seconds


def main() -> None:
    """What torchrun starts: the run's file, and where rank 0 writes the seconds as JSON."""
    config_file, output = map(Path, sys.argv[1:])
    config = load_config(TrainConfig, config_file)
    gpu = config.scaling.use_gpu
    if not gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if gpu else torch.device("cpu")
    dist.init_process_group("nccl" if gpu else "gloo")
    try:
        seconds = train(config.with_workers(dist.get_world_size()), device)
        if dist.get_rank() == 0:
            output.write_text(json.dumps(seconds))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
