"""The load generator: it asks what the predictor is asked, when it is due, and counts what comes back."""

from __future__ import annotations

import argparse
import asyncio
import math
import multiprocessing
import os
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.benchmarks import serve
from ray_jobs.benchmarks.serve import Answer, bare, closed_loop, open_loop, summarise, table, tasks_of
from ray_jobs.benchmarks.serve_process import Running
from tests.served import NAME, predictor, serving


def test_the_server_says_as_much_as_the_predictor() -> None:
    tasks = tasks_of(12, size=32, seed=0)
    assert len({task.picture for task in tasks}) == 12
    seconds, letters = bare(predictor(), tasks, max_tokens=6)
    assert seconds > 0 and letters > 0
    with serving() as address:
        _, answers = asyncio.run(closed_loop(address, NAME, tasks, concurrency=5, max_tokens=6))
    assert [answer.status for answer in answers] == [200] * 12
    assert all(0 < answer.first <= answer.done for answer in answers if answer.tokens)
    assert 0 < sum(answer.tokens for answer in answers) <= 12 * 6


def test_arrivals_do_not_wait_for_answers() -> None:
    """At a rate far above what it can do most are refused, and none is lost."""
    tasks = tasks_of(60, size=32, seed=0)
    with serving(batching__max_rows=1, batching__max_waiting=2) as address:
        _, answers = asyncio.run(open_loop(address, NAME, tasks, rate=5000.0, max_tokens=30, seed=1))
    figures = summarise(1.0, answers)
    assert set(figures["statuses"]) == {"200", "503"}
    assert sum(figures["statuses"].values()) == 60
    assert figures["statuses"]["503"] > 30


def answer(status: int, done: float, first: float = math.nan, tokens: int = 0) -> Answer:
    return Answer(status=status, first=first, done=done, tokens=tokens)


def test_figures() -> None:
    answers = [answer(200, float(n), first=n / 10, tokens=2) for n in range(1, 101)] + [answer(503, 0.1)] * 25
    figures = summarise(50.0, answers)
    assert figures["statuses"] == {"200": 100, "503": 25}
    assert figures["answered_per_second"] == 2.0
    assert figures["tokens_per_second"] == 4.0
    assert figures["latency"]["p50"] == pytest.approx(50.5)
    assert figures["latency"]["p99"] == pytest.approx(99.01)
    assert figures["first_token"]["p95"] == pytest.approx(9.505)
    nothing = summarise(1.0, [answer(503, 0.1)])
    assert nothing["latency"] == {"p50": None, "p95": None, "p99": None}
    closed = figures | {"concurrency": 64, "of_predictor": 0.95}
    lines = list(
        table(
            {"predictor": {"answered_per_second": 2.1}, "closed_loop": closed, "open_loop": [nothing | {"rate": 7.0}]}
        )
    )
    assert "64 at once (0.95 of bare)" in lines[3]
    assert "| 25 | 50.50 s |" in lines[3]
    assert "| by chance | 7.0 | 0.0 | 1 | – |" in lines[4]
    assert {line.count("|") for line in lines} == {10}


def test_computing_time() -> None:
    rounds = [
        {"bare": 1.0, "model": 1.25, "server": 0.75, "client": 0.5},
        {"bare": 2.0, "model": 2.0, "server": 0.5, "client": 0.5},
        {"bare": 4.0, "model": 2.0, "server": 2.0, "client": 0.1},
    ]
    found = serve.costs(rounds, 100)
    shares = {"model_share": 1.0, "one_core_share": 0.8}
    assert found == pytest.approx({"bare": 20.0, "model": 20.0, "server": 7.5, "client": 5.0} | shares)
    closed = summarise(1.0, [answer(200, 1.0)]) | {"concurrency": 64, "of_predictor": 0.95}
    figures = {"predictor": {"answered_per_second": 2.1}, "closed_loop": closed, "open_loop": []}
    lines = list(table(figures | {"cpu_ms_per_answer": found}))
    assert "bare 20.00 ms; model 20.00 ms, server 7.50 ms, client 5.00 ms" in lines[-2]
    assert "1.00 where the model has a core of its own, 0.80 where" in lines[-1]
    assert list(table(figures | {"cpu_ms_per_answer": None}))[-1].startswith("| 64 at once")


def _compute(seconds: float, done: Event) -> None:
    while time.process_time() < seconds:
        pass
    done.set()
    time.sleep(60)


def test_computing_time_of_the_model_is_told_from_the_servers() -> None:
    context = multiprocessing.get_context("spawn")
    done = context.Event()
    child = context.Process(target=_compute, args=(0.5, done))
    running = Running(address="", pid=os.getpid())
    before = running.cpu_seconds()
    child.start()
    try:
        assert done.wait(60)
        spent = running.cpu_seconds() - before
        assert spent.model > 0.4
        assert running.cpu_seconds().server == pytest.approx(
            running.cpu_seconds().client, rel=0.5
        )  # of the first process
    finally:
        child.kill()
        child.join()
    assert Running(address="").cpu_seconds().model == 0


def test_the_command_measures_a_server_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(serve.Predictor, "from_pretrained", lambda path: predictor())
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    with serving() as address:
        asked = [
            "--checkpoint",
            "x",
            "--address",
            address,
            "--requests",
            "10",
            "--max-tokens",
            "3",
            "--rates",
            "50,100",
        ]
        serve.serve(parser.parse_args([*asked, "--output", str(tmp_path / "f.json")]))
    import json

    figures: dict[str, Any] = json.loads((tmp_path / "f.json").read_text())
    assert [row["rate"] for row in figures["open_loop"]] == [50.0, 100.0]
    shares = figures["closed_loop"]["shares"]
    assert len(shares) == 3
    assert figures["cpu_ms_per_answer"] is None  # of a server that is not ours
    assert figures["closed_loop"]["of_predictor"] == sorted(shares)[1]
    assert "predictor, bare" in capsys.readouterr().out
