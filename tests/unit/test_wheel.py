"""What ``pip install`` of the project brings: every file of the packages, for those that are no code are read at run time."""

from __future__ import annotations

from pathlib import Path

import pytest
from setuptools.dist import Distribution


def test_a_wheel_holds_every_file_of_the_packages(repo_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo_root)
    project = Distribution({"script_name": "setup.py"})
    project.parse_config_files(["pyproject.toml"])
    project.include_package_data = False  # what pyproject.toml names, and not what git knows of
    build = project.get_command_obj("build_py")
    build.ensure_finalized()
    code = {Path(path) for _, _, path in build.find_all_modules()}
    data = {Path(folder, name) for _, folder, _, names in build.data_files for name in names}
    below = (path for package in ("setok", "ray_jobs") for path in Path(package).rglob("*") if path.is_file())
    there = {path for path in below if "__pycache__" not in path.parts}
    assert code | data == there
    assert {Path("setok/presets/demo.yaml"), Path("ray_jobs/serving/page/index.html")} <= data and len(code) >= 400
