"""A cluster that is faked, and what is sent to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ray_jobs.submitting.request import Request, environment_of
from tests.fakes import train_config


class Status:
    def __init__(self, value: str) -> None:
        self.value = value

    def is_terminal(self) -> bool:
        return self.value in {"SUCCEEDED", "FAILED", "STOPPED"}


def job(name: str, status: str, metadata: dict[str, str] | None = None, **more: Any) -> SimpleNamespace:
    fields = {"driver_exit_code": None, "message": "", **more}
    return SimpleNamespace(submission_id=name, status=Status(status), metadata=metadata, **fields)


class FakeClient:
    """A cluster with some jobs; connections give their parts of a log, an exception breaking one off."""

    def __init__(self, *jobs: SimpleNamespace, connections: list[list[str | Exception]] | None = None) -> None:
        self.jobs = list(jobs)
        self.sent: list[dict[str, Any]] = []
        self.connections = connections or []
        self.infos: list[Any] = []

    def list_jobs(self) -> list[SimpleNamespace]:
        return self.jobs

    def submit_job(self, **sent: Any) -> str:
        self.sent.append(sent)
        return str(sent["submission_id"])

    def get_job_info(self, job_id: str) -> Any:
        info = self.infos.pop(0)
        if isinstance(info, Exception):
            raise info
        return info

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        for part in self.connections.pop(0):
            if isinstance(part, BaseException):
                raise part
            yield part


def request(**changes: Any) -> Request:
    config = train_config(output_dir="/shared/runs", **changes)
    return Request(job="train", config=config, environment=environment_of([]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkout with what must travel, and what must not."""
    stays = (
        "runs/a/model data/x.parquet .venv/bin/python .git/HEAD setok/__pycache__/a.pyc .env secret.pem weights/w.bin"
    )
    travels = "setok/data/plan.py ray_jobs/train.py README.md tests/data/x.txt"
    for name in f"{stays} {travels}".split():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / ".gitignore").write_text("weights/\n")
    return tmp_path
