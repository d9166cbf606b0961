"""Generated scenes in the official layouts: the same files and keys, with the truth of what was drawn."""

from __future__ import annotations

import functools
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from setok.data.scenes.generate import FAMILIES, SHAPES, Scene, generate_scene
from setok.data.scenes.language import caption, concepts, edit_pair, questions, referring_expressions, vocabulary
from setok.data.scenes.layouts import LAYOUTS, write_scenes
from setok.data.scenes.outlines import polygons

COUNT = 60


def _fill(outlines: list[list[float]], height: int, width: int) -> np.ndarray:
    """Pixels whose centre is inside an outline, by counting crossings to the left."""
    y, x = np.mgrid[:height, :width] + 0.5
    filled = np.zeros((height, width), bool)
    for outline in outlines:
        corners = np.array(outline).reshape(-1, 2)
        inside = np.zeros((height, width), bool)
        for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            if y0 != y1:
                inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
        filled |= inside
    return filled


def test_outlines_give_masks_back_with_holes_and_pieces() -> None:
    rng = np.random.default_rng(0)
    for density in np.linspace(0.1, 0.97, 60):
        mask = rng.random((11, 14)) < density
        assert np.array_equal(_fill(polygons(mask), 11, 14), mask)
    assert polygons(np.zeros((4, 4), bool)) == []
    assert len(polygons(np.array([[1, 0, 1]], bool))) == 2


# ---------------------------------------------------------------- layouts


@pytest.fixture(scope="module", params=FAMILIES)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    out = tmp_path_factory.mktemp(request.param)
    write_scenes(out, split="train", count=COUNT, seed=5, family=request.param, layouts=LAYOUTS, num_processes=2)
    write_scenes(out, split="val", count=10, seed=5, family=request.param, layouts=LAYOUTS, num_processes=1)
    return out, request.param


def _load(path: Path) -> Any:
    return json.loads(path.read_text())


@functools.cache
def _scene(index: int, family: str) -> Scene:
    return generate_scene(index, seed=5, family=family)


def _scenes(family: str) -> Iterator[tuple[int, Scene]]:
    for index in range(COUNT):
        yield index + 1, _scene(index, family)


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def test_coco(written: tuple[Path, str]) -> None:
    root, family = written[0] / "coco", written[1]
    files = {what: _load(root / f"annotations/{what}_train2017.json") for what in ("captions", "instances", "panoptic")}
    captions = {row["image_id"]: row["caption"] for row in files["captions"]["annotations"]}
    instances = {row["id"]: row for row in files["instances"]["annotations"]}
    panoptic = {row["image_id"]: row for row in files["panoptic"]["annotations"]}
    names = {row["id"]: row["name"] for row in files["panoptic"]["categories"]}
    assert len(names) == len(files["panoptic"]["categories"]) == len(vocabulary(family))
    assert len(instances) == len(files["instances"]["annotations"])
    assert len(list((root / "train2017").iterdir())) == COUNT
    for (image_id, scene), image in zip(_scenes(family), files["captions"]["images"], strict=True):
        assert (image["id"], image["height"], image["width"]) == (image_id, 64, 64)
        picture = _pixels(root / "train2017" / image["file_name"])
        assert np.abs(picture - scene.image).mean() < 4
        assert captions[image_id] == caption(scene)
        coded = _pixels(root / "annotations/panoptic_train2017" / panoptic[image_id]["file_name"])
        ids = coded @ np.array([1, 256, 65536])
        segments = panoptic[image_id]["segments_info"]
        assert {segment["id"] for segment in segments} == set(np.unique(ids).tolist())
        for number, segment in enumerate(segments):
            here = ids == segment["id"]
            assert np.array_equal(here, scene.mask == number)
            rows, columns = np.nonzero(here)
            box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
            assert segment["area"] == here.sum() and segment["bbox"] == box
            assert names[segment["category_id"]] in concepts(scene)
            if number:
                row = instances[image_id * 10 + number]
                assert np.array_equal(_fill(row["segmentation"], 64, 64), here)
                assert (row["area"], row["bbox"], row["category_id"]) == (
                    here.sum(),
                    box,
                    segment["category_id"],
                )
    assert len(instances) == sum(len(scene.objects) for _, scene in _scenes(family))


def test_vqav2(written: tuple[Path, str]) -> None:
    out, family = written
    asked = _load(out / "vqav2/v2_OpenEnded_mscoco_train2014_questions.json")["questions"]
    answered = _load(out / "vqav2/v2_mscoco_train2014_annotations.json")["annotations"]
    assert [row["question_id"] for row in asked] == [row["question_id"] for row in answered]
    assert len({row["question_id"] for row in asked}) == len(asked)
    by_id = dict(_scenes(family))
    for question, answer in zip(asked, answered, strict=True):
        assert question["image_id"] == answer["image_id"]
        assert (out / "coco/train2017" / f"{question['image_id']:012d}.jpg").is_file()
        truth = {q.question: q.answer for q in questions(by_id[question["image_id"]])}
        assert truth[question["question"]] == answer["multiple_choice_answer"]
        assert [row["answer"] for row in answer["answers"]] == [answer["multiple_choice_answer"]] * 10
        assert question["question"].startswith(answer["question_type"])
    assert {row["answer_type"] for row in answered} == {"yes/no", "number", "other"}


def test_gqa(written: tuple[Path, str]) -> None:
    root, family = written[0] / "gqa", written[1]
    rows = _load(root / "train_balanced_questions.json")
    assert len(rows) == sum(len(questions(scene)) for _, scene in _scenes(family))
    for row in rows.values():
        assert (root / "images" / f"{row['imageId']}.jpg").is_file()
        words = row["question"].lower().split()
        for position, annotation_id in row["annotations"]["question"].items():
            scene = _scene(int(annotation_id) // 10 - 1, family)
            assert words[int(position)].strip("?,") == scene.objects[int(annotation_id) % 10 - 1].shape


def test_refcoco(written: tuple[Path, str]) -> None:
    root, family = written[0] / "refcoco", written[1]
    data = (root / "refcoco/refs(unc).p").read_bytes()
    assert data.startswith(b"(lp0")
    refs = pickle.loads(data)
    instances = _load(root / "refcoco/instances.json")
    objects = {row["id"]: row for row in instances["annotations"]}
    assert {ref["split"] for ref in refs} == {"train", "val"} and len(instances["images"]) == COUNT + 10
    sentences = [sentence["sent_id"] for ref in refs for sentence in ref["sentences"]]
    assert len(set(sentences)) == len(sentences)
    files = {row["id"]: row["file_name"] for row in instances["images"]}
    for ref in refs:
        assert (root / "images/mscoco/images/train2014" / files[ref["image_id"]]).is_file()
        scene = _scene(ref["image_id"] - 1, family)
        index = ref["ann_id"] % 10 - 1
        row = objects[ref["ann_id"]]
        assert (row["image_id"], row["category_id"]) == (ref["image_id"], ref["category_id"])
        assert np.array_equal(_fill(row["segmentation"], 64, 64), scene.mask == index + 1)
        said = {sentence["sent"] for sentence in ref["sentences"]}
        assert said <= {e.text for e in referring_expressions(scene) if e.object_index == index}
        assert [sentence["sent_id"] for sentence in ref["sentences"]] == ref["sent_ids"]


def test_edits_and_classes(written: tuple[Path, str]) -> None:
    out, family = written
    seeds = dict(_load(out / "instructpix2pix/train/seeds.json"))
    sessions = _load(out / "magicbrush/train/edit_sessions.json")
    turns = _load(out / "magicbrush/train/edit_turns.json")
    classes = _load(out / "imagenet/train/data.json")
    assert len(seeds) == len(sessions) == len(classes) == COUNT and len(turns) == 2 * COUNT
    assert turns == [turn for session in sessions.values() for turn in session]
    for (image_id, scene), row in zip(_scenes(family), classes, strict=True):
        edit = edit_pair(scene)
        folder = out / "instructpix2pix/train" / f"{image_id:07d}"
        (seed,) = seeds[folder.name]
        assert _load(folder / "prompt.json") == {"edit": edit.instruction}
        assert np.abs(_pixels(folder / f"{seed}_0.jpg") - scene.image).mean() < 4
        assert np.abs(_pixels(folder / f"{seed}_1.jpg") - edit.target.image).mean() < 4
        pictures = out / "magicbrush/train/images" / str(image_id)
        first, second = sessions[str(image_id)]
        assert first["instruction"] == edit.instruction and second["input"] == first["output"]
        assert np.array_equal(_pixels(pictures / first["input"]), scene.image)
        assert np.array_equal(_pixels(pictures / first["output"]), edit.target.image)
        assert np.array_equal(_pixels(pictures / first["mask"])[..., 3] == 0, edit.mask)
        shape = max(scene.objects, key=lambda thing: thing.area).shape
        assert (row["class_name"], row["label"]) == (shape, SHAPES.index(shape))
        assert (out / "imagenet/train/images" / row["image"]).is_file()


def _keys(value: Any) -> Any:
    """Keys of a tree: a list counts as its first entry, a dictionary keyed by numbers as its first value."""
    if isinstance(value, dict):
        if all(key.isdigit() for key in value):
            return "by number", _keys(next(iter(value.values()), None))
        return {key: _keys(entry) for key, entry in value.items()}
    return [_keys(value[0])] if isinstance(value, list) and value and isinstance(value[0], dict | list) else None


SAME_KEYS = {
    "coco/annotations/captions_train2017.json": "coco/annotations/captions_train2017.json",
    "coco/annotations/instances_train2017.json": "coco/annotations/instances_train2017.json",
    "coco/annotations/panoptic_train2017.json": "coco/annotations/panoptic_train2017.json",
    "vqav2/v2_OpenEnded_mscoco_val2014_questions.json": "vqav2/v2_OpenEnded_mscoco_val2014_questions.json",
    "vqav2/v2_mscoco_val2014_annotations.json": "vqav2/v2_mscoco_val2014_annotations.json",
    "gqa/train_balanced_questions.json": "gqa/train_balanced_questions.json",
    "refcoco/refcoco/instances.json": "refer/data/refcoco/instances.json",
    "refcoco/refcoco/refs(unc).p": "refer/data/refcoco/refs(unc).p",
    "instructpix2pix/train/seeds.json": "instructpix2pix/raw/seeds.json",
    "instructpix2pix/train/0000001/prompt.json": "instructpix2pix/raw/0000132/prompt.json",
    "imagenet/train/data.json": "imagenet/data.json",
}


@pytest.mark.parametrize(("ours", "real"), SAME_KEYS.items())
def test_files_have_the_keys_of_the_real_ones(written: tuple[Path, str], realdata: Path, ours: str, real: str) -> None:
    read = (lambda path: pickle.loads(path.read_bytes())) if ours.endswith(".p") else _load
    assert _keys(read(written[0] / ours)) == _keys(read(realdata / real))
