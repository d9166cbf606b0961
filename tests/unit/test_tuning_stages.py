"""Trials of two stages: what the second one takes from the first, and what is known of it; and the page's questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ray_jobs.reporting.sweep import render_sweep
from ray_jobs.train import train
from ray_jobs.training.before_start import check_beginning
from ray_jobs.training.stopping import STOP
from ray_jobs.tune import check_same_sweep, dry_run, write_results
from ray_jobs.tuning.averages import answers_of, markdown_of
from ray_jobs.tuning.running import run_trial
from ray_jobs.tuning.search import NUMBER
from ray_jobs.tuning.space import check_space, known_values, then_config, train_config, with_absolute_base
from ray_jobs.tuning.trials import Result, Trial, Trials
from setok import checkpoint
from setok.checkpoint import Evaluation, Evaluations
from setok.config import (
    CheckpointConfig,
    Dimension,
    ScenesConfig,
    TrainConfig,
    TuneConfig,
    build,
    dump_config,
    load_config,
)
from setok.data.word_tokenizer import build_word_tokenizer
from setok.errors import CheckpointError, ConfigError
from tests import setokim_runs, squares
from tests.pages import check
from tests.sweeps import sweep_config, write_metrics

STORED = CheckpointConfig(store="s3://bucket/runs")
ROOM = 12
"""Places of a picture: the most tokens that the default tokenizer gives."""
SPACE = {
    "model.clustering.sharpness": {"values": [1.0, 2.0]},
    "then.optim.learning_rate": {"values": [0.5]},
    "seed": {"values": [3]},
}


def stages(folder: Path, *, second: dict[str, Any] | None = None, **changes: Any) -> TuneConfig:
    """A sweep of two stages; ``second`` changes the second one."""
    own = {"train__steps": 5, "sequence__max_image_tokens": ROOM} | (second or {})
    then = setokim_runs.tree(folder / "words", stage="instruct", **own)
    return sweep_config(**{"output_dir": str(folder), "space": SPACE, "then": then} | changes)


def both(sweep: TuneConfig, number: int = 0) -> tuple[TrainConfig, TrainConfig]:
    values = known_values(sweep)[number]
    first = train_config(sweep, values, name="0000", output_dir=str(sweep.run_dir / "trials"))
    second = then_config(sweep, values, first)
    assert second is not None
    return first, second


# ---------------------------------------------------------------- configs


def test_the_second_stage_is_of_the_trials_model_and_starts_from_its_first(tmp_path: Path) -> None:
    first, second = both(stages(tmp_path), number=1)
    assert second.model == first.model and second.model.clustering.sharpness == 2.0
    assert (second.seed, second.scaling) == (3, first.scaling)
    assert second.checkpoint.init_from == str(first.run_dir)
    assert second.run_dir == first.run_dir / "then"
    assert (first.optim.learning_rate, second.optim.learning_rate) == (0.01, 0.5), "each has its own settings"
    assert (first.train.steps, second.train.steps) == (8, 5)


def test_its_checkpoints_lie_below_the_firsts_in_a_store(tmp_path: Path) -> None:
    sweep = stages(tmp_path, train={"checkpoint": {"store": "s3://bucket/runs?region=x"}})
    first, second = both(sweep)
    assert second.checkpoint.init_from == checkpoint.home_of(first) == "s3://bucket/runs/sweep/0000?region=x"
    assert checkpoint.home_of(second) == "s3://bucket/runs/sweep/0000/then?region=x"
    assert Trials(sweep).plan(known_values(sweep)[0]).home == checkpoint.home_of(first)


def test_a_sweep_of_two_stages_is_the_same_when_it_is_read_again(tmp_path: Path) -> None:
    sweep = stages(tmp_path)
    (file := tmp_path / "sweep.yaml").write_text(dump_config(sweep))
    assert load_config(TuneConfig, file) == sweep


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"then": None}, "space has then.optim.learning_rate, and there is no second stage"),
        ({"space": {"then.model.image_size": {"values": [32]}}}, "takes model.image_size from the trial's first one"),
        ({"space": {"then.checkpoint.init_from": {"values": ["x"]}}}, "takes checkpoint.init_from"),
        ({"objectives": [{"metric": "then/eval/vqa/accuracy"}]}, "then.validation.data=FOLDER"),
        ({"objectives": [{"metric": "then/accuracy"}]}, "'then/accuracy', which is no metric"),
        ({"questions": {"Is it good?": ["psnr"]}}, "'psnr', which is no metric"),
        ({"then": None, "space": {"seed": {"values": [1]}}, "figures": ["then/train/loss"]}, "there is none"),
        (
            {"halving": {"first_step": 2}, "objectives": [{"metric": "then/train/loss", "best_is": "lowest"}]},
            "halving judges the first stage",
        ),
    ],
)
def test_what_cannot_be_is_told(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        stages(tmp_path, **changes)


def test_a_stage_comes_after_the_one_before(tmp_path: Path) -> None:
    sweep = stages(tmp_path).model_dump(mode="json")
    sweep["then"] = sweep["train"]
    with pytest.raises(ConfigError, match=r"then.stage=tokenizer does not come after train.stage=tokenizer"):
        build(TuneConfig, sweep)


def test_second_stages_that_cannot_be_are_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"then.optim.learning_rate=-1.0"):
        check_space(stages(tmp_path, space={"then.optim.learning_rate": {"values": [-1.0]}}))
    too_many = {"model.clustering.max_tokens": {"values": [ROOM, ROOM + 1]}}
    with pytest.raises(ConfigError, match=r"sequence.max_image_tokens=12 leaves no room"):
        check_space(stages(tmp_path, space=too_many))


def test_a_sweep_goes_on_with_the_same_second_stage_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = {"sets": ["data"], "output": "made/words"}

    def sweep_of(**then: Any) -> TuneConfig:
        then = {"setokim__text_tokenizer": "made/words"} | then
        return with_absolute_base(stages(Path("runs"), second=then, words=words))

    sweep = sweep_of()
    Trials(sweep).plan(known_values(sweep)[0])
    (sweep.run_dir / "config.yaml").write_text(dump_config(sweep))
    build_word_tokenizer(["a word"], tmp_path / "made" / "words")  # as the first start has done
    check_same_sweep(sweep_of())
    with pytest.raises(ConfigError, match=r"then.train.steps 5 → 6"):
        check_same_sweep(sweep_of(train__steps=6))
    space = sweep.space | {"kind": Dimension(variants={"a": {}, "b": {"loss.l1": 1.0}})}
    kinds = sweep.model_copy(update={"space": space})
    (sweep.run_dir / "config.yaml").write_text(dump_config(kinds))
    more = Dimension(variants={"a": {}, "b": {"loss.l1": 1.0}, "c": {}})
    check_same_sweep(kinds.model_copy(update={"space": space | {"kind": more}}))
    for variants in ({"a": {}, "b": {"loss.l1": 2.0}}, {"a": {}}):
        other = kinds.model_copy(update={"space": space | {"kind": Dimension(variants=variants)}})
        with pytest.raises(ConfigError, match=r"space.kind.b {'loss.l1': 1.0} → "):
            check_same_sweep(other)
    (sweep.run_dir / "config.yaml").write_text(dump_config(sweep))
    scenes = {"plain": ScenesConfig(train=80)}
    with pytest.raises(ConfigError, match=r"sweep of other settings: scenes"):
        check_same_sweep(sweep.model_copy(update={"scenes": scenes}))
    alone = sweep.model_copy(update={"then": None})
    with pytest.raises(ConfigError, match=r"then 'stage instruct' → 'nothing'"):
        check_same_sweep(alone)


# ---------------------------------------------------------------- trials


def run(sweep: TuneConfig, trial: Trial, training: Any) -> None:
    run_trial({NUMBER: trial.number}, sweep=sweep, train=training, directory=str(Path.cwd()))


def test_stages_follow_each_other_and_a_trial_that_died_goes_on(tmp_path: Path) -> None:
    sweep = stages(tmp_path)
    trial = Trials(sweep).plan(known_values(sweep)[0])
    trained: list[str] = []

    def training(config: TrainConfig) -> Path:
        trained.append(config.stage)
        if trained == ["tokenizer", "instruct"]:
            raise KeyboardInterrupt  # killed in the second stage
        write_metrics(config.run_dir, {config.train.steps: {"train/loss": float(config.train.steps)}})
        found = Evaluation(state="done", metrics={"eval/figure": 10.0 * config.train.steps})
        Evaluations(checkpoint.home_of(config)).write(config.train.steps, found)
        return config.run_dir

    with pytest.raises(KeyboardInterrupt):
        run(sweep, trial, training)
    assert trial.result is None, "half a trial is none"
    run(sweep, trial, training)
    assert trained == ["tokenizer", "instruct"] * 2
    assert trial.result is not None and trial.result.state == "done"
    figures = {name: value for name, value in trial.result.metrics.items() if "step" not in name}
    assert figures == {"train/loss": 8, "eval/figure": 80, "then/train/loss": 5, "then/eval/figure": 50}


def test_a_stop_reaches_the_stage_that_runs(tmp_path: Path) -> None:
    sweep = stages(tmp_path)
    trial = Trials(sweep).plan(known_values(sweep)[0])
    trial.ask_to_stop()
    assert (trial.folder / STOP).exists() and not (trial.folder / "then").exists()
    (trial.folder / "then").mkdir()
    trial.ask_to_stop()
    assert (trial.folder / "then" / STOP).exists()


def test_both_stages_are_trained_and_measured(tmp_path: Path) -> None:
    data = squares.write_set(tmp_path / "data")
    build_word_tokenizer([record.caption for record in squares.records() if record.caption], tmp_path / "words")
    small = {"train__steps": 2, "train__global_batch_size": 2, "train__micro_batch_size": 2, "sequence__max_length": 96}
    then = setokim_runs.tree(
        tmp_path / "words",
        stage="instruct",
        **small,
        data__train=[{"path": str(data)}],
        sequence__generation_share=0.0,
        validation={"data": str(data), "references": str(data), "tasks": ["vqa", "caption", "segment"]},
        sequence__too_long="skip",
    )
    steps = {"steps": 2, "global_batch_size": 2, "micro_batch_size": 2}
    first = {
        "model": then["model"],
        "data": {"train": [{"path": str(data)}]},
        "train": steps,
        "validation": {"data": str(data), "limit": 4},
    }
    sweep = sweep_config(
        output_dir=str(tmp_path),
        train=first,
        then=then,
        space={"seed": {"values": [0]}},
        objectives=[{"metric": "then/eval/vqa/accuracy"}],
        questions={"Can it answer?": ["then/eval/vqa/accuracy", "then/eval/vqa/constant"]},
    )
    trial = Trials(sweep).plan(known_values(sweep)[0])
    run(sweep, trial, train)
    assert trial.result is not None and trial.result.state == "done", trial.result
    figures = trial.result.metrics
    assert "eval/psnr" in figures and "then/eval/psnr" not in figures
    assert figures["then/eval/vqa/by_question"] == 0.25, (
        "each of the four colours is right for a quarter of the squares"
    )
    assert {"then/eval/caption/exact", "then/eval/segment/references/constant/giou"} <= set(figures)
    assert not any("generate" in name for name in figures)
    write_results(sweep, Trials(sweep).all())
    second = load_config(TrainConfig, sweep.run_dir / "best_then.yaml")
    assert second.checkpoint.init_from == str(load_config(TrainConfig, sweep.run_dir / "best.yaml").run_dir)
    assert second.run_dir == tmp_path / "sweep-best-then"
    with pytest.raises(CheckpointError, match=r"sweep-best cannot be used(.|\n)*train it first: .*sweep/best.yaml"):
        check_beginning(second)
    kept = sweep.model_copy(update={"train": sweep.train.model_copy(update={"checkpoint": STORED})})
    write_results(kept, [trial])
    assert load_config(TrainConfig, sweep.run_dir / "best_then.yaml").checkpoint.store == STORED.store


def test_what_comes_and_goes_is_a_mean_over_the_run(tmp_path: Path) -> None:
    sweep = stages(tmp_path)
    trial = Trials(sweep).plan(known_values(sweep)[0])
    second = {1: (90.0, 3.0), 2: (100.0, 2.0), 3: (140.0, 1.0)}
    rows = {step: {"train/sequence_tokens": n, "train/loss": loss} for step, (n, loss) in second.items()}
    write_metrics(trial.folder, {8: {"train/loss": 5.0}})
    write_metrics(trial.folder / "then", rows)
    figures = {name: value for name, value in trial.metrics().items() if "train/" in name}
    assert figures == {"train/loss": 5.0, "then/train/sequence_tokens": 110.0, "then/train/loss": 1.0}


# ---------------------------------------------------------------- questions


def finished(folder: Path) -> tuple[TuneConfig, list[Trial]]:
    space = {"seed": {"values": [0, 1]}, "optim.learning_rate": {"values": [0.1, 0.2]}}
    questions = {
        "Is <it> good?": ["eval/a", "eval/unknown"],
        "What does it cost?": ["perf/train_seconds"],
        "?": ["eval/x"],
    }
    sweep = sweep_config(output_dir=str(folder), space=space, average_over=["seed"], questions=questions)
    trials = Trials(sweep)
    for number, values in enumerate(known_values(sweep)):
        figures = {"train/loss": 1.0 + number % 2, "eval/a": 0.5, "perf/train_seconds": 1000.0 * (number + 1)}
        trials.plan(values).finish(Result(state="done", metrics=figures))
    return sweep, trials.all()


def test_every_question_has_its_table_and_figure(tmp_path: Path) -> None:
    sweep, trials = finished(tmp_path)
    answers = answers_of(sweep, trials)
    assert [(one.question, one.metrics) for one in answers] == [
        ("Is <it> good?", ("eval/a",)),
        ("What does it cost?", ("perf/train_seconds",)),
    ], "what nothing is known of is left out"
    assert markdown_of(sweep, answers[1]).splitlines() == [
        "| optim.learning_rate | trials | seconds of training |",
        "|---|---:|---:|",
        "| 0.1 | 2 | 2,000 ± 12,706 |",
        "| 0.2 | 2 | 3,000 ± 12,706 |",
    ]
    html = render_sweep(sweep, trials)
    page = check(html)
    assert page.unlabelled == [] and "Is <it> good?" in page.text
    for section in html.split('<section class="answer')[1:3]:
        section = section.partition("</section>")[0]
        assert section.count("<figure") == section.count("<table") == section.count("<svg") == 1
    write_results(sweep, trials)
    text = (sweep.run_dir / "averages.md").read_text()
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "### Is &lt;it&gt; good?",
        "### What does it cost?",
    ]


def test_the_comparison_differs_in_the_tokenizer_alone(capsys: pytest.CaptureFixture[str]) -> None:
    sweep = load_config(TuneConfig, "sweep_tokenizers")
    dry_run(sweep)
    assert "24 trials of" in " ".join(capsys.readouterr().out.split())
    trials = [both(sweep, number) for number in range(24)]
    assert (
        len({dump_config(first.model_copy(update={"model": sweep.train.model, "seed": 0})) for first, _ in trials}) == 1
    )
    assert (
        len({dump_config(second.model_copy(update={"model": sweep.train.model, "seed": 0})) for _, second in trials})
        == 1
    )
    assert {first.model.clustering.num_tokens for first, _ in trials} == {12, 5, 256}
