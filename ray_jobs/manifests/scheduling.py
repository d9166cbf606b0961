"""Groups of a RayCluster whose pods could never start, or never be told apart."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ray_jobs.manifests.controller import clusters, container_of, groups, pod_of
from ray_jobs.manifests.problems import Problem, join
from setok.errors import did_you_mean

_NODE_LABELS = {
    "eks.amazonaws.com/capacityType": ("SPOT", "ON_DEMAND", "CAPACITY_BLOCK"),
    "karpenter.sh/capacity-type": ("spot", "on-demand", "reserved"),
    "cloud.google.com/gke-spot": ("true",),
}
"""Of EKS, Karpenter and GKE, with the values that they give."""
_GPU = "nvidia.com/gpu"


def problems(tree: dict[str, Any]) -> Iterator[Problem]:
    """What keeps the clusters of a RayCluster, RayJob or RayService from getting nodes."""
    for at, cluster in clusters(tree):
        yield from _no_workers(cluster, at)
        yield from _same_names(cluster, at)
        for path, name, group in groups(cluster, at):
            yield from _labels(pod_of(group), join(path, "template.spec"))
            yield from _taints(pod_of(group), join(path, "template.spec"), name)


def _no_workers(cluster: dict[str, Any], at: str) -> Iterator[Problem]:
    """Without the autoscaler there are as many pods as ``replicas`` says, and where it says nothing, ``minReplicas``."""
    workers = cluster.get("workerGroupSpecs") or []
    numbers = [max(group.get("replicas") or 0, group.get("minReplicas") or 0) for group in workers]
    if not cluster.get("enableInTreeAutoscaling") and not any(numbers):
        yield Problem(join(at, "enableInTreeAutoscaling"), "without the autoscaler all groups stay at 0 replicas",
                      "enableInTreeAutoscaling: true, or replicas")  # fmt: skip
    if not any(group.get("maxReplicas", 1) for group in workers):
        yield Problem(
            join(at, "workerGroupSpecs"), "no group may have a pod, and no work is placed on the head", "maxReplicas"
        )


def _same_names(cluster: dict[str, Any], at: str) -> Iterator[Problem]:
    names = [str(group.get("groupName")) for group in cluster.get("workerGroupSpecs") or []]
    for number, name in enumerate(names):
        if Counter(names[: number + 1])[name] > 1:
            yield Problem(join(at, "workerGroupSpecs", number, "groupName"), f"{name!r} is the name of two groups",
                          "give each a name of its own: the autoscaler counts pods by it")  # fmt: skip


def _labels(pod: dict[str, Any], at: str) -> Iterator[Problem]:
    """Values that no node has, in the affinities to nodes that clouds label as spot or on demand."""
    path = ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
    terms: Any = pod
    for key in path:
        terms = (terms or {}).get(key)
    for number, term in enumerate(terms or ()):
        for entry_number, entry in enumerate(term.get("matchExpressions") or ()):
            here = join(at, *path, number, "matchExpressions", entry_number)
            key, known = str(entry.get("key")), _NODE_LABELS.get(str(entry.get("key")))
            if known is None and difflib.get_close_matches(key, _NODE_LABELS, n=1, cutoff=0.85):
                yield Problem(join(here, "key"), f"no node has the label {key!r}", did_you_mean(key, _NODE_LABELS))
            for value in entry.get("values") or ():
                if known is not None and value not in known:
                    yield Problem(join(here, "values"), f"no node has {key}={value}", did_you_mean(str(value), known))


def _taints(pod: dict[str, Any], at: str, name: str) -> Iterator[Problem]:
    """Nodes with GPUs refuse pods that do not tolerate their taint; only GKE adds the toleration by itself."""
    limits = (container_of(pod).get("resources") or {}).get("limits") or {}
    if limits.get(_GPU) and not any(_tolerates(toleration) for toleration in pod.get("tolerations") or []):
        yield Problem(join(at, "tolerations"), f"group {name} asks for GPUs, and does not tolerate the taint of their nodes",
                      f"{{key: {_GPU}, operator: Exists, effect: NoSchedule}}")  # fmt: skip


def _tolerates(toleration: dict[str, Any]) -> bool:
    exists = toleration.get("operator") == "Exists"
    key, effect = toleration.get("key"), toleration.get("effect")
    return (key == _GPU or (key is None and exists)) and effect in (None, "NoSchedule")
