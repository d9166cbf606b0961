"""The command line that all jobs share."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray._private.ray_logging import LogDeduplicator

from ray_jobs import launch
from ray_jobs.command_line import without_markup
from setok.config import JOBS, TrainConfig, TuneConfig, dump_config, list_presets
from setok.errors import ConfigError, DataError, TrainingError
from tests.fakes import train_config


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(dump_config(train_config()))
    return str(path)


def test_overrides_in_one_option_and_in_several(file: str) -> None:
    argv = ["--config", file, "--set", "train.steps=3", "name=other", "--set", "seed=7"]
    config = launch.parse(TrainConfig, "", argv)
    assert (config.train.steps, config.name, config.seed) == (3, "other", 7)


def test_print_config_is_itself_a_config(file: str, tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        launch.parse(TrainConfig, "", ["--config", file, "--set", "seed=7", "--print-config"])
    assert stopped.value.code == 0
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["seed"] == 7
    (tmp_path / "again.yaml").write_text(printed)
    assert launch.parse(TrainConfig, "", ["--config", str(tmp_path / "again.yaml")]).seed == 7


def test_dry_run_calls_the_hook_and_stops(file: str) -> None:
    seen = []
    with pytest.raises(SystemExit) as stopped:
        launch.parse(TrainConfig, "", ["--config", file, "--dry-run"], dry_run=seen.append)
    assert stopped.value.code == 0
    assert [config.name for config in seen] == ["fake"]


def test_actions_run_instead_of_the_job(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, str]] = []

    def note(config: TrainConfig, value: str) -> int:
        seen.append((config.name, value))
        return 3

    actions = (
        launch.Action(flag="--look-at", metavar="N", help="look", run=note),
        launch.Action(flag="--check", help="check", run=note),
    )
    assert launch.parse(TrainConfig, "", ["--config", file], actions=actions).name == "fake"
    for flags in (["--look-at", "7"], ["--check"]):
        with pytest.raises(SystemExit) as stop:
            launch.parse(TrainConfig, "", ["--config", file, *flags], actions=actions)
        assert stop.value.code == 3
    assert seen == [("fake", "7"), ("fake", "")]
    with pytest.raises(SystemExit):
        launch.parse(TrainConfig, "", ["--help"], actions=actions)
    assert "--look-at N" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(JOBS))
def test_help_says_how_a_job_is_started(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        launch.parse(JOBS[name], "", ["--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m ray_jobs.{name} ")


@pytest.mark.parametrize("name", ["benchmark", "doctor", "manifests.__main__", "plan", "submit"])
def test_help_of_the_other_commands_has_the_same_form(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module(f"ray_jobs.{name}").main(["--help"])
    assert capsys.readouterr().out.startswith(f"usage: python -m ray_jobs.{name.removesuffix('.__main__')} ")


def test_help_lists_the_presets_of_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    def listed() -> list[str]:
        return capsys.readouterr().out.partition("presets: ")[2].replace(",", " ").split()

    with pytest.raises(SystemExit):
        launch.parse(TuneConfig, "", ["--help"])
    assert listed() == ["sweep_ablations", "sweep_scenes", "sweep_tokenizers"]
    with pytest.raises(SystemExit):
        importlib.import_module("ray_jobs.plan").main(["--help"])
    assert listed() == list_presets()
    assert sorted(name for job in JOBS for name in list_presets(job)) == list_presets(), "each is one job's"


def test_a_docstring_is_shown_without_its_markup() -> None:
    assert without_markup("Writes ``a``::\n\n    b::c") == "Writes `a`:\n\n    b::c"
    assert without_markup(None) == ""


def test_unknown_preset_names_the_closest(file: str) -> None:
    with pytest.raises(ConfigError, match="'tokenizr'") as raised:
        launch.parse(TrainConfig, "", ["--config", "tokenizr"])
    assert "'tokenizer'" in raised.value.remedy
    with pytest.raises(ConfigError, match="'zebra'") as raised:
        launch.parse(TuneConfig, "", ["--config", "zebra"])
    assert raised.value.remedy == "choose one of: sweep_ablations, sweep_scenes, sweep_tokenizers"


def test_unknown_key_names_the_closest(file: str) -> None:
    with pytest.raises(ConfigError, match=r"train\.stps.*did you mean 'steps'"):
        launch.parse(TrainConfig, "", ["--config", file, "--set", "train.stps=3"])


def after(first: BaseException, second: BaseException) -> BaseException:
    """What was raised where another exception was being handled."""
    second.__context__ = first
    return second


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (DataError("no shards in x", "run ingest"), 2, ["DataError: no shards in x", "→ run ingest"]),
        (KeyboardInterrupt(), 130, ["Interrupted"]),
        (after(KeyboardInterrupt(), ImportError("no module")), 130, ["Interrupted"]),
        (after(KeyboardInterrupt(), DataError("no shards in x", "run ingest")), 130, ["Interrupted"]),
        (None, 0, []),
    ],
)
def test_exit_codes(
    error: BaseException | None, code: int, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    def main() -> None:
        if error is not None:
            raise error

    launch.error_console.cache_clear()
    with pytest.raises(SystemExit) as stopped:
        launch.run(main)
    launch.error_console.cache_clear()
    assert stopped.value.code == code
    text = capsys.readouterr().err
    for part in said:
        assert part in text
    assert "Traceback" not in text


def test_a_message_is_one_line_where_no_terminal_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SETOK_LOG", raising=False)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    launch.error_console.cache_clear()
    try:
        launch.setup_logging()
        logging.getLogger("ray_jobs.serving.gate").info("%s end", "word " * 60)
    finally:
        launch.error_console.cache_clear()
        root.handlers[:], root.level = handlers, level
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("word  end")
    assert "INFO" in line


@pytest.mark.parametrize(
    ("raised", "code", "last"),
    [
        ("raise KeyboardInterrupt", 130, "Interrupted."),
        (
            "try:\n    raise KeyboardInterrupt\nexcept BaseException as e:\n    raise ImportError from e",
            130,
            "Interrupted.",
        ),
        ("raise ImportError('broken')", 1, "ImportError: broken"),
    ],
)
def test_ctrl_c_while_a_command_is_imported(raised: str, code: int, last: str, tmp_path: Path, repo_root: Path) -> None:
    """What all commands import stands for everything that takes its time there."""
    (tmp_path / "rich.py").write_text(raised)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{repo_root}"}
    ended = subprocess.run(
        [sys.executable, "-m", "ray_jobs.train", "--help"], env=environment, capture_output=True, text=True, check=False
    )
    lines = ended.stderr.splitlines()
    assert (ended.returncode, lines[-1]) == (code, last)
    assert (len(lines) == 1) is (code == 130), ended.stderr


@pytest.mark.parametrize("ends", ["pass", "raise KeyboardInterrupt"])
def test_ctrl_c_while_ray_ends_shows_no_traceback(ends: str, repo_root: Path) -> None:
    """Ray ends when Python does, which takes seconds."""
    code = f"""
import atexit, os, signal
from ray_jobs import launch

def main():
    atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
    {ends}

launch.run(main)
"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=repo_root, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGINT  # which shells call 130
    assert "Traceback" not in ended.stderr


def test_what_fails_in_pythons_last_moments_changes_no_exit_code(tmp_path: Path, repo_root: Path) -> None:
    """As Ray's threads do now and then: a job that is interrupted, and a module whose end is a crash."""
    (tmp_path / "crashes_late.py").write_text(
        "import os\nclass Late:\n    def __del__(self):\n        os.abort()\nlate = Late()\n"
    )
    code = "import crashes_late\nfrom ray_jobs import launch\ndef main(): raise KeyboardInterrupt\nlaunch.run(main)"
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{repo_root}"}
    for start, wanted in (("", -signal.SIGABRT), ("from ray_jobs.interrupts import end_plainly\nend_plainly()\n", 130)):
        ended = subprocess.run(
            [sys.executable, "-c", start + code], env=environment, capture_output=True, text=True, check=False
        )
        assert ended.returncode == wanted, ended.stderr
        assert "Interrupted. The same command" in ended.stderr


def test_importing_a_job_sets_no_hook(repo_root: Path) -> None:
    code = "import sys, ray_jobs; assert sys.excepthook is sys.__excepthook__"
    subprocess.run([sys.executable, "-c", code], cwd=repo_root, check=True)


def test_other_exceptions_keep_their_traceback() -> None:
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        launch.run(main)


def test_what_ray_says_of_itself_in_every_run_is_left_out() -> None:
    """By its own filter, which sees the line without the name of the process."""
    noise = [
        "[2026-11-26 12:13:33,959 E 1 2] core_worker.cc:2465: Actor with class name: 'PreemptionWatcher' and ID: 'ab' has",
        "execution_options.py:436: RayDeprecationWarning: `ExecutionOptions.exclude_resources` is deprecated and will be",
        "  self.exclude_resources = exclude_resources",
    ]
    news = ["Actor with class name: 'RayTrainWorker' has died", "ExecutionOptions are wrong", "step 3"]
    batch = {"ip": "a", "pid": 1, "lines": [*noise, *news]}
    (shown,) = LogDeduplicator(5, None, launch.RAYS_OWN_NOISE).deduplicate(batch)
    assert shown["lines"] == news


@pytest.mark.parametrize("joins", [False, True], ids=["a Ray of our own", "a cluster"])
def test_a_ray_that_does_not_start_in_time_is_told_in_a_line(joins: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    def slow(**settings: object) -> None:
        raise Exception("The current node timed out during startup. This could happen because the raylet …")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", slow)
    monkeypatch.setattr(launch, "joins_cluster", lambda: joins)
    with pytest.raises(TrainingError, match=r"did not start in time.*\n.*the same command again"):
        launch.start_ray()
    monkeypatch.setattr(ray, "init", lambda **settings: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        launch.start_ray()
