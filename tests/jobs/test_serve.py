"""The server on Ray: more replicas under load and fewer after it, a killed one, another checkpoint, and a queue that ends.

One application for all of it, since every replica takes seconds to start. What is promised of a single process is in tests/unit.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import openai
import psutil
import pytest

from setok.config import ServeConfig
from setok.export import SETTINGS, PredictorSettings
from setok.serving.keys import ApiKeys
from tests.served import NAME, data_url, picture, predictor, serve_config

pytestmark = pytest.mark.usefixtures("ray_local")
LONG = {"max_tokens": 120, "temperature": 1.0, "modalities": ["text"]}


def export(folder: Path) -> Path:
    predictor().model.save_pretrained(folder)
    (folder / SETTINGS).write_text(PredictorSettings(sequence=predictor().sequence).model_dump_json())
    return folder


def config_of(checkpoint: Path, port: int, **changes: Any) -> ServeConfig:
    return serve_config(
        checkpoint=str(checkpoint),
        model_name=NAME,
        server__port=port,
        server__drain_s=20.0,
        ingress__cpus=0.1,
        replicas={
            "min": 1,
            "max": 3,
            "target_ongoing": 4.0,
            "upscale_delay_s": 0.5,
            "downscale_delay_s": 3.0,
            "cpus": 0.1,
        },
        batching={"max_rows": 4, "max_waiting": 40},
        **changes,
    )


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tmp_path_factory.mktemp("serve") / "tiny")


@pytest.fixture(scope="module")
def address(ray_local: None, checkpoint: Path) -> Iterator[str]:
    from ray import serve

    from ray_jobs.serving.deployments import application

    port = 18_000 + os.getpid() % 2000
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    serve.run(application(config_of(checkpoint, port), ApiKeys({})), name="setok", route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()


def replicas() -> int:
    """Replicas of the model that run."""
    from ray import serve

    return serve.status().applications["setok"].deployments["model"].replica_states.get("RUNNING", 0)


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


async def many(address: str, number: int, meanwhile: Callable[[], None] = lambda: None, **changes: Any) -> list[Any]:
    """Questions at once, and something that happens when they are under way; statuses and answers."""

    async def ask(session: aiohttp.ClientSession, seed: int) -> Any:
        body = {"model": NAME, "messages": [{"role": "user", "content": "what?"}], "seed": seed} | LONG | changes
        async with session.post(f"{address}/v1/chat/completions", json=body) as answer:
            return answer.status, answer.headers.get("retry-after"), await answer.text()

    connector, timeout = aiohttp.TCPConnector(limit=0), aiohttp.ClientTimeout(total=200)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        asked = [asyncio.create_task(ask(session, seed)) for seed in range(number)]
        await asyncio.sleep(0.5)
        await asyncio.to_thread(meanwhile)
        return list(await asyncio.gather(*asked))


def said(answer: Any) -> str:
    return str(json.loads(answer[2])["choices"][0]["message"]["content"])


def test_openais_client_talks_to_it(address: str) -> None:
    client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
    image = {"type": "image_url", "image_url": {"url": data_url(picture())}}
    asked: dict[str, Any] = {
        "model": NAME,
        "messages": [{"role": "user", "content": [image, {"type": "text", "text": "what?"}]}],
        "seed": 1,
        **LONG,
    }
    whole = client.chat.completions.create(**asked)
    chunks = list(client.chat.completions.create(**asked, stream=True))
    told = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert told.strip() == whole.choices[0].message.content
    assert client.images.generate(prompt="a circle").data
    with pytest.raises(openai.BadRequestError, match="above"):
        client.chat.completions.create(**asked | {"max_tokens": 10**6})


def test_it_grows_under_load_and_loses_nothing_with_a_replica(address: str) -> None:
    """1 → 3 replicas, one of them is killed, and 3 → 1; every request is answered, and as it would have been alone."""
    alone = asyncio.run(many(address, 1))
    assert alone[0][0] == 200
    wait_for(lambda: replicas() == 1, "it does not begin with one replica")
    seen: list[int] = []

    def watch() -> None:
        wait_for(lambda: seen.append(replicas()) or seen[-1] == 3, f"it did not grow to 3 replicas: {seen[-5:]}")  # type: ignore[func-returns-value]

    async def load() -> list[Any]:
        answers: list[Any] = []
        watching = asyncio.create_task(asyncio.to_thread(watch))
        while not watching.done():
            answers += await many(address, 30)
        await watching
        answers += await many(address, 40, kill_one)
        return answers

    answers = asyncio.run(load())
    assert [status for status, _, _ in answers if status != 200] == []
    assert said(answers[0]) == said(alone[0])
    assert said(answers[-40]) == said(alone[0])
    wait_for(lambda: replicas() == 1, "it did not shrink to one replica")


def kill_one() -> None:
    """End the process of one replica, as a machine would that fails."""
    found = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.is_running() and "ServeReplica:setok:model" in " ".join(process.cmdline())
    ]
    assert found
    found[0].send_signal(signal.SIGKILL)


def test_beyond_what_may_wait_the_answer_is_503_and_everyone_taken_is_answered(address: str) -> None:
    answers = asyncio.run(many(address, 150))
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 40
    assert all(retry == "1" for status, retry, _ in answers if status == 503)
    assert all(json.loads(text)["error"]["code"] == "overloaded" for status, _, text in answers if status == 503)
    assert asyncio.run(many(address, 1))[0][0] == 200


def test_another_checkpoint_takes_over_without_a_failed_request(address: str, checkpoint: Path, tmp_path: Path) -> None:
    from ray import serve

    from ray_jobs.serving.deployments import application

    port = int(address.rpartition(":")[2])
    other = export(tmp_path / "other")
    done: list[bool] = []

    def update() -> None:
        serve.run(application(config_of(other, port), ApiKeys({})), name="setok", route_prefix="/")
        done.append(True)

    async def load() -> list[Any]:
        updating = asyncio.create_task(asyncio.to_thread(update))
        answers: list[Any] = []
        while not updating.done():
            answers += await many(address, 4)
        await updating
        return answers

    answers = asyncio.run(load())
    assert done
    assert len(answers) >= 4
    assert [status for status, _, _ in answers if status != 200] == []
