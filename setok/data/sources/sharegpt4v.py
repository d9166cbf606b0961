"""ShareGPT4V (Chen et al. 2023): long captions, and an instruction mix that holds some of them. ``split`` is one of

    cap100k   ROOT/sharegpt4v_instruct_gpt4-vision_cap100k.json                            captions by GPT-4V
    mix665k   ROOT/sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json              conversations
    pretrain  ROOT/share-captioner_coco_lcs_sam_1246k_1107.json                            captions by a model
              ROOT/{coco,llava,sam,gqa,ocr_vqa,textvqa,vg,share_textvqa,web-celebrity,…}/**

``images`` names the folder that holds ``coco``, ``llava`` … where that is another one. A file by another name counts as
captions unless ``mix`` is in its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from setok.data.sources.conversations import ConversationSource


class Sharegpt4vSource(ConversationSource):
    """Pictures with a long caption, and conversations."""

    name: ClassVar[str] = "sharegpt4v"
    splits: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "cap100k": ("sharegpt4v_instruct_gpt4-vision_cap100k.json",),
        "mix665k": ("sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k.json",),
        "pretrain": ("share-captioner_coco_lcs_sam_1246k_1107.json",),
    }
    origin: ClassVar[str] = (
        "https://huggingface.co/datasets/Lin-Chen/ShareGPT4V; the pictures from where"
        " https://github.com/ShareGPT4Omni/ShareGPT4V/blob/master/docs/Data.md says"
    )

    def holds_captions(self, file: str) -> bool:
        return "mix" not in Path(file).name
