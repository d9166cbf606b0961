"""The server under load, beside a bare Predictor on the same machine.

    python -m ray_jobs.benchmark serve --checkpoint my-setokim --concurrency 64 --requests 256
    python -m ray_jobs.benchmark serve --checkpoint my-setokim --address http://127.0.0.1:8000   # a server that runs already

Three things are measured with the same questions, pictures and seeds. The bare predictor answers all of them in batches. Then so
many clients at once each send the next question as soon as they have an answer (a closed loop): the server's throughput, as a
share of the predictor's. The two take turns, since a machine is not always as fast, and the share is the median over the rounds.
Then questions arrive by chance at given rates, whether the ones before have been answered or not (an open loop): latencies are
counted from when a question was due, so that a server that is slow is not asked less.

Where there are fewer cores than client, server and model keep busy, throughput is their computing time together. So that of each
is told too, for every answer, and what server and model would reach without the client, if they had to share one core.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import io
import json
import random
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import torch
from PIL import Image

from ray_jobs import launch
from ray_jobs.benchmarks.files import write_figures
from ray_jobs.benchmarks.serve_process import Running, started
from setok.data.schema import Turn
from setok.models.generation import GenerationOptions
from setok.predictor import Predictor
from setok.serving.memory import keep_freed_memory

QUESTIONS = (
    "what is in the picture?",
    "how many objects are there?",
    "what colour is the largest object?",
    "Describe the image in one sentence.",
)
SHARES = (0.5, 0.8, 1.0, 2.0)
"""Rates of the open loop, as shares of the throughput of the closed one."""
ANSWER_TIMEOUT_S = 300.0


@dataclass(frozen=True, kw_only=True)
class Task:
    """One question."""

    picture: bytes
    words: str
    seed: int


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of a question; times in seconds from when it was due."""

    status: int
    first: float
    done: float
    tokens: int


def tasks_of(number: int, *, size: int, seed: int) -> list[Task]:
    """Questions on pictures of random squares.

    Args:
        size: side of the pictures, in pixels.
    """
    rng = np.random.default_rng(seed)
    tasks = []
    for index in range(number):
        pixels = np.full((size, size, 3), 240, np.uint8)
        for _ in range(rng.integers(1, 5)):
            top, left, side = rng.integers(0, size // 2, 3)
            pixels[top : top + side + 4, left : left + side + 4] = rng.integers(0, 256, 3)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        tasks.append(Task(picture=file.getvalue(), words=QUESTIONS[index % len(QUESTIONS)], seed=index))
    return tasks


# ---------------------------------------------------------------- the predictor


def bare(predictor: Predictor, tasks: Sequence[Task], *, max_tokens: int) -> tuple[float, int]:
    """Seconds that the predictor takes for all questions, and the letters that it says."""
    options = GenerationOptions(mode="text", max_new_tokens=max_tokens)
    talks = [[Turn(role="user", text=f"<image>\n{task.words}")] for task in tasks]
    started = time.perf_counter()
    replies = predictor.chat(
        talks, [task.picture for task in tasks], options=options, seeds=[task.seed for task in tasks]
    )
    return time.perf_counter() - started, sum(len(reply.text) for reply in replies)


# ---------------------------------------------------------------- the server


async def closed_loop(
    address: str, model: str, tasks: Sequence[Task], *, concurrency: int, max_tokens: int
) -> tuple[float, list[Answer]]:
    """Seconds for all questions, and what became of each, with so many under way at any time."""
    waiting = iter([body_of(task, model, max_tokens) for task in tasks])
    answers: list[Answer] = []

    async def client(session: aiohttp.ClientSession) -> None:
        for body in waiting:
            answer = await _ask(session, address, body, due=time.perf_counter())
            answers.append(answer)

    async with _session() as session:
        started = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(concurrency)))
        return time.perf_counter() - started, answers


async def open_loop(
    address: str, model: str, tasks: Sequence[Task], *, rate: float, max_tokens: int, seed: int
) -> tuple[float, list[Answer]]:
    """The same with arrivals by chance (a Poisson process), so many a second on average."""
    rng = random.Random(seed)
    bodies = [body_of(task, model, max_tokens) for task in tasks]
    async with _session() as session:
        started = due = time.perf_counter()
        under_way = []
        for body in bodies:
            due += rng.expovariate(rate)
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            under_way.append(asyncio.create_task(_ask(session, address, body, due=due)))
        answers = list(await asyncio.gather(*under_way))
        return time.perf_counter() - started, answers


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT_S)
    )


def body_of(task: Task, model: str, max_tokens: int) -> bytes:
    """A question as it is sent."""
    url = f"data:image/png;base64,{base64.b64encode(task.picture).decode()}"
    shown = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": task.words}]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": shown}],
        "modalities": ["text"],
        "max_tokens": max_tokens,
        "seed": task.seed,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return json.dumps(body).encode()


async def _ask(session: aiohttp.ClientSession, address: str, body: bytes, *, due: float) -> Answer:
    first, tokens = float("nan"), 0
    headers = {"content-type": "application/json"}
    async with session.post(f"{address}/v1/chat/completions", data=body, headers=headers) as response:
        if response.status != 200:
            await response.read()
            return Answer(status=response.status, first=first, done=time.perf_counter() - due, tokens=0)
        async for line in response.content:
            if not line.startswith(b"data: {") or (first == first and b'"usage"' not in line):
                continue  # nothing in it is counted
            chunk = json.loads(line[6:])
            if first != first and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                first = time.perf_counter() - due
            if chunk.get("usage"):
                tokens = chunk["usage"]["completion_tokens"]
        return Answer(status=200, first=first, done=time.perf_counter() - due, tokens=tokens)


def summarise(seconds: float, answers: Sequence[Answer]) -> dict[str, Any]:
    """Figures of a loop: what became of the questions, throughput, and the latencies of those that were answered."""
    good = [answer for answer in answers if answer.status == 200]
    statuses = [str(answer.status) for answer in answers]
    return {
        "requests": len(answers),
        "seconds": seconds,
        "statuses": {status: statuses.count(status) for status in sorted(set(statuses))},
        "answered_per_second": len(good) / seconds,
        "tokens_per_second": sum(answer.tokens for answer in good) / seconds,
        "latency": _percentiles([answer.done for answer in good]),
        "first_token": _percentiles([answer.first for answer in good if answer.first == answer.first]),
    }


def _percentiles(values: Sequence[float]) -> dict[str, float | None]:
    return {f"p{p}": float(np.percentile(values, p)) if values else None for p in (50, 95, 99)}


# ---------------------------------------------------------------- command


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, help="an exported Setokim, or a run")
    parser.add_argument("--address", help="a server of this checkpoint that runs already; by default one is started")
    parser.add_argument(
        "--set", action="extend", nargs="+", default=["replicas.min=0", "replicas.max=0"], metavar="KEY=VALUE",
        help="settings of the server that is started, which serves without Ray unless they say otherwise; may be repeated",
    )  # fmt: skip
    parser.add_argument("--concurrency", type=int, default=64, help="clients of the closed loop (default 64)")
    parser.add_argument("--requests", type=int, default=256, help="questions of a round (default 256)")
    parser.add_argument("--rounds", type=int, default=3, help="of the predictor and the server in turn (default 3)")
    parser.add_argument("--max-tokens", type=int, default=32, help="words of an answer (default 32)")
    parser.add_argument(
        "--rates", help="questions a second of the open loop, such as 5,20; by default shares of the throughput"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="of the predictor, and of the server's model (default 1)"
    )
    parser.add_argument("--output", type=Path, help="a JSON file for the figures")


def serve(arguments: argparse.Namespace) -> None:
    """Measure, print a table, and write the figures."""
    keep_freed_memory()  # as the server's model does
    torch.set_num_threads(arguments.threads)
    predictor = Predictor.from_pretrained(arguments.checkpoint)
    tasks = tasks_of(arguments.requests, size=predictor.image_size, seed=0)
    if arguments.address:
        figures = measure(Running(address=arguments.address), predictor, tasks, arguments)
    else:
        with started(arguments.checkpoint, arguments.set, threads=arguments.threads) as server:
            figures = measure(server, predictor, tasks, arguments)
    for line in table(figures):
        launch.console().print(line)
    if arguments.output:
        write_figures(arguments.output, figures)


def measure(
    server: Running, predictor: Predictor, tasks: Sequence[Task], arguments: argparse.Namespace
) -> dict[str, Any]:
    """Figures of a server and of the predictor."""
    address = server.address
    with urllib.request.urlopen(f"{address}/v1/models", timeout=60) as response:
        model = json.load(response)["data"][0]["id"]
    asked = {"max_tokens": arguments.max_tokens}
    warm = tasks[: 2 * predictor.batch_size]
    bare(predictor, warm, **asked)
    asyncio.run(closed_loop(address, model, warm, concurrency=arguments.concurrency, **asked))
    alone, closed = [], []
    taken: list[dict[str, float]] = []
    for _ in range(arguments.rounds):
        before = server.cpu_seconds()
        alone.append(len(tasks) / bare(predictor, tasks, **asked)[0])
        between = server.cpu_seconds()
        loop = closed_loop(address, model, tasks, concurrency=arguments.concurrency, **asked)
        closed.append(summarise(*asyncio.run(loop)))
        served = server.cpu_seconds() - between
        taken.append({"bare": (between - before).client} | vars(served))
    shares = [found["answered_per_second"] / bare_one for bare_one, found in zip(alone, closed, strict=True)]
    middle = closed[int(np.argsort(shares)[len(shares) // 2])]
    throughput = middle["answered_per_second"]
    rates = (
        [float(rate) for rate in arguments.rates.split(",")]
        if arguments.rates
        else [share * throughput for share in SHARES]
    )
    opened = []
    for number, rate in enumerate(rates):
        found = summarise(*asyncio.run(open_loop(address, model, tasks, rate=rate, seed=number, **asked)))
        opened.append({"rate": rate} | found)
    return {
        "predictor": {"answered_per_second": float(np.median(alone))},
        "closed_loop": middle
        | {"concurrency": arguments.concurrency, "of_predictor": float(np.median(shares)), "shares": shares},
        "open_loop": opened,
        "cpu_ms_per_answer": None if server.pid is None else costs(taken, len(tasks)),
    }


def costs(taken: Sequence[dict[str, float]], answers: int) -> dict[str, float]:
    """Milliseconds of computing for an answer, medians over the rounds.

    Args:
        taken: of every round, seconds of ``bare``, ``model``, ``server`` and ``client``.
        answers: of a round.

    Returns:
        Those four; ``model_share`` and ``one_core_share``: answers of the model, and of server and model together, in the
        computing time that the predictor takes for one.
    """
    each = {name: float(np.median([one[name] for one in taken])) * 1000 / answers for name in taken[0]}
    shares = {
        "model_share": [one["bare"] / one["model"] for one in taken],
        "one_core_share": [one["bare"] / (one["model"] + one["server"]) for one in taken],
    }
    return each | {name: float(np.median(share)) for name, share in shares.items()}


def table(figures: dict[str, Any]) -> Iterator[str]:
    """The figures as Markdown."""
    yield "| | asked/s | answered/s | refused | p50 | p95 | p99 | first token p50 | p95 |"
    yield "|---|---|---|---|---|---|---|---|---|"
    yield f"| predictor, bare | – | {figures['predictor']['answered_per_second']:.1f} | – | – | – | – | – | – |"
    closed = figures["closed_loop"]
    yield _row(f"{closed['concurrency']} at once ({closed['of_predictor']:.2f} of bare)", "–", closed)
    for found in figures["open_loop"]:
        yield _row("by chance", f"{found['rate']:.1f}", found)
    cost = figures.get("cpu_ms_per_answer")
    if cost is not None:
        yield ""
        yield (
            f"CPU time an answer: predictor, bare {cost['bare']:.2f} ms; model {cost['model']:.2f} ms,"
            f" server {cost['server']:.2f} ms, client {cost['client']:.2f} ms."
        )
        yield (
            f"Of bare by CPU time: {cost['model_share']:.2f} where the model has a core of its own,"
            f" {cost['one_core_share']:.2f} where server and model share one; both without the client."
        )


def _row(name: str, rate: str, found: dict[str, Any]) -> str:
    refused = found["requests"] - found["statuses"].get("200", 0)
    times = [*(found["latency"][p] for p in ("p50", "p95", "p99")), *(found["first_token"][p] for p in ("p50", "p95"))]
    cells = ["–" if value is None else f"{value:.2f} s" for value in times]
    return f"| {name} | {rate} | {found['answered_per_second']:.1f} | {refused} | {' | '.join(cells)} |"
