"""Files of ``cluster/``, and copies of them with one thing changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_jobs.manifests import Problem, check_files

Mistyped = Callable[..., list[Problem]]


@pytest.fixture(scope="session")
def crds(repo_root: Path) -> Path | None:
    """KubeRay's CRDs, which lie beside the repository and not in it; ``None`` where they are missing."""
    folder = repo_root.parent / "shared" / "kuberay-crds"
    return folder if folder.is_dir() else None


@pytest.fixture
def mistyped(repo_root: Path, tmp_path: Path, crds: Path | None) -> Mistyped:
    """Gives the problems of a shipped file in which one text stands for another."""

    def check(name: str, before: str, after: str) -> list[Problem]:
        text = (repo_root / "cluster" / name).read_text("utf-8")
        assert before in text, f"{name} has no {before!r} any more: adapt this case"
        copy = tmp_path / Path(name).name
        copy.write_text(text.replace(before, after, 1), "utf-8")
        return list(check_files([copy], root=repo_root, crds=crds).problems)

    return check


@pytest.fixture
def mistyped_folder(repo_root: Path, tmp_path: Path, crds: Path | None) -> Mistyped:
    """The same for a file among all that Kubernetes gets, and the server's, which are checked together."""

    def check(name: str, before: str, after: str) -> list[Problem]:
        folder = tmp_path / "kuberay"
        shutil.copytree(repo_root / "cluster" / "kuberay", folder)
        shutil.copy(repo_root / "cluster" / "serve.yaml", folder)
        text = (folder / name).read_text("utf-8")
        assert before in text, f"{name} has no {before!r} any more: adapt this case"
        (folder / name).write_text(text.replace(before, after, 1), "utf-8")
        return list(check_files([folder], root=repo_root, crds=crds).problems)

    return check
