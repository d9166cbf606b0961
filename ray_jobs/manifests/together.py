"""Names that one file gives and another one uses. All files of a call belong together.

A name that nobody defines is told only where somebody defines another of its kind: else it may have been made by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ray_jobs.manifests.problems import Problem, items, join
from ray_jobs.manifests.reading import Document
from setok.errors import did_you_mean

_REFERENCES = {
    "secretRef": ("Secret", "name"), "secretKeyRef": ("Secret", "name"), "secret": ("Secret", "secretName"),
    "configMapRef": ("ConfigMap", "name"), "configMapKeyRef": ("ConfigMap", "name"), "configMap": ("ConfigMap", "name"),
    "persistentVolumeClaim": ("PersistentVolumeClaim", "claimName"),
}  # fmt: skip
"""Kind that is meant, and where its name stands."""
_CREATED = re.compile(
    r"\bkubectl create (?P<kind>secret generic|configmap|serviceaccount|namespace) (?P<name>[a-z0-9][\w.-]*)"
)
_KINDS = {
    "secret generic": "Secret",
    "configmap": "ConfigMap",
    "serviceaccount": "ServiceAccount",
    "namespace": "Namespace",
}
_DEFAULT = "default"


class Placed(NamedTuple):
    """A document, and where it stands."""

    file: str
    document: Document


def namespace_of(tree: dict[str, Any]) -> str:
    """Where an object lives, as far as its file tells."""
    return str((tree.get("metadata") or {}).get("namespace") or _DEFAULT)


def objects(placed: Sequence[Placed], *kinds: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """File and tree of the Kubernetes objects of some kinds."""
    for file, document in placed:
        if document.kubernetes_kind in kinds:
            yield file, document.tree


@dataclass(frozen=True)
class _Defined:
    """Names by kind, each with the namespaces that it is in; ``None`` where a command creates it, in whichever."""

    names: dict[str, dict[str, set[str | None]]] = field(default_factory=dict)

    def add(self, kind: str, name: str, namespace: str | None) -> None:
        self.names.setdefault(kind, {}).setdefault(name, set()).add(namespace)


def problems(placed: Sequence[Placed], texts: str) -> Iterator[Problem]:
    """References to what no file defines.

    Args:
        placed: the documents of all files.
        texts: READMEs and comments, whose ``kubectl create`` commands define names too.
    """
    defined = _Defined()
    for found in _CREATED.finditer(texts):
        defined.add(_KINDS[found["kind"]], found["name"], None)
    kubernetes = [(file, document.tree) for file, document in placed if document.kind == "kubernetes"]
    seen: dict[tuple[str, str, str], str] = {}
    for file, tree in kubernetes:
        kind, name, namespace = str(tree.get("kind")), str((tree.get("metadata") or {}).get("name")), namespace_of(tree)
        if (kind, name, namespace) in seen:
            yield Problem("metadata.name", f"the {kind} {name!r} is also in {seen[kind, name, namespace]}: what is applied"
                          " last replaces the other", "another metadata.name", file)  # fmt: skip
        seen[kind, name, namespace] = file
        defined.add(kind, name, namespace)
    for file, tree in kubernetes:
        for problem in (*_namespace(tree, defined), *_references(tree, defined)):
            yield replace(problem, file=file)


def _namespace(tree: dict[str, Any], defined: _Defined) -> Iterator[Problem]:
    known, given = defined.names.get("Namespace", {}), namespace_of(tree)
    if known and given != _DEFAULT and given not in known:
        yield Problem("metadata.namespace", f"no file has the Namespace {given!r}", did_you_mean(given, known))


def _references(tree: dict[str, Any], defined: _Defined) -> Iterator[Problem]:
    here = namespace_of(tree)
    for path, kind, name in references(tree):
        known = defined.names.get(kind, {})
        if kind == "Secret" and name in defined.names.get("RayCluster", {}):
            continue  # the token, which KubeRay keeps in a Secret of the cluster's name
        if known and name not in known:
            yield Problem(path, f"no file has the {kind} {name!r}", did_you_mean(name, known))
        elif known and not known[name] & {here, None}:
            places = ", ".join(sorted(str(place) for place in known[name]))
            yield Problem(path, f"the {kind} {name!r} is in the namespace {places}, and this object in {here}",
                          "give both the same metadata.namespace, or none")  # fmt: skip


def references(tree: Any, at: str = "") -> Iterator[tuple[str, str, str]]:
    """Path, kind and name of all Kubernetes objects that pods of a tree use."""
    for key, value in items(tree):
        here = join(at, key)
        if key == "serviceAccountName" and isinstance(value, str):
            yield here, "ServiceAccount", value
        elif key in _REFERENCES and isinstance(value, dict):
            kind, name = _REFERENCES[str(key)]
            if isinstance(value.get(name), str):
                yield join(here, name), kind, value[name]
        yield from references(value, here)
