"""Configs of Ray Serve, as files of their own or as a RayService's ``serveConfigV2``."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import yaml

from ray_jobs.manifests import commands, schemas
from ray_jobs.manifests.problems import Problem, join, shown, unknown_keys
from ray_jobs.manifests.syntax import explain_syntax
from setok.config import ServeConfig, load_config
from setok.errors import SetokError, did_you_mean

AT = "spec.serveConfigV2"
"""Its path in a RayService."""
_OURS = "ray_jobs.serve:build"


def of_service(tree: dict[str, Any]) -> Iterator[Problem]:
    """What is wrong with the config in a RayService."""
    try:
        inner = yaml.safe_load(text_of(tree))
    except yaml.YAMLError as error:
        problem = explain_syntax(error, text_of(tree), AT)
        yield replace(problem, what=f"it is no YAML: {problem.what}")
        return
    yield from problems(inner, AT)


def text_of(tree: dict[str, Any]) -> str:
    """The text of a RayService's config of Ray Serve."""
    return str((tree.get("spec") or {}).get("serveConfigV2") or "")


def configs(tree: Any, at: str = "") -> Iterator[tuple[str, ServeConfig | None, SetokError | None]]:
    """Path and config of every application of ours in a config of Ray Serve, or what is wrong with it."""
    for number, application in enumerate((tree or {}).get("applications") or ()):
        if application.get("import_path") != _OURS:
            continue
        path, arguments = join(at, "applications", number, "args"), application.get("args") or {}
        changes = [f"{key}={json.dumps(value)}" for key, value in (arguments.get("set") or {}).items()]
        try:
            yield path, load_config(ServeConfig, arguments.get("config", "serve"), changes), None
        except SetokError as error:
            yield path, None, error


def problems(tree: Any, at: str = "") -> Iterator[Problem]:
    """What Ray Serve or our application would refuse, and keys that Ray Serve would pass over."""
    import jsonschema
    from pydantic import ValidationError
    from ray.serve.schema import ServeDeploySchema

    try:
        ServeDeploySchema.model_validate(tree)
    except ValidationError as error:
        for told in error.errors():
            where = join(at, *told["loc"])
            yield Problem(where, f"{shown(told['input'])}: {told['msg']}", "see the config files of Ray Serve")
    validator = jsonschema.Draft202012Validator(schemas.strict(ServeDeploySchema.model_json_schema()))
    for problem in unknown_keys(validator, tree):
        yield replace(problem, path=join(at, problem.path))
    for number, application in enumerate((tree or {}).get("applications") or ()):
        yield from _import_path(str(application.get("import_path")), join(at, "applications", number, "import_path"))
    for path, _, wrong in configs(tree, at):
        if wrong is not None:
            yield Problem(path, wrong.problem, wrong.remedy)


def _import_path(given: str, at: str) -> Iterator[Problem]:
    """An application is found at ``module:attribute``; of our modules the source tells whether it is there."""
    module, _, name = given.replace(":", ".", 1).rpartition(".") if ":" not in given else given.partition(":")
    package = module.partition(".")[0]
    source = commands.source_of(module) if package in ("ray_jobs", "setok") else None
    if source is not None:
        names = re.findall(r"^(?:def |class )?(\w+)(?=\(| *[:=])", source, re.MULTILINE)
        if name not in names:
            yield Problem(at, f"{module} has no {name!r}", did_you_mean(given, [_OURS]))
    elif package in ("ray_jobs", "setok") or importlib.util.find_spec(package or "?") is None:
        yield Problem(at, f"there is no module {module!r} here", did_you_mean(given, [_OURS]))
