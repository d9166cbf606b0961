"""Generated scenes: drawn as described, described without ambiguity, written as the official layouts are."""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from setok.data.scenes.generate import FAMILIES, MIN_VISIBLE, SHAPES, Scene, SceneObject, generate_scene
from setok.data.scenes.language import (
    caption,
    concepts,
    edit_pair,
    object_name,
    questions,
    referring_expressions,
    vocabulary,
)
from setok.data.scenes.layouts import LAYOUTS, main, write_scenes
from setok.data.scenes.outlines import polygons
from setok.errors import ConfigError, DataError

REAL = Path(__file__).resolve().parents[3] / "shared" / "realdata"
COUNT = 60
NUM_SCENES = 150


@pytest.fixture(scope="module", params=FAMILIES)
def scenes(request: pytest.FixtureRequest) -> list[Scene]:
    return [generate_scene(index, seed=5, family=request.param) for index in range(NUM_SCENES)]


def _digest(job: tuple[int, str]) -> tuple[bytes, bytes, str]:
    scene = generate_scene(job[0], seed=3, family=job[1])
    return scene.image.tobytes(), scene.mask.tobytes(), caption(scene) + str(questions(scene))


# ---------------------------------------------------------------- generation


def test_a_scene_depends_on_its_arguments_only() -> None:
    jobs = [(index, family) for family in FAMILIES for index in (0, 1, 2)]
    here = [_digest(job) for job in jobs]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        there = list(pool.map(_digest, reversed(jobs)))
    assert here == there[::-1]
    assert len({image for image, _, _ in here}) == len(jobs)
    assert not np.array_equal(
        generate_scene(0, seed=1, family="plain").image, generate_scene(0, seed=2, family="plain").image
    )


def test_objects_keep_their_share_and_agree_with_the_mask(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.image.shape == (64, 64, 3) and scene.image.dtype == np.uint8
        assert scene.mask.shape == (64, 64) and scene.mask.dtype == np.uint8
        assert 1 <= len(scene.objects) <= 6
        assert set(np.unique(scene.mask)) == set(range(len(scene.objects) + 1))
        for number, thing in enumerate(scene.objects, start=1):
            rows, columns = np.nonzero(scene.mask == number)
            assert thing.area == len(rows) >= MIN_VISIBLE * thing.full_area
            x, y, width, height = thing.bbox
            assert (x, y) == (columns.min(), rows.min())
            assert (x + width - 1, y + height - 1) == (columns.max(), rows.max())


def test_the_plain_family_has_the_statistics_of_the_published_targets() -> None:
    """Uniform counts, shapes and colours; radii 10 to 20 % of the side, 15 % less beyond three objects."""
    scenes = [generate_scene(index, seed=8, family="plain") for index in range(1000)]
    counts = np.bincount([len(scene.objects) for scene in scenes], minlength=7)[1:]
    assert counts.sum() == 1000 and counts.min() > 110 and counts.max() < 230
    things = [thing for scene in scenes for thing in scene.objects]
    assert {thing.texture for thing in things} == {"solid"}
    radii = np.array([thing.radius for thing in things])
    assert 0.085 <= radii.min() < 0.087 and 0.198 < radii.max() <= 0.2
    assert 0.129 < radii.mean() < 0.135
    shapes = np.bincount([SHAPES.index(thing.shape) for thing in things]) / len(things)
    assert shapes.min() > 0.13 and shapes.max() < 0.20
    assert {scene.background_style for scene in scenes} == {"plain", "gradient", "striped", "noisy"}
    shades = np.array([thing.shade for thing in things])
    assert shades.min() >= 0.8 and shades.max() <= 1.15


def test_the_hard_family_defeats_colour() -> None:
    scenes = [generate_scene(index, seed=8, family="hard") for index in range(200)]
    things = [thing for scene in scenes for thing in scene.objects]
    assert np.mean([thing.second_colour is not None for thing in things]) > 0.5
    assert np.mean([scene.background_style in ("blobs", "bands", "patches") for scene in scenes]) > 0.4
    shared = [
        len({thing.colour for thing in scene.objects}) < len(scene.objects)
        for scene in scenes
        if len(scene.objects) > 1
    ]
    assert np.mean(shared) > 0.6


@pytest.mark.parametrize(("size", "low", "high"), [(16, 1, 8), (32, 8, 8), (96, 2, 3)])
def test_sizes_and_counts_are_kept(size: int, low: int, high: int) -> None:
    for family in FAMILIES:
        for index in range(8):
            scene = generate_scene(index, seed=1, family=family, image_size=size, min_objects=low, max_objects=high)
            assert scene.image.shape == (size, size, 3)
            assert low <= len(scene.objects) <= high
            assert all(thing.visible >= MIN_VISIBLE for thing in scene.objects)


@pytest.mark.parametrize(
    ("change", "value", "remedy"),
    [
        ({"family": "plane"}, "'plane'", "did you mean 'plain'?"),
        ({"max_objects": 9}, "max_objects=9", "max_objects=6"),
        ({"min_objects": 4, "max_objects": 3}, "min_objects=4", "min_objects=1"),
        ({"image_size": 8}, "image_size=8", "such as 64"),
        ({"seed": -1}, "seed=-1", "seed such as 1"),
    ],
)
def test_impossible_scenes_are_refused(change: dict[str, Any], value: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as error:
        generate_scene(0, **({"seed": 1, "family": "plain"} | change))
    assert value in error.value.problem and remedy in error.value.remedy


# ---------------------------------------------------------------- words


def test_captions_and_concepts_name_every_object(scenes: list[Scene]) -> None:
    known = set(vocabulary(scenes[0].family))
    assert len(known) == {"plain": 54, "hard": 294}[scenes[0].family]
    for scene in scenes:
        text, ending = caption(scene).rsplit(" on a", 1)
        assert ending.removeprefix("n").strip() == f"{scene.background} background"
        for shape in SHAPES:
            said = len(re.findall(rf"\b{shape}\b", text))
            assert said == sum(thing.shape == shape for thing in scene.objects)
        last = max(scene.objects, key=lambda thing: thing.cx)
        assert text.endswith(object_name(last))
        assert set(concepts(scene)) <= known
        assert {noun.split()[-1] for noun in concepts(scene)[:-1]} == {thing.shape for thing in scene.objects}


def _words_fit(thing: SceneObject, words: str) -> bool:
    """Whether the words, taken one by one, are all true of the object: written without the library's help."""
    facts = {thing.shape, *thing.colours, thing.texture, "object", "and", "the", "a", "an"}
    return set(words.split()) <= facts


def _answer(scene: Scene, kind: str, question: str) -> str:
    """The answer, worked out from the objects; asserts that there is only one."""
    things = scene.objects
    if kind == "background":
        return scene.background
    if kind == "count":
        return str(len(things))
    if kind == "count_shape":
        shape = re.fullmatch(r"how many (\w+) objects are there\?", question).group(1)
        return str(sum(thing.shape == shape for thing in things))
    if kind == "exists":
        words = re.fullmatch(r"is there an? (.+)\?", question).group(1)
        return "yes" if any(_words_fit(thing, words) for thing in things) else "no"
    if kind == "shape":
        colour = re.search(r"the (\w+) object\?|with (\w+) in it\?", question)
        (only,) = [thing for thing in things if (colour.group(1) or colour.group(2)) in thing.colours]
        return only.shape
    if kind == "larger":
        names = re.fullmatch(r"which is larger, the (.+) or the (.+)\?", question).groups()
        pair = [_only(things, name) for name in names]
        large = max(pair, key=lambda thing: thing.radius)
        assert large is max(pair, key=lambda thing: thing.area)
        return names[pair.index(large)]
    if kind == "left_of":
        named = _only(things, re.fullmatch(r"what is just left of the (.+)\?", question).group(1))
        assert all(abs(thing.cx - named.cx) > 0.05 for thing in things if thing is not named)
        left = sorted((thing for thing in things if thing.cx < named.cx), key=lambda thing: -thing.cx)
        assert len(left) == 1 or left[0].cx - left[1].cx > 0.05
        return object_name(left[0])
    (shape,) = [shape for shape in SHAPES if f" {shape}" in question]
    (only,) = [thing for thing in things if thing.shape == shape]
    if kind == "texture":
        return only.texture
    return " and ".join(sorted(only.colours, key=object_name(only).split().index))


def _only(things: tuple[SceneObject, ...], words: str) -> SceneObject:
    (only,) = [thing for thing in things if _words_fit(thing, words)]
    return only


def test_every_answer_is_the_only_one(scenes: list[Scene]) -> None:
    seen: dict[str, list[str]] = {}
    for scene in scenes:
        asked = questions(scene)
        assert asked == questions(scene)
        assert len({question.kind for question in asked}) == len(asked)
        for question in asked:
            assert question.answer == _answer(scene, question.kind, question.question), question
            seen.setdefault(question.kind, []).append(question.answer)
    expected = {"colour", "shape", "count", "count_shape", "exists", "left_of", "larger", "background"}
    assert set(seen) == expected | ({"colours", "texture"} if scenes[0].family == "hard" else set())
    assert 0.35 < np.mean([answer == "yes" for answer in seen["exists"]]) < 0.65


def test_referring_expressions_fit_one_object(scenes: list[Scene]) -> None:
    extremes = {
        "leftmost": lambda thing: thing.cx,
        "rightmost": lambda thing: -thing.cx,
        "topmost": lambda thing: thing.cy,
        "bottommost": lambda thing: -thing.cy,
        "largest": lambda thing: -thing.area,
        "smallest": lambda thing: thing.area,
    }
    used = set()
    for scene in scenes:
        expressions = referring_expressions(scene)
        assert len({expression.text for expression in expressions}) == len(expressions)
        for expression in expressions:
            _, first, *rest = expression.text.split()
            thing = scene.objects[expression.object_index]
            if first in extremes:
                used.add(first)
                among = sorted((o for o in scene.objects if rest in (["object"], [o.shape])), key=extremes[first])
                assert among[0] is thing
                ahead = extremes[first](among[1]) - extremes[first](among[0])
                assert ahead > (0.15 * among[0].area if "est" in first else 0.05)
            else:
                assert _only(scene.objects, expression.text) is thing
    assert used == set(extremes)


def _may_show(scene: Scene, number: int) -> np.ndarray:
    """Where object ``number`` (0: background) may show: not deep inside another one, not far away."""
    padded = np.pad(scene.mask, 1, mode="edge")
    size = scene.image_size
    around = np.stack([padded[y : y + size, x : x + size] for y in range(3) for x in range(3)])
    shows = ~((around == around[0]).all(0) & (scene.mask != number) & (scene.mask > 0))
    if number == 0:
        return shows
    thing = scene.objects[number - 1]
    y, x = np.mgrid[:size, :size] + 0.5
    return shows & (np.hypot(x - thing.cx * size, y - thing.cy * size) < 1.25 * thing.radius * size + 1.5)


def test_edits_change_their_region_and_nothing_else(scenes: list[Scene]) -> None:
    kinds = set()
    for scene in scenes:
        edit = edit_pair(scene)
        changed = (scene.image != edit.target.image).any(-1)
        kind = edit.instruction.split()[0]
        if edit.instruction.startswith("change the background to"):
            kind, region = "background", _may_show(scene, 0)
            assert edit.target.background == edit.instruction.split()[-1] != scene.background
            assert np.array_equal(edit.target.mask, scene.mask)
        elif kind == "remove":
            (gone,) = [
                number
                for number, thing in enumerate(scene.objects, start=1)
                if (thing.cx, thing.cy) not in {(other.cx, other.cy) for other in edit.target.objects}
            ]
            region = _may_show(scene, gone)
            assert len(edit.target.objects) == len(scene.objects) - 1
        else:
            kind = "recolour"
            pairs = enumerate(zip(scene.objects, edit.target.objects, strict=True), start=1)
            ((number, new),) = [(i, b.colour) for i, (a, b) in pairs if a.colour != b.colour]
            region = _may_show(scene, number)
            assert new == edit.instruction.split()[-1]
            assert np.array_equal(edit.target.mask, scene.mask)
        kinds.add(kind)
        assert changed.any() and not (changed & ~region).any()
        assert not (changed & ~edit.mask).any() and not (edit.mask & ~region).any()
        again = edit_pair(edit.target)
        assert again.target.num_edits == 2 and (again.target.image != edit.target.image).any()
    assert kinds == {"background", "remove", "recolour"}


# ---------------------------------------------------------------- outlines


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


def _scenes(family: str) -> Iterator[tuple[int, Scene]]:
    for index in range(COUNT):
        yield index + 1, generate_scene(index, seed=5, family=family)


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
            scene = generate_scene(int(annotation_id) // 10 - 1, seed=5, family=family)
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
        scene = generate_scene(ref["image_id"] - 1, seed=5, family=family)
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


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real samples in {REAL}")
@pytest.mark.parametrize(("ours", "real"), SAME_KEYS.items())
def test_files_have_the_keys_of_the_real_ones(written: tuple[Path, str], ours: str, real: str) -> None:
    read = (lambda path: pickle.loads(path.read_bytes())) if ours.endswith(".p") else _load
    assert _keys(read(written[0] / ours)) == _keys(read(REAL / real))


# ---------------------------------------------------------------- doing it again


def _write(out: Path, *, count: int = 4, layouts: tuple[str, ...] = LAYOUTS, split: str = "train") -> dict[str, int]:
    return write_scenes(out, split=split, count=count, seed=1, family="plain", layouts=layouts, num_processes=1)


def test_a_finished_split_is_kept_and_a_half_written_one_redone(tmp_path: Path) -> None:
    counts = _write(tmp_path)
    assert counts["scenes"] == counts["coco.images"] == 4
    paths = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths}
    assert _write(tmp_path) == counts
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in paths} == before

    stamp = tmp_path / "gqa/scenes_train.json"
    stamp.write_text(stamp.read_text().replace('"complete": true', '"complete": false'))
    (tmp_path / "gqa/images/1.jpg").unlink()
    assert _write(tmp_path) == counts
    assert {path: path.read_bytes() for path in paths} == {path: data for path, (_, data) in before.items()}
    assert (tmp_path / "coco/train2017/000000000001.jpg").stat().st_mtime_ns == before[
        tmp_path / "coco/train2017/000000000001.jpg"
    ][0]


@pytest.mark.timeout(120)
def test_workers_end_with_a_killed_driver(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "setok.data.scenes", "--out", str(tmp_path), "--count", "100000"]
    command += ["--processes", "2"]
    driver = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    workers: list[psutil.Process] = []
    try:
        while len(list(tmp_path.rglob("*.jpg"))) < 20:
            assert driver.poll() is None
            time.sleep(0.1)
        workers = psutil.Process(driver.pid).children(recursive=True)
        assert len([one for one in workers if "spawn_main" in " ".join(one.cmdline())]) == 2
        driver.kill()
        driver.wait()
        _, left = psutil.wait_procs(workers, timeout=60)
        assert not left
    finally:
        for process in workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        driver.kill()
        driver.wait()


def test_another_request_replaces_its_split_only(tmp_path: Path) -> None:
    _write(tmp_path)
    _write(tmp_path, split="val")
    _write(tmp_path, count=2)
    for folder, number in (("coco/train2017", 2), ("coco/val2017", 4), ("gqa/images", 6)):
        assert len(list((tmp_path / folder).iterdir())) == number
    refs = pickle.loads((tmp_path / "refcoco/refcoco/refs(unc).p").read_bytes())
    assert len({ref["image_id"] for ref in refs if ref["split"] == "train"}) == 2
    assert len({ref["image_id"] for ref in refs if ref["split"] == "val"}) == 4


def test_questions_are_not_left_behind_when_their_pictures_change(tmp_path: Path) -> None:
    _write(tmp_path, layouts=("vqav2",))
    assert (tmp_path / "coco/train2017/000000000001.jpg").is_file()
    _write(tmp_path, count=2, layouts=("coco",))
    assert _load(tmp_path / "vqav2/scenes_train.json")["complete"] is False


def test_files_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "coco/train2017/000000000001.jpg"
    precious.parent.mkdir(parents=True)
    precious.write_text("a real photograph")
    with pytest.raises(DataError, match="not written by the scene generator") as error:
        _write(tmp_path, layouts=("coco",))
    assert "another output folder" in error.value.remedy
    assert precious.read_text() == "a real photograph"


@pytest.mark.parametrize(
    ("change", "value", "remedy"),
    [
        ({"layouts": ("coco", "vqa2")}, "'vqa2'", "did you mean 'vqav2'?"),
        ({"layouts": ()}, "no layout", "coco, vqav2"),
        ({"split": "valid"}, "'valid'", "did you mean 'val'?"),
        ({"count": 0}, "count=0", "count=1000"),
        ({"family": "hrad"}, "'hrad'", "did you mean 'hard'?"),
    ],
)
def test_impossible_requests_write_nothing(tmp_path: Path, change: dict[str, Any], value: str, remedy: str) -> None:
    request = {"split": "train", "count": 4, "seed": 1, "family": "plain", "layouts": ("coco",)} | change
    with pytest.raises(ConfigError) as error:
        write_scenes(tmp_path, **request)
    assert value in error.value.problem and remedy in error.value.remedy
    assert not list(tmp_path.iterdir())


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "--out",
        str(tmp_path / "out"),
        "--count",
        "3",
        "--processes",
        "1",
        "--layouts",
        "coco,imagenet",
    ]
    assert main([*arguments, "--preview", str(tmp_path / "sheet.png")]) == 0
    said = capsys.readouterr().out
    assert "3 scenes" in said and "scenes/s" in said and "imagenet.data 3" in said
    assert Image.open(tmp_path / "sheet.png").size == (1280, 256)
    assert main([*arguments, "--family", "plane"]) == 2
    assert "did you mean 'plain'?" in capsys.readouterr().out
