"""The server on Ray: replicas come with requests and go without them; a killed one, a lost node, another checkpoint, a queue that
ends.

One application for nearly all of it, since every replica takes seconds to start. What is promised without Ray is in tests/unit.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
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
LONG = {"max_tokens": 60, "temperature": 1.0, "modalities": ["text"]}


def export(folder: Path) -> Path:
    predictor().model.save_pretrained(folder)
    (folder / SETTINGS).write_text(PredictorSettings(sequence=predictor().sequence).model_dump_json())
    return folder


def config_of(checkpoint: Path, port: int, **changes: Any) -> ServeConfig:
    settings: dict[str, Any] = {
        "checkpoint": str(checkpoint),
        "model_name": NAME,
        "server__port": port,
        "server__drain_s": 20.0,
        "limits__request_timeout_s": 200.0,
        "ingress__cpus": 0.1,
        "replicas__min": 0,
        "replicas__max": 3,
        "replicas__target_ongoing": 2.0,
        "replicas__upscale_delay_s": 0.5,
        "replicas__downscale_delay_s": 2.0,
        "replicas__cpus": 0.1,
        "batching__max_rows": 4,
        "batching__max_waiting": 40,
    }
    return serve_config(**settings | changes)


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


def wait_for(condition: Callable[[], bool], what: str, seconds: float = 400.0) -> None:
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


def test_openais_client_wakes_it_and_talks_to_it(address: str) -> None:
    assert replicas() == 0
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
    assert told == whole.choices[0].message.content
    assert replicas() >= 1
    assert client.images.generate(prompt="a circle").data
    with pytest.raises(openai.BadRequestError, match="above"):
        client.chat.completions.create(**asked | {"max_tokens": 10**6})


def test_beyond_what_may_wait_the_answer_is_503_and_everyone_taken_is_answered(address: str) -> None:
    answers = asyncio.run(many(address, 100))
    statuses = [status for status, _, _ in answers]
    assert set(statuses) == {200, 503}
    assert statuses.count(200) >= 40
    assert all(retry == "1" for status, retry, _ in answers if status == 503)
    assert all(json.loads(text)["error"]["code"] == "overloaded" for status, _, text in answers if status == 503)


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
        answers = await many(address, 4)  # so that there is a replica to be replaced
        updating = asyncio.create_task(asyncio.to_thread(update))
        while not updating.done():
            answers += await many(address, 4)
        await updating
        return answers

    answers = asyncio.run(load())
    assert done
    assert len(answers) >= 8
    assert [status for status, _, _ in answers if status != 200] == []


def test_it_grows_under_load_loses_nothing_with_a_replica_and_shrinks_to_none(address: str) -> None:
    """Up to 3 replicas, one of them is killed, and down to none; every request is answered, and as it would have been alone."""
    alone = asyncio.run(many(address, 1))
    assert alone[0][0] == 200

    async def load() -> list[Any]:
        answers: list[Any] = []
        growing = asyncio.create_task(
            asyncio.to_thread(wait_for, lambda: replicas() == 3, "it did not grow to 3 replicas")
        )
        while not growing.done():
            answers += await many(address, 20)
        await growing
        return answers + await many(address, 30, kill_one)

    answers = asyncio.run(load())
    assert [status for status, _, _ in answers if status != 200] == []
    assert said(answers[0]) == said(alone[0])
    assert said(answers[-30]) == said(alone[0])
    wait_for(lambda: replicas() == 0, "it did not shrink to none")


def kill_one() -> None:
    """End the process of one replica, as a machine would that fails."""
    found = [
        process
        for process in psutil.Process().children(recursive=True)
        if process.is_running() and "ServeReplica:setok:model" in " ".join(process.cmdline())
    ]
    assert found
    found[0].send_signal(signal.SIGKILL)


STATUSES = "statuses "


def lose_a_node(root: str) -> None:
    """Serve from two nodes, and take one of them away under load."""
    import ray
    from ray import serve
    from ray.cluster_utils import Cluster

    from ray_jobs.serving.deployments import application

    # One replica on each node, and the ingress on the first, which is there before the second.
    node = {"num_cpus": 2, "object_store_memory": 150 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)
    port = 18_000 + os.getpid() % 2000
    address = f"http://127.0.0.1:{port}"
    config = config_of(Path(root), port, replicas__cpus=1.5, replicas__min=1, replicas__max=2)
    serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
    serve.run(application(config, ApiKeys({})), name="setok", route_prefix="/")
    added = cluster.add_node(**node)
    rounds: list[list[Any]] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            rounds.append(asyncio.run(many(address, 16)))

    asking = threading.Thread(target=load)  # nodes come and go in the main thread
    asking.start()
    wait_for(lambda: replicas() == 2, "it did not grow to the second node")
    before = len(rounds)
    wait_for(lambda: len(rounds) > before, "it does not answer with two nodes")
    cluster.remove_node(added, allow_graceful=False)
    wait_for(lambda: replicas() == 1, "the lost node's replica is still there")
    lost = len(rounds)
    wait_for(lambda: len(rounds) > lost + 1, "it does not answer without the node")
    over.set()
    asking.join()
    statuses = [status for answers in rounds for status, _, _ in answers]
    sys.stdout.write(f"\n{STATUSES}{json.dumps(statuses)}\n")  # Ray writes there, too
    serve.shutdown()
    ray.shutdown()
    cluster.shutdown()


def test_a_lost_node_costs_no_request(checkpoint: Path, repo_root: Path) -> None:
    here = {"PYTHONPATH": str(repo_root), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    here |= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_health_check_period_ms": "500"}
    done = subprocess.run(
        [sys.executable, "-c", f"from tests.jobs.test_serve import lose_a_node; lose_a_node({str(checkpoint)!r})"],
        cwd=repo_root,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | here,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (told,) = (line for line in done.stdout.splitlines() if line.startswith(STATUSES))
    statuses = json.loads(told.removeprefix(STATUSES))
    assert len(statuses) >= 48
    assert set(statuses) == {200}
