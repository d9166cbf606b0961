"""What to say on a Python that lacks the project's packages; only the standard library is needed for it."""

from __future__ import annotations

import importlib.util
import json
import sys

NEEDED = (
    "rich",
    "pydantic",
    "yaml",
    "numpy",
    "pyarrow",
    "cv2",
    "torch",
    "transformers",
    "safetensors",
    "ray",
    "deepspeed",
)
"""Modules without which nothing starts, or nothing can be looked at."""
_REMEDY = (
    "make setup, then .venv/bin/python -m ray_jobs.doctor; or into this Python: pip install -c constraints.txt -e . in the"
    " folder of the code"
)


def lacking() -> list[str]:
    """Those of ``NEEDED`` that this Python does not find."""
    return [name for name in NEEDED if importlib.util.find_spec(name) is None]


def report(error: ModuleNotFoundError, *, as_json: bool) -> str:
    """The doctor's one finding, where it cannot even start, as it shows others.

    Args:
        error: what its own imports met.
    """
    names = lacking()
    if error.name is not None and error.name.partition(".")[0] not in names:
        names.append(error.name)
    text = f"{sys.executable} (Python {sys.version.split()[0]}) has no {', '.join(names)}"
    if as_json:
        finding = {"status": "fail", "subject": "versions", "text": text, "remedy": _REMEDY, "node": ""}
        return json.dumps({"ok": False, "findings": [finding]}, indent=2)
    return f"fail  versions    {text}\n{'':18}→ {_REMEDY}"
