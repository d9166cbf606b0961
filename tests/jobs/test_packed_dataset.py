"""Packed rows through Ray are exactly the packed plan: for any number of workers, from any step, samples in order."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ray_jobs.training.batches import TrainingBatches, packed_local_batches, packed_worker_batches
from ray_jobs.training.dataset import training_dataset
from ray_jobs.training.packs import Packing
from setok.config import AugmentConfig, TrainConfig, build
from setok.data.lengths import measured_lengths
from setok.data.packed_plan import PackedPlan
from setok.data.plan import Plan
from setok.data.schema import EncodedImage, Manifest, Record
from setok.data.shards import write_shard
from setok.errors import ConfigError, DataError
from tests.fake_packs import Fat, Identity

ROWS, WEIGHTS, CAPS = (300, 120), [1.0, 1.0], [None, 4]
BUDGET, STEPS, ROWS_PER_STEP = 100, 9, 24
TOO_LONG = "0/7"


def length_of(record: Record) -> int:
    return len(record.caption)


def write_set(folder: Path, source: int) -> str:
    folder.mkdir()
    sizes = np.clip(np.random.default_rng(source).lognormal(3, 0.8, ROWS[source]), 1, BUDGET).astype(int)
    records = [
        Record(id=f"{source}/{row}", source="test", caption="x" * int(size), images=[EncodedImage(data=b"picture")])
        for row, size in enumerate(sizes)
    ]
    if source == 0:
        records[7] = Record(id=TOO_LONG, source="test", caption="x" * (BUDGET + 1))
    shard = write_shard(folder / "shard.parquet", records, rows_per_row_group=16)
    assert shard is not None
    Manifest(shards=[shard], records_by_source={"test": ROWS[source]}, quarantined_by_reason={}).save(folder)
    measured_lengths(folder, "characters", length_of)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("packed")
    return [write_set(root / "a", 0), write_set(root / "b", 1)]


def packing(**changes: Any) -> Packing:
    arguments: dict[str, Any] = {
        "builder": Identity(),
        "budget": BUDGET,
        "lengths_key": "characters",
        "too_long": "mask",
    }
    return Packing(**arguments | changes)


def train_config(folders: list[str], *, num_workers: int | list[int], **changes: Any) -> TrainConfig:
    entries = [
        {"path": folder, "weight": weight, "max_epochs": cap}
        for folder, weight, cap in zip(folders, WEIGHTS, CAPS, strict=True)
    ]
    data = {"train": entries, "steps_per_block": 2, "decode_workers": 2, "decode_cpus": 0.25, "max_bad_fraction": 1.0}
    tree = {
        "name": "test",
        "seed": 5,
        "data": data,
        "train": {"steps": STEPS, "global_batch_size": ROWS_PER_STEP, "micro_batch_size": 2},
        "scaling": {"num_workers": num_workers},
    }
    return build(TrainConfig, tree | changes)


def expected_packs(folders: list[str], start_step: int) -> list[list[list[str]]]:
    """Ids in every pack of every step, from the plan alone."""
    lengths = [measured_lengths(folder, "characters", length_of) for folder in folders]
    plan = Plan(5, ROWS, WEIGHTS, max_epochs=CAPS)
    packs = PackedPlan(plan, lengths, budget=BUDGET, rows_per_step=ROWS_PER_STEP, too_long="mask")
    steps = []
    for step in range(start_step, STEPS):
        positions, starts = packs.packs(step * ROWS_PER_STEP, (step + 1) * ROWS_PER_STEP)
        source, row, _ = plan.samples_at(positions)
        ids = [f"{s}/{r}" for s, r in zip(source.tolist(), row.tolist(), strict=True)]
        steps.append([ids[a:b] for a, b in pairwise(starts.tolist())])
    return steps


def collate(columns: Mapping[str, Any]) -> list[list[str]]:
    for ids, payload, errors in zip(columns["id"], columns["payload"], columns["error"], strict=True):
        masked = [bool(error) for error in json.loads(errors)]
        assert masked == [name == TOO_LONG for name in json.loads(ids)]
        assert len(payload) - (BUDGET + 1) * sum(masked) + sum(masked) <= BUDGET
    return [json.loads(ids) for ids in columns["id"]]


def run(streams: list[TrainingBatches[list[list[str]]]]) -> list[list[list[list[str]]]]:
    """For every step the packs of all ranks, read at the same time as ranks do."""
    ranks: list[list[list[list[list[str]]]]] = [[] for _ in streams]
    threads = [
        threading.Thread(target=lambda rank=rank, stream=stream: ranks[rank].extend(stream))
        for rank, stream in enumerate(streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=400)
    return [[pack for step in steps for micro in step for pack in micro] for steps in zip(*ranks, strict=True)]


@pytest.mark.parametrize(("num_workers", "start_step"), [(1, 0), (2, 3), (3, 0), (4, 5)])
@pytest.mark.usefixtures("ray_local")
def test_ranks_get_the_packed_plan(folders: list[str], num_workers: int, start_step: int) -> None:
    config = train_config(folders, num_workers=num_workers)
    dataset = training_dataset(config, start_step=start_step, num_workers=num_workers, packing=packing())
    assert dataset.context.target_max_block_size is None
    shards = dataset.streaming_split(num_workers, equal=True)
    streams = [
        packed_worker_batches(shard, config, collate, rank=rank, start_step=start_step)
        for rank, shard in enumerate(shards)
    ]
    expected = expected_packs(folders, start_step)
    assert run(streams) == expected
    assert sum(stream.num_samples for stream in streams) == sum(len(pack) for step in expected for pack in step)
    bad = sum(pack.count(TOO_LONG) for step in expected for pack in step)
    assert sum(stream.num_bad for stream in streams) == bad


@pytest.mark.parametrize("start_step", [0, 4])
def test_without_ray(folders: list[str], start_step: int) -> None:
    stream = packed_local_batches(train_config(folders, num_workers=0), packing(), collate, start_step=start_step)
    assert run([stream]) == expected_packs(folders, start_step)


@pytest.mark.usefixtures("ray_local")
def test_large_blocks_are_not_cut(folders: list[str]) -> None:
    train = {"steps": 4, "global_batch_size": ROWS_PER_STEP, "micro_batch_size": 2}
    config = train_config(folders, num_workers=2, train=train)  # blocks of 24 rows, 168 MiB
    dataset = training_dataset(config, start_step=0, num_workers=2, packing=packing(builder=Fat()))
    shards = dataset.streaming_split(2, equal=True)

    def ids(columns: Mapping[str, Any]) -> list[list[str]]:
        return [json.loads(row) for row in columns["id"]]

    streams = [packed_worker_batches(shard, config, ids, rank=rank, start_step=0) for rank, shard in enumerate(shards)]
    assert run(streams) == expected_packs(folders, 0)[:4]


def test_what_stops_a_packed_run_at_its_start(folders: list[str]) -> None:
    config = train_config(folders, num_workers=0)
    with pytest.raises(DataError, match=rf"{TOO_LONG} in .* is too long: row 7 of source 0 has 101 tokens.*100"):
        packed_local_batches(config, packing(too_long="error"), collate, start_step=0)
    with pytest.raises(DataError, match=r"the lengths of .* were not measured"):
        packed_local_batches(config, packing(lengths_key="words"), collate, start_step=0)
    augmented = config.data.model_copy(update={"augment": AugmentConfig()})
    with pytest.raises(ConfigError, match=r"data\.augment is set, and this run learns from texts"):
        packed_local_batches(config.model_copy(update={"data": augmented}), packing(), collate, start_step=0)
    capped = [entry.model_copy(update={"max_epochs": 1}) for entry in config.data.train]
    config = config.model_copy(update={"data": config.data.model_copy(update={"train": tuple(capped)})})
    with pytest.raises(ConfigError, match=r"train.steps=9 of 24 need more.*last for (\d) steps\n.*train.steps=\1"):
        packed_local_batches(config, packing(), collate, start_step=0)


def test_too_many_bad_samples_in_packs(folders: list[str]) -> None:
    config = train_config(folders, num_workers=0)
    config = config.model_copy(update={"data": config.data.model_copy(update={"max_bad_fraction": 0.1})})

    def rows() -> Any:
        for at in range(0, STEPS * ROWS_PER_STEP, 2):
            numbers = np.arange(at, at + 2)
            yield {
                "id": [json.dumps([f"{n}a", f"{n}b"]) for n in numbers],
                "error": [json.dumps(["", "empty file" if n < 50 else ""]) for n in numbers],
                "position": numbers,
                "global_step": numbers // ROWS_PER_STEP,
            }

    stream = TrainingBatches(rows(), config, lambda columns: columns["id"], rank=0, start_step=0)
    with pytest.raises(DataError, match=r"50 of 200 samples .*; the first: 0b: empty file; 1b: .*; 2b: "):
        list(stream)


@pytest.mark.usefixtures("ray_local")
def test_packs_are_filled_up_with_empty_ones(folders: list[str]) -> None:
    train = {"steps": STEPS, "global_batch_size": 5, "micro_batch_size": 2}
    config = train_config(folders, num_workers=[1, 3], train=train).with_workers(2)
    dataset = training_dataset(config, start_step=1, num_workers=2, packing=packing())
    streams = [
        packed_worker_batches(shard, config, collate, rank=rank, start_step=1)
        for rank, shard in enumerate(dataset.streaming_split(2, equal=True))
    ]
    got = run(streams)
    alone = train_config(folders, num_workers=[1, 3], train=train).with_workers(1)
    expected = [
        [pack for micro in step for pack in micro]
        for step in packed_local_batches(alone, packing(), collate, start_step=1)
    ]
    assert [len(step) for step in got] == [8] * (STEPS - 1)
    assert [len(step) for step in expected] == [6] * (STEPS - 1)
    assert [[p for p in step if p] for step in got] == [[p for p in step if p] for step in expected]
    assert all(len([p for p in step if p]) == 5 for step in got)
