"""Memory that runs out: found in whatever shape, and told with what to lower."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ray_jobs.training import loop
from ray_jobs.training.engine_torch import TorchEngine
from ray_jobs.training.loop import train_loop
from ray_jobs.training.machine import WorkerContext
from ray_jobs.training.memory import explained, is_out_of_memory, remedy
from setok.errors import DataError, TrainingError
from tests import fakes


@dataclass
class Here:
    phase: str
    step: int = 5


def chained(inner: Exception) -> Exception:
    error = RuntimeError("a task failed")
    error.__cause__ = inner
    return error


def of_a_task(inner: Exception) -> Exception:
    error = RuntimeError("RayTaskError")
    error.cause = inner  # type: ignore[attr-defined]
    return error


CPU_MESSAGE = (
    "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"
)
MONITOR = "Task was killed due to the node running low on memory."


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError(CPU_MESSAGE),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        chained(MemoryError("decode")),
        of_a_task(RuntimeError(MONITOR)),
        type("OutOfMemoryError", (Exception,), {})(MONITOR),
    ],
)
def test_it_is_found_in_every_shape(error: Exception) -> None:
    assert is_out_of_memory(error)
    config = fakes.train_config(scaling__num_workers=2, train__micro_batch_size=4)
    with (
        pytest.raises(TrainingError, match=r"rank 1 ran out of memory in phase 'backward', after 5 steps") as raised,
        explained(config, Here("backward"), rank=1),
    ):
        raise error
    assert raised.value.__cause__ is error
    assert "lower train.micro_batch_size=4 (to 2)" in raised.value.remedy


@pytest.mark.parametrize(
    "error", [ValueError("a shape"), RuntimeError("Connection closed"), DataError("out of memory")]
)
def test_other_errors_are_left_alone(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, explained(fakes.train_config(), Here("forward"), rank=0):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("phase", "changes", "expected"),
    [
        (
            "forward",
            {},
            "lower train.micro_batch_size=2 (to 1); set train.gradient_checkpointing=true; set train.precision=bf16;"
            " raise deepspeed.zero_stage=2",
        ),
        (
            "forward",
            {
                "train__micro_batch_size": 1,
                "train__gradient_checkpointing": True,
                "train__precision": "bf16",
                "deepspeed__zero_stage": 3,
            },
            "use a smaller model, or machines with more memory",
        ),
        ("update", {"deepspeed__zero_stage": 1}, "lower train.micro_batch_size=2 (to 1); raise deepspeed.zero_stage=1"),
        (
            "update",
            {"scaling__use_gpu": True, "scaling__engine": "torch"},
            "lower train.micro_batch_size=2 (to 1); set scaling.engine=deepspeed; set deepspeed.offload_optimizer=true",
        ),
        ("waiting for data", {}, "lower data.decode_workers=1 or data.steps_per_block=1"),
        ("starting", {"scaling__num_workers": 0}, "use a smaller model, or machines with more memory"),
        (
            "saving",
            {},
            "lower scaling.num_workers=2 (fewer on a node need less host memory to save); raise deepspeed.zero_stage=2",
        ),
    ],
)
def test_what_to_lower_depends_on_where_it_was(phase: str, changes: dict[str, Any], expected: str) -> None:
    given = {"scaling__num_workers": 2, "data__decode_workers": 1, "data__steps_per_block": 1}
    assert remedy(fakes.train_config(**given | changes), phase) == expected


@pytest.mark.parametrize("phase", ["waiting for data", "preparing", "forward", "backward", "update", "saving"])
def test_the_loop_says_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, phase: str) -> None:
    """The third time that a phase is gone through, its memory runs out."""
    calls = 0

    def counted(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise MemoryError("no more")
            return original(*args, **kwargs)

        return call

    patches = {
        "waiting for data": (fakes, "batch_of"),
        "preparing": (fakes.FakeStage, "prepare"),
        "forward": (fakes.TwoLayers, "forward"),
        "backward": (TorchEngine, "backward"),
        "update": (TorchEngine, "_update"),
        "saving": (TorchEngine, "named_state"),
    }
    owner, name = patches[phase]
    monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    monkeypatch.setattr(loop, "build_stage", fakes.build_stage)
    config = fakes.train_config(checkpoint__every=1, output_dir=str(tmp_path))
    config.run_dir.mkdir(parents=True)
    worker = WorkerContext(
        rank=0,
        world_size=1,
        local_world_size=1,
        device=torch.device("cpu"),
        batches=lambda start: fakes.FakeBatches(config, rank=0, start_step=start),
        report=lambda metrics: None,
    )
    where = "while data was decoded" if phase == "waiting for data" else f"in phase '{phase}'"
    with pytest.raises(TrainingError, match=rf"rank 0 ran out of memory {where}[\s\S]*MemoryError: no more\n  → "):
        train_loop(config, worker)
