"""What an evaluation of one checkpoint is about: what is asked, of which model, on which set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ray_jobs.evaluation.trained import Trained
from ray_jobs.scoring.tasks import Task
from setok.config import EvaluateConfig
from setok.data.schema import Manifest, Record
from setok.data.shards import read_bare_records
from setok.data.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Work:
    """One checkpoint, one set, and the tasks that both allow."""

    config: EvaluateConfig
    """Of this checkpoint alone; its ``run_dir`` is where the files go."""
    trained: Trained
    manifest: Manifest
    tasks: dict[str, Task]

    @property
    def num_rows(self) -> int:
        """How many of the set's rows, from the first on."""
        return min(self.manifest.num_rows, self.config.limit or self.manifest.num_rows)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Of the checkpoint's contents and of the set's."""
        return {"checkpoint": self.trained.fingerprint, "data": self.manifest.fingerprint}

    @property
    def request(self) -> dict[str, Any]:
        """Everything that figures of single samples depend on."""
        free = ("job", "name", "output_dir", "checkpoint", "beside", "num_replicas", "networks")
        asked = self.config.model_dump(mode="json")
        settings = {name: value for name, value in asked.items() if name not in free}
        train = Manifest.load(self.config.train_data or self.config.data).fingerprint
        return settings | {"tasks": sorted(self.tasks), "train": train} | self.fingerprints

    def records(self, *, regions: bool = False) -> Iterator[tuple[int, Record]]:
        """The rows to be asked with their numbers, without what is big; see ``read_bare_records``."""
        return bare_records(self.config.data, self.num_rows, regions=regions)

    @property
    def num_extremes(self) -> int:
        """How many of the best cases, and of the worst, are shown."""
        return self.config.num_pictures // 3


def bare_records(folder: str, num_rows: int, *, regions: bool = False) -> Iterator[tuple[int, Record]]:
    """The first rows of a set with their numbers; see ``read_bare_records``."""
    index = 0
    for shard in Manifest.load(folder).shards:
        if index >= num_rows:
            return
        for record in read_bare_records(Storage(folder), shard.file, regions=regions):
            if index >= num_rows:
                return
            yield index, record
            index += 1
