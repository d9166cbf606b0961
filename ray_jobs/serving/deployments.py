"""The server on Ray Serve: an ingress that checks requests and decodes pictures, and replicas that hold the model.

Requests for which no replica has room wait in the ingress (``batching.max_waiting``), from where the next free one takes them.
So a replica that is lost takes with it only what it was answering, and that is asked of another one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import torch
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from ray_jobs import launch
from ray_jobs.serving.app import create_app
from ray_jobs.serving.draining import Traffic
from ray_jobs.serving.gate import Application
from ray_jobs.serving.retry import Retold
from setok.config import ServeConfig
from setok.data.images import configure_opencv
from setok.errors import OverloadedError, SetokError
from setok.serving.delivery import letters_of
from setok.serving.engine import Call, Engine, Event, Failed
from setok.serving.keys import ApiKeys
from setok.serving.memory import keep_freed_memory
from setok.serving.model import Card, ServedModel

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Replicas that a request is given to, one after the other dying."""
LOOKAHEAD = 2
"""Batches that a replica has at hand, the one that it answers among them: Serve is not quick to bring more."""
LETTERS_PER_SECOND = 100
"""Of all replies of a replica together. Each is an object of Ray's, which costs its processes some 3 ms: what a reply says
while those of others are sent goes with what follows."""
LONGEST_PAUSE_S = 0.05
"""Between two looks for a replica with room, while requests wait in the ingress; Serve's half second leaves replicas idle."""
HEALTH_PERIOD_S = 5.0
PAUSE_S = 0.2
"""Before a request whose replica was lost is given to another one, and between two looks for one with room."""
LOST = (RayActorError, ReplicaUnavailableError)
FULL = (BackPressureError, DeploymentUnavailableError)
"""No replica takes a request: as many wait as may, or none is there."""


class ModelReplica:
    """A model that answers; ready once it has been warmed up."""

    def __init__(self, config: ServeConfig) -> None:
        keep_freed_memory()
        launch.setup_logging()
        torch.set_num_threads(config.replicas.threads)
        device = "cuda" if config.replicas.gpus else "cpu"
        self._drain_s = config.server.drain_s
        self.engine = Engine(
            ServedModel.load(config.checkpoint, name=config.served_name, device=device), config.batching
        )
        self.engine.start()

    async def card(self) -> Card:
        """What the model is."""
        return self.engine.model.card

    async def run(self, call: Call) -> AsyncIterator[list[Event]]:
        """Everything that a request gives, by the letter; what goes wrong comes as an event too, to arrive as it was raised."""
        try:
            async with aclosing(letters_of(self.engine, call, pause=self._pause)) as letters:
                async for letter in letters:
                    yield letter
        except SetokError as error:
            yield [Failed(error=error)]

    def _pause(self) -> float:
        """Seconds between two letters of a reply."""
        answered, _ = self.engine.load
        return (answered - 1) / LETTERS_PER_SECOND

    def check_health(self) -> None:
        """Asked by Serve, which replaces a replica whose model has failed for no fault of a request."""
        if self.engine.failure is not None:
            raise RuntimeError("the engine failed") from self.engine.failure


class RayBackend:
    """Replicas elsewhere.

    Args:
        handle: of ``ModelReplica``.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def card(self) -> Card:
        """What the model is.

        Raises:
            OverloadedError: no replica can say it now.
        """
        try:
            card: Card = await self._handle.card.remote()
        except (*LOST, *FULL) as error:
            raise OverloadedError(
                "no replica of the model is ready", "send the request again a little later"
            ) from error
        return card

    async def run(self, call: Call) -> AsyncIterator[Event]:
        """Everything that a request gives; a replica that dies meanwhile is followed by another.

        A request that a replica had is not refused any more: it waits for room, or for the replica that comes instead, as long as
        whoever asks waits (``limits.request_timeout_s``).

        Raises:
            OverloadedError: no replica has room, or ``ATTEMPTS`` of them were lost.
        """
        retold, lost = Retold(), 0
        while lost < ATTEMPTS:
            retold.again()
            responses = self._handle.options(stream=True).run.remote(call)
            over = False
            try:
                async for letter in responses:
                    for event in letter:
                        if isinstance(event, Failed):
                            raise event.error
                        new = retold.new_in(event)
                        if new is not None:
                            yield new
                over = True
                return
            except LOST as error:
                over, lost = True, lost + 1
                logger.warning("a replica was lost (%d of %d): %s", lost, ATTEMPTS, type(error).__name__)
            except FULL as error:
                over = True
                if not lost:
                    raise OverloadedError(
                        "as many requests wait as may", "send the request again a little later"
                    ) from error
            finally:
                if not over:  # the client has left, or the reply came out otherwise
                    responses.cancel()
            await asyncio.sleep(PAUSE_S)
        raise OverloadedError(f"{ATTEMPTS} replicas were lost one after the other", "send the request again")


class Ingress:
    """Where requests come in."""

    def __init__(self, config: ServeConfig, digests: dict[str, str], model: DeploymentHandle) -> None:
        launch.setup_logging()
        configure_opencv(num_threads=1)
        self._config, self._keys, self._model = config, ApiKeys(digests), model
        self._traffic = Traffic()

    def __serve_build_asgi_app__(self) -> Application:
        return create_app(RayBackend(self._model), self._config, self._keys, traffic=self._traffic)

    async def drain(self) -> int:
        """Let nothing more in; gives how many requests are under way."""
        self._traffic.stopping = True
        return self._traffic.under_way


def application(config: ServeConfig, keys: ApiKeys) -> serve.Application:
    """The whole server, to be run or deployed.

    Args:
        keys: who is let in; only their hashes travel.
    """
    config = _placed(config)
    replicas, batching = config.replicas, config.batching
    scaling: dict[str, Any] = {"num_replicas": replicas.max}
    if replicas.min != replicas.max:
        scaling = {
            "autoscaling_config": {
                "min_replicas": replicas.min,
                "max_replicas": replicas.max,
                "target_ongoing_requests": replicas.target_ongoing,
                "upscale_delay_s": replicas.upscale_delay_s,
                "downscale_delay_s": replicas.downscale_delay_s,
                "metrics_interval_s": 1.0,
                "look_back_period_s": 2.0,
            }
        }
    ending: dict[str, Any] = {
        "graceful_shutdown_timeout_s": config.server.drain_s,
        "graceful_shutdown_wait_loop_s": 0.5,
        "max_surge_percent": replicas.max_surge_percent,
    }
    model = serve.deployment(
        ModelReplica,
        name="model",
        ray_actor_options={"num_cpus": replicas.cpus, "num_gpus": replicas.gpus},
        max_ongoing_requests=LOOKAHEAD * batching.max_rows,
        request_router_config=RequestRouterConfig(max_backoff_s=LONGEST_PAUSE_S),
        max_queued_requests=batching.max_waiting,
        health_check_period_s=HEALTH_PERIOD_S,
        **scaling,
        **ending,
    )
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        num_replicas=config.ingress.replicas,
        ray_actor_options={"num_cpus": config.ingress.cpus},
        max_ongoing_requests=config.ingress.max_ongoing,
        **ending,
    )
    return ingress.bind(config, keys.digests, model.bind(config))


def _placed(config: ServeConfig) -> ServeConfig:
    """The config with a path that means the same in every process, under the name that it has now."""
    path = Path(config.checkpoint)
    placed = str(path.resolve()) if path.exists() else config.checkpoint
    return config.model_copy(update={"checkpoint": placed, "model_name": config.served_name})
