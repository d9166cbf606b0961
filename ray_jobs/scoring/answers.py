"""Answers to questions: VQAv2, OK-VQA, VizWiz, TextVQA, A-OKVQA, GQA, POPE, MME, ScienceQA; and names of classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_jobs.scoring.files import (
    Complaints,
    Given,
    by_id,
    checked,
    compare_ids,
    read_json,
    read_object,
    read_rows,
    read_text,
    section,
)
from setok.errors import DataError
from setok.metrics import scienceqa, vqa
from setok.metrics.gqa import GqaScores
from setok.metrics.mme import MmeScores
from setok.metrics.pope import PopeScores
from setok.metrics.samples import SampleScores

Figures = dict[str, Any]
VQA = "[{question_id, answer}]"
VIZWIZ = "[{image, answer}]"
AOKVQA = "{question_id: {multiple_choice, direct_answer}}"
GQA = "[{questionId, prediction}]"
POPE = "JSON lines {question, answer} (and question_id)"
MME = "a folder SUBTASK.txt with lines picture⇥question⇥truth⇥answer"
SCIENCEQA = "{results: {question_id: number of the choice}}"
CLASSES = "[{image_id, label}]"


def score_vqa(given: Given) -> Figures:
    """VQAv2 and OK-VQA; ``questions`` narrows the set to the questions of that file."""
    what = "the official annotations {annotations: [{question_id, answers: [{answer}]}]}"
    truth = checked(
        given.truth,
        what,
        lambda: {
            str(row["question_id"]): {**row, "answers": [str(answer["answer"]) for answer in row["answers"]]}
            for row in section(given.truth, "annotations", what)
        },
    )
    if given.questions is not None:
        asked = [str(row.get("question_id")) for row in section(given.questions, "questions", "the official questions")]
        unknown = [question for question in asked if question not in truth]
        if unknown:
            raise DataError(
                f"{given.questions} has {len(unknown)} question(s) without annotation, such as {unknown[0]}",
                "give the questions and the annotations of one split",
            )
        truth = {question: truth[question] for question in asked}
    found = _answers(given, "question_id", VQA, truth)
    scores = SampleScores()
    for question, row in truth.items():
        kinds = {name: str(row[name]) for name in ("answer_type", "question_type") if name in row}
        scores.update(question, {"accuracy": vqa.vqa_accuracy(found[question], row["answers"])}, kinds)
    return scores.compute()


def score_vizwiz(given: Given) -> Figures:
    """VizWiz, whose questions are known by their picture."""
    what = "the official annotations [{image, answers: [{answer}], answer_type}]"
    truth = checked(
        given.truth,
        what,
        lambda: {
            str(row["image"]): {**row, "answers": [str(answer["answer"]) for answer in row["answers"]]}
            for row in read_json(given.truth)
        },
    )
    found = _answers(given, "image", VIZWIZ, truth)
    scores = SampleScores()
    for picture, row in truth.items():
        kinds = {"answer_type": str(row["answer_type"])} if "answer_type" in row else {}
        scores.update(picture, {"accuracy": vqa.vqa_accuracy(found[picture], row["answers"])}, kinds)
    return scores.compute()


def score_textvqa(given: Given) -> Figures:
    """TextVQA."""
    what = "the official annotations {data: [{question_id, answers: [text, …]}]}"
    truth = checked(
        given.truth,
        what,
        lambda: {str(row["question_id"]): list(row["answers"]) for row in section(given.truth, "data", what)},
    )
    found = _answers(given, "question_id", VQA, truth)
    scores = SampleScores()
    for question, answers in truth.items():
        scores.update(question, {"accuracy": vqa.textvqa_accuracy(found[question], answers)})
    return scores.compute()


def _answers(given: Given, key: str, wanted: str, truth: Mapping[str, Any]) -> dict[str, str]:
    """The answers by id, of exactly what was asked."""
    complaints = Complaints(given.predictions, given, wanted)
    rows = by_id(read_rows(given.predictions, complaints), key, ["answer"], complaints)
    compare_ids(rows, truth, complaints)
    complaints.settle()
    return {sample: row["answer"] for sample, row in rows.items()}


def score_aokvqa(given: Given) -> Figures:
    """A-OKVQA: multiple choice over all questions, direct answers over those that are not marked as difficult for it."""
    what = "the official annotations [{question_id, choices, correct_choice_idx, direct_answers}]"
    truth = checked(
        given.truth,
        what,
        lambda: {
            str(row["question_id"]): {**row, "right": row["choices"][row["correct_choice_idx"]]}
            for row in read_json(given.truth)
        },
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


def score_gqa(given: Given) -> Figures:
    """GQA: all balanced questions are needed; others are used for consistency where they are predicted.

    With ``choices``, validity and plausibility as well; every balanced question must have its own there.
    """
    what = "the official questions {questionId: {answer, …}}"
    tree = read_object(given.truth, what)
    truth = checked(
        given.truth, what, lambda: {str(question): {**row, "answer": row["answer"]} for question, row in tree.items()}
    )
    complaints = Complaints(given.predictions, given, GQA)
    rows = by_id(read_rows(given.predictions, complaints), "questionId", ["prediction"], complaints)
    balanced = [question for question, row in truth.items() if row.get("isBalanced", True)]
    compare_ids(rows, balanced, complaints, known=truth)
    complaints.settle()
    choices = {} if given.choices is None else _choices(given.choices, balanced)
    scores = GqaScores()
    for question, row in rows.items():
        scores.update(question, row["prediction"], truth[question], choices.get(question))
    return scores.compute()


def _choices(path: Path, balanced: Sequence[str]) -> Mapping[str, Mapping[str, frozenset[str]]]:
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
    return checked(path, what, lambda: {q: {kind: frozenset(tree[q][kind]) for kind in kinds} for q in balanced})


def score_pope(given: Given) -> Figures:
    """POPE: by question_id where the answers have it, else line by line, whose questions must be the same."""
    what = "the official questions, JSON lines {question_id, text, label}"
    asked = checked(
        given.truth,
        what,
        lambda: {str(row["question_id"]): (row["text"], row["label"]) for row in read_json(given.truth)},
    )
    complaints = Complaints(given.predictions, given, POPE)
    rows = read_rows(given.predictions, complaints)
    if rows and all("question_id" not in row for row in rows):
        if len(rows) != len(asked):
            complaints.add(f"{len(rows)} answers for {len(asked)} questions, and no question_id")
            complaints.settle()
        rows = [{**row, "question_id": question} for question, row in zip(asked, rows, strict=True)]
    found = by_id(rows, "question_id", ["question", "answer"], complaints)
    compare_ids(found, asked, complaints)
    other = [question for question, row in found.items() if question in asked and row["question"] != asked[question][0]]
    if other:
        complaints.add(f"{len(other)} whose question is not the one of the annotations", other)
    complaints.settle()
    scores = PopeScores()
    for question, (_, label) in asked.items():
        scores.update(found[question]["answer"], label)
    return scores.compute()


def score_mme(given: Given) -> Figures:
    """MME: the truth stands in the result files; annotations, the same files without answers, say what must be there."""
    answers = _mme_folder(given.predictions, given, 4)
    if given.annotations is not None:
        asked = _mme_folder(given.annotations, given, 3)
        complaints = Complaints(given.predictions, given, MME)
        compare_ids(answers, asked, complaints)
        wrong = [key for key, row in answers.items() if key in asked and row[3] != asked[key][3]]
        if wrong:
            complaints.add(f"{len(wrong)} with another truth than the annotations", wrong)
        complaints.settle()
    scores = MmeScores()
    for subtask, picture, question, truth, said in answers.values():
        scores.update(subtask, picture, question, said, truth)
    return scores.compute()


def _mme_folder(folder: Path, given: Given, columns: int) -> dict[str, tuple[str, str, str, str, str]]:
    """Subtask, picture, question, truth and answer (empty in annotations) of every line, by the first three."""
    complaints = Complaints(folder, given, MME)
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        complaints.add("it is no folder with txt files")
        complaints.settle()
    found: dict[str, tuple[str, str, str, str, str]] = {}
    for file in files:
        for number, line in enumerate(read_text(file).splitlines(), 1):
            if not line.strip():
                continue
            cells = line.split("\t")
            where = f"{file.name}:{number}"
            if len(cells) < columns:
                complaints.add(f"{len(cells)} instead of {columns} columns", [where])
            elif cells[2].strip().lower() not in ("yes", "no"):
                complaints.add(f"the truth is {cells[2]!r}, not Yes or No", [where])
            elif (key := "/".join((file.stem, *cells[:2]))) in found:
                complaints.add("a duplicate", [where])
            else:
                said = "\t".join(cells[3:]) if columns > 3 else ""
                found[key] = (file.stem, cells[0], cells[1], cells[2].strip().lower(), said)
    complaints.settle()
    return found


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
    truth = checked(
        given.truth,
        what,
        lambda: {
            question: {**row, "answer": int(row["answer"])} for question, row in tree.items() if row["split"] == split
        },
    )
    complaints = Complaints(given.predictions, given, SCIENCEQA)
    found = read_json(given.predictions)
    found = found.get("results", found) if isinstance(found, dict) else found
    if not isinstance(found, dict):
        complaints.add("it is no object of choices by question_id")
        complaints.settle()
    compare_ids(found, truth, complaints)
    wrong = [question for question, choice in found.items() if not isinstance(choice, int) or isinstance(choice, bool)]
    if wrong:
        complaints.add(f"{len(wrong)} that is no number of a choice", wrong)
    complaints.settle()
    scores = SampleScores()
    for question, problem in truth.items():
        scores.update(question, {"accuracy": scienceqa.is_right(found[question], problem)}, scienceqa.kinds(problem))
    return scores.compute()


def score_classes(given: Given) -> Figures:
    """Top-1 of a linear probe or of zero-shot classification: the label must be the same."""
    what = "the labels [{image_id, label}]"
    truth = checked(given.truth, what, lambda: {str(row["image_id"]): row["label"] for row in read_json(given.truth)})
    complaints = Complaints(given.predictions, given, CLASSES)
    rows = by_id(read_rows(given.predictions, complaints), "image_id", [], complaints)
    lacking = [picture for picture, row in rows.items() if "label" not in row]
    if lacking:
        complaints.add(f"{len(lacking)} without label", lacking)
    compare_ids(rows, truth, complaints)
    complaints.settle()
    scores = SampleScores()
    for picture, label in truth.items():
        scores.update(picture, {"top1": float(rows[picture]["label"] == label)})
    return scores.compute()
