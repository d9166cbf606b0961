"""A contact sheet: some records of the sources on one picture, as training will see them.

Every record is a card: its pictures with masks and boxes drawn in, and below what is said about them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from ray_jobs.ingesting.parts import prepared_records
from setok.config import IngestConfig
from setok.data import rle
from setok.data.images import decode_image
from setok.data.schema import Box, Mask, Record
from setok.data.sources import BadRecord, open_source
from setok.drawing import PALETTE

PREVIEW = "preview.png"
_CARD, _PICTURE, _GAP, _PAD = 400, 250, 20, 14
_COLUMNS = 4
_TEXT_LINES = 9
_INK, _FAINT, _PAPER, _CARD_PAPER, _FRAME = "#1c1e21", "#73797f", "#eef0f2", "#ffffff", "#d9dde1"
_MASK_OPACITY = 0.5
_TASK_COLOURS = {
    "image": "#73797f", "classify": "#8a6d00", "caption": "#00724f", "vqa": "#0b5fa5", "dialogue": "#4a3aa7",
    "generate": "#b04a00", "edit": "#a6326f", "segment": "#8a2432", "text": "#3c4247",
}  # fmt: skip


def write_preview(config: IngestConfig, count: int) -> Path:
    """Draw records of all sources, spread evenly over each, and write ``preview.png`` into the run's folder.

    Args:
        config: of the ingest; nothing is ingested.
        count: records in all; every source gives at least one.

    Returns:
        The picture's file.

    Raises:
        DataError: a source is missing.
    """
    cards = [draw_card(item) for item in _chosen(config, count)]
    sheet = _sheet(cards, title=f"{config.name} · {len(cards)} records of {_sources(config)}")
    path = config.run_dir / PREVIEW
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _sources(config: IngestConfig) -> str:
    return ", ".join(dict.fromkeys(source.kind for source in config.sources))


def _chosen(config: IngestConfig, count: int) -> list[Record | BadRecord]:
    items: list[Record | BadRecord] = []
    for number, source_config in enumerate(config.sources):
        source = open_source(source_config)
        source.check()
        share = (number + 1) * count // len(config.sources) - number * count // len(config.sources)
        wanted = min(max(1, share), len(source))
        for index in np.linspace(0, len(source) - 1, wanted).round().astype(int).tolist():
            items += prepared_records(config, source_config, index, index + 1)
    return items


# ---------------------------------------------------------------- one card


def draw_card(item: Record | BadRecord) -> Image.Image:
    """One record as a card of fixed width; a bad record tells its reason."""
    text = _text_of(item)
    line_height = 19
    height = _PICTURE + _PAD + 20 + (_PAD + line_height * len(text) if text else 0) + _PAD
    card = Image.new("RGB", (_CARD, height), _CARD_PAPER)
    draw = ImageDraw.Draw(card)
    if isinstance(item, Record) and item.images:
        _paste_pictures(card, item)
    else:
        draw.rectangle((0, 0, _CARD - 1, _PICTURE), fill="#f6f7f8")
        words = "no picture" if isinstance(item, Record) else "quarantined"
        draw.text((_CARD / 2, _PICTURE / 2), words, fill=_FAINT, font=_font(17), anchor="mm")
    top = _PICTURE + _PAD
    chip = item.task if isinstance(item, Record) else "bad"
    chip_width = draw.textlength(chip, font=_font(13)) + 16
    colour = _TASK_COLOURS.get(chip, "#b3261e")
    draw.rounded_rectangle((_PAD, top, _PAD + chip_width, top + 20), radius=10, fill=colour)
    draw.text((_PAD + chip_width / 2, top + 10), chip, fill="white", font=_font(13), anchor="mm")
    room = int((_CARD - 3 * _PAD - chip_width) / 7.2)
    draw.text((2 * _PAD + chip_width, top + 10), _short(item.id, room), fill=_FAINT, font=_font(13), anchor="lm")
    top += 20 + _PAD
    for line, ink in text:
        draw.text((_PAD, top), line, fill=ink, font=_font(15))
        top += line_height
    draw.rectangle((0, 0, _CARD - 1, height - 1), outline=_FRAME)
    return card


def _text_of(item: Record | BadRecord) -> list[tuple[str, str]]:
    """Lines of text and their colours."""
    if isinstance(item, BadRecord):
        return _wrapped(item.reason, "#b3261e")
    lines: list[tuple[str, str]] = []
    for turn in item.conversation:
        mark = {"user": "Q  ", "assistant": "A  ", "system": "S  "}[turn.role]
        lines += _wrapped(mark + turn.text, _FAINT if turn.role == "user" else _INK)
    if item.caption:
        lines += _wrapped(item.caption, _INK)
    told = {item.caption, *(turn.text for turn in item.conversation)}
    others = [answer for answer in item.answers if answer not in told]
    if others and not item.conversation:
        lines += _wrapped(("also: " if item.caption else "") + " | ".join(others), _FAINT if item.caption else _INK)
    elif others:
        lines += _wrapped("answers: " + " | ".join(dict.fromkeys(others)), _FAINT)
    if item.choices:
        lines += _wrapped("choices: " + " | ".join(item.choices), _FAINT)
    if len(lines) > _TEXT_LINES - 2:
        lines = [*lines[: _TEXT_LINES - 2], ("…", _FAINT)]
    if item.concepts:
        concepts = _wrapped("concepts: " + ", ".join(item.concepts), "#0b5fa5")
        lines += concepts if len(concepts) <= 2 else [concepts[0], (concepts[1][0].rstrip(",") + " …", "#0b5fa5")]
    return lines


def _wrapped(text: str, ink: str) -> list[tuple[str, str]]:
    return [(line, ink) for line in textwrap.wrap(text[:2000], 52)]


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length // 3]}…{text[-(length - length // 3 - 1) :]}"


def _paste_pictures(card: Image.Image, record: Record) -> None:
    """All pictures side by side, an arrow between inputs and targets; masks and boxes on the first input."""
    images = sorted(record.images, key=lambda image: image.role != "input")[:3]
    width = (_CARD - (len(images) - 1) * 6) // len(images)
    drawn = False
    for number, image in enumerate(images):
        pixels = decode_image(image.data)
        if image.role == "input" and not drawn:
            pixels = _with_masks(pixels, [*record.masks] or [*record.segments])
            drawn = True
        scale = min(width / pixels.shape[1], _PICTURE / pixels.shape[0])
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        picture = Image.fromarray(pixels).resize(
            size, Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
        )
        if image.role == "input" and number == 0:
            _draw_boxes(picture, record.boxes)
        left = number * (width + 6) + (width - size[0]) // 2
        card.paste("#f6f7f8", (number * (width + 6), 0, number * (width + 6) + width, _PICTURE))
        card.paste(picture, (left, (_PICTURE - size[1]) // 2))
        if image.role == "target":
            _label(ImageDraw.Draw(card), number * (width + 6) + 8, 8, "target", "#a6326f")


def _with_masks(
    pixels: UInt8[np.ndarray, "height width 3"], masks: Sequence[Mask]
) -> UInt8[np.ndarray, "height width 3"]:
    """Masks in colour over a picture, with a light outline; masks of another size are stretched."""
    shown = pixels.astype(np.float32)
    size = (pixels.shape[0], pixels.shape[1])
    for number, mask in enumerate(masks):
        counts = rle.resize(mask.counts, (mask.height, mask.width), size)
        inside = rle.decode(counts, *size)
        padded = np.pad(inside, 1)
        inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        colour = PALETTE[number % len(PALETTE)]
        shown[inside] = shown[inside] * (1 - _MASK_OPACITY) + colour * _MASK_OPACITY
        shown[inside & ~inner] = 255
    return shown.round().astype(np.uint8)


def _draw_boxes(picture: Image.Image, boxes: Sequence[Box]) -> None:
    draw = ImageDraw.Draw(picture)
    width, height = picture.size
    for number, box in enumerate(boxes):
        colour = "#{:02x}{:02x}{:02x}".format(*PALETTE[number % len(PALETTE)].tolist())
        corners = (box.x0 * width, box.y0 * height, max(box.x0, box.x1) * width - 1, max(box.y0, box.y1) * height - 1)
        draw.rectangle(corners, outline=colour, width=2)
        if box.label:
            _label(draw, corners[0], max(0.0, corners[1] - 16), _short(box.label, 24), colour)


def _label(draw: ImageDraw.ImageDraw, left: float, top: float, text: str, colour: str) -> None:
    width = draw.textlength(text, font=_font(12)) + 8
    draw.rectangle((left, top, left + width, top + 16), fill=colour)
    red, green, blue = (int(colour[start : start + 2], 16) for start in (1, 3, 5))
    ink = "black" if 0.3 * red + 0.59 * green + 0.11 * blue > 140 else "white"
    draw.text((left + 4, top + 8), text, fill=ink, font=_font(12), anchor="lm")


# ---------------------------------------------------------------- the sheet


def _sheet(cards: Sequence[Image.Image], *, title: str) -> Image.Image:
    """Cards in columns, each put where the sheet is shortest."""
    columns = min(_COLUMNS, len(cards))
    bottoms = [_GAP + 44] * columns
    places = []
    for card in cards:
        column = bottoms.index(min(bottoms))
        places.append((_GAP + column * (_CARD + _GAP), bottoms[column]))
        bottoms[column] += card.height + _GAP
    sheet = Image.new("RGB", (_GAP + columns * (_CARD + _GAP), max(bottoms)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((_GAP, _GAP + 14), title, fill=_INK, font=_font(20), anchor="lm")
    for card, place in zip(cards, places, strict=True):
        sheet.paste(card, place)
    return sheet


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
