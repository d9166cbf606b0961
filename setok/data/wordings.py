"""What is said around a caption, a class name or an expression: several wordings for each, as (user, assistant).

``{}`` stands for the text, ``<image>`` and ``<mask>`` for pictures and masks.
"""

from __future__ import annotations

Wording = tuple[str, str]
"""What the user says, and what the assistant says."""

CAPTION: tuple[Wording, ...] = (
    ("<image>\nDescribe the image in one sentence.", "{}"),
    ("<image>\nWhat does this image show?", "{}"),
    ("<image>\nGive a short description of the picture.", "{}"),
    ("Write a caption for this image.\n<image>", "{}"),
    ("<image>\nCaption this picture.", "{}"),
    ("What can be seen here?\n<image>", "{}"),
)
CLASSIFY: tuple[Wording, ...] = (
    ("<image>\nWhat is the main thing in this image?", "{}"),
    ("<image>\nName what is shown.", "{}"),
    ("<image>\nWhich kind of thing is this?", "{}"),
    ("What is this?\n<image>", "{}"),
)
GENERATE: tuple[Wording, ...] = (
    ("Draw an image of the following: {}", "<image>"),
    ("Make a picture that shows this: {}", "<image>"),
    ("Generate an image: {}", "<image>"),
    ("Please paint: {}", "<image>"),
    ("Draw this.\n{}", "<image>"),
    ("Create a picture to match the caption: {}", "<image>"),
)
GENERATE_CLASS: tuple[Wording, ...] = (
    ("Draw an image of this kind of thing: {}", "<image>"),
    ("Generate a photo of: {}", "<image>"),
    ("Please paint: {}", "<image>"),
    ("Make a picture that shows: {}", "<image>"),
)
EDIT: tuple[Wording, ...] = (
    ("<image>\n{}", "<image>"),
    ("<image>\nEdit the image: {}", "<image>"),
    ("<image>\nChange the picture like this: {}", "<image>"),
)
SEGMENT: tuple[Wording, ...] = (
    ("<image>\nSegment the following: {}", "<mask>"),
    ("<image>\nWhere in the image is this: {}", "<mask>"),
    ("<image>\nShow the region of: {}", "<mask>"),
    ("<image>\nPlease mark: {}", "<mask>"),
)
CAPTION_BARE: tuple[Wording, ...] = (("<image>", "{}"),)
GENERATE_BARE: tuple[Wording, ...] = (("{}", "<image>"),)
EDIT_BARE: tuple[Wording, ...] = (("<image>\n{}", "<image>"),)
SEGMENT_BARE: tuple[Wording, ...] = (("<image>\n{}", "<mask>"),)
UNCONDITIONAL: tuple[Wording, ...] = (("", "<image>"),)

SHORT_ANSWER = "Answer with a single word or a short phrase."
LETTER = "Answer with the letter of the right choice."
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

ALL = (
    *(
        text
        for pairs in (CAPTION, CLASSIFY, GENERATE, GENERATE_CLASS, EDIT, SEGMENT)
        for pair in pairs
        for text in pair
    ),
    *(SHORT_ANSWER, LETTER, *(f"{letter}. {letter}" for letter in LETTERS)),
)
"""Every wording, for a vocabulary that must have its words."""
