"""Setokim as a model of lmms-eval (https://github.com/EvolvingLMMs-Lab/lmms-eval), the usual harness of multimodal benchmarks.

    python -m lmms_eval --model setokim --model_args pretrained=runs/demo/instruct,batch_size=8 --tasks pope

The package finds ``manifest`` by the entry point ``lmms_eval.models``. ``asking`` turns what a task asks into conversations
and options of ours, ``models`` holds the two classes that the harness runs.
"""

from __future__ import annotations

from typing import Any

MODEL = "setokim"
"""What ``--model`` takes."""


def manifest() -> Any:
    """What lmms-eval is told of the model: its name, and a class for each way in which a task may ask.

    By messages (``chat``: pictures in their places, several turns) is the default; ``--force_simple`` takes the other one,
    a context with pictures in front, which tasks of several choices need.
    """
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id=MODEL,
        simple_class_path=f"{__name__}.models.SetokimSimple",
        chat_class_path=f"{__name__}.models.SetokimChat",
    )
