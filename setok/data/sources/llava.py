"""LLaVA's own sets (Liu et al. 2023): captions to align with, and instructions.

``llava_pretrain``, with ``split`` one of

    558k           ROOT/blip_laion_cc_sbu_558k.json      "LCS-558K", of LLaVA 1.5
    595k           ROOT/chat.json                        CC3M-595K, of the first LLaVA
    595k_captions  ROOT/metadata.json                    the same as bare captions
                   ROOT/images/** or ROOT/**             the pictures of either

``llava_instruct``, with ``split`` one of

    665k           ROOT/llava_v1_5_mix665k.json          text-only conversations among them
    150k           ROOT/llava_instruct_150k.json
    80k            ROOT/llava_instruct_80k.json
                   ROOT/{coco/train2017,gqa/images,ocr_vqa/images,textvqa/train_images,vg/VG_100K,vg/VG_100K_2}/*

``images`` names the folder that holds ``coco``, ``gqa`` …, or for 150k and 80k also the one of COCO's pictures itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from setok.data.sources.conversations import ConversationSource


class LlavaPretrainSource(ConversationSource):
    """Pictures with a caption, which is the answer to a request for one."""

    name: ClassVar[str] = "llava_pretrain"
    splits: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "558k": ("blip_laion_cc_sbu_558k.json",),
        "595k": ("chat.json",),
        "595k_captions": ("metadata.json",),
    }
    origin: ClassVar[str] = (
        "https://huggingface.co/datasets/liuhaotian/LLaVA-Pretrain"
        " (595k: https://huggingface.co/datasets/liuhaotian/LLaVA-CC3M-Pretrain-595K), with images.zip unpacked"
    )
    image_folders: ClassVar[tuple[str, ...]] = ("images", "")

    def holds_captions(self, file: str) -> bool:
        return True


class LlavaInstructSource(ConversationSource):
    """Conversations, most of them about a picture."""

    name: ClassVar[str] = "llava_instruct"
    splits: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "665k": ("llava_v1_5_mix665k.json",),
        "150k": ("llava_instruct_150k.json",),
        "80k": ("llava_instruct_80k.json",),
    }
    origin: ClassVar[str] = (
        "https://huggingface.co/datasets/liuhaotian/LLaVA-Instruct-150K; the pictures from where"
        " https://github.com/haotian-liu/LLaVA#visual-instruction-tuning says"
    )
    image_folders: ClassVar[tuple[str, ...]] = ("", "coco/train2017", "train2017", "coco/val2017", "val2017")

    def holds_captions(self, file: str) -> bool:
        return False
