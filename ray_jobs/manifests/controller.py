"""What KubeRay's operator refuses although the CRDs allow it.

Each rule is written from the meaning of one in ``ray-operator/controllers/ray/utils/validation.go`` of KubeRay 1.7, or of a CEL
rule in its CRDs; the function that a comment names is the operator's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

from ray_jobs.manifests.problems import Problem, join, shown
from setok.errors import did_you_mean

SUBMISSION_MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
UPGRADES = ("NewCluster", "NewClusterWithIncrementalUpgrade", "None")
LONGEST_NAME = {"RayCluster": 53, "RayJob": 47, "RayService": 47}
"""Characters; names of pods and services are made of it."""
_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_RESOURCES = ("num-cpus", "num-gpus", "memory", "resources")
_TOKENS_SINCE = (2, 52, 0)


def problems(tree: dict[str, Any]) -> Iterator[Problem]:
    """What the operator would refuse in a RayCluster, RayJob or RayService."""
    kind, spec = str(tree.get("kind")), tree.get("spec") or {}
    yield from _name(kind, tree)
    if kind == "RayJob":
        yield from _job(spec)
    if kind == "RayService":
        yield from _service(spec)
    for at, cluster in clusters(tree):
        yield from _cluster(cluster, at)


def clusters(tree: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Path and spec of the RayCluster that an object is or holds, if any."""
    paths = {"RayCluster": "spec", "RayJob": "spec.rayClusterSpec", "RayService": "spec.rayClusterConfig"}
    path = paths.get(str(tree.get("kind")))
    if path is None:
        return []
    found = tree
    for key in path.split("."):
        found = found.get(key) or {}
    return [(path, found)] if found else []


def groups(cluster: dict[str, Any], at: str = "") -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Path, name and spec of the head and of every group of workers."""
    yield join(at, "headGroupSpec"), "head", cluster.get("headGroupSpec") or {}
    for number, group in enumerate(cluster.get("workerGroupSpecs") or []):
        yield join(at, "workerGroupSpecs", number), str(group.get("groupName")), group


def pod_of(group: dict[str, Any]) -> dict[str, Any]:
    """The pod's spec of a group."""
    return (group.get("template") or {}).get("spec") or {}


def container_of(pod: dict[str, Any]) -> dict[str, Any]:
    """The container that runs Ray, which is the first one."""
    containers: list[dict[str, Any]] = pod.get("containers") or [{}]
    return containers[0]


def _name(kind: str, tree: dict[str, Any]) -> Iterator[Problem]:  # ValidateRay*Metadata
    name = str((tree.get("metadata") or {}).get("name", ""))
    most = LONGEST_NAME.get(kind)
    if most is None:
        return
    if len(name) > most:
        yield Problem("metadata.name", f"{name!r} has {len(name)} characters", f"a {kind}'s name has at most {most}")
    if not _DNS_1035.fullmatch(name):
        yield Problem(
            "metadata.name",
            f"{name!r} is no DNS label",
            "use lower-case letters, digits and -, with a letter first and no - at the end",
        )


def _cluster(cluster: dict[str, Any], at: str) -> Iterator[Problem]:  # ValidateRayClusterSpec
    scales = bool(cluster.get("enableInTreeAutoscaling"))
    version = (cluster.get("autoscalerOptions") or {}).get("version")
    head = container_of(pod_of(cluster.get("headGroupSpec") or {}))
    head_env = {entry.get("name"): entry.get("value") for entry in head.get("env") or []}
    if "RAY_enable_autoscaler_v2" in head_env and (version or not scales):
        yield Problem(
            join(at, "headGroupSpec"),
            "RAY_enable_autoscaler_v2 in the head's env contradicts the autoscaler's settings",
            "drop it, and set enableInTreeAutoscaling: true and autoscalerOptions.version: v2",
        )
    for path, name, group in groups(cluster, at):
        yield from _group(path, name, group, scales=scales, v2=scales and version == "v2")
    yield from _tokens(cluster, at)
    manager = cluster.get("managedBy")
    if manager not in (None, "ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"):  # CEL
        yield Problem(join(at, "managedBy"), f"{manager!r} is no manager", "leave it out")


def _group(path: str, name: str, group: dict[str, Any], *, scales: bool, v2: bool) -> Iterator[Problem]:
    pod, start = pod_of(group), group.get("rayStartParams") or {}
    if not pod.get("containers"):
        yield Problem(
            join(path, "template.spec.containers"), f"group {name} has no container", "add one with the image"
        )
    if group.get("resources") and any(start.get(key) for key in _RESOURCES):  # validateRayGroupResources
        yield Problem(
            join(path, "resources"),
            f"group {name} says what it has here and in rayStartParams",
            "keep one of the two",
        )
    if "labels" in start:  # validateRayGroupLabels
        yield Problem(join(path, "rayStartParams.labels"), "labels are not taken from here", f"use {path}.labels")
    policy = pod.get("restartPolicy")
    if v2 and policy not in (None, "", "Never"):
        yield Problem(
            join(path, "template.spec.restartPolicy"),
            f"{policy!r} with autoscaler v2, which replaces pods itself",
            "restartPolicy: Never",
        )
    if scales and group.get("suspend"):
        yield Problem(join(path, "suspend"), "a group of an autoscaling cluster cannot be suspended", "maxReplicas: 0")
    least, most = group.get("minReplicas", 0), group.get("maxReplicas", 2**31 - 1)
    if (
        isinstance(least, int) and isinstance(most, int) and least > most
    ):  # which the operator takes, and the autoscaler cannot meet
        yield Problem(
            join(path, "minReplicas"),
            f"minReplicas={least} is above maxReplicas={most}",
            f"maxReplicas: {least}, or more",
        )


def _tokens(cluster: dict[str, Any], at: str) -> Iterator[Problem]:
    if (cluster.get("authOptions") or {}).get("mode") != "token":
        return
    version = str(cluster.get("rayVersion") or "")
    numbers = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", version)
    if not numbers or tuple(map(int, numbers.groups())) < _TOKENS_SINCE:
        yield Problem(
            join(at, "rayVersion"),
            f"authOptions.mode: token needs Ray 2.52.0 or newer, and rayVersion is {version!r}",
            "set it to the image's version",
        )


def _job(spec: dict[str, Any]) -> Iterator[Problem]:  # ValidateRayJobSpec
    mode = spec.get("submissionMode", "K8sJobMode")
    if mode not in SUBMISSION_MODES:
        yield Problem("spec.submissionMode", f"{mode!r} is unknown", did_you_mean(str(mode), SUBMISSION_MODES))
    selects, shuts_down = bool(spec.get("clusterSelector")), bool(spec.get("shutdownAfterJobFinishes"))
    if not selects and not spec.get("rayClusterSpec"):
        yield Problem("spec", "there is neither rayClusterSpec nor clusterSelector", "say where the job runs")
    if spec.get("suspend") and (selects or not shuts_down):
        yield Problem("spec.suspend", "only a job with a cluster of its own that it shuts down is suspended",
                      "shutdownAfterJobFinishes: true, without clusterSelector")  # fmt: skip
    if spec.get("ttlSecondsAfterFinished", 0) and not shuts_down:  # validateDeletionConfiguration
        yield Problem(
            "spec.ttlSecondsAfterFinished",
            "it has no effect without shutdownAfterJobFinishes, and is refused",
            "shutdownAfterJobFinishes: true",
        )
    for key, least in (("ttlSecondsAfterFinished", 0), ("backoffLimit", 0), ("activeDeadlineSeconds", 1)):
        value = spec.get(key, least)
        if isinstance(value, int) and value < least:
            yield Problem(join("spec", key), f"{value} is below {least}", f"use {least} or more")
    if mode == "InteractiveMode" and spec.get("backoffLimit", 0) > 0:
        yield Problem(
            "spec.backoffLimit", "an InteractiveMode job is not tried again", "backoffLimit: 0, or K8sJobMode"
        )
    if selects and spec.get("backoffLimit", 0) > 0:
        yield Problem("spec.backoffLimit", "each attempt needs a cluster of its own, and clusterSelector names one",
                      "backoffLimit: 0, or rayClusterSpec")  # fmt: skip
    if mode == "SidecarMode":
        yield from _sidecar(spec)
    yield from _deletion(spec)
    environment = spec.get("runtimeEnvYAML")
    if environment is not None:
        try:
            yaml.safe_load(environment)
        except yaml.YAMLError as error:
            yield Problem("spec.runtimeEnvYAML", f"it is no YAML: {error}", "check it")


def _sidecar(spec: dict[str, Any]) -> Iterator[Problem]:
    for key in ("submitterPodTemplate", "submitterConfig", "clusterSelector"):
        if spec.get(key):
            yield Problem(join("spec", key), f"SidecarMode takes no {key}", "drop it, or submissionMode: K8sJobMode")
    policy = pod_of((spec.get("rayClusterSpec") or {}).get("headGroupSpec") or {}).get("restartPolicy")
    if policy not in (None, "", "Never"):
        yield Problem("spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy", f"{policy!r} with SidecarMode",
                      "restartPolicy: Never")  # fmt: skip


def _deletion(spec: dict[str, Any]) -> Iterator[Problem]:  # validateDeletionConfiguration and CEL
    strategy, at = spec.get("deletionStrategy"), "spec.deletionStrategy"
    if strategy is None:
        return
    rules, old = strategy.get("deletionRules") or [], [key for key in ("onSuccess", "onFailure") if strategy.get(key)]
    if rules and old:
        yield Problem(at, "deletionRules and onSuccess or onFailure exclude each other", "keep deletionRules")
    if not rules and len(old) < 2:
        yield Problem(at, "it has neither deletionRules nor both onSuccess and onFailure", "add deletionRules")
    if rules and spec.get("shutdownAfterJobFinishes"):
        yield Problem(join(at, "deletionRules"), "they exclude shutdownAfterJobFinishes", "drop one of the two")
    scales = (spec.get("rayClusterSpec") or {}).get("enableInTreeAutoscaling")
    for number, rule in enumerate(rules):
        here, condition = join(at, "deletionRules", number), rule.get("condition") or {}
        if ("jobStatus" in condition) == ("jobDeploymentStatus" in condition):
            yield Problem(here, "its condition needs one of jobStatus and jobDeploymentStatus", "give one")
        if scales and rule.get("policy") == "DeleteWorkers":
            yield Problem(here, "DeleteWorkers does not go with an autoscaling cluster", "policy: DeleteCluster")


def _service(spec: dict[str, Any]) -> Iterator[Problem]:  # ValidateRayServiceSpec
    upgrade = spec.get("upgradeStrategy") or {}
    kind = upgrade.get("type", "NewCluster")
    if kind not in UPGRADES:
        yield Problem("spec.upgradeStrategy.type", f"{shown(kind)} is unknown", did_you_mean(str(kind), UPGRADES))
    cluster = spec.get("rayClusterConfig") or {}
    if ((cluster.get("headGroupSpec") or {}).get("headService") or {}).get("metadata", {}).get("name"):
        yield Problem(
            "spec.rayClusterConfig.headGroupSpec.headService", "its name is the operator's to give", "drop it"
        )
    if kind != "NewClusterWithIncrementalUpgrade":
        return
    options = upgrade.get("clusterUpgradeOptions") or {}  # ValidateClusterUpgradeOptions
    if not cluster.get("enableInTreeAutoscaling"):
        yield Problem(
            "spec.rayClusterConfig", "an incremental upgrade needs the autoscaler", "enableInTreeAutoscaling: true"
        )
    for key in ("gatewayClassName", "stepSizePercent", "intervalSeconds"):
        if not options.get(key):
            yield Problem(
                "spec.upgradeStrategy.clusterUpgradeOptions", f"an incremental upgrade needs {key}", f"set {key}"
            )
