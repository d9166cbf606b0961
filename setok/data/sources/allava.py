"""ALLaVA-4V (Chen et al. 2024): long captions and instructions by GPT-4V. ``split`` is one of

    all              the four below
    caption_laion    ROOT/allava_laion/ALLaVA-Caption-LAION-4V.json
    instruct_laion   ROOT/allava_laion/ALLaVA-Instruct-LAION-4V.json
    caption_vflan    ROOT/allava_vflan/ALLaVA-Caption-VFLAN-4V.json
    instruct_vflan   ROOT/allava_vflan/ALLaVA-Instruct-VFLAN-4V.json
    laion, vflan, caption, instruct   both of a kind
    text             ROOT/allava_text/Evol-Instruct-GPT4-Turbo-143K.json      conversations without pictures

The rows name the pictures from ROOT on: ``allava_laion/images/*.jpeg`` and ``allava_vflan/images/**``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from setok.data.sources.conversations import ConversationSource

_CAPTION_LAION = "allava_laion/ALLaVA-Caption-LAION-4V.json"
_INSTRUCT_LAION = "allava_laion/ALLaVA-Instruct-LAION-4V.json"
_CAPTION_VFLAN = "allava_vflan/ALLaVA-Caption-VFLAN-4V.json"
_INSTRUCT_VFLAN = "allava_vflan/ALLaVA-Instruct-VFLAN-4V.json"


class AllavaSource(ConversationSource):
    """Pictures with a long caption, and questions with long answers."""

    name: ClassVar[str] = "allava"
    splits: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "all": (_CAPTION_LAION, _INSTRUCT_LAION, _CAPTION_VFLAN, _INSTRUCT_VFLAN),
        "laion": (_CAPTION_LAION, _INSTRUCT_LAION),
        "vflan": (_CAPTION_VFLAN, _INSTRUCT_VFLAN),
        "caption": (_CAPTION_LAION, _CAPTION_VFLAN),
        "instruct": (_INSTRUCT_LAION, _INSTRUCT_VFLAN),
        "caption_laion": (_CAPTION_LAION,),
        "instruct_laion": (_INSTRUCT_LAION,),
        "caption_vflan": (_CAPTION_VFLAN,),
        "instruct_vflan": (_INSTRUCT_VFLAN,),
        "text": ("allava_text/Evol-Instruct-GPT4-Turbo-143K.json",),
    }
    origin: ClassVar[str] = "https://huggingface.co/datasets/FreedomIntelligence/ALLaVA-4V"

    def holds_captions(self, file: str) -> bool:
        return "caption" in Path(file).name.lower()
