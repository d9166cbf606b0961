"""BLEU, ROUGE-L and CIDEr-D of captions, as the COCO caption evaluation defines them.

The evaluation is that of Chen et al. 2015, "Microsoft COCO Captions". All figures count the words of ``setok.metrics.treebank``.
Every picture has one caption to judge and several references.

* BLEU (Papineni et al. 2002) over the whole set: matches and lengths are summed before they are divided.
* ROUGE-L (Lin 2004): the longest common subsequence, β = 1.2, best precision and best recall over the references.
* CIDEr-D (Vedantam et al. 2015): cosine of n-gram weights with clipped counts and a penalty on length, σ = 6, times 10; how rare
  an n-gram is comes from the references of the set that is scored, so a part of a set has other scores than the whole.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from setok.errors import DataError
from setok.metrics.treebank import words

ORDERS = 4
_TINY, _SMALL = 1e-15, 1e-9
"""Added above and below the line by the reference implementation, so that nothing divides by 0."""
_BETA, _SIGMA = 1.2, 6.0

Words = tuple[str, ...]
Ngrams = Counter[Words]


@dataclass(frozen=True)
class Judged:
    """A picture's caption and its references, in words."""

    caption: Words
    references: tuple[Words, ...]


class CaptionScores:
    """Captions by picture; the same to the bit in whatever order they come and parts are merged."""

    def __init__(self) -> None:
        self._pictures: dict[str, Judged] = {}

    def update(self, picture: str, caption: str, references: Sequence[str]) -> None:
        """Add a picture's caption.

        Raises:
            DataError: this picture was added before, or has no references.
        """
        if not references:
            raise DataError(
                f"picture {picture!r} has no reference captions", "leave it out, or give the right annotations"
            )
        self._add(picture, Judged(words(caption), tuple(words(reference) for reference in references)))

    def merge(self, other: CaptionScores) -> CaptionScores:
        """Add another accumulator's pictures to this one, and return it."""
        for picture, judged in other._pictures.items():
            self._add(picture, judged)
        return self

    def _add(self, picture: str, judged: Judged) -> None:
        if picture in self._pictures:
            raise DataError(f"picture {picture!r} has two captions", "keep one caption for each picture")
        self._pictures[picture] = judged

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def pictures(self) -> Mapping[str, Judged]:
        """What was added, by picture."""
        return self._pictures

    def per_picture(self) -> dict[str, dict[str, float]]:
        """The figures of each picture alone; ``cider`` with the rarity of n-grams in the whole set."""
        rarity = Rarity(list(self._pictures.values()))
        return {
            picture: {
                **bleu([judged]),
                "rouge_l": rouge_l(judged),
                "cider": rarity.cider(judged),
            }
            for picture, judged in self._pictures.items()
        }

    def compute(self) -> dict[str, Any]:
        """``bleu_1`` to ``bleu_4`` and ``rouge_l`` in [0, 1], ``cider`` (CIDEr-D) in [0, 10], and ``num_samples``."""
        judged = list(self._pictures.values())
        if not judged:
            return {"num_samples": 0}
        rarity = Rarity(judged)
        return {
            **bleu(judged),
            "rouge_l": math.fsum(map(rouge_l, judged)) / len(judged),
            "cider": math.fsum(map(rarity.cider, judged)) / len(judged),
            "num_samples": len(judged),
        }


def ngrams(text: Words, order: int) -> Ngrams:
    """How often each run of ``order`` words stands in a text."""
    return Counter(text[i : i + order] for i in range(len(text) - order + 1))


# ---------------------------------------------------------------- BLEU


@dataclass
class BleuCounts:
    """What BLEU is made of, which may be summed: n-grams said and matched by order, and lengths."""

    guessed: list[int]
    matched: list[int]
    length: int = 0
    reference_length: int = 0

    def add(self, judged: Judged) -> None:
        """Add a caption: matches are clipped by the most frequent use in any one reference, the length is held against the
        reference whose length is nearest, of equally near ones the shorter."""
        length = len(judged.caption)
        self.length += length
        self.reference_length += min((abs(len(ref) - length), len(ref)) for ref in judged.references)[1]
        for order in range(1, ORDERS + 1):
            most: Ngrams = Counter()
            for reference in judged.references:
                most |= ngrams(reference, order)
            self.guessed[order - 1] += max(0, length - order + 1)
            self.matched[order - 1] += sum((ngrams(judged.caption, order) & most).values())

    def scores(self) -> dict[str, float]:
        """``bleu_1`` to ``bleu_4``: geometric mean of the precisions, times the penalty on brevity."""
        ratio = (self.length + _TINY) / (self.reference_length + _SMALL)
        penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
        product, scores = 1.0, {}
        for order, (matched, guessed) in enumerate(zip(self.matched, self.guessed, strict=True), 1):
            product *= (matched + _TINY) / (guessed + _SMALL)
            scores[f"bleu_{order}"] = product ** (1 / order) * penalty
        return scores


def bleu_counts(captions: Sequence[Judged]) -> BleuCounts:
    """The counts of all captions."""
    counts = BleuCounts([0] * ORDERS, [0] * ORDERS)
    for judged in captions:
        counts.add(judged)
    return counts


def bleu(captions: Sequence[Judged]) -> dict[str, float]:
    """``bleu_1`` to ``bleu_4`` of a set of captions, in [0, 1]."""
    return bleu_counts(captions).scores()


# ---------------------------------------------------------------- ROUGE-L


def rouge_l(judged: Judged) -> float:
    """F-measure of the longest common subsequence, in [0, 1]; precision and recall are the best over the references, each."""
    common = [longest_common_subsequence(judged.caption, reference) for reference in judged.references]
    # the reference implementation cuts an empty text into one empty word
    precision = max(common) / max(1, len(judged.caption))
    recall = max(both / max(1, len(ref)) for both, ref in zip(common, judged.references, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def longest_common_subsequence(a: Words, b: Words) -> int:
    """Number of words of the longest sequence that both hold in this order, with gaps."""
    row = [0] * (len(b) + 1)
    for word in a:
        diagonal = 0
        for j, other in enumerate(b, 1):
            above = row[j]
            row[j] = diagonal + 1 if word == other else max(above, row[j - 1])
            diagonal = above
    return row[-1]


# ---------------------------------------------------------------- CIDEr-D


@dataclass(frozen=True)
class _Weights:
    by_order: tuple[dict[Words, float], ...]
    norms: tuple[float, ...]
    length: int


class Rarity:
    """In how many pictures' references each n-gram stands: the inverse document frequency of CIDEr."""

    def __init__(self, captions: Sequence[Judged]) -> None:
        self._pictures_with: Ngrams = Counter()
        for judged in captions:
            seen = {gram for ref in judged.references for order in range(1, ORDERS + 1) for gram in ngrams(ref, order)}
            self._pictures_with.update(seen)
        self._log_pictures = math.log(len(captions)) if captions else 0.0

    def cider(self, judged: Judged) -> float:
        """CIDEr-D of a caption, in [0, 10]."""
        caption = self._weights(judged.caption)
        total = 0.0
        for reference in judged.references:
            other = self._weights(reference)
            penalty = math.exp(-((caption.length - other.length) ** 2) / (2 * _SIGMA**2))
            for order in range(ORDERS):
                theirs = other.by_order[order]
                both = sum(min(w, theirs[g]) * theirs[g] for g, w in caption.by_order[order].items() if g in theirs)
                norm = caption.norms[order] * other.norms[order]
                total += penalty * (both / norm if norm else both)
        return 10 * total / (ORDERS * len(judged.references))

    def _weights(self, text: Words) -> _Weights:
        weights = []
        for order in range(1, ORDERS + 1):
            counts = ngrams(text, order)
            rarity = {gram: self._log_pictures - math.log(max(1, self._pictures_with[gram])) for gram in counts}
            weights.append({gram: count * rarity[gram] for gram, count in counts.items()})
        norms = [math.sqrt(sum(weight**2 for weight in by_gram.values())) for by_gram in weights]
        # lengths are counted in pairs of words by the reference implementation
        return _Weights(tuple(weights), tuple(norms), max(0, len(text) - 1))
