"""A tokenizer of whole words for small models that are trained from scratch: made from the data itself, without downloads.

A word with the space before it is one token, a sign and a line break are one each, so decoding gives back the text to the
letter. A word that is not in the vocabulary is ``<unk>``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from setok.data.chat_templates import BUILT_IN, NEEDED_TOKENS, SYSTEM_PROMPTS
from setok.data.shards import ShardReader
from setok.data.special_tokens import add_special_tokens
from setok.data.wordings import ALL
from setok.errors import ConfigError, DataError, did_you_mean

PAD, UNKNOWN, BOS, EOS = SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
_WORD = re.compile(r" ?\w+| ?[^\w\s]|\s")
_TEXT_COLUMNS = ("conversation", "caption", "concepts", "answers", "choices")
_ROWS = 1024


def build_word_tokenizer(
    texts: Iterable[str], folder: str | Path, *, max_words: int = 8192, chat_template: str = "plain"
) -> PreTrainedTokenizerFast:
    """Make a tokenizer of the words of some texts and save it as a folder in the manner of transformers.

    The same texts give the same files. ``[Img]``, ``[/Img]`` and ``[Seg]`` are added.

    Args:
        texts: all that the model is to read and write, wordings of prompts included.
        folder: where ``tokenizer.json`` and its companions go.
        max_words: the most frequent words are kept; each counts once, and gives a token with and one without a space.
        chat_template: one of the built-in templates; its special tokens are added too.

    Raises:
        DataError: there are no words.
        ConfigError: there is no such template.
    """
    if chat_template not in BUILT_IN:
        raise ConfigError(f"there is no chat template {chat_template!r}", did_you_mean(chat_template, BUILT_IN))
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(word.removeprefix(" ") or " " for word in _WORD.findall(text))
    if not counts:
        raise DataError("there are no words to make a tokenizer of", "give texts, or a set that has captions")
    chosen = sorted(counts, key=lambda word: (-counts[word], word))[:max_words]
    plain = dict.fromkeys(["\n", " ", *chosen])
    spaced = [f" {word}" for word in chosen if not word.isspace()]
    vocabulary = {token: number for number, token in enumerate((*SPECIAL, *plain, *spaced))}
    backend = Tokenizer(WordLevel(vocabulary, unk_token=UNKNOWN))
    backend.pre_tokenizer = Split(Regex(_WORD.pattern), behavior="isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        unk_token=UNKNOWN,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = BUILT_IN[chat_template]
    needed = [AddedToken(token, normalized=False) for token in NEEDED_TOKENS.get(chat_template, ())]
    tokenizer.add_tokens(needed, special_tokens=True)
    add_special_tokens(tokenizer)
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def texts_of_set(folder: str | Path) -> Iterator[str]:
    """All texts of an ingested set, and what this project itself says around them.

    Raises:
        DataError: there is no such set.
    """
    yield from own_texts()
    reader = ShardReader(folder, columns=_TEXT_COLUMNS)
    for start in range(0, reader.num_rows, _ROWS):
        for row in reader.take(np.arange(start, min(start + _ROWS, reader.num_rows))).to_pylist():
            yield row["caption"]
            yield from (turn["text"] for turn in row["conversation"])
            yield from (*row["concepts"], *row["answers"], *row["choices"])


def own_texts() -> Iterator[str]:
    """Wordings of prompts, and the words of the built-in chat templates."""
    yield from ALL
    yield from SYSTEM_PROMPTS.values()
    yield "USER: ASSISTANT: system\nuser\nassistant\n [INST] [/INST] <<SYS>>\n\n<</SYS>>"
