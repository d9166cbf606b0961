"""Noun phrases by spaCy, with a parser that learnt three sentences a moment ago: nothing is downloaded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from setok.data.concepts import concepts_of_caption, concepts_of_captions, phrases_found_by
from setok.data.noun_chunks import spacy_phrases
from setok.errors import ConfigError

SENTENCES = (  # text, parts of speech, heads, dependencies
    (
        *("a brown dog chases the red ball", "DET ADJ NOUN VERB DET ADJ NOUN"),
        *((2, 2, 3, 3, 6, 6, 3), "det amod nsubj ROOT det amod dobj"),
    ),
    ("the cat sees two birds", "DET NOUN VERB NUM NOUN", (1, 2, 2, 4, 2), "det nsubj ROOT nummod dobj"),
    (
        *("it sees a dog on the table", "PRON VERB DET NOUN ADP DET NOUN"),
        *((1, 1, 3, 1, 3, 6, 4), "nsubj ROOT det dobj prep det pobj"),
    ),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a pipeline with parts of speech and a parser."""
    spacy = pytest.importorskip("spacy", reason="spaCy (extra nlp) is not installed")
    from spacy.tokens import Doc
    from spacy.training import Example

    pipeline = spacy.blank("en")
    pipeline.add_pipe("morphologizer")
    pipeline.add_pipe("parser", config={"min_action_freq": 1})
    examples = [
        Example(
            pipeline.make_doc(text),
            Doc(pipeline.vocab, words=text.split(), pos=tags.split(), heads=list(heads), deps=labels.split()),
        )
        for text, tags, heads, labels in SENTENCES
    ]
    spacy.util.fix_random_seed(0)
    pipeline.initialize(lambda: examples)
    for _ in range(60):
        pipeline.update(examples)
    folder = tmp_path_factory.mktemp("pipeline")
    pipeline.to_disk(folder)
    return str(folder)


def test_noun_phrases_become_concepts(model: str) -> None:
    finder = spacy_phrases(model)
    assert finder("A brown dog chases the red ball") == [["a", "brown", "dog"], ["the", "red", "ball"]]
    with phrases_found_by(finder):
        assert concepts_of_caption("a brown dog chases the red ball") == ["brown dog", "red ball"]
        assert concepts_of_caption("it sees a dog on the table") == ["dog", "table"]  # and no pronoun
        assert concepts_of_caption("") == []
        both = concepts_of_captions([text for text, *_ in SENTENCES])
        assert set(both) >= {"brown dog", "cat", "birds"}


def test_the_rule_comes_back_after_the_block() -> None:
    with phrases_found_by(lambda caption: [["the", "moon"]]):
        assert concepts_of_caption("a red box") == ["moon"]
        with phrases_found_by(None):
            assert concepts_of_caption("a red box") == ["red box"]
        assert concepts_of_caption("a red box") == ["moon"]
    assert concepts_of_caption("a red box") == ["red box"]


def test_pipelines_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spacy = pytest.importorskip("spacy", reason="spaCy (extra nlp) is not installed")
    with pytest.raises(
        ConfigError, match=r"concepts_model=no_such_model: spaCy has no such pipeline.*\n.*concepts=rules"
    ):
        spacy_phrases("no_such_model")
    spacy.blank("en").to_disk(tmp_path / "blank")
    with pytest.raises(ConfigError, match=r"has no components, and noun phrases need a parser\n.*en_core_web_sm"):
        spacy_phrases(str(tmp_path / "blank"))
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ConfigError, match=r"spaCy is not installed\n.*setok\[nlp\]"):
        spacy_phrases("another")
