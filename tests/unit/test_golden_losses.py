"""The first losses of a tiny tokenizer are those on file: training changes on purpose or not at all."""

from __future__ import annotations

import json

import pytest
from golden.first_losses import CASES, FILE, STEPS, first_losses


def test_every_case_is_on_file() -> None:
    golden = json.loads(FILE.read_text())
    assert golden.keys() == CASES.keys()
    assert all(len(losses) == STEPS for losses in golden.values())


@pytest.mark.parametrize("case", CASES)
def test_first_losses(case: str) -> None:
    # Other processors round otherwise, and clustering decides by comparing: later steps may differ a little.
    assert first_losses(CASES[case]) == pytest.approx(json.loads(FILE.read_text())[case], rel=5e-3)
