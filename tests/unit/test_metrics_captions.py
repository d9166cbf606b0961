"""The tokenizer of captions, BLEU, ROUGE-L and CIDEr-D, against small cases worked out and against the COCO evaluation."""

from __future__ import annotations

import gzip
import json
import math
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from setok.errors import ConfigError, DataError
from setok.metrics import meteor
from setok.metrics.captions import CaptionScores, bleu_counts, longest_common_subsequence
from setok.metrics.treebank import words

# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man's dog (brown) isn't happy; he cannot go.", "a man 's dog -lrb- brown -rrb- is n't happy he can not go"),
        ('"quoted" text, 3,000 people at 5:30 p.m.', "quoted text 3,000 people at 5:30 p.m."),
        ("Mr. Smith vs. the U.S. army on 5th ave.", "mr. smith vs. the u.s. army on 5th ave."),
        ("a refrigerator/freezer, close-up -- well-lit", "a refrigerator/freezer close-up well-lit"),
        ("ready to bat.,", "ready to bat."),
        ("No. 5 and no. It's o'clock's", "no. 5 and no it 's o'clock 's"),
        ("the '50s, 1950's, $5.00 50% #25", "the '50s 1950 's $ 5.00 50 % # 25"),
        ("“smart” – it’s…", "smart it 's"),
        ("i'm gonna don't 'tis", "i 'm gon na do n't 't is"),
        ("t-shirt w/ a :) 4x4 12:00pm AT&T a&b", "t-shirt w / a :-rrb- 4x4 12:00 pm at&t a & b"),
        ("wow!! two  lines\nhere", "wow !! two lines here"),
        ("Miss. Lee, a near miss.", "miss. lee a near miss"),
        ("a 2 1/2 £5 ½", "a 2\N{NO-BREAK SPACE}1/2 # 5 1/2"),
        ("", ""),
        (" . , ", ""),
    ],
)
def test_words_are_those_of_the_java_program(text: str, expected: str) -> None:
    assert " ".join(words(text)) == expected  # every line was put through PTBTokenizer 3.4.1


def test_words_of_coco_are_java_tokens(realdata: Path) -> None:
    tokens = _golden(realdata, "ptb_tokenized_java.json.gz")
    references, captions = _coco(realdata)
    compared = 0
    for picture, texts in references.items():
        for text, expected in zip(texts, tokens["gts"][picture], strict=True):
            assert " ".join(words(text)) == expected, text
            compared += 1
    for picture, text in captions.items():
        assert " ".join(words(text)) == tokens["res"][picture][0], text
        compared += 1
    assert compared == 6005


# ---------------------------------------------------------------- figures


def test_bleu_by_hand() -> None:
    scores = CaptionScores()
    scores.update("1", "the the cat", ["the cat sat", "a cat sat down here"])
    figures = scores.compute()
    # "the" is said twice and stands once in a reference; of the pairs, "the cat" is there and "the the" is not; no triple is
    assert figures["bleu_1"] == pytest.approx(2 / 3)
    assert figures["bleu_2"] == pytest.approx(math.sqrt(2 / 3 * 1 / 2))
    assert figures["bleu_3"] < 1e-4 and figures["bleu_4"] < 1e-2
    short = CaptionScores()
    short.update("1", "cat", ["a cat sat", "the black cat sat"])
    assert short.compute()["bleu_1"] == pytest.approx(math.exp(1 - 3))


def test_rouge_by_hand() -> None:
    scores = CaptionScores()
    scores.update("1", "a b c d", ["a c d e f", "x b"])
    precision, recall = 3 / 4, 3 / 5
    expected = (1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision)
    assert scores.compute()["rouge_l"] == pytest.approx(expected)


@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
def test_longest_common_subsequence_is_the_longest(a: list[str], b: list[str]) -> None:
    def subsequences(text: list[str]) -> set[tuple[str, ...]]:
        return {
            tuple(text[i] for i in chosen) for n in range(len(text) + 1) for chosen in combinations(range(len(text)), n)
        }

    longest = max(map(len, subsequences(a) & subsequences(b)))
    assert longest_common_subsequence(tuple(a), tuple(b)) == longest


def test_cider_by_hand() -> None:
    """Two pictures: what both have weighs nothing, so one word is left, and a caption longer by one pair is punished."""
    scores = CaptionScores()
    scores.update("1", "a dog dog", ["a dog"])
    scores.update("2", "a cat", ["a cat"])
    one, two = scores.per_picture()["1"], scores.per_picture()["2"]
    # single words: weight 2·ln2 said, ln2 meant, clipped to ln2: ln2·ln2 / (2·ln2 · ln2) = 1/2; pairs: "a dog" of two, 1/√2
    assert one["cider"] == pytest.approx(10 * math.exp(-1 / 72) * (1 / 2 + 1 / math.sqrt(2)) / 4)
    assert two["cider"] == pytest.approx(10 * 2 / 4)  # no triple to compare: those orders give 0
    assert scores.compute()["cider"] == pytest.approx((one["cider"] + two["cider"]) / 2)


def test_captions_merge(realdata: Path) -> None:
    references, captions = _coco(realdata)
    some = sorted(captions)[:60]
    whole, parts = CaptionScores(), [CaptionScores() for _ in range(3)]
    for i, picture in enumerate(some):
        whole.update(picture, captions[picture], references[picture])
        parts[i % 3].update(picture, captions[picture], references[picture])
    assert parts[2].merge(parts[0]).merge(parts[1]).compute() == whole.compute()


def test_captions_once_each_and_with_references() -> None:
    scores = CaptionScores()
    scores.update("5", "a", ["a"])
    with pytest.raises(DataError, match="'5' has two captions"):
        scores.update("5", "b", ["a"])
    with pytest.raises(DataError, match="'6' has no reference"):
        scores.update("6", "b", [])


def test_empty_caption_scores_nothing() -> None:
    scores = CaptionScores()
    scores.update("1", "", ["a dog"])
    scores.update("2", "a cat", ["a cat"])
    assert scores.per_picture()["1"]["rouge_l"] == scores.per_picture()["1"]["cider"] == 0


# ---------------------------------------------------------------- the COCO evaluation


def test_coco_golden(realdata: Path) -> None:
    expected = _golden(realdata, "expected.json")
    scores = _scored(realdata)
    figures = scores.compute()
    names = {"rouge_l": "ROUGE_L", "cider": "CIDEr"} | {f"bleu_{n}": f"Bleu_{n}" for n in range(1, 5)}
    for ours, theirs in names.items():
        assert figures[ours] == pytest.approx(expected["reproduced_here"][theirs], abs=1e-12), ours
        assert round(figures[ours], 3) == expected["published"][theirs], ours
    counts, published = bleu_counts(list(scores.pictures.values())), expected["published"]["bleu_stats"]
    assert [counts.length, counts.reference_length] == [published["testlen"], published["reflen"]]
    assert counts.guessed == published["guess"] and counts.matched == published["correct"]
    pictures = scores.per_picture()
    for ours, theirs in names.items():
        for picture, value in zip(expected["per_image"]["image_id"], expected["per_image"][theirs], strict=True):
            assert pictures[str(picture)][ours] == pytest.approx(value, abs=6e-9)


@pytest.mark.skipif(meteor.missing() is not None, reason=f"METEOR: {meteor.missing()}")
def test_meteor_by_the_java_program() -> None:
    scores = CaptionScores()
    scores.update("1", "a dog runs on the grass", ["a dog runs on the grass"])
    scores.update("2", "a bicycle", ["two people talk"])
    assert 0 < meteor.meteor(scores) < 1


@pytest.mark.skipif(meteor.missing() is not None, reason=f"METEOR: {meteor.missing()}")
def test_meteor_golden(realdata: Path) -> None:
    expected = _golden(realdata, "expected.json")["reproduced_here"]["METEOR"]
    assert meteor.meteor(_scored(realdata)) == pytest.approx(expected, abs=1e-12)


def test_meteor_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ConfigError, match=r"no `java` on the path(.|\n)*setok\[eval\]"):
        meteor.meteor(CaptionScores())


def _golden(realdata: Path, name: str) -> Any:
    data = (realdata / "golden" / "coco_caption" / name).read_bytes()
    return json.loads(gzip.decompress(data) if name.endswith(".gz") else data)


def _coco(realdata: Path) -> tuple[dict[str, list[str]], dict[str, str]]:
    references: defaultdict[str, list[str]] = defaultdict(list)
    for row in _golden(realdata, "captions_val2014_fakecap_subset.json.gz")["annotations"]:
        references[str(row["image_id"])].append(row["caption"])
    rows = _golden(realdata, "captions_val2014_fakecap_results.json")
    return references, {str(row["image_id"]): row["caption"] for row in rows}


def _scored(realdata: Path) -> CaptionScores:
    references, captions = _coco(realdata)
    scores = CaptionScores()
    for picture, caption in captions.items():
        scores.update(picture, caption, references[picture])
    return scores
