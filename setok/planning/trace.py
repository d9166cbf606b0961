"""One step of a run on one worker, gone through without memory: the bytes and the arithmetic of each of its phases.

Nothing here is a formula of a layer. The run's own modules, losses and optimizer are called on tensors without values
(``Pretend``), so what is counted is what they do: checkpointed blocks, clustering's matrices between all pairs of patches, the
logits' chunks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from setok.config import OptimConfig, TrainConfig
from setok.models.device import pretend_device
from setok.models.setokim_targets import EncodedImages
from setok.optim import build_optimizer
from setok.planning.batches import Samples, image_batch, sequence_batch
from setok.planning.parts import build_modules, concept_tower, layers_of, quantized_bytes
from setok.planning.pretend import Pretend, size_of
from setok.stages.base import block_matrices
from setok.stages.setokim import SequenceContext, SetokimTask, head_matrices
from setok.stages.tokenizer import TokenizerTask

FEW_LAYERS = 4
"""Language models of more layers are gone through with so many, and with one less."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One module's share of a step; all sizes in bytes, as one worker without ZeRO has them."""

    name: str
    parameters: int
    """Number of them."""
    trainable: int
    weights: int
    """Parameters and buffers."""
    frozen: int
    """Those of them that do not learn."""
    largest: int
    """The largest parameter."""
    gradients: int
    optimizer: int
    """Its state after the first update."""
    activations: int
    """Most that a micro-batch's forward and backward pass holds beside weights, gradients, and what was there before."""
    with_gradients: int
    """The same with the gradients that are there at that time, in a step of a single micro-batch."""
    kept: int
    """What stays of each micro-batch until the end of the step."""
    update: int
    """What clipping and the optimizer hold while they work."""
    flops: float
    """Floating-point operations of a micro-batch, recomputation included."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A step of one worker."""

    turns: tuple[Turn, ...]
    batch: int
    """Bytes of a micro-batch, and of what is prepared from it before the turns."""
    prepare: int
    """Most that preparing a micro-batch holds."""
    prepare_flops: float
    images: int
    """Pictures in a micro-batch."""
    tokens: int
    """Places of a micro-batch's rows; 0 in the tokenizer's stage."""

    @property
    def flops(self) -> float:
        """Of a micro-batch."""
        return self.prepare_flops + sum(turn.flops for turn in self.turns)

    @property
    def trainable(self) -> int:
        """Parameters that learn."""
        return sum(turn.trainable for turn in self.turns)


def trace(config: TrainConfig, samples: Samples, batch: Any = None) -> Trace:
    """Go through a step of ``config`` without memory.

    Args:
        samples: what its data is like.
        batch: a real micro-batch in place of one made up from ``samples``; its pictures' values are not looked at.

    Raises:
        CheckpointError: a pretrained part is not here, and its architecture is not known.
    """
    config = _plannable(config)
    layers = layers_of(config)
    if layers <= FEW_LAYERS or batch is not None:
        return _trace(config, samples, batch, None)
    # Layers that are all alike add the same to everything, so two short models tell what a long one would.
    shorter, longer = (_trace(config, samples, None, depth) for depth in (FEW_LAYERS - 1, FEW_LAYERS))
    return _lengthened(shorter, longer, layers - FEW_LAYERS)


def _lengthened(shorter: Trace, longer: Trace, layers: int) -> Trace:
    """The trace of a model with so many layers more than ``longer``, which has one more than ``shorter``."""

    def on(before: Any, after: Any) -> Any:
        return after + layers * (after - before)

    turns = tuple(
        replace(b, **{f.name: on(getattr(a, f.name), getattr(b, f.name)) for f in fields(Turn) if f.name != "name"})
        for a, b in zip(shorter.turns, longer.turns, strict=True)
    )
    return replace(longer, turns=turns)


def _trace(config: TrainConfig, samples: Samples, batch: Any, depth: int | None) -> Trace:
    pretend = Pretend()
    modules = build_modules(config, pretend, depth=depth)
    for module in modules.values():
        pretend.watch(module)
    with pretend_device("cuda" if config.scaling.use_gpu else "cpu"), pretend:
        if config.stage == "tokenizer":
            return _tokenizer_step(config, samples, modules, pretend, batch)
        return _setokim_step(config, samples, modules, pretend, batch)


def _plannable(config: TrainConfig) -> TrainConfig:
    """Without what asks for the features' values: regions cost next to nothing."""
    clustering = config.model.clustering.model_copy(update={"split_regions": 0})
    return config.model_copy(update={"model": config.model.model_copy(update={"clustering": clustering})})


def _tokenizer_step(
    config: TrainConfig, samples: Samples, modules: Mapping[str, nn.Module], pretend: Pretend, given: Any
) -> Trace:
    before = pretend.live
    batch, context = image_batch(config, samples, concept_tower(config.concepts)[0])
    if given is not None:
        batch = replace(given, pixel_values=without_values(given.pixel_values.shape, torch.uint8))
    if config.data.features is not None:  # they come with the batch, and the encoder has nothing to do
        task = modules["model"]
        assert isinstance(task, TokenizerTask)
        encoder = task.tokenizer.encoder
        rows, columns = encoder.grid(config.model.image_size, config.model.image_size)
        batch = replace(batch, features=torch.empty(len(batch), rows * columns, encoder.width))
    size = pretend.live - before
    turns = [_turn(name, module, (batch, context), config, pretend) for name, module in modules.items()]
    return Trace(turns=tuple(turns), batch=size, prepare=0, prepare_flops=0, images=len(batch), tokens=0)


def _setokim_step(
    config: TrainConfig, samples: Samples, modules: Mapping[str, nn.Module], pretend: Pretend, given: Any
) -> Trace:
    task = modules["model"]
    assert isinstance(task, SetokimTask)
    model = task.setokim
    before = pretend.live
    if given is None:
        batch = sequence_batch(config, samples, (model.image_start_id, model.image_end_id, model.segment_id))
    else:
        batch = replace(given, pixel_values=without_values(given.pixel_values.shape, torch.uint8))
    pretend.restart()
    start, flops = pretend.live, pretend.flops
    with task.autocast(batch.pixel_values.device):
        images = _full(model.encode_images(batch.pixel_values))
    prepare, flops = pretend.peak - start, pretend.flops - flops
    size = pretend.live - before
    totals = dict.fromkeys(("text", "stop", "diffusion", "mask_cross_entropy", "mask_dice"), 1.0)
    context = SequenceContext(
        step=config.train.steps,
        num_images=float(len(batch.pixel_values)),
        num_concepts=0.0,
        images=images,
        totals=totals,
    )
    turn = _turn("model", task, (batch, context), config, pretend)
    return Trace(
        turns=(turn,),
        batch=size,
        prepare=prepare,
        prepare_flops=flops,
        images=len(batch.pixel_values),
        tokens=batch.input_ids.numel(),
    )


def _full(images: EncodedImages) -> EncodedImages:
    """The same with as many tokens in every picture as there may be: how many there are decides what is to be learned."""
    shape, patches = images.visual.mask.shape, images.visual.assignment.shape
    visual = replace(
        images.visual,
        mask=torch.ones(shape, dtype=torch.bool),
        assignment=torch.zeros(patches, dtype=torch.long),
    )
    return replace(images, visual=visual)


def without_values(shape: torch.Size, dtype: torch.dtype) -> Tensor:
    """A tensor that ``Pretend`` takes for the model's, and not for bookkeeping; to be called inside of it."""
    return torch.empty(shape).to(dtype)


def _turn(name: str, module: nn.Module, given: Any, config: TrainConfig, pretend: Pretend) -> Turn:
    """Forward, backward and update of one module."""
    before, flops, gradients = pretend.live, pretend.flops, pretend.gradients
    pretend.restart()
    output = module(*given)
    output.loss.backward()
    activations = pretend.peak - before
    with_gradients = pretend.joint_peak - before - gradients
    kept, flops = pretend.live - before, pretend.flops - flops
    own = pretend.gradients - gradients
    optimizer, update = _update(name, module, config, pretend)
    del output
    parameters = list(module.parameters())
    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    spared = quantized_bytes(module, config) if config.setokim is not None else 0
    return Turn(
        name=name,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in trainable),
        weights=size_of([*parameters, *module.buffers()]) - spared,
        frozen=size_of(p for p in parameters if not p.requires_grad) - spared,
        largest=max(p.numel() * p.element_size() for p in parameters),
        gradients=own,
        optimizer=optimizer,
        activations=activations,
        with_gradients=with_gradients,
        kept=kept,
        update=update,
        flops=flops,
    )


def _update(name: str, module: nn.Module, config: TrainConfig, pretend: Pretend) -> tuple[int, int]:
    """Bytes of the optimizer's state, and of what an update holds beside it."""
    optim: OptimConfig = config.optim
    if name == "discriminator":
        optim = optim.model_copy(update={"kind": "adamw", "learning_rate_scale": {}})
    matrices = block_matrices(module) | (head_matrices(module) if isinstance(module, SetokimTask) else frozenset())
    optimizer = build_optimizer(module.named_parameters(), optim, matrices=matrices)
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    before = pretend.live
    pretend.restart()
    norm = torch.nn.utils.get_total_norm(gradients)
    torch.nn.utils.clip_grads_with_norm_([p for p in module.parameters() if p.grad is not None], 1.0, norm)
    optimizer.step()
    state = [value for slots in optimizer.state.values() for value in slots.values() if isinstance(value, Tensor)]
    held = size_of(state)
    update = pretend.peak - before - held
    optimizer.zero_grad(set_to_none=True)
    return held, max(0, update)
