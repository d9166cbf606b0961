"""The tokens that a language model needs for pictures and masks, and the way from transformers to the data workers."""

from __future__ import annotations

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from setok.data.text_tokenizer import TextTokenizer, default_template
from setok.errors import ConfigError
from setok.vocabulary import SPECIAL_TOKENS


def add_special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Add ``[Img]``, ``[/Img]`` and ``[Seg]`` where they are missing; the model's embeddings must be resized to match.

    Returns:
        Their ids by text.

    Raises:
        ConfigError: the tokenizer takes one of them for something else.
    """
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS], special_tokens=True)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    for token, number in ids.items():
        if tokenizer(f"a{token}b", add_special_tokens=False).input_ids.count(number) != 1:
            raise ConfigError(f"the tokenizer does not keep {token!r} whole", "use a fast tokenizer of transformers")
    return ids


def text_tokenizer(tokenizer: PreTrainedTokenizerBase) -> TextTokenizer:
    """The same tokenizer for the data workers.

    Raises:
        ConfigError: it is none that the ``tokenizers`` library runs.
    """
    if not tokenizer.is_fast:
        raise ConfigError(
            f"{type(tokenizer).__name__} is written in Python and has no tokenizer.json",
            "use a model whose folder has one",
        )
    return TextTokenizer(
        definition=tokenizer.backend_tokenizer.to_str(),
        bos_token=tokenizer.bos_token or "",
        eos_token=tokenizer.eos_token or "",
        pad_token=tokenizer.pad_token or "",
        chat_template=default_template(tokenizer.chat_template),
    )
