"""The three tokens that Setokim adds to a text tokenizer: ``[Img]`` and ``[/Img]`` around a picture, ``[Seg]`` for a mask."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from setok.errors import CheckpointError, ConfigError, how_to_get
from setok.vocabulary import SPECIAL_TOKENS


def load_text_tokenizer(path: str | Path) -> Any:
    """A text tokenizer of transformers with the three tokens added where it lacks them.

    Raises:
        CheckpointError: there is none.
    """
    from transformers import AutoTokenizer  # slow to import

    try:
        with quiet_transformers():  # it would warn of a model that it does not know
            tokenizer = AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"no text tokenizer can be loaded from {str(path)!r}: {error}",
            how_to_get(str(path), "tokenizer.json", setting="the text tokenizer"),
        ) from error
    return add_special_tokens(tokenizer)


def add_special_tokens(tokenizer: Any) -> Any:
    """Add the three tokens where they are not; the tokenizer itself, changed."""
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(SPECIAL_TOKENS)}, replace_extra_special_tokens=False
    )
    return tokenizer


def special_ids(tokenizer: Any) -> list[int]:
    """Ids of the three tokens.

    Raises:
        ConfigError: the tokenizer lacks one.
    """
    known = tokenizer.get_vocab()
    if lacking := [token for token in SPECIAL_TOKENS if token not in known]:
        raise ConfigError(
            f"the text tokenizer has no {', '.join(lacking)}",
            "add them with setok.models.language_model.add_special_tokens before the model is built",
        )
    return [known[token] for token in SPECIAL_TOKENS]


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """No greetings, warnings and progress bars of transformers; errors still come."""
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
