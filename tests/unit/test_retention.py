"""Which checkpoints stay: never is the one deleted that training would go on from."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from setok import checkpoint
from setok.checkpoint import Best, Retention
from tests.checkpoints import damage, encoder_bias, flipped, truncated, write
from tests.fakes import train_config

values = st.one_of(st.none(), st.floats(-10, 10), st.just(float("nan")))


@given(
    st.dictionaries(st.integers(1, 40), values, min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(0, 4),
    st.sampled_from(["lowest", "highest"]),
    st.one_of(st.none(), st.integers(1, 9)),
)
@settings(max_examples=200, deadline=None)
def test_what_stays(
    losses: dict[int, float | None], keep: int, keep_best: int, order: str, keep_every: int | None
) -> None:
    metrics = {step: {} if loss is None else {"m": loss} for step, loss in losses.items()}
    best = Best(metric="m", order="lowest" if order == "lowest" else "highest")
    kept = Retention(keep=keep, keep_best=keep_best, best=best, keep_every=keep_every).kept(metrics)
    newest_first = sorted(losses, reverse=True)
    assert set(newest_first[:keep]) <= kept
    assert {step for step in losses if keep_every and step % keep_every == 0} <= kept
    # By hand: a checkpoint is among the best if fewer than keep_best are better, or as good and newer.
    sign = 1 if order == "lowest" else -1
    measured = {step: sign * loss for step, loss in losses.items() if loss is not None and loss == loss}
    for step, loss in measured.items():
        better = sum(other < loss or (other == loss and s > step) for s, other in measured.items())
        assert (step in kept) or better >= keep_best
        if step in kept and step not in newest_first[:keep] and not (keep_every and step % keep_every == 0):
            assert better < keep_best
    assert len(kept) <= keep + keep_best + sum(bool(keep_every) and step % (keep_every or 1) == 0 for step in losses)


def test_the_best_stay_and_have_a_name(tmp_path: Path) -> None:
    config = train_config(checkpoint__keep_best=2, checkpoint__best_metric="train/psnr", checkpoint__best_is="highest")
    retention = Retention.of(config.checkpoint.model_copy(update={"keep": 1}))
    for step, psnr in enumerate((20.0, 25.0, 22.0, 24.0, 21.0), start=1):
        write(tmp_path, step, config, train__psnr=psnr)
        checkpoint.prune(tmp_path, retention, written=step)
    assert checkpoint.Store.of_run(tmp_path).steps() == [5, 4, 2]
    assert encoder_bias(checkpoint.resolve(f"{tmp_path}@best")) == 2
    assert encoder_bias(checkpoint.resolve(f"{tmp_path}/@best")) == 2
    damage(tmp_path, 2, "model.safetensors", flipped)
    assert encoder_bias(checkpoint.resolve(f"{tmp_path}@best")) == 4, "the best good one"
    assert encoder_bias(checkpoint.resolve(tmp_path)) == 5


def test_without_measurements_the_best_is_the_newest(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(tmp_path, step)
    assert encoder_bias(checkpoint.resolve(f"{tmp_path}@best")) == 3
    write(tmp_path, 2, train__loss=7.0)
    assert encoder_bias(checkpoint.resolve(f"{tmp_path}@best")) == 2, (
        "one that measured is better than all that did not"
    )


def test_a_checkpoint_that_a_run_went_back_from_pushes_none_out(tmp_path: Path) -> None:
    """Its sizes are right and a bit is not, so the run went back to step 4, and saves at step 5."""
    for step in (4, 6):
        write(tmp_path, step)
    damage(tmp_path, 6, "model.safetensors", flipped)
    write(tmp_path, 5)
    assert checkpoint.prune(tmp_path, Retention.of(train_config(checkpoint__keep=1).checkpoint), written=5) == [6, 4]
    assert encoder_bias(checkpoint.resolve(tmp_path)) == 5


@given(
    st.dictionaries(st.integers(1, 9), st.sampled_from(["good", "short", "flipped", "no manifest"]), min_size=1),
    st.integers(1, 3),
    st.integers(0, 2),
)
@settings(max_examples=15, deadline=None)
def test_what_training_would_go_on_from_is_never_deleted(
    tmp_path_factory: pytest.TempPathFactory, states: dict[int, str], keep: int, keep_best: int
) -> None:
    run = tmp_path_factory.mktemp("run")
    for step, state in states.items():
        write(run, step, train__loss=float(step % 4))
        if state == "no manifest":
            damage(run, step, "manifest.json", None)
        elif state != "good":
            damage(run, step, "model.safetensors", truncated if state == "short" else flipped)
    best = Best(metric="train/loss", order="lowest")
    before = checkpoint.newest_good(run)
    # What the loop does: it goes on from the newest good one, and saves at some step after it.
    written = (checkpoint.step_of(before) if before else 0) + 1
    write(run, written, train__loss=1.5)
    checkpoint.prune(run, Retention(keep=keep, keep_best=keep_best, best=best), written=written)
    after = checkpoint.newest_good(run)
    assert after is not None and checkpoint.step_of(after) == written
    if before is not None and keep > 1:
        assert before.is_dir(), "and neither is what it would fall back on, if two are to be kept"
