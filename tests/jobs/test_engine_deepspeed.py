"""DeepSpeed engines on two gloo processes: they compute what plain torch does, and resume to the bit in any layout.

The two processes run this file as a script once and leave their findings as JSON, because starting them is what costs.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.ranks import ROOT, run_ranks

STAGES = (0, 1, 2, 3)
STEPS, CUT = 4, 2


# ---------------------------------------------------------------- in each of the two processes


def make(config: Any, checkpoint: Path | None = None) -> tuple[Any, dict[str, Any]]:
    from ray_jobs.training.engines import build_engine
    from setok.checkpoint import OptimizerState, load_model
    from tests.fakes import build_stage

    torch.manual_seed(config.seed)
    stage = build_stage(config)
    if checkpoint:
        load_model(checkpoint, stage.modules["model"], "model")
    engine = build_engine("model", stage.modules["model"], stage.optimizer("model"), config, torch.device("cpu"))
    if checkpoint:
        engine.load_state(OptimizerState(checkpoint, "model"))
    return stage, {"model": engine}


def store(engine: Any, config: Any, run_dir: Path, step: int, rank: int, world: int) -> Path:
    from setok import checkpoint

    weights = {"model": engine.full_weights()}
    draft = checkpoint.Draft(run_dir, step)
    if rank == 0:
        draft.begin()
    dist.barrier()
    draft.write_part({"model": engine.named_state(rank, world)}, rank=rank, world_size=world)
    if rank == 0:
        state = checkpoint.TrainerState(step=step, samples=step, world_size=world)
        draft.finish(config, weights, state, seconds=60.0)
    dist.barrier()
    return checkpoint.folder_of(run_dir, step)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def stops_before_update(config: Any) -> dict[str, Any]:
    """Whether a gradient that overflows, or a loss that does, on one rank only, leaves weights and optimizer as they are.

    And whether training then goes on as if that step had not been.
    """
    from setok.errors import NotFiniteError
    from tests.fakes import FakeBatches, train_steps

    rank, world = dist.get_rank(), dist.get_world_size()
    stage, engines = make(config)
    engine = engines["model"]
    train_steps(stage, engines, 0, 1, rank=rank)
    train_steps(stage, engines, 2, 4, rank=rank)
    expected = engine.full_weights(), engine.named_state(rank, world)
    findings: dict[str, Any] = {}
    for kind in ("loss", "gradient"):
        stage, engines = make(config)
        engine = engines["model"]
        train_steps(stage, engines, 0, 1, rank=rank)
        before = engine.full_weights(), engine.named_state(rank, world)
        batches = next(iter(FakeBatches(config, rank=rank, start_step=1)))
        for number, (batch, context) in enumerate(zip(batches, stage.prepare(batches, step=3), strict=True)):
            loss = engine(batch, context).loss
            if rank == 1 and number == 1:
                if kind == "loss":
                    engine._losses[-1] = torch.tensor(float("nan"))
                else:
                    loss = loss * float("inf")
            engine.backward(loss)
        try:
            engine.step(1.0, step=3)
        except NotFiniteError as error:
            findings[kind] = error.problem
        findings[f"{kind} unchanged"] = all(
            same(a, b) for a, b in zip(before, (engine.full_weights(), engine.named_state(rank, world)), strict=True)
        )
        train_steps(stage, engines, 2, 4, rank=rank)
        findings[f"{kind} forgotten"] = all(
            same(a, b) for a, b in zip(expected, (engine.full_weights(), engine.named_state(rank, world)), strict=True)
        )
    return findings


def script(out: Path) -> None:
    from setok.checkpoint import verify
    from setok.ema import WeightAverage
    from tests.fakes import train_config, train_steps

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=world)
    found: dict[str, Any] = {}

    def config_of(kind: str, stage: int = 0) -> Any:
        return train_config(scaling__num_workers=world, scaling__engine=kind, deepspeed__zero_stage=stage)

    cases = {"torch": config_of("torch")} | {f"zero{s}": config_of("deepspeed", s) for s in STAGES}
    saved: dict[str, Path] = {}
    weights: dict[str, dict[str, torch.Tensor]] = {}
    for name, config in cases.items():
        stage, engines = make(config)
        losses = train_steps(stage, engines, 0, CUT, rank=rank)
        saved[name] = store(engines["model"], config, out / name, CUT, rank, world)
        losses += train_steps(stage, engines, CUT, STEPS, rank=rank)
        weights[name] = engines["model"].full_weights()
        # ZeRO-3 leaves no whole weights to average, and the config refuses it.
        average = WeightAverage({} if name == "zero3" else engines["model"].trainable, 0.5)
        start = time.perf_counter()
        train_steps(stage, engines, STEPS, config.train.steps, rank=rank)
        seconds = (time.perf_counter() - start) / (config.train.steps - STEPS)
        average.update(step=100)
        last = engines["model"].full_weights()
        found[name] = {
            "losses": losses,
            "problems": verify(saved[name]),
            "ms_per_step": 1e3 * seconds,
            "average": all(
                torch.allclose(value, 0.5 * weights[name][key] + 0.5 * last[key], atol=1e-7)
                and not torch.equal(value, last[key])
                for key, value in average.state().items()
                if rank == 0
            ),
        }
    for writer, reader in [(n, n) for n in cases] + [("zero2", "zero0"), ("torch", "zero3"), ("zero3", "zero1")]:
        stage, engines = make(cases[reader], saved[writer])
        losses = train_steps(stage, engines, CUT, STEPS, rank=rank)
        after = engines["model"].full_weights()
        gap = max((float((after[k] - weights[writer][k]).abs().max()) for k in after), default=0.0)
        found[f"{writer}>{reader}"] = {"losses": losses, "equal": same(after, weights[writer]), "gap": gap}
    for name, config in cases.items():
        found[f"{name} stops"] = stops_before_update(config)
    (out / f"rank{rank}.json").write_text(json.dumps(found, indent=1))
    dist.barrier()
    dist.destroy_process_group()


# ---------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("engines")
    run_ranks(__file__, folder)
    return folder


@pytest.fixture(scope="module")
def found(out: Path) -> dict[str, Any]:
    return json.loads((out / "rank0.json").read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_first_losses_are_those_of_plain_torch(found: dict[str, Any], stage: int) -> None:
    assert found[f"zero{stage}"]["losses"] == pytest.approx(found["torch"]["losses"], rel=1e-5)
    assert len(found["torch"]["losses"]) == STEPS


@pytest.mark.parametrize("name", ["torch", *(f"zero{s}" for s in STAGES)])
def test_resume_is_exact(found: dict[str, Any], name: str) -> None:
    assert found[name]["problems"] == []
    resumed = found[f"{name}>{name}"]
    assert resumed["losses"] == found[name]["losses"][CUT:]
    assert resumed["equal"]


@pytest.mark.parametrize("name", ["torch", "zero0", "zero1", "zero2"])
def test_the_running_average_is_that_of_whole_weights(found: dict[str, Any], name: str) -> None:
    assert found[name]["average"]


@pytest.mark.parametrize("pair", ["zero2>zero0", "torch>zero3", "zero3>zero1"])
def test_a_checkpoint_fits_another_stage(found: dict[str, Any], pair: str) -> None:
    writer = pair.partition(">")[0]
    assert found[pair]["losses"] == pytest.approx(found[writer]["losses"][CUT:], rel=1e-5)
    assert found[pair]["gap"] < 1e-5


@pytest.mark.parametrize("writer", ["torch", *(f"zero{s}" for s in STAGES)])
def test_a_checkpoint_of_two_workers_goes_on_in_one_process(
    found: dict[str, Any], out: Path, writer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    from setok.checkpoint import newest_good
    from tests.fakes import train_config, train_steps

    checkpoint = newest_good(out / writer)
    assert checkpoint is not None
    stage, engines = make(train_config(), checkpoint)
    losses = train_steps(stage, engines, CUT, STEPS, rank=0)
    assert losses == pytest.approx(found[writer]["losses"][CUT:], rel=1e-5)


@pytest.mark.parametrize("name", ["torch", *(f"zero{s}" for s in STAGES)])
def test_what_is_not_finite_on_one_rank_stops_all_before_the_update(
    found: dict[str, Any], out: Path, name: str
) -> None:
    for rank in (0, 1):
        stops = json.loads((out / f"rank{rank}.json").read_text())[f"{name} stops"]
        assert "step 3: the loss of the model is nan" in stops["loss"]
        assert "step 3: the gradient norm of the model is not finite" in stops["gradient"]
        assert stops["loss unchanged"] and stops["gradient unchanged"]
        assert stops["loss forgotten"] and stops["gradient forgotten"], "the next steps are those of a run without it"


if __name__ == "__main__":
    script(Path(sys.argv[1]))
