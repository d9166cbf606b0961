"""What all jobs share."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from setok.config.section import Section


class Job(Section):
    """A run of a command: it has a name, and a folder of that name."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run's folder; starting a run again under the same name resumes it."""
    output_dir: str = "runs"
    seed: int = Field(0, ge=0)

    @property
    def run_dir(self) -> Path:
        return Path(self.output_dir) / self.name
