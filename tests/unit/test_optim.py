"""The optimizers are torch's, to the last bit, and leave ``torch.compile`` alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from setok import optim


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(4, 6, generator=generator)) for _ in range(3)]


def after_steps(kind: type[torch.optim.Optimizer], steps: int, **settings: Any) -> list[Tensor]:
    """Some steps in which one parameter has no gradient, with a save and a load in the middle."""
    weights = parameters()
    optimizer = kind(weights, lr=0.1, **settings)
    for step in range(steps):
        optimizer.zero_grad()
        sum((weight**2).sum() for weight in weights[: 3 - step % 2]).backward()
        optimizer.step()
        if step == steps // 2:
            state = optimizer.state_dict()
            optimizer = kind(weights, lr=0.7, **settings)
            optimizer.load_state_dict(state)
    return [weight.detach() for weight in weights]


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (optim.AdamW, torch.optim.AdamW, {"weight_decay": 0.1}),
        (optim.AdamW, torch.optim.AdamW, {"foreach": True, "betas": (0.9, 0.95)}),
        (optim.Muon, torch.optim.Muon, {"momentum": 0.9, "ns_steps": 4}),
    ],
)
def test_they_do_what_torchs_do(
    ours: type[torch.optim.Optimizer], theirs: type[torch.optim.Optimizer], settings: dict[str, Any]
) -> None:
    start = parameters()
    for mine, yours, before in zip(
        after_steps(ours, 7, **settings), after_steps(theirs, 7, **settings), start, strict=True
    ):
        assert torch.equal(mine, yours)
        assert not torch.equal(mine, before)


def test_no_gradient_flows_through_a_step() -> None:
    weight = nn.Parameter(torch.ones(2, 2))
    optimizer = optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    assert weight.grad_fn is None and torch.is_grad_enabled()


TRAINING = """
import sys, torch
from ray_jobs.training.loop import set_up_process
from setok.config import OptimConfig
from setok.optim import build_optimizer
from tests import fakes
config = fakes.train_config(train__deterministic=True)
set_up_process(config, fakes.worker_of(config))
for kind in ("adamw", "muon"):
    model = torch.nn.Linear(4, 4)
    optimizer = build_optimizer(model.named_parameters(), OptimConfig(kind=kind), matrices=frozenset({"weight"}))
    model(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())
    optimizer.zero_grad()
print([name for name in ("torch._dynamo", "torch._inductor") if name in sys.modules])
"""


def test_training_does_not_import_the_compiler(repo_root: Path) -> None:
    """Which is a second or two of every start."""
    done = subprocess.run([sys.executable, "-c", TRAINING], capture_output=True, text=True, check=True, cwd=repo_root)
    assert done.stdout.strip() == "[]"
