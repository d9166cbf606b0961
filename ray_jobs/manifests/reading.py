"""YAML as Kubernetes and the launcher read it, but with keys that come twice refused; and the kinds of files there are."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

Kind = Literal["kubernetes", "launcher", "serve", "other"]


@dataclass(frozen=True)
class Document:
    """One document of a YAML file."""

    kind: Kind
    tree: dict[str, Any]

    @property
    def kubernetes_kind(self) -> str:
        """``RayJob``, ``Secret``, …; empty where it is none of Kubernetes'."""
        return str(self.tree.get("kind", "")) if self.kind == "kubernetes" else ""


class _Loader(yaml.SafeLoader):
    """One that refuses a key that comes twice, of which all but the last would be dropped without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # what it brings may be overridden
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    "in a mapping", node.start_mark, f"the key {key!r} comes twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def read_documents(file: Path) -> list[Document]:
    """All documents of a file.

    Raises:
        yaml.YAMLError: it is no YAML, a key comes twice, or a document is no mapping.
    """
    trees = [tree for tree in yaml.load_all(file.read_text("utf-8"), _Loader) if tree is not None]
    for tree in trees:
        if not isinstance(tree, dict):
            raise yaml.YAMLError(f"a document is {type(tree).__name__}, and not a mapping")
    return [Document(kind_of(tree), tree) for tree in trees]


def kind_of(tree: dict[str, Any]) -> Kind:
    """What a document is for, by the keys that only such ones have."""
    if "kind" in tree or "apiVersion" in tree:
        return "kubernetes"
    if "cluster_name" in tree or "provider" in tree:
        return "launcher"
    return "serve" if "applications" in tree else "other"
