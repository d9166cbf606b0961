"""The list of all commands."""

from __future__ import annotations

import runpy

import pytest

from ray_jobs import launch
from ray_jobs.__main__ import COMMANDS, main, summary_of
from setok.errors import ConfigError
from tests.unit.test_layers import ENTRY_POINTS


def test_every_job_is_listed_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    assert set(COMMANDS) == ENTRY_POINTS | {"manifests"}
    launch.console.cache_clear()
    main([])
    launch.console.cache_clear()
    listed = capsys.readouterr().out.splitlines()
    for module in (*(f"ray_jobs.{name}" for name in COMMANDS), "setok.data.scenes"):
        (line,) = (line for line in listed if f" {module} " in f" {line} ")
        assert len(line.partition(module)[2].split()) >= 4, line
    assert summary_of("ray_jobs.train") == "Train one stage: on Ray with any number of workers, or in this process"


@pytest.mark.parametrize(
    ("given", "remedy"),
    [(["train", "--config", "x"], "python -m ray_jobs.train …"), (["trian"], "'train'"), (["--list"], "choose one of")],
)
def test_arguments_belong_to_the_commands(given: list[str], remedy: str) -> None:
    with pytest.raises(ConfigError, match=given[0]) as refused:
        main(given)
    assert remedy in refused.value.remedy


def test_the_library_says_where_its_commands_are(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("setok", run_name="__main__")
    assert "python -m ray_jobs" in capsys.readouterr().out
