"""The tokenizer of whole words: made from the data, the same every time, and without loss for words that it knows."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from setok.config import ChatConfig, SequenceConfig
from setok.data.schema import EncodedImage, Manifest, Record, Turn
from setok.data.sequences import SequenceBuilder
from setok.data.shards import write_shard
from setok.data.text_tokenizer import TextTokenizer
from setok.data.word_tokenizer import build_word_tokenizer, own_texts, texts_of_set
from setok.errors import ConfigError, DataError

TEXTS = ["A red circle, left of a big star.", "what colour is the star?\nred", "yes", "a dog's 12 hats!"]
WORDS = "A a red circle , left of big star . what colour is the ? yes dog ' s 12 hats !".split()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return build_word_tokenizer(TEXTS, tmp_path_factory.mktemp("words"))


@settings(max_examples=60, deadline=None)
@given(pairs=st.lists(st.tuples(st.sampled_from([" ", "\n", "  ", " \n", "! "]), st.sampled_from(WORDS)), max_size=8))
def test_known_words_come_back_to_the_letter(tokenizer: PreTrainedTokenizerBase, pairs: list[tuple[str, str]]) -> None:
    text = "".join(gap + word for gap, word in pairs)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_one_token_a_word(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer("A red star.", add_special_tokens=False).tokens() == ["A", " red", " star", "."]
    assert tokenizer("red green", add_special_tokens=False).tokens() == ["red", "<unk>"]
    assert tokenizer("12 hats 7", add_special_tokens=False).tokens() == ["12", " hats", "<unk>"]


def test_it_is_the_same_every_time_and_loads_everywhere(tmp_path: Path) -> None:
    first = build_word_tokenizer(TEXTS, tmp_path / "a")
    build_word_tokenizer(reversed(TEXTS), tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    loaded = AutoTokenizer.from_pretrained(tmp_path / "a")
    text = "A red circle [Img] what?"
    assert loaded(text).input_ids == first(text).input_ids
    assert (loaded.pad_token, loaded.unk_token, loaded.bos_token, loaded.eos_token) == ("<pad>", "<unk>", "<s>", "</s>")
    assert loaded.convert_tokens_to_ids("[Seg]") == len(first) - 1


def test_the_most_frequent_words_are_kept(tmp_path: Path) -> None:
    small = build_word_tokenizer(["b a", "c b", "a b"], tmp_path, max_words=2)
    assert small("b a c", add_special_tokens=False).tokens() == ["b", " a", "<unk>"]
    with pytest.raises(DataError, match="no words"):
        build_word_tokenizer(["", ""], tmp_path)


def test_a_sets_tokenizer_knows_all_that_its_records_make_a_model_read(tmp_path: Path) -> None:
    image, target = EncodedImage(data=b"x"), EncodedImage(data=b"y", role="target")
    turns = [Turn(role="user", text="<image>\nAdd one hat"), Turn(role="assistant", text="Done: <image>")]
    records = [
        Record(id="a", source="s", task="caption", images=[image], caption="a dog", answers=["a dog", "it runs"]),
        Record(id="b", source="s", task="classify", images=[image], concepts=["tench"]),
        Record(id="c", source="s", task="edit", images=[image, target], conversation=turns),
        Record(
            id="d",
            source="s",
            task="vqa",
            images=[image],
            conversation=[Turn(role="user", text="<image>\nWhich?")],
            choices=["left", "right"],
            answers=["left"],
        ),
    ]
    folder = tmp_path / "set"
    folder.mkdir()
    shard = write_shard(folder / "0.parquet", records)
    assert shard is not None
    Manifest(shards=[shard], records_by_source={"s": 4}, quarantined_by_reason={}).save(folder)
    build_word_tokenizer(texts_of_set(folder), tmp_path / "words")
    words = TextTokenizer.load(tmp_path / "words")
    unknown = words.special_id("<unk>")
    for template in ("tokenizer", "plain", "vicuna_v1", "llama2", "mistral"):
        config = SequenceConfig(chat=ChatConfig(template=template), max_image_tokens=2)
        build = SequenceBuilder(words, config, seed=0)
        for record in records:
            for epoch in range(8):
                assert unknown not in build.build(record, epoch=epoch).input_ids, (template, record.id)


def test_own_texts_are_words_for_any_prompt() -> None:
    assert "Draw an image of the following: {}" in set(own_texts())


def test_templates_with_tokens_of_their_own(tmp_path: Path) -> None:
    build_word_tokenizer(TEXTS, tmp_path, chat_template="chatml")
    words = TextTokenizer.load(tmp_path)
    build = SequenceBuilder(words, SequenceConfig(max_image_tokens=2), seed=0)
    turns = [Turn(role="user", text="what colour"), Turn(role="assistant", text="red")]
    sequence = build.build(Record(id="a", source="s", task="dialogue", conversation=turns), epoch=0)
    assert (sequence.labels >= 0).sum() == 2
    assert sequence.labels.max() == words.special_id("<|im_end|>")
    with pytest.raises(ConfigError, match="'chatlm'") as error:
        build_word_tokenizer(TEXTS, tmp_path, chat_template="chatlm")
    assert "chatml" in error.value.remedy
