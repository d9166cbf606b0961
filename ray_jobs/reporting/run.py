"""The report on how training went and what ran."""

from __future__ import annotations

from html import escape

from ray_jobs.reporting import layout
from ray_jobs.reporting.charts import line_chart
from ray_jobs.reporting.data import Curve, EvaluationReport, Facts, ReportData, StageReport, duration
from ray_jobs.reporting.rows import is_known

_CURVES = (
    ("train/loss", "Loss", "weighted sum of all terms"),
    ("train/psnr", "PSNR, dB", "on the training pictures of the step"),
    ("train/text", "Words", "cross-entropy of what is to be said"),
    ("train/text_accuracy", "Words right", "share, given all words before"),
    ("train/diffusion", "Drawing", "denoising error of visual tokens"),
    ("train/stop_accuracy", "Going on", "share of right decisions whether a picture goes on"),
    ("train/mask_dice", "Regions", "Dice loss of masks"),
    ("train/mask_iou", "Regions, overlap", "mean IoU of masks"),
    ("train/l1", "L1", "mean absolute error of pixels"),
    ("train/l2", "L2", "mean squared error of pixels"),
    ("train/perceptual", "LPIPS", "difference as a trained network sees it"),
    ("train/flow", "Flow matching", "error of the flow decoder's direction"),
    ("train/contrast", "Concept contrast", "telling a picture's nouns from other pictures'"),
    ("train/feature_target", "Feature target", "reading patch statistics from the clustered feature"),
    ("train/adversarial", "Adversarial", "how real the discriminator finds the pictures"),
    ("train/discriminator_loss", "Discriminator", "its own loss"),
    ("train/tokens", "Tokens per image", "mean over the step"),
    ("train/grad_norm", "Gradient norm", "before clipping"),
    ("train/learning_rate", "Learning rate", ""),
    ("perf/images_per_second", "Images per second", "all workers together"),
    ("perf/data_wait_fraction", "Waiting for data", "share of the time, 0 to 1"),
)


def training(stage: StageReport) -> str:
    """Curves of a training run."""
    known: dict[str, Curve] = {curve.name: curve for curve in stage.curves}
    cards = []
    for name, title, meaning in _CURVES:
        if name in known and any(value is not None for value in known[name].values):
            chart = line_chart(known[name].steps, known[name].values, title=title)
            caption = f"<figcaption>{meaning}</figcaption>" if meaning else ""
            cards.append(f'<figure class="card"><h3>{title}</h3>{chart}{caption}</figure>')
    return (
        f"<section><h2>Training: {escape(stage.name)}</h2>"
        "<p>Every curve over optimizer steps; where one is noisy, the strong line is a moving average.</p>"
        f"{layout.charts(cards)}</section>"
    )


def what_ran(data: ReportData) -> str:
    """Steps, workers, times, settings and versions."""
    parts = ["<section><h2>What ran</h2>", _facts(data.facts) if data.facts else ""]
    for stage in data.stages:
        parts.append(_titled(f"Training: {stage.name}", stage.facts))
        if stage.settings:
            parts.append(f"<details><summary>Settings</summary>{_facts(stage.settings)}</details>")
    parts += [
        _titled(f"Evaluation: {evaluation.label}", _evaluation_facts(evaluation)) for evaluation in data.evaluations
    ]
    if data.versions:
        parts.append(_titled("Versions", tuple((name, str(version)) for name, version in data.versions.items())))
    return "".join(parts) + "</section>"


def _evaluation_facts(evaluation: EvaluationReport) -> Facts:
    run = evaluation.metrics.get("run") or {}
    facts = [("Checkpoint", str(run["checkpoint"]))] if run.get("checkpoint") else []
    if run.get("data"):
        facts.append(("Data", f"{run['data']} ({(run.get('fingerprints') or {}).get('data', 'no fingerprint')})"))
    if is_known(run.get("seconds")):
        facts.append(("Took, start of the replicas included", duration(run["seconds"])))
    if is_known(run.get("num_replicas")):
        facts.append(("Replicas", str(run["num_replicas"])))
    return tuple(facts)


def _titled(title: str, facts: Facts) -> str:
    return f'<h3 class="group"><b>{escape(title)}</b></h3>{_facts(facts)}'


def _facts(facts: Facts) -> str:
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts)
    return f"<dl>{rows}</dl>"
