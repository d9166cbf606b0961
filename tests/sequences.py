"""Samples for the language model as short scripts, and a model small enough to read them in tests.

A sample is a list of parts: a string is text that is given, ``Say`` is text to be learned, ``Picture`` a picture that is read or
to be drawn, ``Point`` a mask of the sample's n-th picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from setok.batch import SequenceBatch
from setok.config import SetokimConfig, TokenizerConfig
from setok.models.setokim import Setokim
from setok.models.text_tokens import add_special_tokens
from setok.models.tokenizer import SeTok
from setok.vocabulary import IMAGE_END, IMAGE_START, SEGMENT

SIZE = 32
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 220), "white": (240, 240, 240)}
WORDS = "what colour is the square circle a and draw move it to where left right yes no how many one two".split()


@dataclass(frozen=True)
class Say:
    text: str


@dataclass(frozen=True)
class Picture:
    pixels: Tensor
    draw: bool = False
    valid: bool = True


@dataclass(frozen=True)
class Point:
    mask: Tensor
    picture: int = 0


Part = str | Say | Picture | Point


def text_tokenizer() -> Any:
    """One token a word; ``</s>`` ends what is said."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "</s>", *COLOURS, *WORDS]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return add_special_tokens(PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>"))


def setok_config(**changes: Any) -> TokenizerConfig:
    tree: dict[str, Any] = {
        "image_size": SIZE,
        "encoder": {"width": 48},
        "clustering": {"feature_dim": 16, "sharpness": 12.0, "max_tokens": 6, "stop_scope": 0.2},
        "detokenizer": {"width": 48, "depth": 1},
    }
    return TokenizerConfig.model_validate(tree | changes)


def setokim_config(**changes: Any) -> SetokimConfig:
    """``changes`` replace sections."""
    tree: dict[str, Any] = {
        "language_model": {"width": 64, "depth": 2, "num_heads": 4, "mlp_ratio": 2.0, "max_positions": 256},
        "diffusion": {"width": 64, "depth": 2, "num_timesteps": 100, "sampling_steps": 8},
        "mask_decoder": {"width": 32, "depth": 1, "num_heads": 2},
    }
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(value, dict) else value
    return SetokimConfig.model_validate(tree)


def setokim(**changes: Any) -> Setokim:
    """A model with random weights, in training mode without dropout."""
    torch.manual_seed(0)
    return Setokim(setokim_config(**changes), SeTok(setok_config()), text_tokenizer())


def shaken(model: Setokim) -> Setokim:
    """With random weights also where training starts from zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("tokenizer."):
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def square(colour: str, x: int, y: int, side: int = 12, background: str = "white") -> tuple[Tensor, Tensor]:
    """A picture with one square, and where it is."""
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[y : y + side, x : x + side] = True
    ink, paper = (torch.tensor(COLOURS[c], dtype=torch.uint8).view(3, 1, 1) for c in (colour, background))
    return torch.where(mask, ink, paper).contiguous(), mask


def noise_picture(seed: int) -> Tensor:
    """Blocks of random colours: pictures with different numbers of tokens."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.randint(0, 256, (3, 4, 4), generator=generator, dtype=torch.uint8)
    return blocks.repeat_interleave(8, 1).repeat_interleave(8, 2)


def sequence_batch(
    rows: Sequence[Sequence[tuple[str, Sequence[Part]]]],
    tokenizer: Any,
    max_image_tokens: int,
    length: int | None = None,
) -> SequenceBatch:
    """Rows of (id, sample) pairs."""
    pad = tokenizer.pad_token_id or tokenizer.eos_token_id
    start, end, seg = (tokenizer.convert_tokens_to_ids(t) for t in (IMAGE_START, IMAGE_END, SEGMENT))
    pictures: list[Picture] = []
    masks: list[tuple[Tensor, int]] = []
    built = []
    for row in rows:
        places: list[tuple[int, int, int, int, int, int]] = []  # id, label, segment, image, offset, mask
        for segment, (_, sample) in enumerate(row, start=1):
            own: list[int] = []
            for part in sample:
                if isinstance(part, (str, Say)):
                    text = part if isinstance(part, str) else part.text
                    ids = tokenizer.encode(text, add_special_tokens=False)
                    said = ids if isinstance(part, Say) else [-100] * len(ids)
                    places += [(i, label, segment, -1, 0, -1) for i, label in zip(ids, said, strict=True)]
                elif isinstance(part, Picture):
                    learn = part.draw and part.valid
                    places.append((start, start if learn else -100, segment, -1, 0, -1))
                    places += [(pad, -100, segment, len(pictures), o, -1) for o in range(max_image_tokens)]
                    places.append((end, end if learn else -100, segment, -1, 0, -1))
                    own.append(len(pictures))
                    pictures.append(part)
                else:
                    places.append((seg, seg, segment, -1, 0, len(masks)))
                    masks.append((part.mask, own[part.picture]))
        built.append(places)
    longest = length or max(len(places) for places in built)
    filled = [places + [(pad, -100, 0, -1, 0, -1)] * (longest - len(places)) for places in built]
    columns = torch.tensor(filled).permute(2, 0, 1).contiguous()
    return SequenceBatch(
        input_ids=columns[0],
        labels=columns[1],
        segment_ids=columns[2],
        image_index=columns[3],
        image_offset=columns[4],
        mask_index=columns[5],
        pixel_values=torch.stack([p.pixels for p in pictures])
        if pictures
        else torch.zeros(0, 3, SIZE, SIZE, dtype=torch.uint8),
        image_is_target=torch.tensor([p.draw for p in pictures], dtype=torch.bool),
        image_valid=torch.tensor([p.valid for p in pictures], dtype=torch.bool),
        mask_image=torch.tensor([image for _, image in masks], dtype=torch.long),
        masks=torch.stack([mask for mask, _ in masks]) if masks else torch.zeros(0, SIZE, SIZE, dtype=torch.bool),
        ids=tuple(tuple(name for name, _ in row) for row in rows),
    )
