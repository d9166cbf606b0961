"""Scores of captions, masks and panoptic segments, from small files in their official formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from setok.data import rle
from setok.data.schema import Record
from setok.errors import DataError
from tests.scored import Score, lines, score, write
from tests.source_files import read

__all__ = ["score"]


def test_captions(score: Score, tmp_path: Path) -> None:
    rows = [{"image_id": i, "caption": text} for i, text in ((1, "a dog runs"), (1, "dogs"), (2, "two cats sit"))]
    truth = write(tmp_path / "truth.json", {"annotations": rows})
    said = write(tmp_path / "said.json", [{"image_id": 1, "caption": "A dog runs."}, {"image_id": 2, "caption": "a"}])
    figures = score("coco_caption", said, truth)
    assert 0 < figures["bleu_1"] < 1 and figures["num_samples"] == 2 and "meteor" not in figures


def test_masks_by_expression_and_by_object(score: Score, tmp_path: Path) -> None:
    mask = np.zeros((4, 6), bool)
    mask[1:3, 2:5] = True
    half = mask & (np.arange(6) < 4)
    row, other = ({"size": [4, 6], "counts": rle.encode(m)} for m in (mask, half))
    truth = lines(tmp_path / "truth.jsonl", [{"sent_id": 1, **row}, {"sent_id": 2, **row}])
    said = lines(tmp_path / "said.jsonl", [{"sent_id": 2, "segmentation": other}, {"sent_id": 1, **row}])
    figures = score("refcoco", said, truth)
    assert figures["giou"] == pytest.approx(100 * (1 + 4 / 6) / 2) and figures["ciou"] == pytest.approx(100 * 10 / 12)
    broken = lines(
        tmp_path / "said.jsonl", [{"sent_id": 1, **row}, {"sent_id": 2, "size": [4, 7], "counts": row["counts"]}]
    )
    with pytest.raises(DataError, match=r"1 mask\(s\) that cannot be read, the first: broken mask(.|\n)*: 2"):
        score("refcoco", broken, truth)


@pytest.mark.parametrize(("name", "split"), [("refcoco", "val"), ("refcocog", "val")])
def test_masks_of_refer(score: Score, tmp_path: Path, realdata: Path, name: str, split: str) -> None:
    """The true masks, taken from the reader of the set, score 100 against the official files."""
    root = realdata / "refer" / "data"
    rows = []
    for record in read(name, root, split=split, turns="each"):
        assert isinstance(record, Record)
        mask = record.masks[0]
        rows.append(
            {"sent_id": int(record.provenance["sent_id"]), "size": [mask.height, mask.width], "counts": mask.counts}
        )
    assert rows
    figures = score(name, lines(tmp_path / "said.jsonl", rows), root / name, "--split", split)
    assert figures["ciou"] == figures["giou"] == figures["precision@0.9"] == 100
    assert figures["num_samples"] == len(rows)
    with pytest.raises(DataError, match=r"no split 'nowhere'(.|\n)*val"):
        score(name, tmp_path / "said.jsonl", root / name, "--split", "nowhere")


@pytest.mark.parametrize(("made", "expected"), [("pred", "perturbed"), ("truth", "self")])
def test_panoptic_golden(score: Score, realdata: Path, made: str, expected: str) -> None:
    folder = realdata / "golden" / "panoptic"
    truth = realdata / "coco" / "panoptic_official_sample" / "panoptic_examples.json"
    figures = score("panoptic", folder / "pred.json" if made == "pred" else truth, truth)
    golden = json.loads((folder / "expected.json").read_text())[expected]
    for ours, theirs in ((figures, "All"), (figures["things"], "Things"), (figures["stuff"], "Stuff")):
        assert ours["num_categories"] == golden[theirs]["n"]
        for name in ("pq", "sq", "rq"):
            assert ours[name] == pytest.approx(100 * golden[theirs][name], abs=1e-9)


def test_panoptic_files(score: Score, tmp_path: Path) -> None:
    (tmp_path / "truth").mkdir()
    (tmp_path / "said").mkdir()
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, :2] = (1, 1, 0)  # segment 257
    for name in ("truth", "said"):
        Image.fromarray(pixels).save(tmp_path / name / "7.png")
    row = {"image_id": 7, "file_name": "7.png", "segments_info": [{"id": 257, "category_id": 5}]}
    truth = write(tmp_path / "truth.json", {"annotations": [row], "categories": [{"id": 5, "isthing": 1}]})
    said = write(tmp_path / "said.json", {"annotations": [row]})
    figures = score("panoptic", said, truth)
    assert figures["pq"] == figures["things"]["pq"] == 100 and figures["stuff"] == {"num_categories": 0}
    (tmp_path / "said" / "7.png").unlink()
    with pytest.raises(DataError, match=rf"1 without a PNG in {tmp_path}/said: 7"):
        score("panoptic", said, truth)
