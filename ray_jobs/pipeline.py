"""From nothing to a report: generate scenes (if wanted), ingest, train, evaluate, and show.

    python -m ray_jobs.pipeline --config demo
    python -m ray_jobs.pipeline --config photos --set ingest.0.sources.0.path=/my/pictures name=mine

Every step leaves its result in the run's folder and is skipped when that result is already there, so a pipeline that was
stopped goes on where it was when it is started again.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ray_jobs import launch
from ray_jobs.evaluate import evaluate
from ray_jobs.ingest import dry_run as plan_ingest
from ray_jobs.ingest import heldout_folder, ingest
from ray_jobs.reporting.comparison import headlines
from ray_jobs.reporting.page import write_report
from ray_jobs.train import train
from ray_jobs.training.dry_run import dry_run as plan_training
from setok import checkpoint
from setok.config import IngestConfig, PipelineConfig, ScenesConfig, TrainConfig, WordsConfig, dump_config
from setok.data.scenes import write_scenes
from setok.data.schema import Manifest

METRICS, CONFIG = "metrics.json", "config.yaml"


def run_pipeline(config: PipelineConfig) -> Path:
    """Run all steps and write ``report.html`` and ``metrics.json`` into the run's folder.

    Returns:
        The report.
    """
    started = time.monotonic()
    config.run_dir.mkdir(parents=True, exist_ok=True)
    (config.run_dir / CONFIG).write_text(dump_config(config))
    console = launch.console()
    launch.start_ray()
    prepare_data(config.run_dir, config.scenes, config.ingest, config.words)
    trained = {}
    for stage, run in stages_of(config).items():
        console.rule(f"train: {run.name}", align="left")
        trained[stage] = train(run)
    evaluations: dict[str, dict[str, dict[str, Any]]] = {stage: {} for stage in trained}
    for evaluation in config.evaluate:
        console.rule(f"evaluate: {evaluation.name}", align="left")
        figures = evaluate(evaluation)
        evaluations.setdefault(figures["run"]["stage"], {})[evaluation.name] = figures
        console.print("\n".join(headlines(figures)))
    metrics = _nested(trained, evaluations, time.monotonic() - started)
    (config.run_dir / METRICS).write_text(json.dumps(metrics, indent=2))
    return write_report(config.run_dir)


def prepare_data(
    run_dir: Path, scenes: Mapping[str, ScenesConfig], parts: Iterable[IngestConfig], words: WordsConfig | None
) -> None:
    """Generate scenes below ``run_dir``, ingest sets and make a text tokenizer, as far as they are not there yet.

    Ray must be running.
    """
    console = launch.console()
    for key, family in scenes.items():
        console.rule(f"scenes: {key}", align="left")
        _make_scenes(run_dir / "scenes" / key, family)
    for part in parts:
        console.rule(f"ingest: {part.name}", align="left")
        manifest = ingest(part)
        console.print(f"{manifest.num_rows} records, {manifest.num_quarantined} in quarantine → {part.output}")
        if part.holdout_fraction:
            held_out = heldout_folder(part)
            console.print(f"{Manifest.load(held_out).num_rows} records held out → {held_out}")
    if words is not None:
        console.rule("words", align="left")
        console.print(_make_words(words))


def stages_of(config: PipelineConfig) -> dict[str, TrainConfig]:
    """The training runs that are given, in their order."""
    runs = {"tokenizer": config.tokenizer, "pretrain": config.pretrain, "instruct": config.instruct}
    return {stage: run for stage, run in runs.items() if run is not None}


def _make_words(config: WordsConfig) -> str:
    """Make the text tokenizer, if it is not there yet; what to say about it."""
    folder = Path(config.output)
    if (folder / "tokenizer.json").is_file():
        return f"{folder} is there already"
    from setok.data.word_tokenizer import build_word_tokenizer, texts_of_set  # brings in transformers

    texts = itertools.chain.from_iterable(texts_of_set(path) for path in config.sets)
    words = build_word_tokenizer(texts, folder, max_words=config.max_words)
    return f"{len(words)} tokens → {folder}"


def _make_scenes(out: Path, config: ScenesConfig) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=launch.console()) as progress:
        for split, count in (("train", config.train), ("test", config.test)):
            task = progress.add_task(split, total=count)
            write_scenes(
                out,
                split=split,
                count=count,
                seed=config.seed,
                family=config.family,
                layouts=config.layouts,
                image_size=config.image_size,
                on_progress=lambda done, _, task=task: progress.update(task, completed=done),  # type: ignore[misc]
            )
            progress.update(task, completed=count)


def _nested(
    trained: dict[str, Path], evaluations: dict[str, dict[str, dict[str, Any]]], seconds: float
) -> dict[str, Any]:
    """Metrics by stage: the first evaluation's figures at the top of the stage, all evaluations below them."""
    metrics: dict[str, Any] = {}
    for stage, folder in trained.items():
        state = checkpoint.read_state(checkpoint.resolve(folder))
        own = evaluations[stage]
        # Sets of a language model have tasks of their own: their figures do not hide each other's.
        figures: dict[str, Any] = {}
        for measured in own.values():
            figures = {name: value for name, value in measured.items() if name != "run"} | figures
        metrics[stage] = figures | {
            "train_seconds": round(state.counters["train_seconds"], 1),
            "steps": state.step,
            "samples": state.samples,
            "num_workers": state.world_size,
            "evaluations": own,
        }
    return metrics | {"total_seconds": round(seconds, 1)}


def plan(config: PipelineConfig) -> None:
    """What the pipeline would do, for ``--dry-run``; looks at every source that it does not make itself."""
    console = launch.console()
    for key, scenes in config.scenes.items():
        console.print(
            f"scenes {key}: {scenes.train} to learn from and {scenes.test} to test → {config.run_dir / 'scenes' / key}"
        )
    for part in config.ingest:
        if any(Path(source.path).is_relative_to(config.run_dir) for source in part.sources):
            console.print(f"{part.name}: of the scenes above → {part.output}")
        else:
            plan_ingest(part)
    for run in stages_of(config).values():
        console.rule(f"train: {run.name}", align="left")
        plan_training(run, config.run_dir)
    console.rule("evaluate", align="left")
    for evaluation in config.evaluate:
        console.print(f"{evaluation.name}: {evaluation.data} → {evaluation.run_dir}")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line of ``python -m ray_jobs.pipeline``."""
    config = launch.parse(PipelineConfig, __doc__ or "", argv, dry_run=plan)
    report = run_pipeline(config)
    launch.console().print(f"\n[bold]report[/bold]  {report}\n[bold]metrics[/bold] {config.run_dir / METRICS}")


if __name__ == "__main__":
    launch.run(main)
