"""A server on Ray that is about to end: it refuses what comes, with a word on when to come again, and answers what it has.

Serve itself would take the address away first, after which whoever comes is told that there is no such page.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # a server without Ray has traffic, too
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger(__name__)
PAUSE_S = 0.2
"""Between two looks, and after the last one for the end of the last answer, which may still be on its way to its client."""


@dataclass
class Traffic:
    """What is let into one process."""

    under_way: int = 0
    """Requests for the model, those that are refused not among them."""
    stopping: bool = False
    """Nothing more is let in."""


def drain(ingress: DeploymentHandle, *, timeout_s: float) -> None:
    """Let nothing more in, and wait until what is under way has been answered or the time is up.

    Args:
        ingress: of ``Ingress``, all of whose replicas are asked.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        left = max(PAUSE_S, deadline - time.monotonic())
        try:
            under_way = sum(ingress.broadcast("drain").results(timeout_s=left))
        except Exception as error:  # of Ray or Serve, in many forms: the server is to end in any case
            logger.warning("the ingress could not be told to stop: %s", type(error).__name__)
            return
        over = not under_way or time.monotonic() >= deadline
        time.sleep(PAUSE_S)
        if over:
            return
