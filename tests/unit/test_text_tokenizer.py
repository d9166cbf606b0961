"""Tokenizers read from a folder without transformers, and what they lack."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from setok.config import ChatConfig, SequenceConfig
from setok.data.sequences import SequenceBuilder
from setok.data.special_tokens import add_special_tokens, text_tokenizer
from setok.data.text_tokenizer import TextTokenizer
from setok.errors import ConfigError
from setok.vocabulary import SPECIAL_TOKENS
from tests.chat_templates import GENERATION
from tests.text_tokenizers import KINDS, tokenizer_of, wrap


@pytest.mark.parametrize("kind", [*KINDS, "bert"])
def test_a_saved_tokenizer_is_read_without_transformers(kind: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(kind)
    tokenizer.save_pretrained(tmp_path)
    loaded = TextTokenizer.load(tmp_path)
    here = text_tokenizer(tokenizer)
    assert loaded.special_tokens == here.special_tokens
    assert (loaded.bos_token, loaded.eos_token, loaded.pad_token) == ("<s>", "</s>", "<pad>")
    assert loaded.pad_id == tokenizer.pad_token_id
    text = "a dog </s> on [Img] grass"
    loaded.encode(text, before="text")
    for other in (loaded, pickle.loads(pickle.dumps(loaded))):
        for before in ("nothing", "token", "text"):
            ids = other.encode(text, before=before)
            assert ids == here.encode(text, before=before)
            assert not set(ids) & {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("[Img]")}


def test_a_saved_template_is_found(tmp_path: Path) -> None:
    tokenizer = wrap(tokenizer_of("gpt2").backend_tokenizer)
    for template, expected in ((GENERATION, GENERATION), ({"default": "a", "tools": "b"}, "a")):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path)
        assert TextTokenizer.load(tmp_path).chat_template == expected


def test_special_tokens_are_added_once() -> None:
    tokenizer = wrap(Tokenizer.from_str(_without_pictures()))
    before = len(tokenizer)
    ids = add_special_tokens(tokenizer)
    assert ids == {"[Img]": before, "[/Img]": before + 1, "[Seg]": before + 2}
    assert add_special_tokens(tokenizer) == ids
    assert len(tokenizer) == before + 3
    assert tokenizer("a[Img]", add_special_tokens=False).input_ids[-1] == ids["[Img]"]


def _without_pictures() -> str:
    definition = json.loads(text_tokenizer(tokenizer_of("gpt2")).definition)
    definition["added_tokens"] = [one for one in definition["added_tokens"] if one["content"] not in SPECIAL_TOKENS]
    return json.dumps(definition)


def test_a_tokenizer_that_lacks_something(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist") as error:
        TextTokenizer.load(tmp_path / "nowhere")
    assert "save_pretrained" in error.value.remedy
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        TextTokenizer.load(tmp_path)
    bare = TextTokenizer(definition=_without_pictures(), eos_token="</s>")
    assert bare.pad_id == bare.special_id("</s>")
    with pytest.raises(ConfigError, match="pad_token"):
        _ = TextTokenizer(definition=_without_pictures()).pad_id
    with pytest.raises(ConfigError, match=r"\[Img\]") as error:
        SequenceBuilder(bare, SequenceConfig(chat=ChatConfig(template="plain")), seed=0)
    assert "add_special_tokens" in error.value.remedy
