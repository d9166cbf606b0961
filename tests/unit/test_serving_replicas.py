"""What the ingress makes of replicas that are lost, full or not there yet, with a handle that plays them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import httpx2
import pytest
from ray.exceptions import RayActorError
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from ray_jobs.serving import deployments
from ray_jobs.serving.deployments import ATTEMPTS, RayBackend
from setok.errors import OverloadedError
from setok.predictor import Ask, TextPart
from setok.serving.engine import Call
from tests.served import listening, serve_config

FULL = BackPressureError(num_queued_requests=1, max_queued_requests=1)
ABSENT = DeploymentUnavailableError(DeploymentID("model"))
LOST = RayActorError()
GONE = ReplicaUnavailableError("one")
CALL = cast(Call, Ask(conversation=[]))


class Responses:
    """What a replica sends: texts, and then perhaps its end."""

    def __init__(self, script: Sequence[str | Exception]) -> None:
        self.script, self.cancelled = script, False

    async def __aiter__(self) -> AsyncIterator[list[TextPart]]:
        for one in self.script:
            if isinstance(one, Exception):
                raise one
            yield [TextPart(text=one)]

    def cancel(self) -> None:
        self.cancelled = True


def backend_of(*scripts: Sequence[str | Exception], card: Exception | None = None) -> tuple[RayBackend, list[Any]]:
    """A backend whose handle gives one script after the other; and those that are left."""
    left = list(scripts)

    async def tell() -> None:
        if card is not None:
            raise card

    handle = SimpleNamespace(
        run=SimpleNamespace(remote=lambda call: Responses(left.pop(0))), card=SimpleNamespace(remote=tell)
    )
    handle.options = lambda *, stream: handle
    return RayBackend(cast(DeploymentHandle, handle)), left


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments, "PAUSE_S", 0.0)


async def told(backend: RayBackend) -> str:
    return "".join([event.text async for event in backend.run(CALL) if isinstance(event, TextPart)])


@pytest.mark.parametrize("refusal", [FULL, ABSENT])
def test_a_request_that_was_taken_waits_for_room_when_its_replica_is_lost(refusal: Exception) -> None:
    refusals = [[refusal]] * (2 * ATTEMPTS)
    backend, left = backend_of(["a b", LOST], *refusals, ["a", GONE], [refusal], ["a b", " c"])
    assert asyncio.run(told(backend)) == "a b c"
    assert not left


@pytest.mark.parametrize("refusal", [FULL, ABSENT])
def test_a_request_that_was_not_taken_is_refused_at_once(refusal: Exception) -> None:
    backend, left = backend_of([refusal], ["never said"])
    with pytest.raises(OverloadedError, match="as many requests wait as may"):
        asyncio.run(told(backend))
    assert len(left) == 1


def test_a_request_that_waits_is_given_up_with_whoever_asked() -> None:
    backend, left = backend_of([LOST], *[[FULL]] * 100_000)

    async def impatient() -> None:
        async with asyncio.timeout(0.02):
            await told(backend)

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())
    assert left


def test_replicas_that_are_lost_one_after_the_other_are_enough() -> None:
    backend, left = backend_of(*[[LOST]] * ATTEMPTS, ["never said"])
    with pytest.raises(OverloadedError, match=f"{ATTEMPTS} replicas were lost"):
        asyncio.run(told(backend))
    assert len(left) == 1


@pytest.mark.parametrize("error", [FULL, ABSENT, LOST, GONE])
def test_without_a_replica_the_answer_is_503_and_when_to_come_again(error: Exception) -> None:
    backend, _ = backend_of(card=error)
    with listening(backend, serve_config()) as address:
        for path in ("/ready", "/v1/models"):
            answer = httpx2.get(address + path)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
