"""Stages 2 and 3: Setokim learns to read, draw, edit and point around a tokenizer that stays as it is.

``pretrain`` and ``instruct`` differ in their data, rates and in what they start from, not in their science: cross-entropy on
words, a denoising loss on the visual tokens of pictures to be drawn, and overlap losses on masks. Each is a mean over its
targets in the global batch, so neither micro-batches, accumulation nor the number of workers change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from setok import checkpoint
from setok.batch import LossOutput, SequenceBatch, StepContext
from setok.checkpoint import load_model
from setok.collectives import all_reduce_sum
from setok.config import LoraConfig, TrainConfig, differences
from setok.errors import CheckpointError
from setok.models.setokim import Setokim
from setok.models.setokim_targets import EncodedImages
from setok.models.text_tokens import load_text_tokenizer
from setok.models.tokenizer import SeTok
from setok.optim import build_optimizer
from setok.stages.base import block_matrices, freeze

TERMS = ("text", "stop", "diffusion", "mask_cross_entropy", "mask_dice")
"""Names of the loss terms in ``SetokimOutput`` and of their weights in ``setokim_loss``."""
STATISTICS = {"text_accuracy": ("text_correct", "text"), "stop_accuracy": ("stop_correct", "stop")} | {
    "mask_iou": ("mask_dice_iou", "mask_dice")
}
"""Figures for the log: a sum of ``SetokimOutput.statistics`` over the targets of a term."""
PARTS = (*TERMS, *STATISTICS, "tokens", "sequence_tokens")
"""Names of all parts of ``LossOutput``; those without targets in a step are left out."""
NORMALIZER_TOKENS = 20_000
"""Visual tokens that the statistics of the denoising network's normaliser are taken from; after that they stand still."""


@dataclass(kw_only=True)
class SequenceContext(StepContext):
    """What one micro-batch of sequences must know of the whole step."""

    images: EncodedImages
    """Of this micro-batch's pictures: the tokenizer runs once, in ``prepare``."""
    totals: dict[str, float]
    """Targets of every term in the global batch."""


class SetokimTask(nn.Module):
    """Setokim with the weights of its losses."""

    def __init__(self, config: TrainConfig, *, pretrained: bool = True, text_tokenizer: Any = None) -> None:
        """Build it.

        Args:
            pretrained: ``False`` leaves the language model's weights to a checkpoint that comes after.
            text_tokenizer: in place of the one that the config names.
        """
        super().__init__()
        assert config.setokim is not None
        self.config = config
        self.weights, self.seed = config.setokim_loss, config.seed
        self.bf16 = config.train.precision == "bf16"
        if text_tokenizer is None:
            path = config.setokim.text_tokenizer or config.setokim.language_model.path
            assert path is not None
            text_tokenizer = load_text_tokenizer(path)
        # Both the tokenizer's weights come from a checkpoint, and its encoder's are among them.
        tokenizer = SeTok(config.model, pretrained=False)
        self.setokim = Setokim(config.setokim, tokenizer, text_tokenizer, pretrained=pretrained)
        if config.train.gradient_checkpointing:
            self.setokim.gradient_checkpointing_enable()
        freeze(self, config)

    def autocast(self, device: torch.device) -> torch.autocast:
        """The run's precision."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.bf16)

    def forward(self, batch: SequenceBatch, context: SequenceContext) -> LossOutput:
        """This micro-batch's share of the global mean loss."""
        with self.autocast(batch.pixel_values.device):
            output = self.setokim(batch, noise_key=f"{self.seed}/{context.step}", images=context.images)
        total = {name: max(context.totals[name], 1.0) for name in TERMS}
        parts: dict[str, Tensor] = {name: getattr(output, name).float() / total[name] for name in TERMS}
        loss = torch.stack([getattr(self.weights, name) * parts[name] for name in TERMS]).sum()
        detached = {name: value.detach() for name, value in parts.items() if context.totals[name]}
        detached |= {
            name: output.statistics[found] / total[term]
            for name, (found, term) in STATISTICS.items()
            if context.totals[term]
        }
        detached["tokens"] = output.statistics["image_tokens"] / max(context.num_images, 1.0)
        detached["sequence_tokens"] = output.statistics["places"]
        return LossOutput(loss=loss, parts=detached)


class SetokimStage:
    """Stage 2 or 3; what is trained, on what, and how fast is the config's."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.task = SetokimTask(config)
        self.modules: dict[str, nn.Module] = {"model": self.task}

    @property
    def prepares_with(self) -> nn.Module:
        """The tokenizer."""
        return self.task.setokim.tokenizer

    @torch.no_grad()
    def prepare(self, micro_batches: Sequence[SequenceBatch], *, step: int) -> list[SequenceContext]:
        """Tokenize the pictures, and count what is to be learned in the global batch."""
        model, device = self.task.setokim, micro_batches[0].pixel_values.device
        encoded, counted = [], []
        sums = torch.zeros(2, dtype=torch.float64, device=device)
        moments: Tensor | None = None
        for batch in micro_batches:
            with self.task.autocast(device):
                images = model.encode_images(batch.pixel_values)
            targets = model.targets(batch, model.splice(batch, images), images)
            encoded.append(images)
            counted.append(torch.stack([targets.counts[name] for name in TERMS]).double())
            sums[0] += batch.image_valid.sum()
            sums[1] += targets.tokens.sum()
            # Of all pictures that can be read, drawn or not: the statistics are there before the first one is drawn.
            real = images.visual.mask[: len(batch.image_valid)] & batch.image_valid.unsqueeze(1)
            found = model.diffusion.normalizer.moments(images.visual.tokens[: len(real)].float(), real).double()
            moments = found if moments is None else moments + found
        assert moments is not None
        totals = all_reduce_sum(torch.cat([sums, torch.stack(counted).sum(0), moments]))
        normalizer = model.diffusion.normalizer
        if float(normalizer.count) < NORMALIZER_TOKENS:
            normalizer.update(totals[2 + len(TERMS) :].to(normalizer.total))
        numbers = totals[: 2 + len(TERMS)].tolist()
        by_term = dict(zip(TERMS, numbers[2:], strict=True))
        return [
            SequenceContext(step=step, num_images=numbers[0], num_concepts=0.0, images=images, totals=by_term)
            for images in encoded
        ]

    def is_active(self, name: str, step: int) -> bool:
        """The one module always is."""
        return True

    def optimizer(self, name: str) -> torch.optim.Optimizer:
        """As ``config.optim`` says; Muon takes the matrices inside the language model and its heads."""
        module = self.modules[name]
        inside = block_matrices(module) | head_matrices(self.task)
        return build_optimizer(module.named_parameters(), self.config.optim, matrices=inside)


def head_matrices(task: SetokimTask) -> frozenset[str]:
    """Names of the matrices of the language model's layers, and of the blocks and projectors of its heads: what Muon takes.

    Embeddings and the layers that read or give pixels, logits and tokens are left to AdamW.
    """
    inner = (".layers.", ".network.blocks.", ".mask_decoder.blocks.", "_projector.")
    return frozenset(
        name
        for name, p in task.named_parameters()
        if p.ndim == 2 and "lora_" not in name and any(part in name for part in inner)
    )


def check_source(source: Path, config: TrainConfig) -> None:
    """Refuse to start from a checkpoint whose weights would be another function under this run's settings.

    Raises:
        CheckpointError: with the settings that differ, and both values.
    """
    before = checkpoint.read_config(source)
    remedy = f"use the model section of {source / checkpoint.CONFIG}, or another checkpoint.init_from"
    wanted, found = config.model.detokenizer.width, before.model.detokenizer.width
    if wanted != found:
        raise CheckpointError(
            f"{source} has a tokenizer with tokens of width {found}, and this run's model section has width {wanted}",
            remedy,
        )
    changed = differences(before.model, config.model, "model")
    if before.setokim is not None and config.setokim is not None:
        remedy = remedy.replace("the model section", "the sections model and setokim")
        changed |= differences(before.setokim, config.setokim, "setokim")
        if before.setokim.language_model.path or config.setokim.language_model.path:  # then its files say
            changed = {key: values for key, values in changed.items() if not key.startswith("setokim.language_model.")}
    listed = ", ".join(
        f"{key} {old!r} → {new!r}" for key, (old, new) in sorted(changed.items()) if key not in _MAY_DIFFER
    )
    if listed:
        raise CheckpointError(f"{source} is of another model than this run's: {listed}", remedy)


def load_initial_setokim(source: Path, task: SetokimTask) -> None:
    """Weights of a new run: all of them from a run of Setokim, only the tokenizer's from a tokenizer run.

    Raises:
        CheckpointError: the checkpoint is of another tokenizer or language model.
    """
    check_source(source, task.config)
    if checkpoint.read_config(source).stage == "tokenizer":
        load_model(source, task.setokim.tokenizer, "model.tokenizer", average=True)
    else:
        load_model(source, task, "model", average=True)


_MAY_DIFFER = frozenset(
    {
        "model.resize",  # these stages crop, whatever the tokenizer was trained on
        "model.encoder.path",  # the weights are in the checkpoint
        "model.detokenizer.flow.sampling_steps",
        "setokim.tokenizer",
        "setokim.text_tokenizer",
        "setokim.diffusion.batch_multiplier",
        "setokim.diffusion.condition_drop",
        "setokim.diffusion.sampling_steps",
        "setokim.mask_decoder.focal_gamma",
    }
    | {
        f"setokim.language_model.{key}"
        for key in ("path", "attention", "dtype", "quantization", "train", "loss_chunks")
    }
    | {f"setokim.language_model.lora.{key}" for key in LoraConfig.model_fields}
)
"""Settings that do not change what the weights compute, or whose weights say by themselves that they do not fit."""
