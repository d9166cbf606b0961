"""Our model in lmms-eval itself, on tasks of local files: the figures are those of ``Predictor`` on the same records.

``make test-eval`` builds an environment where lmms-eval is; elsewhere this is skipped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from setok.data.schema import Manifest, Record, Turn
from setok.data.shards import ShardReader, write_shard
from setok.data.word_tokenizer import texts_of_set
from setok.errors import ConfigError
from setok.metrics.answers import answer_accuracy
from setok.models.generation import GenerationOptions
from setok.predictor import Predictor
from setok.predictor.exercises import questions_of
from tests import source_files
from tests.setokim_runs import write_run

pytest.importorskip("lmms_eval", reason="lmms-eval is not installed here: make test-eval")

NUM_PICTURES = 4
COMMON = """
dataset_path: parquet
dataset_kwargs: {{data_files: {{test: "{shard}"}}}}
test_split: test
doc_to_visual: !function utils.pictures
doc_to_target: !function utils.target
generation_kwargs: {{max_new_tokens: 4, until: ["."]}}
"""
SCORED = """
process_results: !function utils.score
metric_list: [{metric: accuracy, aggregation: mean, higher_is_better: true}]
"""
TASKS = {
    "scenes_vqa": "output_type: generate_until\ndoc_to_text: !function utils.question" + SCORED,
    "scenes_turns": "output_type: generate_until\ndoc_to_messages: !function utils.turns\ndoc_to_text: x" + SCORED,
    "scenes_rounds": "output_type: generate_until_multi_round\ndoc_to_text: !function utils.rounds" + SCORED,
    "scenes_choices": "output_type: multiple_choice\ndoc_to_text: !function utils.question\n"
    "doc_to_choice: !function utils.choices\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
}
UTILS = """
import io
from PIL import Image
from setok.metrics.answers import answer_accuracy
from setok.models.generation import GenerationOptions

def pictures(doc):
    return [Image.open(io.BytesIO(image["data"])).convert("RGB") for image in doc["images"]]

def question(doc):
    return doc["conversation"][0]["text"].replace("<image>", "").strip()

def target(doc):
    return doc["answers"][0]

def choices(doc):
    return [doc["answers"][0], "no", "yes yes yes"]

def turns(doc):
    picture = {"type": "image", "url": pictures(doc)[0]}
    first = {"role": "user", "content": [picture, {"type": "text", "text": question(doc)}]}
    said = {"role": "assistant", "content": [{"type": "text", "text": "no"}]}
    return [first, said, {"role": "user", "content": [{"type": "text", "text": "how many objects?"}]}]

def rounds(doc, lmms_eval_specific_kwargs=None, round_idx=None, previous_output=None, previous_round_info=None):
    if round_idx is None:
        return question(doc)
    return None, previous_output[-1] + " ?", round_idx == 2, previous_output, {"seen": round_idx}

def score(doc, results):
    said = results[0][-1] if isinstance(results[0], list) else results[0]
    return {"accuracy": answer_accuracy(said, doc["answers"])}
"""


@dataclass(frozen=True, kw_only=True)
class World:
    """A model, a set that it half knows, and tasks on it."""

    run: Path
    tasks: Path
    records: list[Record]
    predictor: Predictor


def write_set(folder: Path, records: list[Record]) -> Path:
    folder.mkdir(parents=True)
    shard = write_shard(folder / "shard.parquet", records)
    assert shard is not None
    Manifest(shards=[shard], records_by_source={"s": len(records)}, quarantined_by_reason={}).save(folder)
    return folder


def read_records(folder: Path) -> list[Record]:
    reader = ShardReader(str(folder))
    return [Record.from_row(row) for row in reader.take(np.arange(reader.num_rows)).to_pylist()]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Generated scenes with questions. Of every second question the answer is what the model says, so that half are right."""
    folder = tmp_path_factory.mktemp("world")
    scenes = [sys.executable, "-m", "setok.data.scenes", "--out", str(folder), "--split", "test", "--seed", "1"]
    subprocess.run([*scenes, "--count", str(NUM_PICTURES), "--layouts", "vqav2"], check=True, capture_output=True)
    read = source_files.read("vqav2", folder / "vqav2", split="test", images=str(folder / "coco"))
    found = [record for record in read if isinstance(record, Record)]
    assert len(found) == len(read) > NUM_PICTURES
    asked = write_set(folder / "asked", found)
    run = write_run(folder, " ".join(texts_of_set(asked)), sequence__max_length=160)
    predictor = Predictor.from_pretrained(run, batch_size=4)
    said = plain_answers(predictor, found)
    assert all(said)
    records = [replace(r, answers=[said[n]] * 10) if n % 2 else r for n, r in enumerate(found)]
    shard = write_set(folder / "set", records) / "shard.parquet"
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "utils.py").write_text(UTILS)
    for name, text in TASKS.items():
        (tasks / f"{name}.yaml").write_text(f"task: {name}\n{COMMON.format(shard=shard)}{text}")
    return World(run=run, tasks=tasks, records=read_records(folder / "set"), predictor=predictor)


def plain_answers(predictor: Predictor, records: list[Record]) -> list[str]:
    asked = [questions_of(record, "vqa", predictor.sequence)[0] for record in records]
    pictures = [
        [record.images[number].data for number in one.images] for one, record in zip(asked, records, strict=True)
    ]
    replies = predictor.ask(asked, pictures, options=GenerationOptions(max_new_tokens=4))
    return [reply.text.partition(".")[0].strip() for reply in replies]


def offline(folder: Path) -> dict[str, str]:
    """The environment of a process that finds all it needs on this computer."""
    switches = {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HOME": str(folder),
        "TOKENIZERS_PARALLELISM": "false",
    }
    return os.environ | switches | {"PYTHONPATH": str(Path(__file__).parents[2])}


def run_command(world: World, folder: Path, tasks: str, *more: str) -> dict[str, Any]:
    """The results of the command that people type, and its samples by task."""
    command = [sys.executable, "-m", "lmms_eval", "--model", "setokim", "--tasks", tasks, *more]
    command += ["--model_args", f"pretrained={world.run},batch_size=3", "--include_path", str(world.tasks)]
    command += ["--output_path", str(folder / "out"), "--log_samples"]
    done = subprocess.run(
        command, env=offline(folder / "home"), capture_output=True, text=True, timeout=240, cwd=folder
    )
    files = list((folder / "out").rglob("*_results.json"))
    assert done.returncode == 0 and len(files) == 1, done.stdout[-3000:] + done.stderr[-3000:]
    file = files[0]
    samples = {
        task: sorted(
            map(json.loads, next(file.parent.glob(f"*_samples_{task}.jsonl")).open()), key=lambda s: s["doc_id"]
        )
        for task in tasks.split(",")
    }
    return {"results": json.loads(file.read_text())["results"], "samples": samples}


def test_messages_give_the_figures_of_the_predictor(world: World, tmp_path: Path) -> None:
    found = run_command(world, tmp_path, "scenes_vqa,scenes_turns,scenes_rounds")
    expected = plain_answers(world.predictor, world.records)
    assert [sample["filtered_resps"].strip() for sample in found["samples"]["scenes_vqa"]] == expected
    marks = [answer_accuracy(said, record.answers) for said, record in zip(expected, world.records, strict=True)]
    assert 0.4 < float(np.mean(marks)) < 1
    assert found["results"]["scenes_vqa"]["accuracy,none"] == pytest.approx(np.mean(marks))

    turns = [
        [*r.conversation[:1], Turn(role="assistant", text="no"), Turn(role="user", text="how many objects?")]
        for r in world.records
    ]
    pictures = [[image.data for image in record.images] for record in world.records]
    options = GenerationOptions(mode="text", max_new_tokens=4)
    replies = world.predictor.chat(turns, pictures, options=options)
    expected = [reply.text.partition(".")[0].strip() for reply in replies]
    assert [sample["filtered_resps"].strip() for sample in found["samples"]["scenes_turns"]] == expected

    for sample in found["samples"]["scenes_rounds"]:
        said = sample["filtered_resps"]
        assert len(said) == 2, "a round, one more that repeats what was said, and the end"
        again = [Turn(role="user", text=f"{said[0]} ?")]
        assert said[1] == world.predictor.chat([again], options=options)[0].text.partition(".")[0]


def test_choices_are_compared_by_their_likelihood(world: World, tmp_path: Path) -> None:
    found = run_command(world, tmp_path, "scenes_vqa,scenes_choices", "--force_simple")
    expected = plain_answers(world.predictor, world.records)
    assert [sample["filtered_resps"].strip() for sample in found["samples"]["scenes_vqa"]] == expected
    right = []
    for sample, record in zip(found["samples"]["scenes_choices"], world.records, strict=True):
        choices = [record.answers[0], "no", "yes yes yes"]
        own = [[image.data for image in record.images]] * len(choices)
        known = world.predictor.likelihoods([record.conversation[:1]] * len(choices), choices, own)
        for given, one in zip(sample["filtered_resps"], known, strict=True):
            assert -float(given[0]) == pytest.approx(one.log_probability, abs=1e-4)
            assert given[1] == str(one.is_greedy)
        best = max(range(len(choices)), key=lambda number: known[number].log_probability)
        right.append(choices[best] == record.answers[0])
    assert sum(right) > 0
    assert found["results"]["scenes_choices"]["acc,none"] == pytest.approx(np.mean(right))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("pretrained=x,batch_sise=4", r"batch_sise(.|\n)*did you mean 'batch_size'"),
        ("batch_size=4", r"pretrained=runs/NAME"),
        ("pretrained=x,batch_size=auto", r"batch_size='auto'"),
    ],
)
def test_arguments_that_are_wrong(arguments: str, message: str) -> None:
    from setok.lmms_eval.models import SetokimChat

    with pytest.raises(ConfigError, match=message):
        SetokimChat.create_from_arg_string(arguments, {"batch_size": 1, "device": None})


def test_arguments_of_the_model_go_before_those_of_the_command(world: World) -> None:
    from setok.lmms_eval.models import SetokimChat

    model = SetokimChat.create_from_arg_string(
        f"pretrained={world.run},batch_size=5", {"batch_size": "1", "device": "cpu"}
    )
    assert (model.batch_size, model.device.type, model.rank) == (5, "cpu", 0)
