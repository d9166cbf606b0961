"""Records that are longer than a row: refused before a run starts, or left out and told."""

from __future__ import annotations

import logging
import re
from pathlib import Path

import numpy as np
import pytest

from ray_jobs.training.batches import packed_local_batches
from ray_jobs.training.sequences import collate_of, packing_of
from setok.config import SequenceConfig, TrainConfig
from setok.data.lengths import stored_lengths
from setok.data.word_tokenizer import build_word_tokenizer, texts_of_set
from setok.errors import DataError
from tests.setokim_runs import config_of
from tests.squares import write_set


def run_of(folder: Path, **sequence: object) -> TrainConfig:
    if not (folder / "set").exists():
        write_set(folder / "set")
        build_word_tokenizer(texts_of_set(folder / "set"), folder / "words")
    settings = {"max_length": 96, "max_image_tokens": 6, "instructions": "none", "chat": {"template": "plain"}}
    return config_of(
        folder / "words",
        sequence=settings | sequence,
        data={"train": [{"path": str(folder / "set")}], "max_bad_fraction": 0.0},
        train={"steps": 60, "global_batch_size": 4, "micro_batch_size": 4},
    )


def lengths_of(folder: Path) -> np.ndarray:
    packing = packing_of(run_of(folder))
    assert packing is not None
    lengths = stored_lengths(folder / "set", packing.lengths_key)
    assert lengths is not None
    return lengths


def test_they_are_refused_with_by_how_much_and_what_to_change(tmp_path: Path) -> None:
    lengths = lengths_of(tmp_path)
    limit, longest = int(np.sort(lengths)[len(lengths) // 2]), int(lengths.max())
    number = int((lengths > limit).sum())
    assert 0 < number < len(lengths)
    with pytest.raises(DataError) as caught:
        packing_of(run_of(tmp_path, max_length=limit))
    assert f"{number} of the {len(lengths)} records" in caught.value.problem
    assert f"has {longest} tokens" in caught.value.problem
    assert f"{longest - limit} too many" in caught.value.problem
    assert f"sequence.max_length={longest}, or " in caught.value.remedy
    assert "sequence.too_long=skip" in caught.value.remedy
    packing_of(run_of(tmp_path, max_length=longest))


def test_left_out_they_are_counted_and_nothing_is_bad(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lengths = lengths_of(tmp_path)
    limit = int(np.sort(lengths)[len(lengths) // 2])
    config = run_of(tmp_path, max_length=limit, too_long="skip")
    with caplog.at_level(logging.WARNING):
        packing = packing_of(config)
    assert packing is not None
    assert f"{(lengths > limit).sum()} of the {len(lengths)} records" in caplog.text
    assert "left out" in caplog.text
    batches = packed_local_batches(config, packing, collate_of(config), start_step=0)
    ids = {name for step in batches for batch in step for row in batch.ids for name in row}
    assert batches.num_bad == 0
    assert len(ids) == len(lengths)


def test_there_must_be_something_left(tmp_path: Path) -> None:
    lengths_of(tmp_path)
    with pytest.raises(DataError, match=re.escape("max_length=12")) as caught:
        packing_of(run_of(tmp_path, max_length=12, too_long="skip"))
    assert "skip" not in caught.value.remedy


def test_the_setting_does_not_measure_again(tmp_path: Path) -> None:
    keys = [packing_of(run_of(tmp_path, too_long=choice)) for choice in ("refuse", "skip")]
    assert keys[0] and keys[1] and keys[0].lengths_key == keys[1].lengths_key
    assert SequenceConfig().too_long == "refuse"
