"""Memory of a trained model that answers: weights, and the keys and values of what is read and said."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from setok import checkpoint
from setok.config import DataConfig, EvaluateConfig, ServeConfig, TrainConfig
from setok.models import pretrained as tokenizer_files
from setok.models import setokim_files
from setok.models.device import pretend_device
from setok.planning.hardware import GIB, Cluster, Hardware
from setok.planning.parts import build_modules, layers_of
from setok.planning.pretend import Pretend, size_of
from setok.planning.trace import without_values
from setok.stages.setokim import SetokimTask

PLACES = 64
"""Places of a cache that is measured."""


@dataclass(frozen=True, kw_only=True)
class ServingMemory:
    """Bytes of one copy of a model; on its GPU, or in its host's memory."""

    weights: int
    place: int
    """Keys and values of one place."""
    places: int
    """That go through the model at once, at most."""
    reading: int
    """What encoding a batch of pictures holds."""
    copies: int
    uses_gpu: bool

    @property
    def cache(self) -> int:
        """Keys and values of all places."""
        return self.place * self.places

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.reading


def serving_memory(config: ServeConfig | EvaluateConfig) -> ServingMemory:
    """Memory of the model that a config names; its weights are not read.

    Raises:
        CheckpointError: there is no such run, checkpoint or exported model.
    """
    trained = model_of(config.checkpoint)
    uses_gpu = config.replicas.gpus > 0 if isinstance(config, ServeConfig) else config.use_gpu
    trained = trained.model_copy(update={"scaling": trained.scaling.model_copy(update={"use_gpu": uses_gpu})})
    if isinstance(config, ServeConfig):
        places, images, copies = config.batching.max_places, config.batching.max_rows, max(1, config.replicas.max)
    else:
        places, images, copies = config.max_batch_tokens, config.batch_size, config.num_replicas
    pretend = Pretend()
    modules = build_modules(trained, pretend)
    module = modules["model"]
    pretend.watch(module)
    place = cache_bytes(trained) if isinstance(module, SetokimTask) else 0
    return ServingMemory(
        weights=size_of([*module.parameters(), *module.buffers()]),
        place=place,
        places=places if place else 0,
        reading=_reading(trained, module, pretend, images),
        copies=copies,
        uses_gpu=uses_gpu,
    )


def model_of(path: str) -> TrainConfig:
    """The config of a run or checkpoint, or one that describes an exported model.

    Raises:
        CheckpointError: there is none.
    """
    folder = Path(path)
    if not (folder / setokim_files.CONFIG).is_file() or (folder / checkpoint.CONFIG).is_file():
        return checkpoint.read_config(checkpoint.resolve(path))
    no_data = DataConfig.model_construct(train=())
    if (folder / setokim_files.TOKENIZER).is_dir():
        setokim, _ = setokim_files.read_config(folder)
        setokim = setokim.model_copy(update={"text_tokenizer": str(folder)})
        model = tokenizer_files.read_config(folder / setokim_files.TOKENIZER)
        return TrainConfig.model_construct(
            name="exported", stage="instruct", data=no_data, model=model, setokim=setokim
        )
    model = tokenizer_files.read_config(folder)
    return TrainConfig.model_construct(name="exported", stage="tokenizer", data=no_data, model=model)


def cache_bytes(config: TrainConfig) -> int:
    """Bytes of keys and values that a place takes in all layers, from a cache that is filled."""
    layers = layers_of(config)
    pretend = Pretend()
    task = build_modules(config, pretend, depth=1 if layers else None)["model"]
    assert isinstance(task, SetokimTask)
    model = task.setokim.language_model.eval()
    pretend.watch(task)
    with torch.no_grad(), pretend:
        embedded = torch.empty(1, PLACES, model.width, dtype=model.base.get_input_embeddings().weight.dtype)
        visible, cache = torch.ones(1, PLACES, dtype=torch.bool), model.new_cache()
        model.step(embedded, visible, torch.arange(PLACES).unsqueeze(0), cache)
        held = size_of(values for layer in cache.layers for values in (layer.keys, layer.values))
    return max(1, layers) * held // PLACES


def _reading(config: TrainConfig, module: nn.Module, pretend: Pretend, images: int) -> int:
    """Most that the tokenizer holds while it reads pictures."""
    tokenizer = module.setokim.tokenizer if isinstance(module, SetokimTask) else module.get_submodule("tokenizer")
    side = config.model.image_size
    module.eval()
    with pretend_device("cuda" if config.scaling.use_gpu else "cpu"), torch.no_grad(), pretend:
        pixels = without_values(torch.Size((images, 3, side, side)), torch.uint8)
        pretend.restart()
        tokenizer.get_submodule("encoder")(pixels)
    return pretend.peak


def serving_fits(memory: ServingMemory, cluster: Cluster, hardware: Hardware) -> tuple[float, float, bool]:
    """GiB that a copy needs, GiB that there are for one, and whether that is enough and there is room for all copies."""
    assumed, hosts = hardware.assumptions, cluster.hosts(use_gpu=memory.uses_gpu)
    if memory.uses_gpu:
        available = min((node.gpu_memory_gib for _, node, _ in hosts), default=0.0)
        needed = memory.total / GIB + assumed.gpu_overhead_gib
        return needed, available, needed <= available and memory.copies <= cluster.gpus
    needed = memory.total / GIB + assumed.worker_gib
    available = sum(node.memory_gib * count for _, node, count in hosts)
    return needed, available, needed * memory.copies <= available
