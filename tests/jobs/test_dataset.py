"""The training data through Ray is exactly the plan: for any number of workers, from any step, bad rows in their place."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ray_jobs.ray_data import MAX_BLOCK_BYTES, setok_error
from ray_jobs.training.batches import TrainingBatches, local_batches, worker_batches
from ray_jobs.training.dataset import check_block_size, planned_dataset, training_dataset
from ray_jobs.training.decoding import DataSpec, ImageDecoder
from setok.batch import ImageTextBatch
from setok.config import TrainConfig, build
from setok.data.collate import rows_to_batch
from setok.data.plan import Plan
from setok.data.schema import EncodedImage, Manifest, Record
from setok.data.shards import write_shard
from setok.errors import ConfigError, DataError, TrainingError

ROWS = (23, 9)
BAD = 4
"""Row of the first set whose picture is junk."""
SIZE, STEPS, GLOBAL_BATCH = 16, 11, 24


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 18), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def write_set(folder: Path, source: int, *, bad: tuple[int, ...] = ()) -> str:
    folder.mkdir()
    records = [
        Record(
            id=f"{source}/{row}",
            source="test",
            images=[EncodedImage(data=b"junk" if row in bad else png(100 * source + row))],
            concepts=[f"c{row}"],
        )
        for row in range(ROWS[source])
    ]
    half = len(records) // 2
    shards = [
        write_shard(folder / f"shard-{i}.parquet", part, rows_per_row_group=4)
        for i, part in enumerate((records[:half], records[half:]))
    ]
    Manifest(
        shards=[shard for shard in shards if shard], records_by_source={"test": len(records)}, quarantined_by_reason={}
    ).save(folder)
    return str(folder)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("sets")
    return [write_set(root / "a", 0, bad=(BAD,)), write_set(root / "b", 1)]


MIXTURES: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "weights": ({}, {}),
    "caps": ({"max_samples": 10}, {"max_epochs": 3}),
}
"""Caps of the two sets; in the second mixture the second set leaves within the run."""


def train_config(
    folders: list[str], *, num_workers: int | list[int], mixture: str = "weights", **changes: Any
) -> TrainConfig:
    tree: dict[str, Any] = {
        "name": "test",
        "seed": 3,
        "model": {"image_size": SIZE},
        "data": {
            "train": [
                {"path": folder, "weight": weight} | caps
                for folder, weight, caps in zip(folders, (2.0, 1.0), MIXTURES[mixture], strict=True)
            ],
            "steps_per_block": 3,
            "decode_workers": 2,
            "decode_cpus": 0.25,
            "max_bad_fraction": 1.0,
        },
        "train": {"steps": STEPS, "global_batch_size": GLOBAL_BATCH, "micro_batch_size": 2},
        "scaling": {"num_workers": num_workers},
    }
    tree["data"] |= changes.pop("data", {})
    return build(TrainConfig, tree | changes)


def expected_ids(start_step: int, mixture: str = "weights") -> list[list[str]]:
    """Ids of every global batch from the plan alone."""
    caps = [[entry.get(name) for entry in MIXTURES[mixture]] for name in ("max_samples", "max_epochs")]
    source, row, _ = Plan(3, ROWS, [2.0, 1.0], *caps).samples(start_step * GLOBAL_BATCH, STEPS * GLOBAL_BATCH)
    ids = [f"{s}/{r}" for s, r in zip(source.tolist(), row.tolist(), strict=True)]
    return [ids[at : at + GLOBAL_BATCH] for at in range(0, len(ids), GLOBAL_BATCH)]


def assert_decoded(batch: ImageTextBatch) -> None:
    for index, name in enumerate(batch.ids):
        source, row = map(int, name.split("/"))
        bad = (source, row) == (0, BAD)
        assert bool(batch.valid[index]) is not bad
        assert batch.pixel_values[index, 0].unique().tolist() == [0 if bad else 100 * source + row]
        assert batch.concepts[index] == (f"c{row}",)


def collect(streams: list[TrainingBatches[ImageTextBatch]]) -> list[list[list[ImageTextBatch]]]:
    """Steps of every rank, read at the same time as ranks do."""
    steps: list[list[list[ImageTextBatch]]] = [[] for _ in streams]
    threads = [
        threading.Thread(target=lambda rank=rank, stream=stream: steps[rank].extend(stream))
        for rank, stream in enumerate(streams)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=400)
    return steps


@pytest.mark.parametrize(
    ("num_workers", "start_step", "mixture"),
    [(1, 5, "weights"), (2, 0, "weights"), (3, 0, "caps"), (4, 7, "caps"), (2, 10, "caps")],
)
@pytest.mark.usefixtures("ray_local")
def test_ranks_get_the_plan(folders: list[str], num_workers: int, start_step: int, mixture: str) -> None:
    config = train_config(folders, num_workers=num_workers, mixture=mixture)
    dataset = training_dataset(config, start_step=start_step, num_workers=num_workers)
    shards = dataset.streaming_split(num_workers, equal=True)
    streams = [worker_batches(shard, config, rank=rank, start_step=start_step) for rank, shard in enumerate(shards)]
    ranks = collect(streams)
    expected = expected_ids(start_step, mixture)
    assert [len(steps) for steps in ranks] == [STEPS - start_step] * num_workers
    for at, ids in enumerate(expected):
        batches = [batch for steps in ranks for batch in steps[at]]
        assert len(batches) == num_workers * config.gradient_accumulation_steps
        assert [name for batch in batches for name in batch.ids] == ids
        for batch in batches:
            assert_decoded(batch)
    bad = sum(ids.count(f"0/{BAD}") for ids in expected)
    assert bad > 0 or mixture == "caps"
    assert sum(stream.num_bad for stream in streams) == bad
    assert all(stream.wait_seconds > 0 for stream in streams)


@pytest.mark.parametrize(("size", "micro", "num_workers"), [(10, 4, 1), (10, 4, 2), (7, 2, 3)])
@pytest.mark.usefixtures("ray_local")
def test_what_does_not_come_out_even_is_filled_up(folders: list[str], size: int, micro: int, num_workers: int) -> None:
    sizes = {"steps": STEPS, "global_batch_size": size, "micro_batch_size": micro}
    asked = train_config(folders, num_workers=[1, 3], train=sizes)
    config = asked.with_workers(num_workers)
    spec = replace(DataSpec.of(asked, start_step=2, num_workers=1), num_workers=num_workers)
    shards = planned_dataset(spec, config.data).streaming_split(num_workers, equal=True)
    streams = [worker_batches(shard, config, rank=rank, start_step=2) for rank, shard in enumerate(shards)]
    source, row, _ = Plan(3, ROWS, [2.0, 1.0]).samples(2 * size, STEPS * size)
    expected = [f"{s}/{r}" for s, r in zip(source.tolist(), row.tolist(), strict=True)]
    got, padding = [], 0
    ranks = collect(streams)
    assert [len(steps) for steps in ranks] == [STEPS - 2] * num_workers
    for at in range(STEPS - 2):
        for batch in (batch for steps in ranks for batch in steps[at]):
            real = [number for number, name in enumerate(batch.ids) if name]
            assert len(batch) == micro
            got += [batch.ids[number] for number in real]
            blank = [number for number in range(micro) if number not in real]
            padding += len(blank)
            assert not batch.valid[blank].any() and not batch.pixel_values[blank].any()
    assert got == expected
    assert padding == (STEPS - 2) * (num_workers * config.gradient_accumulation_steps * micro - size) > 0
    assert sum(stream.num_samples for stream in streams) == len(expected), "padding is not counted as samples"
    assert sum(stream.num_bad for stream in streams) == expected.count(f"0/{BAD}") > 0


def test_a_cap_is_reached_within_the_run_of_these_tests() -> None:
    ids = [name for step in expected_ids(0, "caps") for name in step]
    assert sum(name.startswith("1/") for name in ids) == 3 * ROWS[1]
    assert len({name for name in ids if name.startswith("0/")}) == 10
    assert not any(name.startswith("1/") for name in ids[len(ids) // 2 :])


def test_more_steps_than_capped_sets_have_samples_for(folders: list[str]) -> None:
    config = train_config(folders, num_workers=0)
    capped = [entry.model_copy(update={"max_epochs": 2}) for entry in config.data.train]
    config = config.model_copy(update={"data": config.data.model_copy(update={"train": tuple(capped)})})
    with pytest.raises(ConfigError, match=r"train.steps=11 of 24 need more.*2 steps\n.*--set train.steps=2"):
        local_batches(config, start_step=0)


def test_random_views_are_the_same_for_any_number_of_workers(folders: list[str]) -> None:
    augment = {"scale": [0.2, 0.6], "color_jitter": 0.5}

    def pixels(num_workers: int) -> dict[int, np.ndarray]:
        config = train_config(folders, num_workers=num_workers, data={"augment": augment})
        spec = DataSpec.of(config, start_step=2, num_workers=num_workers)
        blocks = [ImageDecoder(spec).block(number) for number in reversed(range(spec.num_blocks))]
        return {
            int(position): picture
            for block in blocks
            for position, picture in zip(block["position"], block["pixels"], strict=True)
        }

    one, three = pixels(1), pixels(3)
    assert len(one) == (STEPS - 2) * GLOBAL_BATCH
    assert one.keys() == three.keys()
    assert all((one[key] == three[key]).all() for key in one)
    plain = DataSpec.of(train_config(folders, num_workers=1), start_step=2, num_workers=1)
    assert any((ImageDecoder(plain).block(0)["pixels"][i] != one[2 * GLOBAL_BATCH + i]).any() for i in range(8))


@pytest.mark.usefixtures("ray_local")
def test_past_the_last_step_there_is_nothing(folders: list[str]) -> None:
    dataset = training_dataset(train_config(folders, num_workers=2), start_step=STEPS, num_workers=2)
    assert [row for batch in dataset.iter_batches(batch_format="numpy") for row in batch["id"]] == []


@pytest.mark.usefixtures("ray_local")
def test_an_error_in_a_data_worker_arrives_as_itself(folders: list[str], tmp_path: Path) -> None:
    other = write_set(tmp_path / "a", 0)
    config = train_config([other, folders[1]], num_workers=1)
    dataset = training_dataset(config, start_step=0, num_workers=1)
    for path in Path(other).glob("*.parquet"):
        path.unlink()
    stream = worker_batches(dataset.streaming_split(1)[0], config, rank=0, start_step=0)
    with pytest.raises(DataError, match=r"shard-0.parquet is missing"):
        next(iter(stream))


@pytest.mark.usefixtures("ray_local")
def test_settings_of_the_dataset(folders: list[str]) -> None:
    context = training_dataset(train_config(folders, num_workers=1), start_step=0, num_workers=1).context
    assert context.execution_options.preserve_order
    assert context.execution_no_progress_timeout_s == -1
    assert context.max_errored_blocks == 0


# ---------------------------------------------------------------- without Ray


@pytest.mark.parametrize("start_step", [0, 5])
def test_local_batches_are_the_plan(folders: list[str], start_step: int) -> None:
    config = train_config(folders, num_workers=0)
    stream = local_batches(config, start_step=start_step)
    steps = list(stream)
    assert [[name for batch in step for name in batch.ids] for step in steps] == expected_ids(start_step)
    assert {len(step) for step in steps} == {GLOBAL_BATCH // 2}
    for step in steps:
        for batch in step:
            assert_decoded(batch)
    assert stream.num_samples == len(steps) * GLOBAL_BATCH


def test_local_batches_stop_reading_when_closed(folders: list[str]) -> None:
    stream = local_batches(train_config(folders, num_workers=0), start_step=0)
    next(iter(stream))
    reader = next(thread for thread in threading.enumerate() if thread.name == "read-ahead")
    stream.close()
    reader.join(timeout=10)
    assert not reader.is_alive()


def test_local_errors_reach_the_loop(folders: list[str], tmp_path: Path) -> None:
    other = write_set(tmp_path / "a", 0)
    for path in Path(other).glob("*.parquet"):
        path.write_bytes(bytes(path.stat().st_size))
    stream = local_batches(train_config([other, folders[1]], num_workers=0), start_step=0)
    with pytest.raises(DataError, match=r"shard-\d.parquet cannot be read"):
        list(stream)
    with pytest.raises(DataError, match="does not exist"):
        local_batches(train_config(["nowhere", folders[1]], num_workers=0), start_step=0)


def columns(positions: np.ndarray, *, valid: bool = True) -> dict[str, Any]:
    return {
        "pixels": np.zeros((len(positions), 3, SIZE, SIZE), np.uint8),
        "valid": np.full(len(positions), valid),
        "concepts": ["[]"] * len(positions),
        "id": [f"id{p}" for p in positions],
        "error": [""] * len(positions) if valid else ["empty file: zero bytes"] * len(positions),
        "position": positions,
        "global_step": positions // GLOBAL_BATCH,
    }


@pytest.mark.parametrize(
    ("positions", "found"),
    [([24, 25], r"step \[1\]"), ([2, 3], r"positions \[2, 3\]"), ([0], r"positions \[0\]… \(1\)")],
)
def test_data_that_is_not_where_the_loop_is(folders: list[str], positions: list[int], found: str) -> None:
    config = train_config(folders, num_workers=0)
    stream = TrainingBatches([columns(np.array(positions))], config, rows_to_batch, rank=0, start_step=0)
    with pytest.raises(TrainingError, match=r"rank 0 expected step 0, positions 0 to 1, and the data gave " + found):
        next(iter(stream))


def test_data_that_ends_early(folders: list[str]) -> None:
    stream = TrainingBatches([], train_config(folders, num_workers=0), rows_to_batch, rank=0, start_step=4)
    with pytest.raises(TrainingError, match="the data ended at step 4 of 11"):
        next(iter(stream))


def test_too_many_bad_samples(folders: list[str]) -> None:
    config = train_config(folders, num_workers=0, data={"max_bad_fraction": 0.1})
    config = config.model_copy(update={"train": config.train.model_copy(update={"steps": 100})})

    def stream() -> Iterator[dict[str, Any]]:
        for at in range(0, 100 * GLOBAL_BATCH, 2):
            yield columns(np.arange(at, at + 2), valid=at >= 40)

    batches = TrainingBatches(stream(), config, rows_to_batch, rank=0, start_step=0)
    with pytest.raises(
        DataError, match=r"40 of 200 samples.*max_bad_fraction=0.1 allows 10%; the first: id0: empty file.*id2: "
    ):
        list(batches)
    assert batches.num_samples == 200


def test_blocks_that_ray_would_cut(folders: list[str]) -> None:
    config = train_config(folders, num_workers=1, model={"image_size": 1024}, data={"steps_per_block": 16})
    with pytest.raises(ConfigError, match=r"steps_per_block=16.*\n.*--set data.steps_per_block=1"):
        check_block_size(config, num_workers=1)
    check_block_size(
        config.model_copy(update={"data": config.data.model_copy(update={"steps_per_block": 1})}), num_workers=1
    )
    assert GLOBAL_BATCH * (3 * 1024**2 + 2048) <= MAX_BLOCK_BYTES
    huge = train_config(folders, num_workers=1, model={"image_size": 4096}, data={"steps_per_block": 1})
    with pytest.raises(ConfigError, match="even one step is too large"):
        check_block_size(huge, num_workers=1)


def test_the_cause_of_an_error() -> None:
    inner = DataError("what", "do")
    outer = RuntimeError("wrapped")
    outer.__cause__ = inner
    found = setok_error(outer)
    assert isinstance(found, DataError)
    assert str(found) == "what\n  → do"
    assert setok_error(RuntimeError("bare")) is None
