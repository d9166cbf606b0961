"""What a language model was asked, said, drew and marked, next to the truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from ray_jobs.evaluation.files import BEST, RANDOM, WORST
from ray_jobs.reporting import layout

_KINDS = (
    (BEST, "Best", "highest {}; of equals, some"),
    (RANDOM, "Random", "drawn from the others by the seed"),
    (WORST, "Worst", "lowest {}; of equals, some"),
    (None, "", ""),
)
_CHOSEN_BY = {"vqa": "accuracy of the answer", "caption": "F1 of the things named", "segment": "IoU"}
"""What the cases of a task are ranked by (``ray_jobs.evaluation.cases.goodness``); of drawn pictures it is PSNR."""
_FIGURES = {"caption": "F1 {:.2f}", "segment": "IoU {:.2f}", "generate": "PSNR {:.1f} dB", "edit": "PSNR {:.1f} dB"}
"""How good a case is, where no answer in words says it."""


def examples(cases: Sequence[Mapping[str, Any]]) -> str:
    """Cards of some cases of one task (as ``ray_jobs.evaluation.cases`` makes them): best, random, worst."""
    parts = []
    for kind, name, why in _KINDS:
        own = [case for case in cases if case.get("kind") == kind]
        if own:
            by = _CHOSEN_BY.get(own[0]["task"], "PSNR")
            head = f'<p class="group"><b>{name}</b>{why.format(by)}</p>' if name else ""
            parts.append(head + layout.cases([_example(case) for case in own]))
    return "".join(parts)


def _example(example: Mapping[str, Any]) -> str:
    """One thing asked: its pictures side by side, what was said, and what is true."""
    names = {"given": "shown", "truth": "true picture", "mask": "marked", "true mask": "true region"}
    pictures = "".join(
        f'<span><img class="pixels" src="data:image/png;base64,{data}" alt="{names.get(name, name)}">'
        f"<small>{names.get(name, name)}</small></span>"
        for name, data in example["images"].items()
    )
    words = []
    right = _plain(example["said"]) == _plain(example["truth"])
    if example["asked"]:
        words.append(f'<p class="ask">{escape(example["asked"])}</p>')
    if example["said"] or example["truth"]:
        mark = '<b class="right">✓</b> ' if right else '<b class="wrong">✗</b> '
        words.append(f"<p>{mark}{escape(example['said']) or '<i>nothing</i>'}</p>")
        if not right:
            words.append(f'<p class="true">{escape(example["truth"])}</p>')
    shows = example["task"] in _FIGURES and not (example["said"] and right)
    if shows and example.get("goodness") is not None:
        words.append(f"<p>{_FIGURES[example['task']].format(example['goodness'])}</p>")
    return (
        f'<figure class="card n{len(example["images"])}"><div class="row">{pictures}</div>'
        f'<figcaption title="{escape(example["id"])}">{"".join(words)}</figcaption></figure>'
    )


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .")


STYLE = """
.asked { display: grid; grid-template-columns: repeat(3, 1fr); gap: 14px; margin-top: 18px; }
.asked.one { grid-template-columns: minmax(0, 520px); } .asked.two { grid-template-columns: repeat(2, 1fr); }
.asked figure { margin: 0; padding: 10px; break-inside: avoid; }
.asked .row { display: grid; gap: 6px; grid-template-columns: repeat(3, 1fr); }
.asked .n1 { display: grid; grid-template-columns: 1fr 2fr; gap: 12px; }
.asked .n1 .row { grid-template-columns: 1fr; } .asked .n1 figcaption { margin-top: 0; }
.asked .n2 .row { grid-template-columns: repeat(2, 1fr); }
.asked img { display: block; width: 100%; aspect-ratio: 1; border-radius: 4px; }
.asked img { image-rendering: pixelated; background: var(--wash); }
.asked small { display: block; font-size: 11.5px; text-align: center; margin-top: 2px; }
.asked figcaption { margin-top: 8px; }
.asked figcaption p { margin: 0 0 2px; color: var(--ink); }
.asked .ask { font-weight: 600; }
.asked .true { color: var(--muted); }
.asked .right { color: var(--good); } .asked .wrong { color: var(--bad); }
@media (max-width: 860px) { .asked { grid-template-columns: repeat(2, 1fr); } }
@media (max-width: 620px) { .asked, .asked.two { grid-template-columns: minmax(0, 1fr); } }
"""
