"""Noun phrases of captions by a spaCy pipeline (Honnibal et al., spaCy 3), instead of the rule in ``concepts``.

Needs the extra ``nlp`` and a pipeline with a parser, such as the package ``en_core_web_sm`` or a folder with a saved one.
"""

from __future__ import annotations

import functools
from typing import Any

from setok.data.concepts import PhraseFinder
from setok.errors import ConfigError

_UNUSED = ["ner", "lemmatizer", "textcat"]
_NO_WORDS = frozenset({"PRON", "PUNCT", "SPACE", "SYM"})


@functools.lru_cache(maxsize=2)
def spacy_phrases(model: str) -> PhraseFinder:
    """A finder of noun phrases for ``concepts.phrases_found_by``, loaded once in a process.

    Args:
        model: a spaCy package that is installed, or the folder of a saved pipeline.

    Raises:
        ConfigError: spaCy is not installed, there is no such pipeline, or it has no parser.
    """
    try:
        import spacy
    except ImportError as error:
        raise ConfigError(
            "concepts=spacy, and spaCy is not installed", 'pip install "setok[nlp]", or set concepts=rules'
        ) from error
    try:
        pipeline = spacy.load(model, exclude=_UNUSED)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"concepts_model={model}: spaCy has no such pipeline ({str(error).splitlines()[0]})",
            f"python -m spacy download {model}, or name the folder of a saved pipeline, or set concepts=rules",
        ) from error
    if "parser" not in pipeline.pipe_names:
        raise ConfigError(
            f"concepts_model={model} has {', '.join(pipeline.pipe_names) or 'no components'}, and noun phrases need a parser",
            "take a pipeline with a parser, such as en_core_web_sm",
        )
    return functools.partial(_phrases, pipeline)


def _phrases(pipeline: Any, caption: str) -> list[list[str]]:
    """Noun chunks as words in lower case, without pronouns and punctuation; longer texts than spaCy takes are cut."""
    document = pipeline(caption[: pipeline.max_length])
    chunks = ([token.lower_ for token in chunk if token.pos_ not in _NO_WORDS] for chunk in document.noun_chunks)
    return [words for words in chunks if words]
