"""What goes into Setokim's losses, and what comes out of them: encoded pictures, targets by place, sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from setok.batch import SequenceBatch, VisualTokens
from setok.models.splice import IGNORED, Spliced, slots


@dataclass(frozen=True, kw_only=True)
class EncodedImages:
    """What the frozen tokenizer makes of pictures."""

    visual: VisualTokens
    patches: Float[Tensor, "images patches width"]
    """The encoder's features, which masks are drawn from."""

    def __getitem__(self, index: Int[Tensor, " chosen"]) -> EncodedImages:
        """Some of the pictures."""
        v = self.visual
        chosen = replace(
            v,
            tokens=v.tokens[index],
            mask=v.mask[index],
            assignment=v.assignment[index],
            scores=v.scores[index],
            features=v.features[index],
        )
        return EncodedImages(visual=chosen, patches=self.patches[index])

    @staticmethod
    def concatenate(parts: Sequence[EncodedImages]) -> EncodedImages:
        """Pictures of several batches as one; all of the same size."""
        views = [part.visual for part in parts]
        longest = max(view.tokens.shape[1] for view in views)

        def padded(name: str, *padding: int) -> Tensor:
            values = [getattr(view, name) for view in views]
            return torch.cat([F.pad(value, (*padding, longest - value.shape[1])) for value in values])

        visual = VisualTokens(
            tokens=padded("tokens", 0, 0, 0),
            mask=padded("mask", 0),
            assignment=torch.cat([view.assignment for view in views]),
            scores=torch.cat([view.scores for view in views]),
            grid=views[0].grid,
            features=torch.cat([view.features for view in views]),
        )
        return EncodedImages(visual=visual, patches=torch.cat([part.patches for part in parts]))


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What a micro-batch is to learn, by place."""

    labels: Int[Tensor, "rows length"]
    """The id to be said after a place, -100 for none."""
    is_stop: Bool[Tensor, "rows length"]
    """Where this is the decision whether a picture goes on."""
    tokens: Bool[Tensor, "images tokens"]
    """The visual tokens that are to be drawn."""
    token_places: Int[Tensor, "images tokens"]
    """Where each visual token stands (row × length + column), -1 for padding."""
    mask_places: Int[Tensor, " masks"]
    """Where the ``[Seg]`` of each mask stands."""
    masks: Bool[Tensor, " masks"]
    """The masks that are to be found."""

    @property
    def counts(self) -> dict[str, Float[Tensor, ""]]:
        """How many there are, by the names of ``SetokimOutput``; a stage sums them over micro-batches and ranks."""
        labelled = self.labels != IGNORED
        masks = self.masks.sum().float()
        return {
            "text": (labelled & ~self.is_stop).sum().float(),
            "stop": (labelled & self.is_stop).sum().float(),
            "diffusion": self.tokens.sum().float(),
            "mask_cross_entropy": masks,
            "mask_dice": masks,
        }


@dataclass(frozen=True, kw_only=True)
class SetokimOutput:
    """Losses of a micro-batch, each summed over its own targets: divide by ``Targets.counts`` over the global batch."""

    text: Float[Tensor, ""]
    """Cross-entropy of text."""
    stop: Float[Tensor, ""]
    """Cross-entropy of the decisions whether a picture goes on."""
    diffusion: Float[Tensor, ""]
    """Squared error of the denoising network, by visual token."""
    mask_cross_entropy: Float[Tensor, ""]
    mask_dice: Float[Tensor, ""]
    counts: dict[str, Float[Tensor, ""]]
    """Targets of each of the above."""
    statistics: dict[str, Float[Tensor, ""]]
    """Sums: ``text_correct``, ``stop_correct`` and ``mask_dice_iou`` over the targets of ``text``, ``stop`` and ``mask_dice``;
    and ``places``, ``padding``, ``image_tokens``, ``images``."""
    mask_logits: Float[Tensor, "masks height width"]
    """Detached."""


def find_targets(
    batch: SequenceBatch, rows: Spliced, images: EncodedImages, *, going_on_id: int, end_id: int
) -> Targets:
    """What is to be learned from a micro-batch.

    Args:
        going_on_id: what is said before every further token of a picture that is drawn.
        end_id: what is said after the last one.
    """
    limit = images.visual.tokens.shape[1]
    index = rows.image_index * limit + rows.image_offset
    places = slots(index.masked_fill(~rows.is_visual, -1), len(images.visual.tokens) * limit).view(-1, limit)
    learned = F.pad(batch.image_is_target & batch.image_valid, (0, int(len(places) > len(batch.image_valid))))
    going_on = rows.is_visual & (rows.image_offset > 0) & learned[rows.image_index.clamp_min(0)]
    labels = rows.labels.masked_fill(going_on, going_on_id)
    ahead = F.pad(labels[:, 1:], (0, 1), value=IGNORED)
    same = F.pad(rows.segment_ids[:, 1:] == rows.segment_ids[:, :-1], (0, 1), value=False)
    ahead = ahead.masked_fill(~same, IGNORED)
    is_stop = F.pad(going_on[:, 1:], (0, 1), value=False) | (ahead == end_id)
    mask_places = slots(rows.mask_index, len(batch.masks))
    found = mask_places >= 0
    return Targets(
        labels=ahead,
        is_stop=is_stop,
        tokens=learned.unsqueeze(1) & (places > 0),
        token_places=places,
        mask_places=mask_places,
        masks=found & batch.image_valid[batch.mask_image] if len(found) else found,
    )


def noise_keys(batch: SequenceBatch, rows: Spliced, targets: Targets, noise_key: str) -> tuple[list[str], list[int]]:
    """Names of the random numbers of every picture to be drawn, and how many tokens it has.

    A picture is named by its sample and by its number among the sample's pictures. Waits for the device, once.
    """
    length = rows.segment_ids.shape[1]
    first = targets.token_places[:, 0]
    row, segment = first // length, rows.segment_ids.flatten()[first.clamp_min(0)]
    together = (row.unsqueeze(1) == row) & (segment.unsqueeze(1) == segment) & (first.unsqueeze(1) > first)
    number, count = together.sum(1), targets.tokens.sum(1)
    described = torch.stack([row, segment, number, count], 1).tolist()
    chosen = [(f"{noise_key}/{batch.ids[r][s - 1]}/{n}", tokens) for r, s, n, tokens in described if tokens]
    if not chosen:
        return [noise_key], [1]
    keys, counts = zip(*chosen, strict=True)
    return list(keys), list(counts)


def or_first(chosen: Int[Tensor, " chosen"], values: Tensor) -> Int[Tensor, " some"]:
    """The indices, or the first one of all where none is chosen, so that what follows is called with something."""
    return chosen if len(chosen) else torch.zeros(1, dtype=torch.long, device=values.device)
