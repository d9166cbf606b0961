"""The cluster's side of a submission: reaching it, finding the run, following its log, and how it ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from ray_jobs import reaching
from ray_jobs.launch import EXIT_STOPPED
from ray_jobs.submitting.request import Request
from setok.errors import ConfigError

ADDRESS = "RAY_API_SERVER_ADDRESS"
PATIENCE_SECONDS = 120.0
"""So long a cluster may be out of reach while its log is followed."""
_RETRY_SECONDS, _POLL_SECONDS = 3.0, 0.5
REMEDY = "check --address (http://HEAD:8265) and that the head runs; `ray start --head` starts one here"


class Client(Protocol):
    """The part of Ray's ``JobSubmissionClient`` that is used."""

    def submit_job(
        self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, Any], metadata: dict[str, str]
    ) -> str: ...
    def list_jobs(self) -> Sequence[Any]: ...
    def get_job_info(self, job_id: str) -> Any: ...
    def tail_job_logs(self, job_id: str) -> AsyncIterator[str]: ...


def is_here(address: str | None) -> bool:
    """Whether a cluster's address is one of this machine; without an address Ray looks only here."""
    address = address or os.environ.get(ADDRESS) or os.environ.get("RAY_ADDRESS")
    if address in (None, "auto", "local"):
        return True
    host = urlsplit(address if "://" in address else f"//{address}").hostname
    return host in {"localhost", "127.0.0.1", "::1", socket.gethostname()}


def connect(address: str | None) -> Client:
    """Ray's client; the token is the one of ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH`` or ``~/.ray/auth_token``.

    Raises:
        ConfigError: nobody answers, or the token is refused.
    """
    from ray.job_submission import JobSubmissionClient

    if address:
        os.environ[ADDRESS] = address  # RAY_ADDRESS would else have the last word
    where = where_of(address)
    if "://" in where:
        reaching.knock(where, REMEDY)
    with explained(address):
        return JobSubmissionClient(address)


def where_of(address: str | None) -> str:
    """The cluster as the user named it, by ``--address`` or the environment."""
    return address or os.environ.get(ADDRESS) or os.environ.get("RAY_ADDRESS") or "this machine"


def explained(address: str | None) -> contextlib.AbstractContextManager[None]:
    """Tell what a cluster refuses, and that it is not there, in our words, as a ``ConfigError``."""
    return reaching.explained(where_of(address), REMEDY)


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A job on the cluster."""

    id: str
    is_new: bool


def submit(client: Client, request: Request, package: Path) -> Submission:
    """Send a job, or find it running already.

    Args:
        package: zip of the working directory.

    Raises:
        ConfigError: the run is going on with other settings.
    """
    jobs = client.list_jobs()
    for job in jobs:
        metadata = job.metadata or {}
        if metadata.get("setok_run") != request.run or job.status.is_terminal():
            continue
        if metadata.get("setok_settings") == request.settings:
            return Submission(id=job.submission_id, is_new=False)
        raise ConfigError(
            f"the run {request.run} is going on as {job.submission_id}, with other settings",
            f"stop it first (ray job stop {job.submission_id}), or give this one another name"
            f" (--set name={request.config.name}-2)",
        )
    name = request.free_id({job.submission_id for job in jobs if job.submission_id})
    client.submit_job(
        entrypoint=request.command,
        submission_id=name,
        runtime_env={"working_dir": str(package), "env_vars": request.environment},
        metadata=request.metadata,
    )
    return Submission(id=name, is_new=True)


# ---------------------------------------------------------------- its log and its end


class Log:
    """A job's log from its beginning, every part once, though the connection may break."""

    def __init__(self, client: Client, name: str, write: Callable[[str], None]) -> None:
        self._client, self._name, self._write = client, name, write
        self._written = 0

    async def follow(self) -> bool:
        """Write what comes until the server has no more.

        Returns:
            Whether there was anything new.
        """
        passed, before = 0, self._written
        async for text in self._client.tail_job_logs(self._name):
            new = text[max(0, self._written - passed) :]
            passed += len(text)
            if new:
                self._write(new)
                self._written += len(new)
        return self._written > before


def follow(
    client: Client, name: str, write: Callable[[str], None], *, sleep: Callable[[float], None] = time.sleep
) -> int:
    """Write a job's log until it ends.

    Returns:
        Its exit code, see ``exit_code``.

    Raises:
        ConfigError: the cluster cannot be reached for ``PATIENCE_SECONDS``; the job may go on.
    """
    log, out_of_reach = Log(client, name, write), 0.0
    while True:
        trouble = ""
        try:
            if asyncio.run(log.follow()):
                out_of_reach = 0.0
        except Exception as error:  # aiohttp's and requests' have no common base
            trouble = str(error) or type(error).__name__
        try:
            info = client.get_job_info(name)
        except Exception as error:
            trouble = str(error) or type(error).__name__
        else:
            if info.status.is_terminal():
                return exit_code(info)
            out_of_reach = 0.0
        if trouble:
            out_of_reach += _RETRY_SECONDS
        if out_of_reach > PATIENCE_SECONDS:
            raise ConfigError(
                f"{name}: the cluster cannot be reached any more: {trouble}",
                "the same command follows the job again, if it is still there, and goes on with the run if not",
            )
        sleep(_RETRY_SECONDS if trouble else _POLL_SECONDS)


def exit_code(info: Any) -> int:
    """How a job ended, as its command would have said.

    Ray keeps the exit code of a command that ended by itself: 2 for an error that we explain, 75 for a run that was told to
    stop and has saved. Of a job that ``ray job stop`` ended it keeps none; that is 75 too, since the same command goes on. Where
    a command never started, or its node is gone, there is none either, and it is 1.
    """
    if info.status.value == "SUCCEEDED":
        return 0
    if info.driver_exit_code:
        return int(info.driver_exit_code) if info.driver_exit_code > 0 else 128 - int(info.driver_exit_code)
    return EXIT_STOPPED if info.status.value == "STOPPED" else 1
