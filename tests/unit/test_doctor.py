"""The doctor as a command: what it says, how it ends, and what becomes of a check that hangs or breaks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ray_jobs import doctor
from ray_jobs.checking import findings, machine, missing
from ray_jobs.checking.findings import Check, Finding
from setok.config import dump_config
from setok.errors import ConfigError
from tests import squares
from tests.examined import GOOD, only, patient
from tests.fakes import train_config


def test_a_check_that_hangs_or_breaks_is_a_finding() -> None:
    never = threading.Event()
    told = only(
        findings.run(Check(subject="storage", ask=lambda: [never.wait()], seconds=0.05, late="mount it")), "fail"
    )  # type: ignore[list-item]
    never.set()
    assert told.text == "no answer in 0.05 s" and told.remedy == "mount it"

    def broken() -> list[Finding]:
        raise ZeroDivisionError("division by zero")

    assert "ZeroDivisionError: division by zero" in only(findings.run(Check(subject="x", ask=broken)), "fail").text


@pytest.fixture
def config_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """Writes a small run's config on a set, on a machine that is well."""
    monkeypatch.setattr(machine, "look", lambda: GOOD)
    monkeypatch.setattr(doctor, "run", patient)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def write(folder: Path) -> str:
        config = train_config(output_dir=str(tmp_path / "runs"), data={"train": [{"path": str(folder)}]})
        (tmp_path / "run.yaml").write_text(dump_config(config))
        return str(tmp_path / "run.yaml")

    return write


def test_the_command_says_what_is_well(
    config_file: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(squares.write_set(tmp_path / "set"))
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--config", file])
    shown = capsys.readouterr().out
    assert ended.value.code == 0 and " 0 fail" in shown and "32 of them decoded" in shown


def test_the_command_fails_with_what_to_do_and_as_json(
    config_file: Callable[[Path], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = config_file(tmp_path / "nowhere")
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--config", file])
    assert ended.value.code == 1
    assert "nowhere' does not exist\n" in (shown := capsys.readouterr().out) and "→ make it with: python -m" in shown
    with pytest.raises(SystemExit) as ended:
        doctor.main(["--config", file, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert ended.value.code == 1 and told["ok"] is False
    assert [finding["subject"] for finding in told["findings"] if finding["status"] == "fail"] == ["data"]
    assert "storage" in [finding["subject"] for finding in told["findings"] if finding["status"] == "ok"]


def test_an_address_for_jobs_is_not_one_for_the_doctor() -> None:
    with pytest.raises(ConfigError, match="where jobs are sent to") as raised:
        doctor.main(["--address", "http://head:8265"])
    assert "--job doctor" in raised.value.remedy


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_python_without_the_packages_is_told_what_to_install(repo_root: Path, flags: list[str]) -> None:
    """``-S`` finds the standard library alone."""
    command = [sys.executable, "-S", "-m", "ray_jobs.doctor", *flags]
    environment = {"PYTHONPATH": str(repo_root), "PATH": os.environ["PATH"]}
    done = subprocess.run(command, env=environment, cwd=repo_root, text=True, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, "")
    text = json.loads(done.stdout)["findings"][0]["text"] if flags else done.stdout
    assert "has no rich, pydantic" in text and "torch" in text
    assert "pip install -c constraints.txt" in done.stdout
    assert missing.lacking() == []
    other = missing.report(ModuleNotFoundError("No module named 'odd'", name="odd"), as_json=False)
    assert "has no odd\n" in other
