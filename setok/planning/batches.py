"""Micro-batches as a run will see them, before there is any data: shapes and places, no pictures.

What samples look like is an assumption (``Samples``), which a plan says and everybody can change.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from setok.batch import ConceptBank, ImageTextBatch, SequenceBatch, StepContext
from setok.config import TrainConfig
from setok.models.splice import IGNORED


@dataclass(frozen=True, kw_only=True)
class Samples:
    """What the samples of a run are like."""

    text_tokens: int = 48
    """Words around a picture, in tokens: the question and the answer, or the caption."""
    concepts: int = 4
    """Concepts of a picture that no other picture of the global batch has."""
    regions: int = 4
    """Regions that a row points at, in the stage ``instruct``."""


def image_batch(config: TrainConfig, samples: Samples, concept_width: int) -> tuple[ImageTextBatch, StepContext]:
    """A micro-batch of the tokenizer's stage, and what the loop says of the step, long after its start."""
    count, side = config.train.micro_batch_size, config.model.image_size
    sizes = torch.full((count, 2), side) if config.model.fit_multiple is not None else None
    batch = ImageTextBatch(
        pixel_values=_pixels(count, side),
        valid=torch.ones(count, dtype=torch.bool),
        concepts=((),) * count,
        ids=tuple(str(number) for number in range(count)),
        sizes=sizes,
    )
    bank = None
    if config.loss.contrast:
        known = max(1, samples.concepts * config.train.global_batch_size)
        bank = ConceptBank(
            embeddings=torch.empty(known, concept_width), present=torch.ones(count, known, dtype=torch.bool)
        )
    total = float(config.train.global_batch_size)
    context = StepContext(step=config.train.steps, num_images=total, num_concepts=total, concepts=bank)
    return batch, context


def sequence_batch(config: TrainConfig, samples: Samples, ids: tuple[int, int, int]) -> SequenceBatch:
    """A micro-batch of packed rows: samples of a picture with text, read or drawn, until a row is full.

    Pictures have all the tokens that they may have. In the stage ``instruct`` a row points at regions of
    the first of its pictures that is read.

    Args:
        ids: of ``[Img]``, ``[/Img]`` and ``[Seg]``.
    """
    rows = [_row(config, samples, ids, number) for number in range(config.train.micro_batch_size)]
    per_row, side = len(rows[0][1]), config.model.image_size
    columns = torch.tensor([places for places, _ in rows]).permute(2, 0, 1).contiguous()
    image, mask = columns[3], columns[5]
    first = torch.arange(len(rows)).unsqueeze(1)
    points = mask >= 0
    number = points.flatten().cumsum(0).view_as(mask) - 1
    num_masks = int(points.sum())
    return SequenceBatch(
        input_ids=columns[0],
        labels=columns[1],
        segment_ids=columns[2],
        image_index=torch.where(image >= 0, image + per_row * first, -1),
        image_offset=columns[4],
        pixel_values=_pixels(per_row * len(rows), side),
        image_is_target=torch.tensor([drawn for _, pictures in rows for drawn in pictures]),
        image_valid=torch.ones(per_row * len(rows), dtype=torch.bool),
        mask_index=torch.where(points, number, -1),
        mask_image=(mask + per_row * first)[points],
        masks=torch.zeros(num_masks, side, side, dtype=torch.bool),
        ids=tuple(tuple(f"{row}-{number}" for number in range(per_row)) for row in range(len(rows))),
    )


def pictures_per_row(config: TrainConfig, samples: Samples) -> int:
    """Pictures that a packed row holds."""
    return max(1, config.sequence.max_length // (samples.text_tokens + config.sequence.max_image_tokens + 2))


def _row(
    config: TrainConfig, samples: Samples, ids: tuple[int, int, int], row: int
) -> tuple[list[tuple[int, int, int, int, int, int]], list[bool]]:
    """Places of a row (id, label, segment, picture, offset, mask), and which of its pictures are drawn."""
    start, end, segment_id = ids
    room, share = config.sequence.max_image_tokens, config.sequence.generation_share
    per_row, length = pictures_per_row(config, samples), config.sequence.max_length
    points = config.stage == "instruct" and config.setokim is not None and config.setokim.mask_decoder is not None
    text = min(samples.text_tokens, length - room - 2)
    places: list[tuple[int, int, int, int, int, int]] = []
    pictures = []
    for number in range(per_row):
        seen = row * per_row + number
        drawn = int((seen + 1) * share) > int(seen * share)
        pictures.append(drawn)
        segment = number + 1
        before, after = (text, 0) if drawn else (text // 2, text - text // 2)
        places += [(0, IGNORED, segment, -1, 0, -1)] * before
        places.append((start, start if drawn else IGNORED, segment, -1, 0, -1))
        places += [(0, IGNORED, segment, number, offset, -1) for offset in range(room)]
        places.append((end, end if drawn else IGNORED, segment, -1, 0, -1))
        places += [(0, 0, segment, -1, 0, -1)] * after
        if points and after:  # the mask's column holds its picture's number in the row
            points, count = False, min(samples.regions, after)
            places[-count:] = [(segment_id, segment_id, segment, -1, 0, number)] * count
    padding = (0, IGNORED, 0, -1, 0, -1)
    return places + [padding] * (length - len(places)), pictures


def _pixels(count: int, side: int) -> torch.Tensor:
    """Pictures without values, in uint8; made from a type that ``Pretend`` takes for the model's."""
    return torch.empty(count, 3, side, side).to(torch.uint8)
