"""Stage 1: SeTok learns to paint pictures from its tokens, and tokens learn the concepts of the pictures."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from setok.batch import ConceptBank, ImageTextBatch, LossOutput, StepContext, VisualTokens
from setok.collectives import all_gather_rows, all_reduce_sum
from setok.config import TrainConfig
from setok.errors import CheckpointError
from setok.losses import (
    adaptive_adversarial_weight,
    concept_contrast,
    hinge_discriminator,
    mean_over,
    patch_statistics,
    pixel_loss,
)
from setok.models.concepts import build_concept_encoder, phrase_ids
from setok.models.detokenizer import Painting
from setok.models.discriminator import Discriminator
from setok.models.distillation import FeatureTeacher
from setok.models.flow import flow_loss
from setok.models.perceptual import Perceptual, load_perceptual
from setok.models.tokenizer import SeTok, patchify
from setok.optim import build_optimizer
from setok.stages.base import block_matrices, freeze

logger = logging.getLogger(__name__)

PARTS = (
    *("l1", "l2", "flow", "perceptual", "contrast", "feature_target", "distillation", "adversarial"),
    *("tokens", "psnr", "discriminator"),
)
"""Names of all parts of ``LossOutput``, of both turns; those whose weight is 0 are left out."""


class TokenizerTask(nn.Module):
    """SeTok with the heads and losses that train it."""

    def __init__(self, config: TrainConfig, concept_dim: int, *, pretrained: bool = True) -> None:
        """Build it; ``pretrained=False`` leaves a pretrained encoder without its weights."""
        super().__init__()
        self.loss, self.seed = config.loss, config.seed
        self.bf16 = config.train.precision == "bf16"
        self.tokenizer = SeTok(config.model, pretrained=pretrained)
        width, feature = config.model.detokenizer.width, self.tokenizer.clustering.width
        if self.loss.contrast:
            self.contrast = nn.Linear(width, concept_dim)
        if self.loss.feature_target:
            sizes = {"mean": 3, "deviation": 3, "edges": 2, "context": 6}
            self.feature_target = nn.Linear(feature, sum(sizes[name] for name in self.loss.feature_statistics))
            # A readout that starts small leaves it to the features to spread out; one of ordinary size reads colour from
            # small differences, and what is left of the unit sphere fills with position (full ARI 0.39 against 0.85).
            nn.init.normal_(self.feature_target.weight, std=0.01)
        if self.loss.distillation:
            self.teacher = FeatureTeacher(self.tokenizer.encoder)
        if config.train.gradient_checkpointing:
            self.tokenizer.gradient_checkpointing_enable()
        # In a tuple, so that it is not registered: the discriminator learns in a turn of its own.
        self.critic: tuple[Discriminator, ...] = ()
        self.perceptual: Perceptual | None = None  # the stage loads it: inference does without
        freeze(self, config)

    def forward(self, batch: ImageTextBatch, context: StepContext) -> LossOutput:
        """This micro-batch's share of the global mean loss."""
        patch_mask, real = self.tokenizer.patch_mask(batch.pixel_values, batch.sizes), batch.pixel_mask
        with torch.autocast(batch.pixel_values.device.type, torch.bfloat16, enabled=self.bf16):
            encoded = batch.features
            if encoded is None:
                encoded = self.tokenizer.encoder(batch.pixel_values, patch_mask)
            visual = self.tokenizer.tokenize_features(encoded, batch.pixel_values, patch_mask=patch_mask)
            strayed = self.teacher(batch.pixel_values, encoded, patch_mask) if self.loss.distillation else None
            size = (batch.pixel_values.shape[-2], batch.pixel_values.shape[-1])
            painting = self.tokenizer.detokenizer(visual.tokens, visual.mask, size, batch.sizes)
            target = batch.pixel_values.float() / 255
            flow = self._flow(painting, target, visual, batch, context.step)
        painted = painting.pixels if real is None else torch.where(real, painting.pixels, target)

        def share(per_image: Float[Tensor, " batch"], total: float) -> Float[Tensor, ""]:
            return (per_image * batch.valid).sum() / max(total, 1.0)

        parts = {
            "l1": share(pixel_loss(painted, target, 1, real), context.num_images),
            "l2": share(pixel_loss(painted, target, 2, real), context.num_images),
        }
        if flow is not None:
            parts["flow"] = share(flow, context.num_images)
        reconstruction = self.loss.l1 * parts["l1"] + self.loss.l2 * parts["l2"]
        if self.perceptual is not None:
            distance = self.perceptual(painted, target)
            if real is not None:  # padding is alike in both, so the mean over the canvas is too small
                distance = distance * real[0].numel() / real.flatten(1).sum(1)
            parts["perceptual"] = share(distance, context.num_images)
            reconstruction = reconstruction + self.loss.perceptual * parts["perceptual"]
        if self.loss.contrast and context.concepts is not None:
            tokens = self.contrast(visual.tokens.float())
            bank, heat = context.concepts, self.loss.contrast_temperature
            loss, _ = concept_contrast(tokens, visual.mask, bank.embeddings, bank.present, heat)
            parts["contrast"] = share(loss, context.num_concepts)
        if self.loss.feature_target:
            parts["feature_target"] = share(
                self._feature_target(visual.features, target, visual.grid, patch_mask), context.num_images
            )
        if strayed is not None:
            parts["distillation"] = share(strayed, context.num_images)
        total = reconstruction + sum(
            weight * parts[name]
            for name, weight in (
                ("contrast", self.loss.contrast),
                ("feature_target", self.loss.feature_target),
                ("distillation", self.loss.distillation),
                ("flow", self.loss.flow),
            )
            if name in parts
        )
        if self.critic and context.step >= self.loss.adversarial_start_step:
            per_image = -self._judge(painted, real)
            parts["adversarial"] = share(per_image, context.num_images)
            total = (
                total + self._adversarial_weight(reconstruction, parts["adversarial"], painting) * parts["adversarial"]
            )
        pixels = painted.detach().clamp(0, 1)
        context.reconstruction = pixels
        detached = {name: value.detach() for name, value in parts.items()}
        detached["tokens"] = share(visual.counts.float(), context.num_images)
        detached["psnr"] = share(-10 * pixel_loss(pixels, target, 2, real).clamp_min(1e-10).log10(), context.num_images)
        return LossOutput(
            loss=total, parts=detached, reconstruction=pixels, assignment=visual.assignment, grid=visual.grid
        )

    def _flow(
        self,
        painting: Painting,
        target: Float[Tensor, "batch 3 height width"],
        visual: VisualTokens,
        batch: ImageTextBatch,
        step: int,
    ) -> Float[Tensor, " batch"] | None:
        """Flow matching, where there is a flow decoder; its random numbers come from seed, step and sample id."""
        head = self.tokenizer.detokenizer.flow
        if head is None:
            return None
        keys = [f"{self.seed}/{step}/{name}" for name in batch.ids]
        return flow_loss(head, painting.pixels, target, visual.tokens, visual.mask, keys, batch.sizes)

    def _feature_target(
        self,
        features: Float[Tensor, "batch patches feature"],
        target: Float[Tensor, "batch 3 height width"],
        grid: tuple[int, int],
        patch_mask: Bool[Tensor, "batch patches"] | None,
    ) -> Float[Tensor, " batch"]:
        real = None if patch_mask is None else patch_mask.unsqueeze(-1)
        with torch.autocast(features.device.type, enabled=False):
            predicted = self.feature_target(features) + 0.5
            statistics = patch_statistics(patchify(target, grid), grid, self.loss.feature_statistics, patch_mask)
            return pixel_loss(predicted, statistics, 1, real) + 5 * pixel_loss(predicted, statistics, 2, real)

    def _judge(
        self, pixels: Float[Tensor, "batch 3 height width"], real: Bool[Tensor, "batch 1 height width"] | None
    ) -> Float[Tensor, " batch"]:
        """Mean logit of every picture; gradients reach the pixels and not the discriminator, whose turn is another."""
        critic = self.critic[0].requires_grad_(False)
        logits = critic(pixels * 2 - 1)
        critic.requires_grad_(True)
        return mean_over(logits, _inside(real, logits))

    def _adversarial_weight(
        self, reconstruction: Float[Tensor, ""], adversarial: Float[Tensor, ""], painting: Painting
    ) -> Float[Tensor, ""] | float:
        """Balance at the last layer, whose weight gradient is rebuilt from that of its output.

        Going through the output and not the weight keeps this correct when the weight is split over ranks (ZeRO-3). The
        gradients are summed over ranks, so every rank uses the same weight.
        """
        if not self.loss.adversarial_adaptive:
            return self.loss.adversarial
        gradients = []
        for loss in (reconstruction, adversarial):
            (squares,) = torch.autograd.grad(loss, painting.squares, retain_graph=True)
            gradients.append(torch.einsum("bnv,bnw->vw", squares, painting.hidden.detach().float()))
        reconstruction_gradient, adversarial_gradient = all_reduce_sum(torch.stack(gradients))
        return self.loss.adversarial * adaptive_adversarial_weight(reconstruction_gradient, adversarial_gradient)


class DiscriminatorTask(nn.Module):
    """The discriminator's own turn: real pictures against the model's turn's reconstructions."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, batch: ImageTextBatch, context: StepContext) -> LossOutput:
        """Hinge loss; needs ``context.reconstruction``, which the model's turn leaves there."""
        assert context.reconstruction is not None, "the model's turn comes first"
        real = self.discriminator(batch.pixel_values.float() / 127.5 - 1)
        fake = self.discriminator(context.reconstruction * 2 - 1)
        inside = _inside(batch.pixel_mask, real)
        loss = (hinge_discriminator(real, fake, inside) * batch.valid).sum() / max(context.num_images, 1.0)
        return LossOutput(loss=loss, parts={"discriminator": loss.detach()})


class TokenizerStage:
    """Stage 1: reconstruction, concept contrast, and a discriminator where its weight is above zero.

    With a flow decoder, reconstruction, PSNR, LPIPS and the adversarial term are those of the plain decoder beneath it, which
    gives the flow its start; sampling is left to inference.
    """

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        # Also where the model is only counted, on the meta device: the width of a text tower comes from running it.
        with torch.device("cpu"):
            self.concepts = build_concept_encoder(config.concepts)
        model = TokenizerTask(config, self.concepts.dim)
        if config.loss.perceptual and config.loss.perceptual_path is None:
            _say_once("loss.perceptual is above 0 and loss.perceptual_path is empty: the perceptual term is off")
        elif config.loss.perceptual and config.loss.perceptual_path is not None:
            try:
                model.perceptual = load_perceptual(config.loss.perceptual_path)
            except CheckpointError as error:
                raise error.about("loss.perceptual_path") from error
        self.modules: dict[str, nn.Module] = {"model": model}
        if config.loss.adversarial:
            discriminator = Discriminator(config.discriminator)
            model.critic = (discriminator,)
            self.modules["discriminator"] = DiscriminatorTask(discriminator)

    @property
    def prepares_with(self) -> None:
        """The concept encoder is no part of a module."""

    def prepare(self, micro_batches: Sequence[ImageTextBatch], *, step: int) -> list[StepContext]:
        """Count valid images and gather the concepts of the global batch."""
        device = micro_batches[0].pixel_values.device
        banks = self._concept_banks(micro_batches) if self.config.loss.contrast else [None] * len(micro_batches)
        totals = torch.zeros(2, dtype=torch.float64, device=device)
        for batch, bank in zip(micro_batches, banks, strict=True):
            totals[0] += batch.valid.sum()
            if bank is not None:
                totals[1] += (bank.present & batch.valid.unsqueeze(1)).sum()
        num_images, num_concepts = all_reduce_sum(totals).tolist()
        return [
            StepContext(step=step, num_images=num_images, num_concepts=num_concepts, concepts=bank) for bank in banks
        ]

    def _concept_banks(self, micro_batches: Sequence[ImageTextBatch]) -> list[ConceptBank | None]:
        """One bank for the global batch, sorted so that it is the same for every split over ranks; presence by image."""
        device = micro_batches[0].pixel_values.device
        phrases = sorted({p for batch in micro_batches for image in batch.concepts for p in image})
        ids = all_gather_rows(phrase_ids(phrases).to(device))
        embeddings = all_gather_rows(self.concepts(phrases).to(device))
        if not len(ids):
            return [None] * len(micro_batches)
        unique, index = torch.unique(ids, return_inverse=True)
        vectors = torch.zeros(len(unique), embeddings.shape[1], device=device).index_copy(0, index, embeddings)
        row = {int(value): i for i, value in enumerate(unique.tolist())}
        banks: list[ConceptBank | None] = []
        for batch in micro_batches:
            present = torch.zeros(len(batch), len(unique), dtype=torch.bool)
            for i, image in enumerate(batch.concepts):
                for value in phrase_ids(image).tolist():
                    present[i, row[value]] = True
            banks.append(ConceptBank(embeddings=vectors, present=present.to(device)))
        return banks

    def is_active(self, name: str, step: int) -> bool:
        """The discriminator waits for its start step."""
        return name == "model" or step >= self.config.loss.adversarial_start_step

    def optimizer(self, name: str) -> torch.optim.Optimizer:
        """As ``config.optim`` says; the discriminator has AdamW with a rate of its own."""
        module, optim = self.modules[name], self.config.optim
        if name == "discriminator":
            plain = optim.model_copy(update={"kind": "adamw", "learning_rate_scale": {}})
            return build_optimizer(module.named_parameters(), plain, learning_rate=optim.discriminator_learning_rate)
        return build_optimizer(module.named_parameters(), optim, matrices=block_matrices(module))


def _inside(
    real: Bool[Tensor, "batch 1 height width"] | None, logits: Float[Tensor, "batch 1 rows columns"]
) -> Bool[Tensor, "batch 1 rows columns"] | None:
    """Which of the discriminator's places have their middle in the picture, and not in the padding."""
    if real is None:
        return None
    return nn.functional.interpolate(real.float(), size=logits.shape[-2:], mode="nearest-exact") > 0


@functools.cache
def _say_once(message: str) -> None:
    """Log a warning the first time only: a run builds its stage to be described, and again to be trained."""
    logger.warning(message)
