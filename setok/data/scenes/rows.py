"""One generated scene in each of the layouts: its pictures on disk, its rows for the annotation files.

Everything here works on one scene, in worker processes; ``setok.data.scenes.layouts`` gathers the rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from setok.data.scenes.generate import SHAPES
from setok.data.scenes.language import Question, caption, edit_pair, referring_expressions
from setok.data.scenes.samples import STUFF_IDS, Row, Sample, encode_jpeg

NUM_TURNS = 2
"""Edits per MagicBrush session."""
NUM_ANSWERS = 10
Rows = dict[str, list[Row]]


def _coco(sample: Sample, root: Path) -> Rows:
    folder, name = sample.split.coco, f"{sample.image_id:012d}"
    (root / folder / f"{name}.jpg").write_bytes(sample.jpeg)
    picture, segments = _panoptic(sample)
    picture.save(root / "annotations" / f"panoptic_{folder}" / f"{name}.png", compress_level=3)
    return {
        "images": [sample.image_row(f"{name}.jpg", folder)],
        "captions": [{"image_id": sample.image_id, "id": sample.image_id, "caption": caption(sample.scene)}],
        "instances": sample.instances,
        "panoptic": [{"segments_info": segments, "file_name": f"{name}.png", "image_id": sample.image_id}],
    }


def _panoptic(sample: Sample) -> tuple[Image.Image, list[Row]]:
    """The panoptic picture (id = R + 256 G + 256² B) and its segments; an id is category × 256 + number."""
    scene = sample.scene
    background = STUFF_IDS[scene.background]
    categories = [background, *(row["category_id"] for row in sample.instances)]
    ids = np.array([category * 256 + number for number, category in enumerate(categories)])
    coloured = np.stack([ids % 256, ids // 256 % 256, ids // 65536], axis=1).astype(np.uint8)[scene.mask]
    rows, columns = np.nonzero(scene.mask == 0)
    left, top = int(columns.min()), int(rows.min())
    boxes = [[left, top, int(columns.max()) - left + 1, int(rows.max()) - top + 1]]
    boxes += [list(thing.bbox) for thing in scene.objects]
    areas = [len(rows), *(thing.area for thing in scene.objects)]
    segments = [
        {"id": int(segment_id), "category_id": category, "iscrowd": 0, "bbox": box, "area": area}
        for segment_id, category, box, area in zip(ids, categories, boxes, areas, strict=True)
    ]
    return Image.fromarray(coloured), segments


def _vqav2(sample: Sample, root: Path) -> Rows:
    """Rows only: the pictures are those of the ``coco`` layout."""
    asked, annotations = [], []
    for number, question in enumerate(sample.questions):
        question_id = sample.image_id * 100 + number
        asked.append({"image_id": sample.image_id, "question": question.question, "question_id": question_id})
        annotations.append(
            {
                "question_type": question.question_type,
                "multiple_choice_answer": question.answer,
                "answers": [
                    {"answer": question.answer, "answer_confidence": "yes", "answer_id": answer_id}
                    for answer_id in range(1, NUM_ANSWERS + 1)
                ],
                "image_id": sample.image_id,
                "answer_type": question.answer_type,
                "question_id": question_id,
            }
        )
    return {"questions": asked, "annotations": annotations}


# What GQA calls a kind: semantic type, structural type, and the operations after the objects are selected.
_GQA_KINDS: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "colour": ("attr", "query", [("query", "color")]),
    "colours": ("attr", "query", [("query", "colors")]),
    "texture": ("attr", "query", [("query", "pattern")]),
    "shape": ("cat", "query", [("query", "shape")]),
    "count": ("obj", "query", [("count", "?")]),
    "count_shape": ("obj", "query", [("count", "?")]),
    "exists": ("obj", "verify", [("exist", "?")]),
    "left_of": ("rel", "query", [("relate", "_,to the left of,s"), ("query", "name")]),
    "larger": ("attr", "compare", [("choose larger", "")]),
    "background": ("global", "query", [("query", "color")]),
}


def _gqa(sample: Sample, root: Path) -> Rows:
    (root / "images" / f"{sample.image_id}.jpg").write_bytes(sample.jpeg)
    rows = []
    for number, question in enumerate(sample.questions):
        question_id = str(sample.image_id * 100 + number)
        rows.append([question_id, _gqa_row(sample, question, question_id)])
    return {"questions": rows}


def _gqa_row(sample: Sample, question: Question, question_id: str) -> Row:
    semantic, structural, operations = _GQA_KINDS[question.kind]
    selected = question.objects[:1] if question.kind == "left_of" else question.objects
    names = [f"{sample.scene.objects[i].shape} ({sample.annotation_id(i)})" for i in selected] or ["scene (-)"]
    program: list[Row] = [{"operation": "select", "dependencies": [], "argument": name} for name in names]
    depends = list(range(len(program)))
    for operation, argument in operations:
        program.append({"operation": operation, "dependencies": depends, "argument": argument})
        depends = [len(program) - 1]
    words = [word.strip("?,") for word in question.question.split()]
    grounding = {
        str(words.index(sample.scene.objects[i].shape)): str(sample.annotation_id(i))
        for i in selected
        if sample.scene.objects[i].shape in words
    }
    steps = [f"{step['operation']}: {step['argument']} {step['dependencies'] or ''}".strip() for step in program]
    return {
        "semantic": program,
        "entailed": [question_id],
        "equivalent": [question_id],
        "question": question.question.capitalize(),
        "imageId": str(sample.image_id),
        "isBalanced": True,
        "groups": {"global": question.kind, "local": f"{question.kind}-{question.answer}"},
        "answer": question.answer,
        "semanticStr": "->".join(steps),
        "annotations": {"answer": {}, "question": grounding, "fullAnswer": {}},
        "types": {"detailed": question.kind, "semantic": semantic, "structural": structural},
        "fullAnswer": f"{question.answer.capitalize()}.",
    }


REFCOCO_IMAGES = "images/mscoco/images/train2014"


def _refcoco(sample: Sample, root: Path) -> Rows:
    name = f"COCO_train2014_{sample.image_id:012d}"
    (root / REFCOCO_IMAGES / f"{name}.jpg").write_bytes(sample.jpeg)
    texts: dict[int, list[str]] = {}
    for expression in referring_expressions(sample.scene):
        texts.setdefault(expression.object_index, []).append(expression.text)
    refs = []
    for index, sentences in texts.items():
        ref_id = sample.annotation_id(index)
        sent_ids = [ref_id * 10 + number for number in range(len(sentences[:10]))]
        refs.append(
            {
                "sent_ids": sent_ids,
                "file_name": f"{name}_{ref_id}.jpg",
                "ann_id": ref_id,
                "ref_id": ref_id,
                "image_id": sample.image_id,
                "split": sample.split.refcoco,
                "sentences": [
                    {"tokens": text.split(), "raw": text, "sent_id": sent_id, "sent": text}
                    for sent_id, text in zip(sent_ids, sentences, strict=False)
                ],
                "category_id": sample.instances[index]["category_id"],
            }
        )
    return {
        "images": [sample.image_row(f"{name}.jpg", "train2014")],
        "annotations": sample.instances,
        "refs": refs,
    }


def _instructpix2pix(sample: Sample, root: Path) -> Rows:
    name, seed = f"{sample.image_id:07d}", str(sample.image_id)
    folder = root / sample.split.folder / name
    folder.mkdir()
    (folder / "prompt.json").write_text(json.dumps({"edit": sample.edit.instruction}))
    (folder / f"{seed}_0.jpg").write_bytes(sample.jpeg)
    (folder / f"{seed}_1.jpg").write_bytes(encode_jpeg(sample.edit.target.image))
    return {"seeds": [[name, [seed]]]}


def _magicbrush(sample: Sample, root: Path) -> Rows:
    """A session of ``NUM_TURNS`` edits; a mask is the source with the region white and transparent."""
    name = str(sample.image_id)
    folder = root / sample.split.folder / "images" / name
    folder.mkdir()
    source, scene, edit = f"{name}-input.png", sample.scene, sample.edit
    Image.fromarray(scene.image).save(folder / source, compress_level=3)
    turns = []
    for turn in range(1, NUM_TURNS + 1):
        mask, output = f"{name}-mask{turn}.png", f"{name}-output{turn}.png"
        _masked(scene.image, edit.mask).save(folder / mask, compress_level=3)
        Image.fromarray(edit.target.image).save(folder / output, compress_level=3)
        turns.append({"input": source, "mask": mask, "output": output, "instruction": edit.instruction})
        source, scene = output, edit.target
        if turn < NUM_TURNS:
            edit = edit_pair(scene)
    return {"sessions": [[name, turns]]}


def _masked(image: UInt8[np.ndarray, "size size 3"], mask: Bool[np.ndarray, "size size"]) -> Image.Image:
    rgba = np.dstack([image, np.full(mask.shape, 255, np.uint8)])
    rgba[mask] = (255, 255, 255, 0)
    return Image.fromarray(rgba)


def _imagenet(sample: Sample, root: Path) -> Rows:
    """The class is the shape of the object that shows most."""
    name = f"SCENES_{sample.split.folder}_{sample.image_id:08d}.JPEG"
    (root / sample.split.folder / "images" / name).write_bytes(sample.jpeg)
    shape = max(sample.scene.objects, key=lambda thing: thing.area).shape
    label = SHAPES.index(shape)
    return {"data": [{"image": name, "label": label, "synset": f"n9{label:07d}", "class_name": shape}]}


WRITE_SCENE: dict[str, Callable[[Sample, Path], Rows]] = {
    "coco": _coco,
    "vqav2": _vqav2,
    "gqa": _gqa,
    "refcoco": _refcoco,
    "instructpix2pix": _instructpix2pix,
    "magicbrush": _magicbrush,
    "imagenet": _imagenet,
}
"""Layout to the function that writes a scene's pictures below the layout's root and returns its rows."""
