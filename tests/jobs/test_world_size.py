"""The number of workers changes in the middle of a run: on gloo processes for every engine.

Every world is a set of processes that run this file as a script and leave their findings as JSON.

Tolerance: other ranks sum the same float32 terms in another order, a relative difference of about 1e-7 in a gradient, which
AdamW's division by the root of its second moment can enlarge. 1e-5 on the losses of the following steps leaves room for that,
and is far below what one sample more or less in a batch changes (about 1e-2 here; the last test shows it).
"""

from __future__ import annotations

import json
import os
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.ranks import run_ranks

ENGINES = ("torch", "zero0", "zero1", "zero2", "zero3")
WORLDS = (2, 1, 2, 3)
"""Workers of every stretch of the run: 2→1, 1→2 and 2→3."""
STRETCH = 2
RTOL = 1e-5


def config_of(engine: str, **changes: Any) -> Any:
    """Four micro-batches, of which the last one is short: neither 2 nor 3 workers come out even."""
    from tests.fakes import train_config

    sizes = {"train__global_batch_size": 7, "train__micro_batch_size": 2, "train__steps": STRETCH * len(WORLDS)}
    kind = "torch" if engine == "torch" else "deepspeed"
    stage = 0 if engine == "torch" else int(engine[-1])
    return train_config(
        scaling__num_workers=[1, 3], scaling__engine=kind, deepspeed__zero_stage=stage, **(sizes | changes)
    )


def script(out: Path, stretch: int) -> None:
    """One stretch of the run of every engine, from where the stretch before ended."""
    from setok.checkpoint import newest_good
    from tests.fakes import train_steps
    from tests.jobs.test_engine_deepspeed import make, store

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous{stretch}", rank=rank, world_size=world)
    first = stretch * STRETCH
    losses = {}
    for engine in ENGINES:
        asked = config_of(engine)
        config = asked.with_workers(world)
        stage, engines = make(config, newest_good(out / engine) if stretch else None)
        losses[engine] = train_steps(stage, engines, first, first + STRETCH, rank=rank)
        store(engines["model"], config, out / engine, first + STRETCH, rank, world)
    if rank == 0:
        (out / f"losses{stretch}.json").write_text(json.dumps(losses))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("worlds")
    for stretch, world in enumerate(WORLDS):
        run_ranks(__file__, folder, str(stretch), world=world)
    return folder


def alone(**changes: Any) -> list[float]:
    """Losses of a run that was never stopped, in this process."""
    from tests.fakes import train_steps
    from tests.jobs.test_engine_deepspeed import make

    config = config_of("torch", **changes).with_workers(1)
    stage, engines = make(config)
    return train_steps(stage, engines, 0, config.train.steps, rank=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_losses_do_not_depend_on_how_many_workers_there_are(out: Path, engine: str) -> None:
    assert set(pairwise(WORLDS)) >= {(2, 1), (1, 2), (2, 3)}
    got = [
        loss
        for stretch in range(len(WORLDS))
        for loss in json.loads((out / f"losses{stretch}.json").read_text())[engine]
    ]
    assert got == pytest.approx(alone(), rel=RTOL)
    assert len(got) == STRETCH * len(WORLDS)


def test_the_tolerance_would_show_a_sample_that_is_missing() -> None:
    without = alone(train__global_batch_size=6)
    assert all(abs(a - b) > 100 * RTOL * a for a, b in zip(alone(), without, strict=True))


def test_a_checkpoint_keeps_the_range_that_was_asked_for(out: Path) -> None:
    from setok.checkpoint import list_checkpoints, read_config, read_state

    found = {read_state(path).world_size: read_config(path) for path in list_checkpoints(out / "zero2")}
    assert {2, 3} <= found.keys()  # the newest two stay in any case
    assert all(config.scaling.num_workers == (1, 3) for config in found.values())


if __name__ == "__main__":
    script(Path(sys.argv[1]), int(sys.argv[2]))
