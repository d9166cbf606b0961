"""Memory that runs out: how it shows, and what to lower, with the values as they are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from setok.config import TrainConfig
from setok.errors import SetokError, TrainingError

SIGNS = (
    *("out of memory", "OutOfMemory", "MemoryError", "bad_alloc", "Cannot allocate memory", "can't allocate memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "Failed to allocate", "cudaErrorMemoryAllocation"),
)
"""Words by which CUDA, torch, C++, the operating system and Ray say so."""
MEMORY_MONITOR = "running low on memory"
"""Words by which Ray says that its memory monitor has ended a process before the node was out of memory."""


class Position(Protocol):
    """Where a rank's loop stands."""

    @property
    def step(self) -> int: ...
    @property
    def phase(self) -> str: ...


@contextmanager
def explained(config: TrainConfig, position: Position, *, rank: int) -> Iterator[None]:
    """Turn memory that runs out in the block, wherever that is, into an error that says what to lower.

    Raises:
        TrainingError: in place of what torch, Python, C++ or a data worker raised.
    """
    try:
        yield
    except SetokError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        where = {"starting": "while the run was starting", "waiting for data": "while data was decoded"}.get(
            position.phase, f"in phase {position.phase!r}"
        )
        raise TrainingError(
            f"rank {rank} ran out of memory {where}, after {position.step} steps: {_first_line(error)}",
            remedy(config, position.phase),
        ) from error


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an exception, or what it stands for, says that memory is exhausted."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = f"{type(error).__name__}: {error}"
        if MEMORY_MONITOR in text or any(sign in text for sign in SIGNS):
            return True
        error = getattr(error, "cause", None) or error.__cause__
    return False


def remedy(config: TrainConfig, phase: str) -> str:
    """What to lower where memory ran out in a phase of the loop, the cheapest first."""
    train, data, scaling, zero = config.train, config.data, config.scaling, config.deepspeed
    activations = [f"train.micro_batch_size={train.micro_batch_size} (to {train.micro_batch_size // 2})"]
    if train.micro_batch_size == 1:
        activations = []
    lower = {
        "waiting for data": [
            f"data.decode_workers={data.decode_workers}",
            f"data.steps_per_block={data.steps_per_block}",
        ],
        "forward": activations,
        "backward": activations,
        "preparing": activations,
        "saving": [f"scaling.num_workers={scaling.num_workers} (fewer on a node need less host memory to save)"],
    }.get(phase, activations if phase != "starting" else [])
    further = []
    if phase in ("forward", "backward", "preparing"):
        further += ["set train.gradient_checkpointing=true"] if not train.gradient_checkpointing else []
        further += ["set train.precision=bf16"] if train.precision == "fp32" else []
    if phase in ("starting", "forward", "backward", "update", "saving") and scaling.num_workers != 0:
        if scaling.engine == "torch":
            further += ["set scaling.engine=deepspeed"]
        elif zero.zero_stage < 3:
            further += [f"raise deepspeed.zero_stage={zero.zero_stage}"]
        if scaling.use_gpu and not zero.offload_optimizer and phase != "saving":
            further += ["set deepspeed.offload_optimizer=true"]
    parts = ["lower " + " or ".join(lower)] if lower else []
    return "; ".join([*parts, *further]) or "use a smaller model, or machines with more memory"


def oom_kills(vmstat: Path = Path("/proc/vmstat")) -> int:
    """Processes that the kernel of this node has killed for want of memory so far; 0 where it does not tell."""
    try:
        found = re.search(r"^oom_kill (\d+)$", vmstat.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return 0
    return int(found.group(1)) if found else 0


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in f"{type(error).__name__}: {error}".splitlines() if line.strip()]
    return lines[0][:300]
