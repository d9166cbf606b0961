"""``Predictor``: where a reply ends, where a mask lies, where a model comes from, and what is refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from setok.config import SequenceConfig
from setok.data.chat import ChatTemplate
from setok.data.schema import Turn
from setok.data.special_tokens import text_tokenizer
from setok.errors import CheckpointError, ConfigError, DataError
from setok.export import SETTINGS
from setok.models.generation import GenerationOptions
from setok.models.setokim import Setokim
from setok.models.tokenizer import SeTok
from setok.predictor import Predictor
from setok.predictor.replies import mask_part
from tests.sequences import setok_config, setokim_config, shaken, square
from tests.text_tokenizers import tokenizer_of


def model_of(kind: str = "gpt2") -> Setokim:
    torch.manual_seed(0)
    return shaken(Setokim(setokim_config(), SeTok(setok_config()), tokenizer_of(kind)))


def predictor_of(template: str = "plain", **settings: Any) -> Predictor:
    chat = {"template": template}
    sequence = SequenceConfig.model_validate({"max_length": 200, "max_image_tokens": 6, "chat": chat})
    return Predictor(model_of(), sequence, **settings)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return predictor_of()


def saying(predictor: Predictor, tokens: list[str]) -> None:
    """Make a model say these tokens, and the last one over and over."""
    ids = predictor.model.text_tokenizer.convert_tokens_to_ids(tokens)
    calls = iter(ids)
    last = ids[-1]

    def hook(*called: Any) -> Tensor:
        return torch.zeros_like(called[-1]).index_fill(-1, torch.tensor([next(calls, last)]), 9.0)

    predictor.model.language_model.base.get_output_embeddings().register_forward_hook(hook)


ENDS = {
    "plain": "</s>",
    "vicuna_v1": "</s>",
    "llama2": "</s>",
    "mistral": "</s>",
    "llama3": "<|eot_id|>",
    "chatml": "<|im_end|>",
}


@pytest.mark.parametrize(("template", "end"), ENDS.items())
def test_a_reply_ends_where_training_ends_it(template: str, end: str) -> None:
    predictor = predictor_of(template)
    assert ChatTemplate(predictor.sequence.chat, text_tokenizer(tokenizer_of("gpt2"))).end_of_turn == end
    saying(predictor, ["a", "b", end, "c"])
    (reply,) = predictor.chat([[Turn(role="user", text="what?")]])
    assert reply.reason == "stop"
    assert reply.text == "ab"


def test_a_reply_ends_at_the_end_of_text_too_and_where_the_options_say() -> None:
    talk = [Turn(role="user", text="what?")]
    for options, tokens in ((GenerationOptions(), ["a", "</s>"]), (GenerationOptions(stop_ids=(5,)), ["a"])):
        predictor = predictor_of("chatml")
        five = predictor.model.text_tokenizer.convert_ids_to_tokens(5)
        saying(predictor, [*tokens, five] if options.stop_ids else tokens)
        parts = list(predictor.stream(talk, options=options))
        assert [part.text for part in parts] == ["a"]  # type: ignore[union-attr]


@pytest.mark.parametrize("generation", ["", "{% generation %}"])
def test_the_end_of_a_turn_of_a_tokenizers_own_template(generation: str) -> None:
    tokenizer = text_tokenizer(tokenizer_of("gpt2"))
    close = "{% endgeneration %}" if generation else ""
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
        + generation
        + "{{ m.content }}<|eot_id|>"
        + close
        + "{% else %}{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    from dataclasses import replace

    template = ChatTemplate(SequenceConfig().chat, replace(tokenizer, chat_template=source))
    assert template.end_of_turn == "<|eot_id|>"


# ------------------------------------------------------------ masks


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (40, 90), (91, 40), (33, 32), (25, 31)])
def test_a_mask_lies_where_the_model_saw_it(size: tuple[int, int]) -> None:
    height, width = size
    side = min(size)
    logits = torch.full((16, 16), -9.0)
    logits[:8, 8:] = 9.0  # upper right quarter
    part = mask_part(logits, size)
    top, left = (height - side) // 2, (width - side) // 2
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    inside = (rows >= top) & (rows < top + side / 2) & (columns >= left + side / 2) & (columns < left + side)
    assert part.mask.shape == size
    assert (part.mask != inside).sum() <= 2 * side  # along the edges of the quarter
    outside = (rows < top) | (rows >= top + side) | (columns < left) | (columns >= left + side)
    assert not part.mask[outside].any()
    assert part.score > 0.9


def test_segment_gives_masks_of_the_pictures_own_size(predictor: Predictor) -> None:
    wide, tall = np.zeros((40, 90, 3), np.uint8), np.zeros((3, 100, 32), np.uint8)
    masks = predictor.segment([wide, tall, Image.new("RGB", (50, 20))], ["a", "b", "c"])
    assert [tuple(mask.shape) for mask in masks] == [(40, 90), (100, 32), (20, 50)]


# ------------------------------------------------------------ where a model comes from


def test_a_hub_id_keeps_its_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predictor: Predictor) -> None:
    predictor.model.save_pretrained(tmp_path / "snapshot")
    settings = {"precision": "bf16", "sequence": predictor.sequence.model_dump(mode="json")}
    import json

    (tmp_path / "snapshot" / SETTINGS).write_text(json.dumps(settings))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: str(tmp_path / "snapshot"))
    loaded = Predictor.from_pretrained("org/name")
    assert loaded.sequence == predictor.sequence
    assert loaded.bf16
    (tmp_path / "snapshot" / SETTINGS).write_text("{ nonsense")
    with pytest.raises(CheckpointError, match=r"predictor.json cannot be read(.|\n)*export the model again"):
        Predictor.from_pretrained(tmp_path / "snapshot")


def test_a_folder_without_settings_has_the_defaults(tmp_path: Path) -> None:
    model = model_of()
    model.text_tokenizer = tokenizer_of("llama")
    model.text_tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}"
    model.save_pretrained(tmp_path)
    model.text_tokenizer.chat_template = None
    loaded = Predictor.from_pretrained(tmp_path)
    assert loaded.sequence == SequenceConfig()
    assert not loaded.bf16


# ------------------------------------------------------------ what is given


def test_one_thing_is_as_good_as_a_list_of_one(tmp_path: Path, predictor: Predictor) -> None:
    pixels = square("red", 4, 4)[0]
    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    file = io.BytesIO()
    image.save(file, "PNG")
    path = tmp_path / "x.png"
    path.write_bytes(file.getvalue())
    wanted = predictor.caption([pixels])
    for one in (pixels, pixels.numpy(), image, path, str(path), file.getvalue(), pixels[None]):
        assert predictor.caption(one) == wanted
    assert predictor.answer(pixels, "what?") == predictor.answer([pixels], ["what?"])
    assert torch.equal(predictor.segment(pixels, "red")[0], predictor.segment([pixels], ["red"])[0])
    assert torch.equal(predictor.generate("a red circle")[0], predictor.generate(["a red circle"])[0])
    assert len(predictor.generate("a red circle")) == 1
    assert torch.equal(predictor.edit(pixels, "turn")[0], predictor.edit([pixels], ["turn"])[0])
    talk = [Turn(role="user", text="<image> what?")]
    assert predictor.chat([talk], [pixels])[0].text == predictor.chat([talk], [[pixels]])[0].text


TALK = [Turn(role="user", text="what?")]
REFUSED: dict[str, tuple[Callable[[Predictor], Any], type[Exception], str]] = {
    "no picture": (lambda p: p.caption([None]), DataError, r"None is no picture(.|\n)*PIL"),
    "a number": (lambda p: p.segment([3], ["a"]), DataError, r"3 is no picture(.|\n)*PIL"),
    "no list": (lambda p: p.caption(None), DataError, r"None is given as pictures"),
    "no prompt": (lambda p: p.generate([None]), DataError, r"None is no text"),
    "two and one": (lambda p: p.answer([b"", b""], ["a"]), DataError, r"2 were asked and there are 1 questions"),
    "one conversation": (lambda p: p.chat(TALK), DataError, r"is no conversation(.|\n)*list of conversations"),
    "mappings": (lambda p: p.chat([[{"role": "user"}]]), DataError, r"is no turn(.|\n)*Turn\(role"),
    "a robot": (lambda p: p.chat([[Turn(role="robot", text="x")]]), DataError, r"'robot'(.|\n)*user, assistant"),
    "word for a seed": (lambda p: p.chat([TALK], seeds=["one"]), ConfigError, r"'one' is no seed(.|\n)*whole numbers"),
    "half a seed": (lambda p: p.generate("x", seeds=[0.5]), ConfigError, r"0.5 is no seed"),
    "streamed seed": (lambda p: list(p.stream(TALK, seed="one")), ConfigError, r"'one' is no seed"),
    "streamed robot": (lambda p: list(p.stream([Turn(role="robot", text="x")])), DataError, r"'robot'"),
    "no batch": (lambda p: Predictor(p.model, p.sequence, batch_size=0), ConfigError, r"batch_size=0(.|\n)*1 or more"),
    "other weights": (lambda p: Predictor.from_pretrained("x", weights="foo"), ConfigError, r"'foo'(.|\n)*'raw'"),
    "too long": (lambda p: p.generate("a " * 300), DataError, r"too long: a prompt has \d+ tokens(.|\n)*→ shorten it"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_none_is_refused_plainly(predictor: Predictor, name: str) -> None:
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call(predictor)
