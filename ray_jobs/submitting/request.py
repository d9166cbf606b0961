"""What is asked of a cluster: a command, its run, its environment."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ray_jobs.submitting.package import CONFIG
from setok.config import Job, dump_config
from setok.errors import ConfigError

ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "1",  # else the dashboard's page of training runs stays empty
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
}
"""What every process of a job gets and the job's own code sets too late, or only for its driver."""
_KEPT_AT_HOME = re.compile(r"^RAY_AUTH_(MODE|TOKEN|TOKEN_PATH)$")


@dataclass(frozen=True, kw_only=True)
class Request:
    """One job."""

    job: str
    """Name of the module in ``ray_jobs``."""
    config: Job
    arguments: tuple[str, ...] = ()
    """Further arguments of its command."""
    environment: dict[str, str]
    python: str = "python"
    """Interpreter on the node where the job's command runs."""

    @property
    def command(self) -> str:
        """The shell command line."""
        return shlex.join([self.python, "-m", f"ray_jobs.{self.job}", "--config", CONFIG, *self.arguments])

    @property
    def run(self) -> str:
        """The run as other submissions of it are found by: job and folder."""
        return f"{self.job}:{self.config.output_dir.rstrip('/')}/{self.config.name}"

    @property
    def settings(self) -> str:
        """Digest of everything that decides what the job does, but for the code."""
        text = "\n".join([self.command, dump_config(self.config)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def metadata(self) -> dict[str, str]:
        """What is kept with the job, for the next submission."""
        return {"setok_run": self.run, "setok_settings": self.settings}

    def free_id(self, taken: Collection[str]) -> str:
        """A name for the submission: ``train-mine``, and ``train-mine-2`` when that has been."""
        name, number = f"{self.job}-{self.config.name}", 1
        while (candidate := name if number == 1 else f"{name}-{number}") in taken:
            number += 1
        return candidate


def environment_of(given: Sequence[str]) -> dict[str, str]:
    """The job's environment: ours, and what ``--env NAME`` takes from here or ``--env NAME=VALUE`` says.

    Raises:
        ConfigError: a variable is not set here, or is one that must not travel.
    """
    found = dict(ENVIRONMENT)
    for entry in given:
        name, sign, value = entry.partition("=")
        if _KEPT_AT_HOME.match(name):
            raise ConfigError(
                f"--env {name}: what a job is given can be read on the dashboard, and the nodes have the cluster's token"
                " themselves",
                "leave it out; this command takes it from the environment to log in with",
            )
        if not sign and name not in os.environ:
            raise ConfigError(f"--env {name}: no such variable is set here", f"set it, or write --env {name}=VALUE")
        found[name] = value if sign else os.environ[name]
    return found
