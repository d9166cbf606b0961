"""``ray start`` as it stands in commands and in a group's ``rayStartParams``: its flags exist.

A wrong one is found otherwise when the first node starts, which then says so in its log only.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from ray_jobs.manifests.controller import clusters, groups
from ray_jobs.manifests.problems import Problem, join, strings
from setok.errors import did_you_mean

_START = re.compile(r"\bray start\b(?P<rest>[^;&|\n]*)")


def problems(tree: dict[str, Any]) -> Iterator[Problem]:
    """Flags that ``ray start`` does not have."""
    for path, text in strings(tree):
        for found in _START.finditer(text):
            yield from _unknown(path, re.findall(r"(?<!\S)(--[\w-]+)", found["rest"]))
    for at, cluster in clusters(tree):
        for path, _, group in groups(cluster, at):
            for key in group.get("rayStartParams") or {}:
                yield from _unknown(join(path, "rayStartParams", key), [f"--{key}"])


def _unknown(path: str, given: list[str]) -> Iterator[Problem]:
    for flag in given:
        if flag not in flags():
            yield Problem(path, f"ray start has no flag {flag}", did_you_mean(flag, flags()))


@functools.cache
def flags() -> frozenset[str]:
    """Those of the Ray that is installed here."""
    from ray.scripts.scripts import start

    return frozenset(option for parameter in start.params for option in parameter.opts)
