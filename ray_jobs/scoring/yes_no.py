"""Yes or no: POPE and MME."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ray_jobs.scoring.files import Complaints, Given, annotated, by_id, compare_ids, read_list, read_rows
from ray_jobs.scoring.reading import read_text
from ray_jobs.scoring.samples import Sample, Written, number, places, write_json_lines
from setok.data.schema import IMAGE_SLOT
from setok.errors import did_you_mean
from setok.metrics.mme import QUESTIONS_PER_PICTURE, SUBTASKS, MmeScores
from setok.metrics.pope import PopeScores

Figures = dict[str, Any]
POPE = "JSON lines {question, answer} (and question_id)"
MME = "a folder SUBTASK.txt with lines picture⇥question⇥truth⇥answer"


def score_pope(given: Given) -> Figures:
    """POPE: by question_id where the answers have it, else line by line, whose questions must be the same."""
    what = "the official questions, JSON lines {question_id, text, label}"
    asked = annotated(
        given,
        what,
        lambda: [(str(row["question_id"]), (row["text"], row["label"])) for row in read_list(given.truth)],
        flaw=lambda pair: "" if pair[1] in ("yes", "no") else "whose label is neither yes nor no",
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
        if file.stem not in SUBTASKS:
            complaints.add(f"MME has no subtask {file.stem!r}: {did_you_mean(file.stem, SUBTASKS)}", [file.name])
        for place, line in enumerate(read_text(file).splitlines(), 1):
            if not line.strip():
                continue
            cells = line.split("\t")
            where = f"{file.name}:{place}"
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


# ---------------------------------------------------------------- writing


def write_pope(samples: Iterable[Sample], folder: Path, name: str) -> Written:
    """The questions of one category."""
    predictions, annotations = places(folder, name, ".jsonl")
    said, true = [], []
    for sample in samples:
        question, text = number(sample.fact["question_id"].rpartition("/")[2]), _question(sample)
        said.append({"question_id": question, "question": text, "answer": sample.said})
        true.append({"question_id": question, "text": text, "label": sample.record.answers[0]})
    write_json_lines(predictions, said)
    write_json_lines(annotations, true)
    return Written(predictions=predictions, annotations=annotations)


def write_mme(samples: Iterable[Sample], folder: Path, name: str) -> Written:
    """A file for every subtask. A picture that lacks one of its questions, as at the end of a limit, is left out."""
    predictions, annotations = places(folder, name)
    pictures: defaultdict[str, list[Sample]] = defaultdict(list)
    for sample in samples:
        pictures[sample.fact["image_id"]].append(sample)
    lines: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for picture, own in pictures.items():
        if len(own) != QUESTIONS_PER_PICTURE:
            continue
        for sample in own:
            asked = f"{picture.rpartition('/')[2]}\t{_question(sample)}\t{sample.record.answers[0]}"
            lines[sample.fact["subtask"]].append((asked, " ".join(sample.said.split())))
    for path in (predictions, annotations):
        path.mkdir(exist_ok=True)
        for old in path.glob("*.txt"):
            old.unlink()
    for subtask, rows in lines.items():
        (predictions / f"{subtask}.txt").write_text("".join(f"{asked}\t{said}\n" for asked, said in rows), "utf-8")
        (annotations / f"{subtask}.txt").write_text("".join(f"{asked}\n" for asked, _ in rows), "utf-8")
    return Written(predictions=predictions, annotations=annotations)


def _question(sample: Sample) -> str:
    return sample.record.conversation[0].text.replace(IMAGE_SLOT, "").strip()
