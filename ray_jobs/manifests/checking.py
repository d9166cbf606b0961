"""Every check on every file."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ray_jobs.manifests import (
    chain,
    clouds,
    commands,
    controller,
    dockerfile,
    house,
    launcher,
    network,
    pods,
    scheduling,
    schemas,
    selecting,
    served,
    start,
    together,
    watcher,
)
from ray_jobs.manifests.problems import Problem, join, schema_problems, strings
from ray_jobs.manifests.reading import Document, read_documents
from ray_jobs.manifests.syntax import explain_syntax
from ray_jobs.manifests.together import Placed
from setok.errors import ConfigError, did_you_mean

_YAML = (".yaml", ".yml")
_IMAGE = Path("cluster/Dockerfile")
UNFILLED = "change-me"
"""What stands in shipped files where every user has something else."""
_API_VERSIONS = {
    "RayCluster": "ray.io/v1", "RayJob": "ray.io/v1", "RayService": "ray.io/v1", "NetworkPolicy": "networking.k8s.io/v1",
    "PersistentVolumeClaim": "v1", "ServiceAccount": "v1", "Secret": "v1",
}  # fmt: skip
_FURTHER_KINDS = ("RayCronJob", "PersistentVolume", "Service")
"""Also right, but not looked at: they are close to one that is."""


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
    placed: list[Placed] = []
    for file in files:
        try:
            documents = read_documents(file) if file.suffix in _YAML else []
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            problems.append(_unreadable(error, file))
            continue
        placed += [Placed(str(file), document) for document in documents]
        for document in documents:
            problems += _in(file, check_document(document, root=root, crds=crds))
        problems += _in(file, _whole_file(file, root))
    problems += check_together(placed, "\n".join(_prose(file) for file in files), root=root)
    images = [file for file in files if _is_dockerfile(file)] or [file for file in (root / _IMAGE,) if file.is_file()]
    problems += _applied(dockerfile.pod_problems(placed, images))
    return Report(
        files=tuple(files),
        problems=tuple(dict.fromkeys(problems)),
        not_checked=tuple(dict.fromkeys(_not_checked(placed, files, root=root, crds=crds))),
        unfilled=tuple(replace(place, file=file) for file, document in placed for place in _unfilled(document.tree)),
    )


def _in(file: Path, problems: Iterable[Problem]) -> list[Problem]:
    return [replace(problem, file=str(file)) for problem in problems]


def _unreadable(error: yaml.YAMLError | UnicodeDecodeError, file: Path) -> Problem:
    if isinstance(error, UnicodeDecodeError):
        return Problem("", f"it is no text in UTF-8: {error}", "save it as UTF-8", str(file))
    return replace(explain_syntax(error, file.read_text("utf-8")), file=str(file))


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
    return file.is_file() and (file.suffix in (*_YAML, ".md", ".service") or _is_dockerfile(file))


def _is_dockerfile(file: Path) -> bool:
    return file.name.startswith("Dockerfile")


def check_document(document: Document, *, root: Path, crds: Path | None) -> Iterator[Problem]:
    """What is wrong with one document of a YAML file."""
    tree = document.tree
    yield from house.image_problems(tree)
    yield from house.secret_problems(tree)
    yield from house.environment_problems(tree)
    yield from commands.problems(commands.in_tree(tree), root=root)
    if document.kind == "launcher":
        yield from _applied(launcher.problems(tree))
        yield from _applied(watcher.problems(tree, root=root))
        yield from _applied(start.problems(tree))
    elif document.kind == "serve":
        yield from _applied(served.problems(tree))
    elif document.kind == "kubernetes":
        yield from _kubernetes(document, root, crds)


def check_together(placed: Sequence[Placed], texts: str, *, root: Path) -> Iterator[Problem]:
    """What is wrong with the documents of several files beside each other; ``texts`` is all that people read in them."""
    yield from _applied(together.problems(placed, texts))
    yield from _applied(selecting.problems(placed))
    yield from _applied(chain.problems(placed, root=root))


def _kubernetes(document: Document, root: Path, crds: Path | None) -> Iterator[Problem]:
    tree, kind = document.tree, document.kubernetes_kind
    if not kind:
        yield Problem("kind", "there is no kind, so nobody knows what it is", did_you_mean("kind", tree))
    yield from _unknown_kind(kind, str(tree.get("apiVersion")))
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
        yield from _applied(scheduling.problems(tree))
        yield from _applied(start.problems(tree))
    if kind == "RayService":
        yield from _applied(served.of_service(tree))
    if kind == "NetworkPolicy":
        yield from _applied(network.problems(tree))


def _unknown_kind(kind: str, version: str) -> Iterator[Problem]:
    """A slip in the name of a kind; of Ray's all are known, of Kubernetes' those that our files have."""
    if not kind or kind in {*_API_VERSIONS, *_FURTHER_KINDS}:
        return
    if version.startswith("ray.io/") or difflib.get_close_matches(kind, _API_VERSIONS, n=1, cutoff=0.9):
        yield Problem("kind", f"{kind!r} is unknown", did_you_mean(kind, _API_VERSIONS))


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
    """What concerns no single document: commands in comments and texts, units of systemd, and Dockerfiles."""
    yield from commands.problems(commands.in_lines(_prose(file)), root=root)
    if file.suffix == ".service":
        yield from watcher.service_problems(file.read_text("utf-8"), root=root)
    if _is_dockerfile(file):
        yield from dockerfile.problems(file, root=root)


def _prose(file: Path) -> str:
    """What people read: of YAML the comments, with their lines kept, of all else the whole text."""
    text = file.read_text("utf-8", "replace")
    if file.suffix in _YAML:
        text = "\n".join(line if line.lstrip().startswith("#") else "" for line in text.split("\n"))
    return text


def _unfilled(tree: Any) -> Iterator[Problem]:
    for path, text in strings(tree):
        if UNFILLED in text:
            found = re.search(rf"\S*{UNFILLED}\S*", text)
            assert found is not None
            yield Problem(path, f"{found[0]!r} is still to be filled in", "see cluster/README.md")


def _not_checked(placed: Sequence[Placed], files: Sequence[Path], *, root: Path, crds: Path | None) -> Iterator[str]:
    if any(_is_dockerfile(file) for file in files) and not (root / dockerfile.PINS).is_file():
        yield f"versions in Dockerfiles: there is no {dockerfile.PINS} here; start in the root of the repository"
    for _, document in placed:
        if document.kind == "kubernetes" and crds is None:
            yield "Kubernetes objects against their schema: give --crds (cluster/README.md says where KubeRay has them)"
        if document.kind == "kubernetes" and document.kubernetes_kind not in _API_VERSIONS:
            yield f"{join(document.kubernetes_kind)}: a kind that is not known here"
        if document.kind == "launcher":
            yield from clouds.not_checked(document.tree)
