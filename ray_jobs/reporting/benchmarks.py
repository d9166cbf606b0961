"""The figures of benchmarks as people read them: name, unit, digits, and which way is better; by the keys of their scorers."""

from __future__ import annotations

from ray_jobs.reporting.rows import Row


def _percent(key: str, name: str) -> Row:
    return Row(key=key, name=name, unit="%", is_percent=True)


def _share(key: str, name: str) -> Row:
    return Row(key=key, name=name, unit="%")


_ROWS = (
    _percent("accuracy", "Accuracy"),
    _percent("multiple_choice", "Multiple choice"),
    _percent("direct_answer", "Direct answers"),
    _percent("consistency", "Consistency"),
    _percent("validity", "Validity"),
    _percent("plausibility", "Plausibility"),
    Row(key="distribution", name="Distribution", better="lower"),
    _percent("top1", "Top-1"),
    _share("precision", "Precision"),
    _share("recall", "Recall"),
    _share("f1", "F1"),
    Row(key="yes_ratio", name="Said yes", unit="%", better=""),
    Row(key="perception", name="Perception, of 2,000", digits=1),
    Row(key="cognition", name="Cognition, of 800", digits=1),
    Row(key="bleu_4", name="BLEU-4", digits=3),
    Row(key="rouge_l", name="ROUGE-L", digits=3),
    Row(key="cider", name="CIDEr-D", digits=3),
    Row(key="meteor", name="METEOR", digits=3),
    _percent("ciou", "cIoU"),
    _percent("giou", "gIoU"),
    _percent("miou", "mIoU"),
    _percent("precision@0.5", "P@0.5"),
    _percent("pq", "PQ"),
    _percent("sq", "SQ"),
    _percent("rq", "RQ"),
    Row(key="psnr", name="PSNR", unit="dB"),
    Row(key="ssim", name="SSIM", digits=3),
    Row(key="lpips", name="LPIPS", digits=3, better="lower"),
    Row(key="rfid", name="rFID", better="lower"),
    Row(key="fid", name="FID", better="lower"),
    Row(key="l1", name="L1", digits=3, better="lower"),
    Row(key="l2", name="L2", digits=4, better="lower"),
    Row(key="clip_i", name="CLIP-I", digits=3),
    Row(key="dino", name="DINO", digits=3),
)
_BY_KEY = {row.key: row for row in _ROWS}
_OF_TASK = {("pope", "accuracy"): _share("accuracy", "Accuracy")}
"""Where a scorer gives a share what others give in percent."""


def row_of(task: str, key: str) -> Row:
    """How a headline figure of a benchmark is shown."""
    return _OF_TASK.get((task, key)) or _BY_KEY[key]
