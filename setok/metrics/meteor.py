"""METEOR (Denkowski & Lavie 2014), by the Java program of its authors, which the package ``pycocoevalcap`` brings along.

The figure comes from that program alone, so it is there where Java is there. It is the one of the COCO caption evaluation:
version 1.5, English, normalised, over the words of ``setok.metrics.treebank``.
"""

from __future__ import annotations

import importlib.util
import shutil

from setok.errors import ConfigError
from setok.metrics.captions import CaptionScores


def missing() -> str | None:
    """What METEOR lacks on this machine, or ``None``."""
    if shutil.which("java") is None:
        return "no `java` on the path"
    if importlib.util.find_spec("pycocoevalcap") is None:
        return "the package pycocoevalcap is not installed"
    return None


def meteor(scores: CaptionScores) -> float:
    """METEOR of all captions that were added, in [0, 1].

    Raises:
        ConfigError: Java or the package is not there, or no caption was added.
    """
    lacks = missing()
    if lacks is not None:
        raise ConfigError(f"METEOR cannot be computed: {lacks}", "install Java and `pip install 'setok[eval]'`")
    if not len(scores):
        raise ConfigError("METEOR of no captions is undefined", "add captions first")
    from pycocoevalcap.meteor.meteor import Meteor

    references = {p: [" ".join(ref) for ref in judged.references] for p, judged in scores.pictures.items()}
    captions = {p: [" ".join(judged.caption)] for p, judged in scores.pictures.items()}
    program = Meteor()
    value, _ = program.compute_score(references, captions)
    return float(value)
