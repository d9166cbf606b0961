"""The page of a sweep over clustering thresholds: tokens and quality at every value, and quality by tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import pyarrow as pa

from ray_jobs.reporting import layout
from ray_jobs.reporting.cases import told_figures
from ray_jobs.reporting.charts import line_chart, short
from ray_jobs.reporting.page import REPORT
from ray_jobs.reporting.style import STYLE
from ray_jobs.reporting.sweep_style import STYLE as OWN_STYLE
from setok.config import ThresholdsConfig

FIGURES: Mapping[str, tuple[str, str]] = {
    "mean_tokens": ("Tokens per image", "mean over the set"),
    "std_tokens": ("Spread of token counts", "standard deviation; 0 is a fixed count"),
    "tokens_objects_correlation": ("Tokens against objects, r", "do busier pictures get more tokens?"),
    "psnr": ("PSNR, dB", "of the picture painted from the tokens"),
    "painted_psnr": ("PSNR of the token map, dB", "every region in its mean colour"),
    "ssim": ("SSIM", "likeness of structure"),
    "ari": ("ARI, all patches", "do tokens and segments agree? 0 is chance"),
    "foreground_ari": ("ARI, objects only", "are objects told from each other?"),
    "pixel_ari": ("ARI, pixels", "coarse outlines cost points"),
    "mbo": ("mBO", "overlap of every object with its best token"),
    "miou": ("mIoU, one to one", "overlap of every segment with a token of its own"),
}
"""Columns of the table by what people call them, and what they mean."""
_BY_TOKENS = ("psnr", "miou", "mbo", "ari", "foreground_ari")
_MOST_ROWS = 24


def write_thresholds_report(
    config: ThresholdsConfig, table: pa.Table, *, num_images: int, seconds: float, trained_value: float | None
) -> Path:
    """Write ``report.html`` into the run's folder.

    Args:
        table: a row for every value.
        num_images: pictures of the set that were looked at.
        seconds: that it took.
        trained_value: what the model was trained with, where that is among what was asked.
    """
    path = config.run_dir / REPORT
    temporary = path.with_name(f".{REPORT}")
    page = render_thresholds(
        config, table.to_pydict(), num_images=num_images, seconds=seconds, trained_value=trained_value
    )
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)
    return path


def render_thresholds(
    config: ThresholdsConfig,
    columns: Mapping[str, Sequence[Any]],
    *,
    num_images: int,
    seconds: float,
    trained_value: float | None,
) -> str:
    """The page as text; see ``write_thresholds_report``."""
    values = columns[config.vary]
    known = [name for name in FIGURES if any(value is not None for value in columns[name])]
    name = config.vary.replace("_", " ")
    trained = "" if trained_value is None else f" It was trained with {escape(f'{trained_value:g}')}, the broken line."
    lead = (
        f"One trained tokenizer, {num_images:,} pictures, {len(values)} values of {escape(name)} from {short(values[0])} to"
        f" {short(values[-1])}: measured in one pass of {seconds:.0f} seconds, without training.{trained}"
    )
    curves = [
        _card(
            key,
            line_chart(
                values,
                columns[key],
                title=f"{FIGURES[key][0]} by {name}",
                x_label=name,
                at=trained_value,
                width=layout.width(len(known)),
            ),
        )
        for key in known
    ]
    order = sorted(range(len(values)), key=lambda row: columns["mean_tokens"][row] or 0.0)
    tokens = [columns["mean_tokens"][row] or 0.0 for row in order]
    bought = [key for key in _BY_TOKENS if key in known]
    by_tokens = [
        _card(
            key,
            line_chart(
                tokens,
                [columns[key][row] for row in order],
                title=f"{FIGURES[key][0]} by tokens",
                x_label="tokens per image",
                at=None if trained_value is None else _nearest(values, columns["mean_tokens"], trained_value),
                width=layout.width(len(bought)),
            ),
        )
        for key in bought
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{escape(config.title)}</title><style>{STYLE}{OWN_STYLE}</style></head><body><main>"
        f'<header><p class="eyebrow">{escape(config.name)}</p><h1>{escape(config.title)}</h1><p class="lead">{lead}</p>'
        f'<p class="note">{escape(config.checkpoint)} on {escape(config.data)}</p></header>'
        f"<section><h2>By {escape(name)}</h2>{layout.charts(curves)}</section>"
        "<section><h2>What a token buys</h2><p>The same values in the order of the tokens they give.</p>"
        f"{layout.charts(by_tokens)}</section>"
        f"{_table(config.vary, columns, known)}"
        "<footer>Made by ray_jobs.reporting. The page holds everything it shows and loads nothing.</footer>"
        "</main></body></html>\n"
    )


def _nearest(values: Sequence[float], tokens: Sequence[float | None], value: float) -> float | None:
    """The tokens of the value that lies nearest to one; ``None`` where it is not among what was asked."""
    if not min(values) <= value <= max(values):
        return None
    return tokens[min(range(len(values)), key=lambda row: abs(values[row] - value))]


def _card(name: str, chart: str) -> str:
    title, meaning = FIGURES[name]
    return f'<figure class="card"><h3>{title}</h3>{chart}<figcaption>{meaning}</figcaption></figure>'


def _table(vary: str, columns: Mapping[str, Sequence[Any]], known: Sequence[str]) -> str:
    """Some of the rows, evenly spaced, the last one among them."""
    count = len(columns[vary])
    step = max(1, -(-count // _MOST_ROWS))
    shown = sorted({*range(0, count, step), count - 1})
    names = [vary.replace("_", " "), *(FIGURES[key][0] for key in known)]
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    figures = [told_figures([columns[key][row] for row in shown]) for key in known]
    lines = []
    for place, row in enumerate(shown):
        cells = "".join(f"<td>{column[place]}</td>" for column in figures)
        lines.append(f'<tr><th scope="row">{columns[vary][row]:.4g}</th>{cells}</tr>')
    return (
        '<section><h2>Figures</h2><div class="scroll card" tabindex="0" role="region" aria-label="Table of figures">'
        f'<table class="tight"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
        '<p class="note">All values: thresholds.parquet.</p></section>'
    )
