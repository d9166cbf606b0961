"""Checkpoints: whole or refused, and never of another model."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from setok import checkpoint
from setok.checkpoint import Best, OptimizerState, Retention, TrainerState
from setok.errors import CheckpointError
from tests.fakes import TwoLayers, train_config


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run with checkpoints of steps 2, 4 and 6, whose encoder bias is the step."""
    for step in (2, 4, 6):
        write(tmp_path, step)
    return tmp_path


def write(run_dir: Path, step: int) -> Path:
    module = TwoLayers()
    torch.nn.init.constant_(module.encoder.bias, float(step))
    optimizer = {
        "model": {"encoder.bias/exp_avg": torch.full((5,), 0.5), "encoder.bias/step": torch.tensor(float(step))}
    }
    state = TrainerState(step=step, samples=8 * step, world_size=1, counters={"train_seconds": 1.5})
    return checkpoint.save(run_dir, train_config(), {"model": checkpoint.copy_weights(module)}, optimizer, state)


def prune(run_dir: Path, keep: int) -> list[int]:
    return checkpoint.prune(run_dir, Retention(keep=keep, best=Best(metric="train/loss", order="lowest")))


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def test_round_trip(run_dir: Path) -> None:
    path = checkpoint.newest_good(run_dir)
    assert path == run_dir / "checkpoints" / "step_00000006"
    assert sorted(p.name for p in path.iterdir()) == [
        "config.yaml",
        "manifest.json",
        "model.safetensors",
        "optimizer-00000-of-00001.safetensors",
        "trainer.json",
    ]
    module = TwoLayers()
    checkpoint.load_model(path, module, "model")
    assert module.encoder.bias.tolist() == [6.0] * 5
    state = OptimizerState(path, "model")
    assert sorted(state) == ["encoder.bias/exp_avg", "encoder.bias/step"]
    assert state["encoder.bias/step"] == 6
    assert len(OptimizerState(path, "discriminator")) == 0
    assert checkpoint.read_state(path) == TrainerState(
        step=6, samples=48, world_size=1, counters={"train_seconds": 1.5}
    )
    assert checkpoint.read_config(path) == train_config()
    assert checkpoint.holds(path, "model") and not checkpoint.holds(path, "discriminator")


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer-00000-of-00001.safetensors", "trainer.json", "config.yaml"]
)
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, Path.unlink])
def test_any_damaged_file_makes_the_one_before_be_taken(
    run_dir: Path, name: str, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    newest = run_dir / "checkpoints" / "step_00000006"
    damage(newest / name)
    with caplog.at_level(logging.WARNING):
        assert checkpoint.newest_good(run_dir) == run_dir / "checkpoints" / "step_00000004"
    assert name in caplog.text and str(newest) in caplog.text
    with pytest.raises(CheckpointError, match=name) as raised:
        checkpoint.resolve(newest)
    assert "newest good" in raised.value.remedy


@pytest.mark.parametrize("text", ["", "{}", '{"files": 3}', '{"format": 1, "files": {"trainer.json"', "\x00\x00"])
def test_a_damaged_manifest_is_damage(run_dir: Path, text: str) -> None:
    newest = run_dir / "checkpoints" / "step_00000006"
    (newest / "manifest.json").write_text(text)
    assert len(checkpoint.verify(newest)) == 1
    assert checkpoint.newest_good(run_dir) == run_dir / "checkpoints" / "step_00000004"


def test_an_emptied_manifest_does_not_pass(run_dir: Path) -> None:
    newest = run_dir / "checkpoints" / "step_00000006"
    (newest / "manifest.json").write_text(json.dumps({"format": 1, "step": 6, "files": {}}))
    assert any("model.safetensors" in problem for problem in checkpoint.verify(newest))


def test_a_crash_while_saving_leaves_no_checkpoint(run_dir: Path) -> None:
    draft = checkpoint.Draft(run_dir, 8)
    draft.begin()
    draft.write_part({}, rank=0, world_size=2)
    assert checkpoint.newest_good(run_dir) == run_dir / "checkpoints" / "step_00000006"
    state = TrainerState(step=8, samples=64, world_size=2)
    with pytest.raises(CheckpointError, match=r"of 2 workers, no optimizer state came from rank\(s\) 1\n"):
        draft.finish(train_config(), {}, state)
    folder = run_dir / "checkpoints" / "writing_step_00000008"
    assert folder in run_dir.glob("checkpoints/*")
    assert write(run_dir, 8) == checkpoint.newest_good(run_dir)  # the next save clears what was left
    assert not folder.exists()


def test_all_damaged(run_dir: Path) -> None:
    for path in checkpoint.list_checkpoints(run_dir):
        truncate(path / "model.safetensors")
    assert checkpoint.newest_good(run_dir) is None
    with pytest.raises(CheckpointError, match=r"its 3 checkpoint.* are all damaged"):
        checkpoint.resolve(run_dir)


@pytest.mark.parametrize("what", ["nothing", "runs/NAME"])
def test_resolve_names_what_is_allowed(tmp_path: Path, what: str) -> None:
    with pytest.raises(CheckpointError, match="does not exist") as raised:
        checkpoint.resolve(tmp_path / what)
    assert "runs/NAME" in raised.value.remedy


def test_prune_keeps_the_newest_good(run_dir: Path) -> None:
    for step in (4, 6):
        truncate(run_dir / "checkpoints" / f"step_{step:08d}" / "model.safetensors")
    write(run_dir, 8)
    truncate(run_dir / "checkpoints" / "step_00000008" / "trainer.json")
    assert prune(run_dir, keep=1) == [8, 6, 4]
    assert checkpoint.newest_good(run_dir) == run_dir / "checkpoints" / "step_00000002"


def test_prune_by_number(run_dir: Path) -> None:
    assert prune(run_dir, keep=2) == [2]


def test_another_model_is_refused_by_name(run_dir: Path) -> None:
    path = checkpoint.resolve(run_dir)
    with pytest.raises(CheckpointError, match="another model") as raised:
        checkpoint.load_model(path, TwoLayers(width=7), "model")
    assert "encoder.weight [5, 192] instead of [7, 192]" in raised.value.problem
    assert "image_size 8" in raised.value.problem and "run 'fake'" in raised.value.problem
    assert "config.yaml" in raised.value.remedy
    module = TwoLayers()
    module.extra = torch.nn.Parameter(torch.zeros(1))
    del module.scale
    with pytest.raises(CheckpointError, match="1 missing: extra; 1 unexpected: scale"):
        checkpoint.load_model(path, module, "model")


def test_tied_weights_are_stored_whole(tmp_path: Path) -> None:
    module = TwoLayers()
    module.decoder.weight = torch.nn.Parameter(module.encoder.weight.t().contiguous())
    weights = dict(module.state_dict())
    weights["again"] = weights["encoder.weight"]
    state = TrainerState(step=1, samples=1, world_size=1)
    path = checkpoint.save(tmp_path, train_config(), {"model": weights}, {}, state)
    assert checkpoint.verify(path) == []


def test_saving_the_same_step_again_replaces_it(run_dir: Path) -> None:
    newest = run_dir / "checkpoints" / "step_00000006"
    truncate(newest / "model.safetensors")
    assert write(run_dir, 6) == newest
    assert checkpoint.verify(newest) == []
    shutil.rmtree(run_dir)


def test_damaged_checkpoints_do_not_push_good_ones_out(run_dir: Path) -> None:
    truncate(run_dir / "checkpoints" / "step_00000006" / "model.safetensors")
    prune(run_dir, keep=2)
    assert [path.name for path in checkpoint.list_checkpoints(run_dir)] == ["step_00000004", "step_00000002"]


def test_prune_deletes_nothing_where_nothing_is_good(run_dir: Path) -> None:
    for path in checkpoint.list_checkpoints(run_dir):
        truncate(path / "model.safetensors")
    assert prune(run_dir, keep=1) == []
    assert len(checkpoint.list_checkpoints(run_dir)) == 3
