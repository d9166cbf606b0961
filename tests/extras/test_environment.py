"""In the environment that ``make test-extras`` builds nothing is skipped for want of a package."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("package", ["timm", "torchvision", "lpips"])
def test_the_own_environment_has_what_is_tested(repo_root: Path, package: str) -> None:
    if Path(sys.prefix).name != ".venv-extras":
        pytest.skip("another environment, which need not have them")
    __import__(package)
    pinned = re.search(rf"^{package.upper()} := (\S+)", (repo_root / "Makefile").read_text(), re.MULTILINE)
    assert pinned is not None
    assert importlib.metadata.version(package).split("+")[0] == pinned.group(1)
