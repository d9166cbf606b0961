"""Predictions in official formats: written from records of our readers, and scored alike against our files and the set's own."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_jobs.evaluation.pictures import png
from ray_jobs.scoring import yes_no
from ray_jobs.scoring.files import Given
from ray_jobs.scoring.listing import listing
from ray_jobs.scoring.samples import Sample, Written
from ray_jobs.scoring.tasks import GROUPS, OWN, RUN, SCORED, TASKS, expanded, scored
from setok.config import SequenceConfig
from setok.data.schema import Mask, Record
from setok.data.sources import SOURCES
from setok.errors import ConfigError
from setok.predictor.exercises import samples_of
from tests.source_files import answered, good, put, read, shaded

SEQUENCE = SequenceConfig()


def samples(records: Iterable[Record], asks: tuple[str, ...], said: dict[str, str]) -> list[Sample]:
    """What a model made of records; ``said`` by question id, else nothing."""
    found = []
    for record in records:
        for how in asks:
            for part, _ in samples_of(record, how, SEQUENCE):
                key = part.provenance["question_id" if "question_id" in part.provenance else "image_id"]
                found.append(Sample(record=part, asks=how, said=said.get(f"{how}:{key}", said.get(key, ""))))
    return found


def both(task: str, made: list[Sample], folder: Path, official: Path, **options: Any) -> dict[str, Any]:
    """Figures against our annotations, which must be those against the official ones."""
    run, score = TASKS[task].run, TASKS[task].score
    assert run is not None and run.write is not None and score is not None
    files: Written = run.write(made, folder, task)
    assert files.annotations is not None
    ours = score(Given(task=task, predictions=files.predictions, annotations=files.annotations))
    theirs = score(Given(task=task, predictions=files.predictions, annotations=official, **options))
    assert ours == theirs
    return ours


@pytest.mark.parametrize(("task", "prefix"), [("vqav2", "v2_"), ("okvqa", "")])
@pytest.mark.parametrize("turns", ["each", "all"])
def test_vqa(tmp_path: Path, task: str, prefix: str, turns: str) -> None:
    asked = [{"image_id": 7, "question_id": n, "question": f"What is number {n}?"} for n in (70, 71, 72)]
    given = [
        {"question_id": 70, "answers": answered(*["blue"] * 7, *["red"] * 3), "answer_type": "other"},
        {"question_id": 71, "answers": answered(*["no"] * 10), "answer_type": "yes/no", "question_type": "is"},
        {"question_id": 72, "answers": answered(*["2"] * 2, *["3"] * 8), "answer_type": "number"},
    ]
    put(tmp_path / f"{prefix}OpenEnded_mscoco_val2014_questions.json", {"questions": asked})
    official = tmp_path / f"{prefix}mscoco_val2014_annotations.json"
    put(official, {"annotations": given})
    put(tmp_path / "val2014/COCO_val2014_000000000007.jpg", shaded())
    records = good(read(task, tmp_path, split="val", turns=turns))
    made = samples(records, ("vqa",), {"70": "Blue.", "71": "yes", "72": "two"})
    figures = both(task, made, tmp_path, official)
    assert figures["accuracy"] == pytest.approx(100 * (1 + 0 + 0.6) / 3)
    assert figures["by_answer_type"] == pytest.approx({"number": 60, "other": 100, "yes/no": 0})
    (tmp_path / "v").mkdir()
    unanswered = [Sample(record=Record(**vars(s.record) | {"answers": []}), asks="vqa", said=s.said) for s in made]
    run = TASKS[task].run
    assert run is not None and run.write is not None
    files = run.write(unanswered, tmp_path / "v", task)
    assert files.annotations is None
    assert json.loads(files.predictions.read_text())[0] == {"question_id": 70, "answer": "Blue."}


def test_textvqa_and_vizwiz(tmp_path: Path) -> None:
    rows = [{"question_id": 1, "image_id": "ab", "question": "what?", "answers": ["stop"] * 6 + ["go"] * 4}]
    official = tmp_path / "TextVQA_0.5.1_val.json"
    put(official, {"data": rows})
    put(tmp_path / "train_images/ab.jpg", shaded())
    made = samples(good(read("textvqa", tmp_path, split="val")), ("vqa",), {"1": "Stop!"})
    assert both("textvqa", made, tmp_path, official)["accuracy"] == 100
    name = "VizWiz_val_00000000"
    people = answered(*["can"] * 3, *["unanswerable"] * 7)
    put(tmp_path / "val.json", [{"image": f"{name}.jpg", "question": "What?", "answer_type": "x", "answers": people}])
    put(tmp_path / f"val/{name}.jpg", shaded())
    made = samples(good(read("vizwiz", tmp_path, split="val")), ("vqa",), {name: "can"})
    assert both("vizwiz", made, tmp_path, tmp_path / "val.json")["accuracy"] == pytest.approx(90)


def test_aokvqa(tmp_path: Path) -> None:
    row = {"image_id": 7, "question": "What?", "choices": ["bat", "ball"], "correct_choice_idx": 1}
    rows = [
        {**row, "question_id": "x", "direct_answers": ["ball"] * 2 + ["bat"] * 8, "difficult_direct_answer": False},
        {**row, "question_id": "y", "direct_answers": ["orb"] * 10, "difficult_direct_answer": True},
    ]
    put(tmp_path / "aokvqa_v1p0_val.json", rows)
    put(tmp_path / "val2017/000000000007.jpg", shaded())
    records = good(read("aokvqa", tmp_path, split="val"))
    made = samples(records, ("vqa", "direct"), {"x": "B", "direct:x": "ball", "y": "a."})
    assert made[1].record.choices == [] and made[1].record.answers == ["ball"] * 2 + ["bat"] * 8
    figures = both("aokvqa", made, tmp_path, tmp_path / "aokvqa_v1p0_val.json")
    assert figures["multiple_choice"] == 50 and figures["num_multiple_choice"] == 2
    assert figures["direct_answer"] == pytest.approx(200 / 3) and figures["num_direct_answer"] == 1


def test_gqa(tmp_path: Path) -> None:
    kinds = {"structural": "query", "semantic": "attr", "detailed": "color"}
    row = {"imageId": "n5", "isBalanced": True, "types": kinds, "groups": {"global": "colour"}, "entailed": []}
    rows = {
        "1": row | {"question": "Which colour?", "answer": "red", "entailed": ["2"]},
        "2": row | {"question": "Is it red?", "answer": "yes", "isBalanced": False, "groups": {"global": None}},
        "3": row | {"question": "Which other?", "answer": "blue"},
    }
    put(tmp_path / "val_all_questions.json", rows)
    put(tmp_path / "images/n5.jpg", shaded())
    made = samples(good(read("gqa", tmp_path, split="val_all")), ("vqa",), {"1": "Red.", "2": "no", "3": "green"})
    figures = both("gqa", made, tmp_path, tmp_path / "val_all_questions.json")
    assert figures["accuracy"] == 50 and figures["consistency"] == 0 and figures["by_structural"] == {"query": 50}
    assert figures["distribution"] > 0


def test_scienceqa(tmp_path: Path) -> None:
    row = {"choices": ["a", "b"], "answer": 1, "split": "test", "subject": "natural science", "grade": "grade9"}
    problems = {
        "1": row | {"question": "Which?", "hint": "Look at\nthe passage.", "image": "image.png"},
        "2": row | {"question": "Which one?", "hint": "", "image": None, "subject": "social science"},
    }
    put(tmp_path / "problems.json", problems)
    put(tmp_path / "pid_splits.json", {"test": ["1", "2"]})
    put(tmp_path / "images/test/1/image.png", shaded())
    made = samples(good(read("scienceqa", tmp_path, split="test")), ("vqa",), {"1": "B. b", "2": "a"})
    figures = both("scienceqa", made, tmp_path, tmp_path / "problems.json")
    assert figures["accuracy"] == 50 and figures["by_subject"] == {"NAT": 100, "SOC": 0}
    assert figures["by_TXT"] == {"no": 0, "yes": 100}


def test_pope(tmp_path: Path) -> None:
    name = "COCO_val2014_000000000007.jpg"
    rows = [
        {"question_id": 1, "image": name, "text": "Is there a cup in the image?", "label": "yes"},
        {"question_id": 2, "image": name, "text": "Is there a fork in the image?", "label": "no"},
    ]
    official = tmp_path / "coco_pope_random.json"
    put(official, "\n".join(json.dumps(row) for row in rows).encode())
    put(tmp_path / f"val2014/{name}", shaded())
    made = samples(good(read("pope", tmp_path, split="random", turns="all")), ("vqa",), {"random/1": "Yes"})
    run = RUN["pope"].run
    assert run is not None and run.part is not None and {run.part(sample) for sample in made} == {"random"}
    figures = both("pope", made, tmp_path, official)
    assert figures["accuracy"] == 0.5 and figures["recall"] == 1


def test_mme(tmp_path: Path) -> None:
    put(tmp_path / "color/0001.txt", b"Is it red?\tYes\nIs it blue?\tNo")
    put(tmp_path / "color/0001.jpg", shaded())
    put(tmp_path / "OCR/0002.txt", b"Is it one?\tYes\nIs it two?\tNo")
    put(tmp_path / "OCR/0002.jpg", shaded(50))
    records = good(read("mme", tmp_path, split="test"))
    made = samples(records, ("vqa",), {"color/0001/0": "Yes", "color/0001/1": "no, it\nis red"})
    files = yes_no.write_mme(made, tmp_path / "all", "mme")
    figures = yes_no.score_mme(Given(task="mme", predictions=files.predictions, annotations=files.annotations))
    assert figures["subtasks"]["color"] == {"accuracy": 100, "accuracy_plus": 100, "score": 200}
    assert figures["subtasks"]["OCR"]["accuracy"] == 0  # nothing is neither yes nor no
    files = yes_no.write_mme(made[:-1], tmp_path / "all", "mme")  # the limit cut a picture's questions apart
    assert [path.name for path in files.predictions.iterdir()] in (["color.txt"], ["OCR.txt"])


def test_captions(tmp_path: Path) -> None:
    rows = [{"id": i, "image_id": 7, "caption": text} for i, text in enumerate(("A dog runs.", "dogs run"))]
    rows.append({"id": 5, "image_id": 8, "caption": "two cats sit"})
    pictures = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in (7, 8)]
    official = tmp_path / "annotations/captions_val2017.json"
    put(official, {"images": pictures, "annotations": rows})
    for i in (7, 8):
        put(tmp_path / f"val2017/{i:012d}.jpg", shaded(i))
    records = good(read("coco", tmp_path, split="val"))
    made = samples(records, ("caption",), {"7": "a dog runs", "8": "a cat"})
    figures = both("coco_caption", made, tmp_path, official)
    assert figures["num_samples"] == 2 and 0 < figures["bleu_1"] < 1


@pytest.mark.parametrize("turns", ["each", "all"])
def test_regions_of_real_files(tmp_path: Path, realdata: Path, turns: str) -> None:
    root = realdata / "refer" / "data"
    made = []
    for record in good(read("refcoco", root, split="val", turns=turns)):
        for part, question in samples_of(record, "segment", SEQUENCE):
            assert question.mask == 0
            made.append(Sample(record=part, asks="segment", mask=part.masks[0]))
    assert len(made) > 1
    half = made[0].record.masks[0]
    nothing = Mask(counts=[half.height * half.width], height=half.height, width=half.width)
    made[0] = Sample(record=made[0].record, asks="segment", mask=nothing)
    figures = both("refcoco", made, tmp_path, root / "refcoco", split="val")
    assert figures["giou"] == pytest.approx(100 * (1 - 1 / len(made)))


def test_pictures(tmp_path: Path) -> None:

    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (12, 12, 3), dtype=np.uint8) for _ in range(3)]
    data = [base64.b64decode(png(one)) for one in pixels]
    made = [Sample(record=Record(id=f"a/{i}", source=""), asks="edit", drawn=data[i], truth=data[2]) for i in range(2)]
    task = TASKS["editing"]
    assert task.run is not None and task.run.write is not None and task.score is not None
    files = task.run.write(made, tmp_path, "editing")
    figures = task.score(Given(task="editing", predictions=files.predictions, annotations=files.annotations))
    wanted = [np.abs(one.astype(float) - pixels[2]).mean() / 255 for one in pixels[:2]]
    assert figures["l1"] == pytest.approx(np.mean(wanted)) and figures["num_samples"] == 2


# ---------------------------------------------------------------- the list


def test_the_list_has_every_task_and_what_it_needs() -> None:
    told = listing()
    assert len(RUN) == 23 and len(SCORED) == 22 and len(TASKS) == 28
    assert all(f"\n  {name} " in told for name in (*TASKS, *GROUPS))
    for task in RUN.values():
        assert task.run is not None
        assert (task.run.write is None) == (task.score is None)
        assert set(task.run.sources) <= SOURCES.keys()
    assert "networks.inception" in told


def test_names_and_groups() -> None:
    assert list(expanded(["pope", "own"])[0]) == [*OWN, "pope"]
    assert set(expanded(["segmentation"])[0]) == {"segment", "refcoco", "refcoco+", "refcocog"}
    tasks, wrong = expanded(["popo", "nocaps", "vqa"])
    assert list(tasks) == ["vqa"]
    assert wrong[0] == "task 'popo' is unknown: did you mean 'pope'?"
    assert "can only be scored" in wrong[1] and "score --task nocaps" in wrong[1]
    with pytest.raises(ConfigError, match=r"task 'tokens' has no official format(.|\n)*--tasks tokens"):
        scored("tokens")
