"""Open questions: VQAv2, OK-VQA, VizWiz and TextVQA, whose answers are compared with those of ten people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray_jobs.scoring.files import Complaints, Given, Row, annotated, by_id, compare_ids, read_rows, section
from ray_jobs.scoring.reading import read_json
from ray_jobs.scoring.samples import Sample, Written, number, places, written
from setok.errors import DataError
from setok.metrics import vqa
from setok.metrics.samples import SampleScores

Figures = dict[str, Any]
VQA = "[{question_id, answer}]"
VIZWIZ = "[{image, answer}]"


def score_vqa(given: Given) -> Figures:
    """VQAv2 and OK-VQA; ``questions`` narrows the set to the questions of that file."""
    what = "the official annotations {annotations: [{question_id, answers: [{answer}]}]}"
    truth = _people(given, what, "question_id", section(given.truth, "annotations", what))
    if given.questions is not None:
        asked = _asked(given, given.questions)
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
        kinds: dict[str, str] = {name: str(row[name]) for name in ("answer_type", "question_type") if name in row}
        scores.update(question, {"accuracy": vqa.vqa_accuracy(found[question], row["answers"])}, kinds)
    return scores.compute()


def score_vizwiz(given: Given) -> Figures:
    """VizWiz, whose questions are known by their picture."""
    what = "the official annotations [{image, answers: [{answer}], answer_type}]"
    truth = _people(given, what, "image", read_json(given.truth))
    found = _answers(given, "image", VIZWIZ, truth)
    scores = SampleScores()
    for picture, row in truth.items():
        kinds = {"answer_type": str(row["answer_type"])} if "answer_type" in row else {}
        scores.update(picture, {"accuracy": vqa.vqa_accuracy(found[picture], row["answers"])}, kinds)
    return scores.compute()


def score_textvqa(given: Given) -> Figures:
    """TextVQA."""
    what = "the official annotations {data: [{question_id, answers: [text, …]}]}"
    rows = section(given.truth, "data", what)
    truth = annotated(
        given, what, lambda: [(str(row["question_id"]), row["answers"]) for row in rows], flaw=_unanswered
    )
    found = _answers(given, "question_id", VQA, truth)
    scores = SampleScores()
    for question, answers in truth.items():
        scores.update(question, {"accuracy": vqa.textvqa_accuracy(found[question], answers)})
    return scores.compute()


def _people(given: Given, what: str, key: str, rows: Sequence[Row]) -> dict[str, Row]:
    """Annotations by their id, with what people answered as plain texts."""

    def texts(row: Row) -> Row:
        return {**row, "answers": [answer["answer"] for answer in row["answers"]]}

    return annotated(
        given,
        what,
        lambda: [(str(row[key]), texts(row)) for row in rows],
        flaw=lambda row: _unanswered(row["answers"]),
    )


def _unanswered(answers: Any) -> str:
    if not answers:
        return "without answers"
    texts = isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)
    return "" if texts else "whose answers are no texts"


def _asked(given: Given, questions: Path) -> list[str]:
    """The ids of the official questions."""
    what = "the official questions {questions: [{question_id}]}"
    rows = section(questions, "questions", what)
    return list(annotated(given, what, lambda: [(str(row["question_id"]), row) for row in rows], path=questions))


def _answers(given: Given, key: str, wanted: str, truth: Mapping[str, Any]) -> dict[str, str]:
    """The answers by id, of exactly what was asked."""
    complaints = Complaints(given.predictions, given, wanted)
    rows = by_id(read_rows(given.predictions, complaints), key, ["answer"], complaints)
    compare_ids(rows, truth, complaints)
    complaints.settle()
    return {sample: row["answer"] for sample, row in rows.items()}


# ---------------------------------------------------------------- writing


def write_vqa(samples: Iterable[Sample], folder: Path, name: str) -> Written:
    """VQAv2 and OK-VQA."""
    return _write(samples, places(folder, name, ".json"), "question_id", lambda rows: {"annotations": rows})


def write_vizwiz(samples: Iterable[Sample], folder: Path, name: str) -> Written:
    """VizWiz; its pictures are known by their files, which are JPEGs."""
    return _write(samples, places(folder, name, ".json"), "image", lambda rows: rows)


def write_textvqa(samples: Iterable[Sample], folder: Path, name: str) -> Written:
    """TextVQA, whose annotations have the answers as plain texts."""

    def truth(rows: list[dict[str, Any]]) -> Any:
        return {"data": [{**row, "answers": [answer["answer"] for answer in row["answers"]]} for row in rows]}

    return _write(samples, places(folder, name, ".json"), "question_id", truth)


def _write(samples: Iterable[Sample], paths: tuple[Path, Path], key: str, truth: Any) -> Written:
    said, true = [], []
    for sample in samples:
        facts = sample.fact
        own = f"{facts['question_id']}.jpg" if key == "image" else number(facts["question_id"])
        said.append({key: own, "answer": sample.said})
        kinds = {kind: facts[kind] for kind in ("answer_type", "question_type") if kind in facts}
        people = [{"answer": answer, "answer_id": person} for person, answer in enumerate(sample.record.answers, 1)]
        true.append({key: own, "image_id": number(facts.get("image_id", "")), **kinds, "answers": people})
    return written(paths[0], said, paths[1], truth(true), answered=all(row["answers"] for row in true))
