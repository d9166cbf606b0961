"""What is wrong with a text that is no YAML, in words of people who write it; PyYAML's are those of its scanner."""

from __future__ import annotations

import re

import yaml

from ray_jobs.manifests.problems import Problem, shown

_MEANINGS = (
    (r"found character '\\t'", "a tab, which YAML takes for no indentation", "indent with spaces"),
    (r"found duplicate|comes twice", "", "keep one of the two"),
    (r"mapping values are not allowed", "a key where a value was expected",
     "indent the line as its neighbours are, look whether the line above lacks its colon, and quote a value that holds ': '"),
    (r"expected <block end>", "it is indented differently from the lines that it belongs to",
     "give all keys of a mapping, and all items of a list, the same indentation"),
    (r"did not find expected key|could not find expected ':'", "a key without its colon",
     "write key: value, and indent a text of several lines more than its key"),
    (r"but got|flow (mapping|sequence)", "a bracket or brace that nothing closes", "close it, or quote the value"),
    (r"unexpected end of stream|quoted scalar", "a quotation mark that nothing closes", "close it"),
    (r"undefined alias", "", "define it above with &NAME, or correct the name"),
    (r"cannot start any token", "a character that a value may not begin with", "quote the value"),
)  # fmt: skip

_OPENED = re.compile(r"simple key|quoted scalar|flow (mapping|sequence)")


def explain_syntax(error: yaml.YAMLError, text: str, at: str = "") -> Problem:
    """Where a text is no YAML, why, and what to do.

    Args:
        error: what the reader of YAML raised.
        text: what it read.
        at: path of the text in its file, where it is a value there.
    """
    mark, context = getattr(error, "problem_mark", None), str(getattr(error, "context", None) or "")
    if (
        _OPENED.search(context) or mark is None
    ):  # what was begun there has no end; the other mark is where it was missed
        mark = getattr(error, "context_mark", None)
    said = str(getattr(error, "problem", None) or error)
    what, remedy = said, "compare it with the neighbouring files of cluster/"
    for pattern, words, advice in _MEANINGS:
        if re.search(pattern, f"{said} {context}"):
            what, remedy = words or said, advice
            break
    if mark is None:
        return Problem(at, what, remedy)
    lines = text.split("\n")
    place = f"line {mark.line + 1}"
    line = lines[mark.line].strip() if mark.line < len(lines) else ""
    return Problem(f"{at}: {place}" if at else place, f"{what}: {shown(line)}" if line else what, remedy)
