"""YAML files, presets and dotted overrides to checked configs, with errors that say what was meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from setok.config.evaluation import EvaluateConfig
from setok.config.job import Job
from setok.config.jobs import IngestConfig, PipelineConfig, ServeConfig, TrainConfig
from setok.config.thresholds import ThresholdsConfig
from setok.config.tune import TuneConfig
from setok.errors import ConfigError, close_to, did_you_mean

J = TypeVar("J", bound=Job)

JOBS: dict[str, type[Job]] = {
    "ingest": IngestConfig,
    "train": TrainConfig,
    "tune": TuneConfig,
    "sweep_thresholds": ThresholdsConfig,
    "evaluate": EvaluateConfig,
    "pipeline": PipelineConfig,
    "serve": ServeConfig,
}


_CLOSE = 0.6
"""Names that are less alike are no misspellings of each other."""


def list_presets(job: str | None = None) -> list[str]:
    """Names of the presets that ship with the package: those of a job, or all."""
    folder = resources.files("setok") / "presets"
    names = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
    return names if job is None else [name for name in names if _job_of(name) == job]


def _job_of(preset: str) -> str:
    tree = _read(preset)
    return str(tree["job"]) if "job" in tree else _job_of(str(tree["extends"]))


def load_config(kind: type[J], name: str | Path, overrides: Sequence[str] = ()) -> J:
    """Read, override and check the config of a job.

    Args:
        kind: the config class that the job expects.
        name: a preset's name, or the path of a YAML file.
        overrides: ``dotted.key=value`` strings; values are YAML. Numbers index lists.

    Raises:
        ConfigError: unknown preset or key, wrong type or value, or settings that contradict each other.
    """
    tree = _resolve(_read(name, kind), trail=(str(name),))
    for override in overrides:
        _apply(tree, override)
    return build(kind, _fill_in_run(tree, str(kind.model_fields["output_dir"].default)))


def load_any_config(name: str | Path, overrides: Sequence[str] = ()) -> Job:
    """Read, override and check the config of whatever job it names itself, as ``load_config`` does.

    Raises:
        ConfigError: also where it names no job.
    """
    tree = _resolve(_read(name), trail=(str(name),))
    if "job" not in tree:
        raise ConfigError(f"{name} does not say which job it is the config of", f"add job: {' or '.join(JOBS)}")
    if (job := str(tree["job"])) not in JOBS:
        raise ConfigError(f"job: {job} is unknown", did_you_mean(job, JOBS))
    return load_config(JOBS[job], name, overrides)


def build(kind: type[J], tree: Mapping[str, Any]) -> J:
    """Check a plain mapping against the config class of a job."""
    job = kind.model_fields["job"].default
    asked = str(tree.get("job", job))
    if asked not in JOBS:
        raise ConfigError(f"job: {asked} is unknown", did_you_mean(asked, JOBS))
    if asked != job:
        raise ConfigError(
            f"this config is for job: {asked}, and the command runs job: {job}",
            f"use python -m ray_jobs.{asked}, or another --config",
        )
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise ConfigError("\n".join(_explanations(kind, error)), "see --print-config for all keys") from error


def dump_config(config: Job) -> str:
    """The complete config as YAML, itself a valid ``--config``."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read(name: str | Path, kind: type[Job] | None = None) -> dict[Any, Any]:
    """A preset's or a file's tree; where there is neither, presets of a job of this kind are named, or one that is meant."""
    presets = list_presets()
    if str(name) in presets:
        data = (resources.files("setok") / "presets" / f"{name}.yaml").read_bytes()
    elif Path(name).is_file():
        data = Path(name).read_bytes()
    else:
        if kind is not None and not close_to(str(name), presets):
            presets = list_presets(str(kind.model_fields["job"].default))
        raise ConfigError(f"no preset and no file is called {str(name)!r}", did_you_mean(str(name), presets))
    try:
        tree = yaml.safe_load(data.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{name} is not valid YAML: {error}", "check the file at the place named above") from error
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{name} holds {type(tree).__name__}, not a mapping of settings", "start it with job: and name:"
        )
    return tree


def _resolve(node: Any, trail: tuple[str, ...]) -> Any:
    """Replace every mapping with ``extends: PRESET`` by that preset, changed by the mapping's other keys.

    ``extends: PRESET/dotted.key`` takes one section of the preset. A ``space`` takes the place of the preset's, and
    of its ``title``.
    """
    if isinstance(node, list):
        return [_resolve(item, trail) for item in node]
    if not isinstance(node, dict):
        return node
    for key in node:
        if not isinstance(key, str):
            raise ConfigError(f"{' → '.join(trail)}: the key {key!r} is no string", "quote it if it is meant")
    node = {key: _resolve(value, trail) for key, value in node.items() if key != "extends"} | (
        {"extends": node["extends"]} if "extends" in node else {}
    )
    if "extends" not in node:
        return node
    asked = str(node.pop("extends"))
    parent, _, section = asked.partition("/") if asked.partition("/")[0] in list_presets() else (asked, "", "")
    if parent in trail:
        raise ConfigError(f"presets extend each other in a circle: {' → '.join((*trail, parent))}", "break the circle")
    base: Any = _resolve(_read(parent), (*trail, parent))
    for key in filter(None, section.split(".")):
        if not isinstance(base, dict) or key not in base:
            known = list(base) if isinstance(base, dict) else []
            raise ConfigError(f"extends: {asked}: the preset {parent} has no section {key!r}", did_you_mean(key, known))
        base = base[key]
    if not isinstance(base, dict):
        raise ConfigError(f"extends: {asked} is a value and no section", f"write {base!r} in its place")
    if "space" in node and "title" not in node:
        base = {key: value for key, value in base.items() if key != "title"}  # it says what the preset's space is
    return _merge(base, node)


_WHOLE = ("space",)
"""Sections that are one thing: whoever writes one has all of it, and nothing of the preset's."""


def _merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in change.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict) and key not in _WHOLE
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply(tree: dict[str, Any], override: str) -> None:
    """Set what ``a.b.0.c=value`` says, the value being YAML."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"--set {override!r} has no form key=value", "write for example --set train.steps=1000")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"--set {key}: {text!r} is not a YAML value", "quote strings with special characters"
        ) from error
    set_value(tree, key, value)


def set_value(tree: dict[str, Any], key: str, value: Any) -> None:
    """Set ``a.b.0.c`` in a tree of plain dicts and lists.

    Raises:
        ConfigError: the way there leads through a value, or beyond the end of a list.
    """
    node: Any = tree
    *parents, last = key.split(".")
    for parent in parents:
        if isinstance(node, list):
            node = node[_index(node, parent, key)]
        else:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
        if not isinstance(node, (dict, list)):
            raise ConfigError(f"--set {key}: {parent!r} is a value, not a section", "see --print-config")
    if isinstance(node, list):
        node[_index(node, last, key)] = value
    else:
        node[last] = value


def _fill_in_run(tree: dict[str, Any], output_dir: str) -> dict[str, Any]:
    """Replace ``${run}`` in every string by the run's folder."""
    run = f"{tree.get('output_dir', output_dir)}/{tree.get('name', '')}"

    def fill(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: fill(value) for key, value in node.items()}
        if isinstance(node, list):
            return [fill(item) for item in node]
        return node.replace("${run}", run) if isinstance(node, str) else node

    return {key: fill(value) for key, value in tree.items()}


def _index(items: list[Any], text: str, key: str) -> int:
    if not text.isdecimal() or int(text) >= len(items):
        remedy = (
            f"use 0 to {len(items) - 1}" if items else f"give the whole list: --set {key.rpartition(f'.{text}')[0]}=[…]"
        )
        raise ConfigError(f"--set {key}: {text!r} is no index of a list of {len(items)}", remedy)
    return int(text)


def _explanations(kind: type[BaseModel], error: ValidationError) -> list[str]:
    """What is wrong, without what is only wrong because of something below it: a list is not too short for a typo in it."""
    errors = error.errors()
    unknown = [e["loc"] for e in errors if e["type"] == "extra_forbidden"]
    below = [loc for loc in unknown for e in errors if e["type"] == "too_short" and loc[: len(e["loc"])] == e["loc"]]
    by_path: dict[str, list[str]] = {}
    for e in errors:
        if not (e["type"] == "too_short" and below):
            path = ".".join(str(part) for part in e["loc"] if not _is_type_name(part))
            by_path.setdefault(path, []).append(_explain(kind, e, path))
    return [_alternatives(sentences) for sentences in by_path.values()]


def _is_type_name(part: str | int) -> bool:
    """Whether a part of pydantic's path is no key but says which type of a union was tried, as ``tuple[int, int]``."""
    return isinstance(part, str) and (part in ("int", "float", "str", "bool") or "[" in part)


def _alternatives(sentences: Sequence[str]) -> str:
    """One sentence of those about one key, which say what each type of a union would need."""
    first, *others = dict.fromkeys(sentences)
    beginning = first.partition(": ")[0]
    return "; or ".join([first, *(sentence.removeprefix(f"{beginning}: ") for sentence in others)])


def _explain(kind: type[BaseModel], error: Any, path: str) -> str:
    """One pydantic error as a sentence that names the key, the value and the remedy."""
    if error["type"] == "extra_forbidden":
        *parents, unknown = error["loc"]
        section = _section_at(kind, parents)
        return f"unknown key {path!r}" + (f": {_meant(section, parents, str(unknown))}" if section else "")
    if error["type"] == "missing":
        return f"{path} is required and missing"
    value = repr(error["input"])
    value = value if len(value) <= 100 else f"{value[:99]}…"
    message = error["msg"].replace("valid tuple", "valid list")  # YAML knows no tuples
    return f"{path}={value}: {message[0].lower()}{message[1:]}"


def _meant(section: type[BaseModel], parents: Sequence[Any], unknown: str) -> str:
    """The key that an unknown one stands for: of its section, or, as a whole key, of a section below where that is closer."""

    def likeness(name: str) -> float:
        return difflib.SequenceMatcher(None, unknown, name).ratio()

    below = dict(_keys_below(section))
    best = max(below, key=lambda key: likeness(below[key]), default="")
    if best and likeness(below[best]) > max(_CLOSE, *map(likeness, section.model_fields)):
        return f"did you mean {'.'.join(map(str, (*parents, best)))!r}?"
    return did_you_mean(unknown, section.model_fields)


def _keys_below(section: type[BaseModel]) -> Iterator[tuple[str, str]]:
    """Dotted keys of all settings in sections of a section, and their last parts."""
    for field, info in section.model_fields.items():
        inner = None if get_origin(info.annotation) in (tuple, list, dict) else _model_in(info.annotation)
        if inner is not None:
            yield from ((f"{field}.{name}", name) for name in inner.model_fields)
            yield from ((f"{field}.{key}", name) for key, name in _keys_below(inner))


def _section_at(kind: type[BaseModel], loc: Sequence[Any]) -> type[BaseModel] | None:
    """The config class that holds the keys at ``loc``, through lists and mappings of sections."""
    place: Any = kind
    for part in loc:
        section = _model_in(place)
        if section and str(part) in section.model_fields:
            place = section.model_fields[str(part)].annotation
        # otherwise an index of a list or a key of a mapping, whose sections are all of one class
    return _model_in(place)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The config class that an annotation names, such as ``tuple[Section, ...]`` or ``dict[str, Section]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (Union, UnionType, tuple, list, dict):
        return next((model for arg in get_args(annotation) if (model := _model_in(arg))), None)
    return None
