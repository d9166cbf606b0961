"""GQA, whose answers must be the right word to the letter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_jobs.scoring.files import Complaints, Given, annotated, by_id, compare_ids, read_object, read_rows
from ray_jobs.scoring.samples import Sample, Written, places, written
from setok.errors import DataError
from setok.metrics.gqa import GqaScores

GQA = "[{questionId, prediction}]"


def score_gqa(given: Given) -> dict[str, Any]:
    """GQA: all balanced questions are needed; others are used for consistency where they are predicted.

    With ``choices``, validity and plausibility as well; every balanced question must have its own there.
    """
    what = "the official questions {questionId: {answer, …}}"
    tree = read_object(given.truth, what)
    truth = annotated(
        given,
        what,
        lambda: [(question, {**row, "answer": row["answer"]}) for question, row in tree.items()],
        flaw=_flaw,
    )
    complaints = Complaints(given.predictions, given, GQA)
    rows = by_id(read_rows(given.predictions, complaints), "questionId", ["prediction"], complaints)
    balanced = [question for question, row in truth.items() if row.get("isBalanced", True)]
    if not balanced:
        raise DataError(f"{given.truth} has no balanced question, and only those are scored", f"give {what}")
    compare_ids(rows, balanced, complaints, known=truth)
    complaints.settle()
    choices = {} if given.choices is None else _choices(given, given.choices, balanced)
    scores = GqaScores()
    for question, row in rows.items():
        scores.update(question, row["prediction"], truth[question], choices.get(question))
    return scores.compute()


def _choices(given: Given, path: Path, balanced: Sequence[str]) -> Mapping[str, Mapping[str, frozenset[str]]]:
    """The valid and the plausible answers of the balanced questions."""
    what = "the official choices {questionId: {valid: [answer], plausible: [answer]}}"
    tree = read_object(path, what)
    lacking = [question for question in balanced if question not in tree]
    if lacking:
        raise DataError(
            f"{path} has no choices for {len(lacking)} balanced question(s), such as {lacking[0]}",
            "give the questions and the choices of one split",
        )
    kinds = ("valid", "plausible")
    return annotated(
        given, what, lambda: [(q, {kind: _texts(tree[q][kind]) for kind in kinds}) for q in balanced], path=path
    )


def _texts(values: Any) -> frozenset[str]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is no list")
    return frozenset(values)


def _flaw(row: Mapping[str, Any]) -> str:
    """Why a question cannot be scored."""
    if not (isinstance(row["answer"], str) and row["answer"]):
        return "without an answer"
    objects = all(isinstance(row.get(key) or {}, dict) for key in ("types", "groups"))
    return "" if objects else "whose types or groups are no object"


# ---------------------------------------------------------------- writing


def write_gqa(samples: Iterable[Sample], folder: Path, name: str) -> Written:
    """Predictions in lower case without a period at the end, as the answers of the set are."""
    predictions, annotations = places(folder, name, ".json")
    said, true = [], {}
    for sample in samples:
        question = sample.fact["question_id"]
        said.append({"questionId": question, "prediction": sample.said.strip().rstrip(".").lower()})
        true[question] = _annotation(sample)
    return written(predictions, said, annotations, true, answered=all("answer" in row for row in true.values()))


def _annotation(sample: Sample) -> dict[str, Any]:
    """A question's entry in the official file, as far as the evaluation looks at it."""
    facts = sample.fact
    row: dict[str, Any] = {"imageId": facts.get("image_id", "")}
    if sample.record.answers:
        row["answer"] = sample.record.answers[0]
    row["isBalanced"] = json.loads(facts.get("isBalanced", "true"))
    row["types"] = {kind: facts[kind] for kind in ("structural", "semantic", "detailed") if kind in facts}
    row["groups"] = {"global": facts.get("global_group")}
    row["entailed"] = json.loads(facts.get("entailed", "[]"))
    return row
