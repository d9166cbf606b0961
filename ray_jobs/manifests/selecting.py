"""Which pods of the files a network policy selects, and which share a claim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ray_jobs.manifests.controller import clusters, groups, pod_of
from ray_jobs.manifests.problems import Problem, join
from ray_jobs.manifests.together import Placed, namespace_of, objects, references

_RAY_KINDS = ("RayCluster", "RayJob", "RayService")


class _Pods(NamedTuple):
    """The pods of one group."""

    namespace: str
    labels: dict[str, str | None]
    """Those that KubeRay gives, and the user's; ``None`` for a value that is made up when the cluster starts."""
    spec: dict[str, Any]
    most: int


def problems(placed: Sequence[Placed]) -> Iterator[Problem]:
    """Policies without effect, and claims that only one node can mount and several need."""
    pods = [group for _, tree in objects(placed, *_RAY_KINDS) for group in _pods(tree)]
    for file, tree in objects(placed, "NetworkPolicy"):
        selector, here = (tree.get("spec") or {}).get("podSelector") or {}, namespace_of(tree)
        if pods and not any(group.namespace == here and _selects(selector, group.labels) for group in pods):
            yield Problem("spec.podSelector", f"{selector} selects no pod of these files in the namespace {here}",
                          "{matchExpressions: [{key: ray.io/cluster, operator: Exists}]} selects all of Ray's", file)  # fmt: skip
    for file, tree in objects(placed, "PersistentVolumeClaim"):
        for problem in _shared(tree, [group for group in pods if group.namespace == namespace_of(tree)]):
            yield replace(problem, file=file)


def _pods(tree: dict[str, Any]) -> Iterator[_Pods]:
    made = None if tree.get("kind") != "RayCluster" else str((tree.get("metadata") or {}).get("name"))
    for _, cluster in clusters(tree):
        for path, name, group in groups(cluster):
            is_head = path.endswith("headGroupSpec")
            given = ((group.get("template") or {}).get("metadata") or {}).get("labels") or {}
            labels: dict[str, str | None] = {
                "ray.io/cluster": made,
                "ray.io/identifier": None,
                "ray.io/is-ray-node": "yes",
                "ray.io/node-type": "head" if is_head else "worker",
                "ray.io/group": "headgroup" if is_head else name,
                "app.kubernetes.io/name": "kuberay",
                "app.kubernetes.io/created-by": "kuberay-operator",
                **given,
            }
            yield _Pods(namespace_of(tree), labels, pod_of(group), 1 if is_head else group.get("maxReplicas", 1))


def _selects(selector: dict[str, Any], labels: dict[str, str | None]) -> bool:
    """Whether a label selector of Kubernetes holds; a value that is not known yet is taken for any."""
    equal = [
        {"key": key, "operator": "In", "values": [value]} for key, value in (selector.get("matchLabels") or {}).items()
    ]
    return all(_holds(entry, labels) for entry in (*equal, *(selector.get("matchExpressions") or ())))


def _holds(entry: dict[str, Any], labels: dict[str, str | None]) -> bool:
    key, operator, values = str(entry.get("key")), entry.get("operator"), entry.get("values") or ()
    if operator == "Exists":
        return key in labels
    if operator == "DoesNotExist":
        return key not in labels
    value = labels.get(key)
    if operator == "In":
        return key in labels and (value is None or value in values)
    return value is None or value not in values  # NotIn, which also takes pods without the label


def _shared(claim: dict[str, Any], pods: list[_Pods]) -> Iterator[Problem]:
    name, modes = str((claim.get("metadata") or {}).get("name")), (claim.get("spec") or {}).get("accessModes") or []
    users = sum(
        group.most
        for group in pods
        if any(kind == "PersistentVolumeClaim" and used == name for _, kind, used in references(group.spec))
    )
    if users > 1 and "ReadWriteMany" not in modes:
        yield Problem(join("spec", "accessModes"), f"{modes}, and up to {users} pods on several nodes mount {name}",
                      "accessModes: [ReadWriteMany], with a storage class that has it")  # fmt: skip
