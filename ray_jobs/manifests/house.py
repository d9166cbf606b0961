"""What this project asks of a cluster, whichever file describes it: images, secrets, names of environment variables."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from ray_jobs.manifests.problems import Problem, items, join, strings
from setok.errors import did_you_mean

SAVE_SECONDS = 60.0
"""What a notice must leave for a save besides the poll that finds it: a model of 7B with adapters to network storage."""
TEARDOWN_SECONDS = 20.0
"""From the end of the drain to the end of Ray's processes."""
RAY_PORTS = {6379: "GCS", 8265: "the dashboard and its Jobs API", 10001: "the client server"}
"""Whoever reaches one of them may run any code on the cluster."""
_TAG = re.compile(r"ray(?P<version>\d+\.\d+\.\d+)-(?P<variant>cpu|gpu)")
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEYS?|ACCESS_KEY(_ID)?|CREDENTIALS?)$", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|AKIA[0-9A-Z]{16}|sk-[A-Za-z0-9_-]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|AIza[0-9A-Za-z_-]{30,})\b"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
_ASSIGNMENT = re.compile(r"\b(?P<name>[A-Z][A-Z0-9_]{2,})=(?P<value>[^\s;'\"]+|'[^']*'|\"[^\"]*\")")
_ENV_NAME = re.compile(r"\b((?:SETOK|RAY)_[A-Za-z0-9_]*[A-Za-z0-9])\b")
_SET_BY_LAUNCHER = {"RAY_HEAD_IP"}


def ray_version() -> str:
    """Of the Ray that is installed here, which is the one of constraints.txt where that was used."""
    return metadata.version("ray")


# ---------------------------------------------------------------- images


def image_problems(tree: Any) -> Iterator[Problem]:
    """Images of ours whose tag does not say Ray's version, or another than the one that is installed here."""
    for path, text in strings(tree):
        if not path.rpartition(".")[2].endswith("image"):
            continue
        found = _TAG.fullmatch(text.rpartition(":")[2])
        if found is None:
            yield Problem(
                path, f"the image {text!r} does not say which Ray it holds", f"…/setok:ray{ray_version()}-gpu or -cpu"
            )
        elif found["version"] != ray_version():
            yield Problem(
                path,
                f"the image {text!r} holds Ray {found['version']}, and the pin is {ray_version()}",
                f"…/setok:ray{ray_version()}-{found['variant']}: the whole cluster and its clients need the same Ray",
            )


def variant_of(image: str) -> str:
    """``cpu`` or ``gpu``; empty where the tag does not say."""
    found = _TAG.fullmatch(image.rpartition(":")[2])
    return found["variant"] if found else ""


# ---------------------------------------------------------------- secrets


def secret_problems(tree: Any) -> Iterator[Problem]:
    """Values that a file must not hold, because files are shared and kept: tokens, passwords, keys."""
    remedy = "keep it in ~/.setok (launcher), or in the Secret setok-secrets (Kubernetes): cluster/README.md"
    if isinstance(tree, dict) and tree.get("kind") == "Secret":
        for key in ("data", "stringData"):
            if tree.get(key):
                yield Problem(key, "a Secret with its values in a file", f"kubectl create secret generic …; {remedy}")
    for path, key, value in _settings(tree):
        if _SECRET_NAME.search(key) and not value.startswith("$"):
            yield Problem(path, f"the value of {key} stands in the file", remedy)
    for path, text in strings(tree):
        if _SECRET_VALUE.search(text):
            yield Problem(path, "this looks like a key or token", remedy)
        for name, value in _assignments(text):
            if _SECRET_NAME.search(name) and value.strip("'\"") and not value.strip("'\"").startswith("$"):
                yield Problem(path, f"the value of {name} stands in the file", remedy)


def _settings(tree: Any, at: str = "") -> Iterator[tuple[str, str, str]]:
    """Path, name and value of whatever has a name and a text for value: keys of mappings, and entries of ``env``."""
    if isinstance(tree, dict) and isinstance(tree.get("name"), str) and isinstance(tree.get("value"), str):
        yield join(at, "value"), tree["name"], tree["value"]
    for key, value in items(tree):
        if isinstance(key, str) and isinstance(value, str) and value:
            yield join(at, key), key, value
        yield from _settings(value, join(at, key))


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for found in _ASSIGNMENT.finditer(text):
        yield found["name"], found["value"]


# ---------------------------------------------------------------- environment


def environment_problems(tree: Any) -> Iterator[Problem]:
    """Variables of Ray's and ours that nobody reads: a slip of the pen would have no effect and no message."""
    for path, name in _variables(tree):
        known = ours() if name.startswith("SETOK_") else rays()
        if name not in known and name not in _SET_BY_LAUNCHER:
            yield Problem(path, f"nothing reads the environment variable {name}", did_you_mean(name, known))


def _variables(tree: Any, at: str = "") -> Iterator[tuple[str, str]]:
    is_entry = isinstance(tree, dict) and ("value" in tree or "valueFrom" in tree)
    if is_entry and _ENV_NAME.fullmatch(str(tree.get("name"))):
        yield join(at, "name"), tree["name"]
    if isinstance(tree, str):
        for name, _ in _assignments(tree):
            if _ENV_NAME.fullmatch(name):
                yield at, name
    for key, value in items(tree):
        yield from _variables(value, join(at, key))


@functools.cache
def ours() -> frozenset[str]:
    """Environment variables that occur in the sources of setok and ray_jobs."""
    return _names_in(_folder("setok"), "**/*.py", "SETOK_") | _names_in(_folder("ray_jobs"), "**/*.py", "SETOK_")


@functools.cache
def rays() -> frozenset[str]:
    """Environment variables that occur in the parts of Ray that start nodes and jobs."""
    ray = _folder("ray")
    parts = ("_private/**/*.py", "autoscaler/**/*.py", "dashboard/modules/job/*.py", "scripts/*.py", "train/**/constants.py",
             "serve/_private/constants.py")  # fmt: skip
    return frozenset().union(*(_names_in(ray, part, "RAY_") for part in parts))


def _names_in(folder: Path, pattern: str, prefix: str) -> frozenset[str]:
    names: set[str] = set()
    for file in folder.glob(pattern):
        if "manifests" not in file.parts:
            names.update(name for name in _ENV_NAME.findall(file.read_text("utf-8")) if name.startswith(prefix))
    return frozenset(names)


def _folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent
