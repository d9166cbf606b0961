"""Every check on every file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ray_jobs.manifests import commands, controller, dockerfile, house, launcher, pods, schemas, start
from ray_jobs.manifests.problems import Problem, join, schema_problems, strings
from ray_jobs.manifests.reading import Document, read_documents
from setok.errors import ConfigError, did_you_mean

UNFILLED = "change-me"
"""What stands in shipped files where every user has something else."""
_API_VERSIONS = {
    "RayCluster": "ray.io/v1", "RayJob": "ray.io/v1", "RayService": "ray.io/v1", "NetworkPolicy": "networking.k8s.io/v1",
    "PersistentVolumeClaim": "v1", "ServiceAccount": "v1", "Secret": "v1",
}  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What came out."""

    files: tuple[Path, ...]
    problems: tuple[Problem, ...]
    not_checked: tuple[str, ...]
    """Checks that could not be made, each with what they lack."""
    unfilled: tuple[Problem, ...]
    """Places that still have to be filled in; problems only for a file that is about to be used."""


def check_files(paths: Sequence[Path], *, root: Path, crds: Path | None = None) -> Report:
    """Check files, and all files of folders, that describe clusters.

    Args:
        paths: YAML, Dockerfiles, and texts (``.md``) with commands of ours.
        root: the repository: where the build of an image starts, and where relative paths of commands do.
        crds: a folder with KubeRay's CRDs; without it Kubernetes objects are not held against their schema.

    Raises:
        ConfigError: a path does not exist, or the CRDs cannot be read.
    """
    files = list(find_files(paths))
    if crds is not None:
        try:
            schemas.of_kubernetes(crds)
        except (OSError, yaml.YAMLError, KeyError) as error:
            raise ConfigError(f"KubeRay's CRDs in {crds} cannot be read: {error}", "see cluster/README.md") from error
    problems: list[Problem] = []
    skipped: dict[str, None] = {}
    unfilled: list[Problem] = []
    for file in files:
        name = str(file)
        documents: list[Document] = []
        if file.suffix in (".yaml", ".yml"):
            try:
                documents = read_documents(file)
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                problems.append(Problem("", f"it cannot be read: {error}", "check the file at that place", name))
                continue
        for document in documents:
            found = check_document(document, root=root, crds=crds)
            problems += [replace(problem, file=name) for problem in found]
            skipped |= dict.fromkeys(_not_checked(document, crds))
            unfilled += [replace(place, file=name) for place in _unfilled(document.tree)]
        problems += [replace(problem, file=name) for problem in _whole_file(file, root)]
    return Report(tuple(files), tuple(dict.fromkeys(problems)), tuple(skipped), tuple(unfilled))


def find_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The files that can be checked, of folders too.

    Raises:
        ConfigError: a path does not exist.
    """
    for path in paths:
        if path.is_dir():
            yield from sorted(file for file in path.rglob("*") if _is_checked(file))
        elif path.is_file():
            yield path
        else:
            raise ConfigError(f"there is no {path}", "give files, or folders such as cluster")


def _is_checked(file: Path) -> bool:
    return file.is_file() and (file.suffix in (".yaml", ".yml", ".md") or file.name.startswith("Dockerfile"))


def check_document(document: Document, *, root: Path, crds: Path | None) -> Iterator[Problem]:
    """What is wrong with one document of a YAML file."""
    tree = document.tree
    yield from house.image_problems(tree)
    yield from house.secret_problems(tree)
    yield from house.environment_problems(tree)
    yield from commands.problems(commands.in_tree(tree), root=root)
    if document.kind == "launcher":
        yield from _applied(launcher.problems(tree))
        yield from _applied(start.problems(tree))
    elif document.kind == "serve":
        yield from _applied(pods.serve_problems(tree))
    elif document.kind == "kubernetes":
        yield from _kubernetes(document, root, crds)


def _kubernetes(document: Document, root: Path, crds: Path | None) -> Iterator[Problem]:
    tree, kind = document.tree, document.kubernetes_kind
    if not kind:
        yield Problem("kind", "there is no kind, so nobody knows what it is", did_you_mean("kind", tree))
    version = _API_VERSIONS.get(kind)
    if version is not None and tree.get("apiVersion") != version:
        yield Problem("apiVersion", f"{tree.get('apiVersion')!r} has no {kind}", f"apiVersion: {version}")
    validator = schemas.of_kubernetes(crds).get(kind) if crds is not None else None
    wrong = list(schema_problems(validator, tree)) if validator is not None else []
    yield from wrong
    if any("wrong type" in problem.what for problem in wrong):
        return  # the rules below would stumble over it
    if kind in ("RayCluster", "RayJob", "RayService"):
        yield from _applied(controller.problems(tree))
        yield from _applied(pods.problems(tree, root=root))
        yield from _applied(start.problems(tree))


def _applied(found: Iterator[Problem]) -> Iterator[Problem]:
    """What rules find. Where one stumbles over a value of another kind than it expects, that is a problem too."""
    try:
        yield from found
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        yield Problem(
            "",
            f"some value is a text, number, list or mapping where another of these belongs: {error}",
            "compare it with the file of cluster/; of Kubernetes objects --crds tells the place",
        )


def _whole_file(file: Path, root: Path) -> Iterator[Problem]:
    """What concerns no single document: commands in comments and texts, and Dockerfiles."""
    text = file.read_text("utf-8")
    if file.suffix in (".yaml", ".yml"):
        text = "\n".join(line if line.lstrip().startswith("#") else "" for line in text.split("\n"))
    yield from commands.problems(commands.in_lines(text), root=root)
    if file.name.startswith("Dockerfile"):
        yield from dockerfile.problems(file, root=root)


def _unfilled(tree: Any) -> Iterator[Problem]:
    for path, text in strings(tree):
        if UNFILLED in text:
            found = re.search(rf"\S*{UNFILLED}\S*", text)
            assert found is not None
            yield Problem(path, f"{found[0]!r} is still to be filled in", "see cluster/README.md")


def _not_checked(document: Document, crds: Path | None) -> Iterator[str]:
    if document.kind == "kubernetes" and crds is None:
        yield "Kubernetes objects against their schema: give --crds (cluster/README.md says where KubeRay has them)"
    if document.kind == "kubernetes" and document.kubernetes_kind not in _API_VERSIONS:
        yield f"{join(document.kubernetes_kind)}: a kind that is not known here"
    if document.kind == "launcher":
        yield from launcher.not_checked(document.tree)
