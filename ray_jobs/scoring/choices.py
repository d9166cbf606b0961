"""Questions with choices: A-OKVQA, which also has direct answers, and ScienceQA."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray_jobs.scoring.files import Complaints, Given, Row, annotated, compare_ids, read_object
from ray_jobs.scoring.reading import read_json
from ray_jobs.scoring.samples import Sample, Written, places, written
from setok.errors import DataError
from setok.metrics import scienceqa, vqa
from setok.metrics.choices import chosen
from setok.metrics.samples import SampleScores

Figures = dict[str, Any]
AOKVQA = "{question_id: {multiple_choice, direct_answer}}"
SCIENCEQA = "{results: {question_id: number of the choice from 0 on, or -1 where the answer names none}}"
NO_CHOICE = -1
"""What LLaVA's evaluation writes for an answer that names no choice: wrong, and counted."""


def score_aokvqa(given: Given) -> Figures:
    """A-OKVQA: multiple choice over all questions, direct answers over those that are not marked as difficult for it."""
    what = "the official annotations [{question_id, choices, correct_choice_idx, direct_answers}]"
    truth = annotated(
        given,
        what,
        lambda: [
            (str(row["question_id"]), {**row, "answer": row["correct_choice_idx"]}) for row in read_json(given.truth)
        ],
        flaw=lambda row: _no_choice(row) or _no_direct(row),
    )
    direct = {question for question, row in truth.items() if not row.get("difficult_direct_answer", False)}
    complaints = Complaints(given.predictions, given, AOKVQA)
    found = read_json(given.predictions)
    if not isinstance(found, dict) or not all(isinstance(row, dict) for row in found.values()):
        complaints.add("it is no object of objects by question_id")
        complaints.settle()
    compare_ids(found, truth, complaints)
    figures: Figures = {}
    known = truth.keys() & found.keys()
    for setting, asked in (("multiple_choice", known), ("direct_answer", known & direct)):
        lacking = sorted(question for question in asked if not isinstance(found[question].get(setting), str))
        if len(lacking) == len(asked):
            continue  # answered in one setting only
        if lacking:
            complaints.add(f"{len(lacking)} without {setting}, which others have", lacking)
            continue
        scores = SampleScores()
        for question in asked:
            said, row = found[question][setting], truth[question]
            if setting == "multiple_choice":
                scores.update(question, {setting: vqa.aokvqa_choice(said, row["choices"], row["correct_choice_idx"])})
            else:
                scores.update(question, {setting: vqa.aokvqa_direct(said, row["direct_answers"])})
        figures |= {name: value for name, value in scores.compute().items() if name != "num_samples"}
        figures[f"num_{setting}"] = len(scores)
    strange = sorted(
        question
        for question in known
        if found[question].get("multiple_choice") is not None
        and found[question]["multiple_choice"] not in truth[question]["choices"]
    )
    if strange:
        complaints.add(f"{len(strange)} multiple_choice that is none of the choices", strange)
    if not figures and not complaints:
        complaints.add("no prediction has multiple_choice or direct_answer")
    complaints.settle()
    return figures


def score_scienceqa(given: Given) -> Figures:
    """ScienceQA: the problems of a split, by default ``test``."""
    what = "the official problems.json {question_id: {choices, answer, …}}"
    split = given.split or "test"
    tree = read_object(given.truth, what)
    splits = sorted({str(row["split"]) for row in tree.values() if isinstance(row, dict) and "split" in row})
    if split not in splits:
        raise DataError(
            f"{given.truth} has no split {split!r}", f"--split with one of: {', '.join(splits) or 'none there'}"
        )
    truth = annotated(
        given,
        what,
        lambda: [(question, row) for question, row in tree.items() if row["split"] == split],
        flaw=_no_choice,
    )
    complaints = Complaints(given.predictions, given, SCIENCEQA)
    found = read_json(given.predictions)
    found = found.get("results", found) if isinstance(found, dict) else found
    if not isinstance(found, dict):
        complaints.add("it is no object of choices by question_id")
        complaints.settle()
    compare_ids(found, truth, complaints)
    asked = {question: choice for question, choice in found.items() if question in truth}
    wrong = [q for q, choice in asked.items() if not _is_choice(choice, truth[q]) and not _is_whole(choice, NO_CHOICE)]
    if wrong:
        complaints.add(f"{len(wrong)} that is no number of a choice", [f"{q} ({found[q]!r})" for q in wrong])
    complaints.settle()
    scores = SampleScores()
    for question, problem in truth.items():
        scores.update(question, {"accuracy": scienceqa.is_right(found[question], problem)}, scienceqa.kinds(problem))
    return scores.compute() | {"num_without_choice": sum(choice == NO_CHOICE for choice in asked.values())}


def _is_whole(number: Any, *wanted: int) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and number in wanted


def _is_choice(number: Any, problem: Row) -> bool:
    return _is_whole(number, *range(len(problem["choices"])))


def _no_choice(problem: Row) -> str:
    return "" if _is_choice(problem["answer"], problem) else "whose answer is no number of a choice"


def _no_direct(question: Row) -> str:
    difficult, answers = question.get("difficult_direct_answer", False), question["direct_answers"]
    return "" if difficult or answers else "without direct_answers"


# ---------------------------------------------------------------- writing


def write_aokvqa(samples: Iterable[Sample], folder: Path, name: str) -> Written:
    """Every question twice: asked with its choices, and without."""
    predictions, annotations = places(folder, name, ".json")
    said: dict[str, dict[str, str]] = {}
    true: dict[str, dict[str, Any]] = {}
    for sample in samples:
        record, question = sample.record, sample.fact["question_id"]
        own = said.setdefault(question, {})
        if sample.asks == "direct":
            own["direct_answer"] = sample.said
            continue
        own["multiple_choice"] = record.choices[chosen(sample.said, record.choices)]
        row: dict[str, Any] = {"question_id": question, "choices": record.choices}
        if record.answers:
            row |= {"correct_choice_idx": record.choices.index(record.answers[0]), "direct_answers": record.answers[1:]}
            row["difficult_direct_answer"] = json.loads(sample.fact.get("difficult_direct_answer", "false"))
        true[question] = row
    known = all("correct_choice_idx" in row for row in true.values())
    return written(predictions, said, annotations, list(true.values()), answered=known)


def write_scienceqa(samples: Iterable[Sample], folder: Path, name: str) -> Written:
    """The numbers of the choices; all problems are of the split ``test``, whichever they come from."""
    predictions, annotations = places(folder, name, ".json")
    said, true = {}, {}
    for sample in samples:
        record, question = sample.record, sample.fact["question_id"]
        said[question] = chosen(sample.said, record.choices)
        asked = record.conversation[0].text.replace("<image>", "").strip()
        true[question] = {
            "split": "test",
            "question": asked,
            "choices": record.choices,
            "answer": record.choices.index(record.answers[0]) if record.answers else None,
            "hint": asked.rpartition("\n")[0],
            "image": "image.png" if record.images else None,
            **{fact: sample.fact[fact] for fact in ("subject", "grade") if fact in sample.fact},
        }
    known = all(row["answer"] is not None for row in true.values())
    return written(predictions, {"results": said}, annotations, true, answered=known)
