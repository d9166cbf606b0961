"""Setokim on two gloo processes: every ZeRO stage and plain torch start and go on with the losses of a single process."""

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

STAGES = (0, 2, 3)
STEPS = 3


def train(words: Path, rank: int, world: int, **changes: Any) -> dict[str, Any]:
    """Losses of a few steps over the samples, which the ranks share; rank 1 has no pictures to draw and no masks."""
    from ray_jobs.training.engines import build_engine
    from setok.stages import build_stage
    from tests.sequences import sequence_batch
    from tests.setokim_runs import ROOM, config_of, samples

    every = samples()
    without = [sample for sample in every if sample[0] in ("ask", "text", "no")]
    with_all = [sample for sample in every if sample not in without]
    rows = {1: [[with_all[:2], with_all[2:]], [without[:2], without[2:]]]}
    rows[2] = [rows[1][rank % 2]]  # this rank's one micro-batch of two
    settings = {"train__global_batch_size": 4, "train__micro_batch_size": 2, "train__steps": STEPS} | changes
    config = config_of(words, scaling__num_workers=0 if world == 1 else 2, **settings)
    torch.manual_seed(0)
    stage = build_stage(config)
    model = stage.modules["model"].train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    engine = build_engine("model", model, stage.optimizer("model"), config, torch.device("cpu"))
    tokenizer = model.setokim.text_tokenizer
    losses, norms = [], []
    for step in range(STEPS):
        batches = [sequence_batch(part, tokenizer, ROOM) for part in rows[world]]
        with engine.whole(stage.prepares_with):
            contexts = stage.prepare(batches, step=step)
        for batch, context in zip(batches, contexts, strict=True):
            engine.backward(engine(batch, context).loss)
        norms.append(engine.step(1.0, step=step))
        losses.append(engine.loss)
    after = engine.full_weights()
    moved = sorted({n.split(".")[1] for n in after if not torch.equal(after[n], before[n])}) if rank == 0 else []
    return {"losses": losses, "norms": norms, "moved": moved}


def script(out: Path) -> None:
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(1)
    words = out / "words"
    found: dict[str, Any] = {}
    if rank == 0:
        found["alone"] = train(words, 0, 1)
    dist.init_process_group("gloo", init_method=f"file://{out}/rendezvous", rank=rank, world_size=world)
    found["torch"] = train(words, rank, 2, scaling__engine="torch")
    for stage in STAGES:
        found[f"zero{stage}"] = train(words, rank, 2, deepspeed__zero_stage=stage)
    lora = {"setokim__language_model__train": "lora", "setokim__language_model__lora": {"rank": 4, "dropout": 0.0}}
    for stage in (0, 3):
        found[f"lora{stage}"] = train(
            words, rank, 2, deepspeed__zero_stage=stage, train__gradient_checkpointing=stage == 3, **lora
        )
    (out / f"rank{rank}.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from tests.sequences import text_tokenizer

    out = tmp_path_factory.mktemp("setokim")
    text_tokenizer().save_pretrained(str(out / "words"))
    run_ranks(__file__, out)
    return json.loads((out / "rank0.json").read_text())


@pytest.mark.parametrize("layout", ["torch", *(f"zero{stage}" for stage in STAGES)])
def test_two_workers_learn_what_one_does(found: dict[str, Any], layout: str) -> None:
    alone, shared = found["alone"], found[layout]
    assert shared["losses"] == pytest.approx(alone["losses"], rel=1e-4)
    assert shared["norms"] == pytest.approx(alone["norms"], rel=1e-3)
    assert alone["losses"][-1] < alone["losses"][0]
    assert shared["moved"] == alone["moved"]
    assert set(alone["moved"]) == {
        *("language_model", "input_projector", "output_projector", "diffusion", "mask_projector", "mask_decoder")
    }


def test_adapters_learn_alike_when_weights_are_split(found: dict[str, Any]) -> None:
    assert found["lora3"]["losses"] == pytest.approx(found["lora0"]["losses"], rel=1e-4)
    assert found["lora0"]["losses"][-1] < found["lora0"]["losses"][0]


if __name__ == "__main__":
    script(Path(sys.argv[1]))
