"""Small tokenizers of the real kinds, trained in the test: GPT-2 and Qwen, Llama old and new, T5, BERT."""

from __future__ import annotations

import functools
import json

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from setok.data.special_tokens import add_special_tokens

CHAT_TOKENS = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SPECIAL = ["<pad>", "<unk>", "<s>", "</s>", "<image>", *CHAT_TOKENS]
KINDS = ("gpt2", "llama", "llama_legacy", "t5")
"""Those that lose nothing of a text; ``bert`` does."""

_WORDS = (
    "a red circle stands left of the big green square . USER: what colour is this thing? ASSISTANT: it is yellow, I"
    " think. system user assistant draw me a dog on grass! don't you see it's 12 or 345 stars; [INST] yes no [/INST]"
    " describe the image please <<SYS>> helpful <</SYS>> naïve café"
).split()
CORPUS = [" ".join(_WORDS[start::step]) for start in range(7) for step in range(1, 6)] * 4 + [
    "assistant\nIt is a dog."
] * 40


@functools.cache
def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    """A tokenizer with ``SPECIAL`` and the tokens for pictures; not to be changed by a test."""
    tokenizer = wrap(_BUILD[kind]())
    add_special_tokens(tokenizer)
    return tokenizer


def wrap(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=["<image>", *CHAT_TOKENS],
        clean_up_tokenization_spaces=False,
    )


def _gpt2() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return backend


_BYTES = [f"<0x{value:02X}>" for value in range(256)]


def _llama() -> Tokenizer:
    """Metaspace that puts a space before the beginning only; any byte has a token."""
    backend = _sentencepiece()
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return backend


def _llama_legacy() -> Tokenizer:
    """A normalizer that puts a space before whatever follows a special token."""
    backend = _sentencepiece()
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return backend


def _sentencepiece() -> Tokenizer:
    """BPE with a token for every byte. Trained word by word, without pre-tokenizer."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=620, special_tokens=[*SPECIAL, *_BYTES], show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    definition = json.loads(backend.to_str()) | {"pre_tokenizer": None}
    definition["added_tokens"] = [token for token in definition["added_tokens"] if token["content"] in SPECIAL]
    backend = Tokenizer.from_str(json.dumps(definition))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def _t5() -> Tokenizer:
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=300,
        show_progress=False,
        special_tokens=SPECIAL,
        unk_token="<unk>",
        initial_alphabet=[*map(chr, range(33, 127)), "\n"],
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def _bert() -> Tokenizer:
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, show_progress=False, special_tokens=SPECIAL, initial_alphabet=[*map(chr, range(33, 127))]
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


_BUILD = {"gpt2": _gpt2, "llama": _llama, "llama_legacy": _llama_legacy, "t5": _t5, "bert": _bert}
