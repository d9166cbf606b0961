"""From nothing to a report: generate scenes (if wanted), ingest, train, evaluate, and show.

Every step leaves its result in the run's folder and is skipped when that result is already there, so a pipeline that was
stopped goes on where it was when it is started again.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ray_jobs import launch
from ray_jobs.evaluate import evaluate
from ray_jobs.ingest import ingest
from ray_jobs.report import write_report
from ray_jobs.train import dry_run, train
from setok import checkpoint
from setok.config import PipelineConfig, ScenesConfig, dump_config
from setok.data.scenes import write_scenes

METRICS, CONFIG = "metrics.json", "config.yaml"
HEADLINES = {"psnr": "PSNR", "ari": "ARI", "foreground_ari": "foreground ARI", "mean_tokens": "tokens per image"}


def run_pipeline(config: PipelineConfig) -> Path:
    """Run all steps and write ``report.html`` and ``metrics.json`` into the run's folder.

    Returns:
        The report.
    """
    started = time.monotonic()
    config.run_dir.mkdir(parents=True, exist_ok=True)
    (config.run_dir / CONFIG).write_text(dump_config(config))
    console = launch.console()
    for key, scenes in config.scenes.items():
        console.rule(f"scenes: {key}", align="left")
        _make_scenes(config.run_dir / "scenes" / key, scenes)
    launch.start_ray()
    for part in config.ingest:
        console.rule(f"ingest: {part.name}", align="left")
        manifest = ingest(part)
        console.print(f"{manifest.num_rows} records, {manifest.num_quarantined} in quarantine → {part.output}")
    console.rule("train: tokenizer", align="left")
    trained = train(config.tokenizer)
    evaluations = {}
    for evaluation in config.evaluate:
        console.rule(f"evaluate: {evaluation.name}", align="left")
        figures = evaluate(evaluation)
        evaluations[evaluation.name] = figures
        console.print(" · ".join(f"{label} {_shown(figures[key])}" for key, label in HEADLINES.items()))
    metrics = _nested(trained, evaluations, time.monotonic() - started)
    (config.run_dir / METRICS).write_text(json.dumps(metrics, indent=2))
    return write_report(config.run_dir)


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
                layouts=("coco",),
                image_size=config.image_size,
                on_progress=lambda done, _, task=task: progress.update(task, completed=done),  # type: ignore[misc]
            )
            progress.update(task, completed=count)


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _nested(trained: Path, evaluations: dict[str, dict[str, Any]], seconds: float) -> dict[str, Any]:
    """Metrics by stage: the first evaluation's figures at the top of the stage, all evaluations below them."""
    state = checkpoint.read_state(checkpoint.resolve(trained))
    run = {
        "train_seconds": round(state.counters["train_seconds"], 1),
        "steps": state.step,
        "samples": state.samples,
        "num_workers": state.world_size,
    }
    first = next(iter(evaluations.values()))
    figures = {name: value for name, value in first.items() if name != "run"}
    return {
        "tokenizer": figures | run | {"evaluations": evaluations},
        "total_seconds": round(seconds, 1),
    }


def main() -> None:
    """Command line of ``python -m ray_jobs.pipeline``."""
    config = launch.parse(PipelineConfig, __doc__ or "", dry_run=lambda c: dry_run(c.tokenizer))
    report = run_pipeline(config)
    launch.console().print(f"\n[bold]report[/bold]  {report}\n[bold]metrics[/bold] {config.run_dir / METRICS}")


if __name__ == "__main__":
    launch.run(main)
