"""A trained encoder with its frozen copy and gradient checkpointing, on two gloo processes: ZeRO does what plain torch does."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from tests.ranks import run_ranks

STAGES = (2, 3)


def config_of(tower: Path, engine: str, stage: int, *, checkpointing: bool) -> Any:
    from setok.config import TrainConfig, build

    encoder = {"kind": "huggingface", "path": str(tower)}
    return build(
        TrainConfig,
        {
            "name": "distilled",
            "model": {"image_size": 32, "encoder": encoder, "detokenizer": {"width": 48}},
            "loss": {"contrast": 0.0, "distillation": 2.0},
            "data": {"train": [{"path": "unused"}]},
            "optim": {"learning_rate_scale": {"encoder": 0.5}},
            "train": {
                "steps": 4,
                "global_batch_size": 8,
                "micro_batch_size": 2,
                "gradient_checkpointing": checkpointing,
            },
            "scaling": {"num_workers": 2, "engine": engine},
            "deepspeed": {"zero_stage": stage},
        },
    )


def train(config: Any, rank: int) -> dict[str, Any]:
    from ray_jobs.training.engines import build_engine
    from setok.batch import ImageTextBatch
    from setok.stages import build_stage

    torch.manual_seed(0)
    stage = build_stage(config)
    model = stage.modules["model"].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = build_engine("model", model, stage.optimizer("model"), config, torch.device("cpu"))
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    losses, strayed = [], []
    for step in range(config.train.steps):
        batches = [
            ImageTextBatch(pixel_values=part, valid=torch.ones(2, dtype=torch.bool), concepts=((), ()), ids=("a", "b"))
            for part in images[rank * 4 : rank * 4 + 4].split(2)
        ]
        for batch, context in zip(batches, stage.prepare(batches, step=step), strict=True):
            output = engine(batch, context)
            strayed.append(float(output.parts["distillation"]))
            engine.backward(output.loss)
        engine.step(1.0, step=step)
        losses.append(engine.loss)
    after = engine.full_weights()
    moved = sorted({n.split(".")[0] for n in after if not torch.equal(after[n], before[n])}) if rank == 0 else []
    return {"losses": losses, "strayed": strayed, "moved": moved}


def script(out: Path) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=world)
    found = {"torch": train(config_of(out / "tower", "torch", 0, checkpointing=False), rank)}
    for stage in STAGES:
        found[f"zero{stage}"] = train(config_of(out / "tower", "deepspeed", stage, checkpointing=True), rank)
    (out / f"rank{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from tests.towers import save_tower

    out = tmp_path_factory.mktemp("distillation")
    save_tower("siglip_vision", out / "tower")
    run_ranks(__file__, out)
    return json.loads((out / "rank0.json").read_text())


@pytest.mark.parametrize("stage", STAGES)
def test_zero_trains_an_encoder_beside_its_copy(found: dict[str, Any], stage: int) -> None:
    plain, zero = found["torch"], found[f"zero{stage}"]
    assert zero["losses"] == pytest.approx(plain["losses"], rel=1e-4)
    assert zero["strayed"] == pytest.approx(plain["strayed"], rel=1e-3, abs=1e-6)
    assert plain["strayed"][0] == pytest.approx(0, abs=1e-6) and plain["strayed"][-1] > 1e-4
    assert plain["moved"] == zero["moved"] == ["tokenizer"], "the copy stays as it was"


if __name__ == "__main__":
    script(Path(sys.argv[1]))
