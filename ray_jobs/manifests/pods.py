"""What this project asks of RayClusters on Kubernetes: time to save, shared memory and storage, and room for what is run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from ray_jobs.manifests import commands, house, served
from ray_jobs.manifests.controller import clusters, container_of, groups, pod_of
from ray_jobs.manifests.problems import Problem, join
from setok.config import EvaluateConfig, IngestConfig, Job, PipelineConfig, ScalingConfig, ServeConfig, TrainConfig
from setok.errors import SetokError

RAYS_DRAIN_SECONDS = 30.0
_REMOTE = re.compile(r"^(s3|gs|gcs|abfss?|hdfs)://")


def problems(tree: dict[str, Any], *, root: Path) -> Iterator[Problem]:
    """All that is wrong with a RayCluster, RayJob or RayService besides what its schema and the operator say."""
    jobs = list(jobs_of(tree, root))
    for at, cluster in clusters(tree):
        if (cluster.get("authOptions") or {}).get("mode") != "token":
            yield Problem(join(at, "authOptions.mode"), "the cluster takes commands without a token", "mode: token")
        if str(cluster.get("rayVersion")) != house.ray_version():
            yield Problem(
                join(at, "rayVersion"),
                f"rayVersion is {cluster.get('rayVersion')!r}, and the pin is {house.ray_version()}",
                f"rayVersion: {house.ray_version()!r}, and an image that holds it",
            )
        if (cluster.get("headGroupSpec", {}).get("rayStartParams") or {}).get("num-cpus") != "0":
            yield Problem(join(at, "headGroupSpec.rayStartParams.num-cpus"),
                          "work would be placed on the head, beside driver and GCS", 'num-cpus: "0"')  # fmt: skip
        ends = [job.server.drain_s for _, job in jobs if isinstance(job, ServeConfig)]
        polls = [job.scaling.poll_seconds for _, job in jobs if isinstance(job, TrainConfig)]
        needs = max(ends) if ends else max(polls, default=ScalingConfig().poll_seconds) + house.SAVE_SECONDS
        for path, name, group in groups(cluster, at):
            yield from _pod(pod_of(group), join(path, "template.spec"), name, needs)
        for path, job in jobs:
            yield from _room(path, job, cluster)
            yield from _storage(path, job, cluster)
    yield from _job(tree)


def jobs_of(tree: dict[str, Any], root: Path) -> Iterator[tuple[str, Job]]:
    """What a RayJob's entrypoint or a RayService's config would run; wrong ones are told elsewhere."""
    for command in commands.in_tree(tree):
        try:
            config = commands.config_of(command, root)
        except SetokError:
            continue
        if config is not None:
            yield command.path, config
    try:
        tree_served = yaml.safe_load(served.text_of(tree))
    except yaml.YAMLError:
        return
    for path, config, _ in served.configs(tree_served, served.AT):
        if config is not None:
            yield path, config


def _pod(pod: dict[str, Any], at: str, name: str, needs: float) -> Iterator[Problem]:
    container = container_of(pod)
    environment = {entry.get("name"): entry.get("value") for entry in container.get("env") or []}
    drain = float(environment.get("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S") or RAYS_DRAIN_SECONDS)
    if drain < needs:
        yield Problem(join(at, "containers.0.env"), f"group {name} drains for {drain:g} s, and what runs there needs {needs:g}",
                      f"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S: {needs:g} or more")  # fmt: skip
    grace = float(pod.get("terminationGracePeriodSeconds", 30))
    if grace < drain + house.TEARDOWN_SECONDS:
        yield Problem(
            join(at, "terminationGracePeriodSeconds"),
            f"pods of group {name} are killed after {grace:g} s, and draining and ending Ray takes up to"
            f" {drain + house.TEARDOWN_SECONDS:g}",
            f"terminationGracePeriodSeconds: {drain + house.TEARDOWN_SECONDS:g} or more",
        )
    yield from _volumes(pod, container, at, name)
    resources = container.get("resources") or {}
    if resources.get("requests") != resources.get("limits") or not resources.get("limits"):
        yield Problem(join(at, "containers.0.resources"), f"group {name} has other limits than requests, or none",
                      "make them equal: Ray takes the limits for what there is")  # fmt: skip
    gpus = _amount((resources.get("limits") or {}).get("nvidia.com/gpu", 0))
    if gpus and house.variant_of(str(container.get("image"))) == "cpu":
        yield Problem(join(at, "containers.0.image"), f"group {name} has GPUs and the image without CUDA", "…-gpu")
    if not gpus and house.variant_of(str(container.get("image"))) == "gpu":
        yield Problem(join(at, "containers.0.resources"), f"group {name} has the image for GPUs, and asks for none",
                      "limits and requests: {nvidia.com/gpu: …}, or the image …-cpu")  # fmt: skip
    secure = {**(pod.get("securityContext") or {}), **(container.get("securityContext") or {})}
    if secure.get("runAsNonRoot") is not True:
        yield Problem(join(at, "securityContext.runAsNonRoot"), f"group {name} may run as root", "runAsNonRoot: true")


def _volumes(pod: dict[str, Any], container: dict[str, Any], at: str, name: str) -> Iterator[Problem]:
    volumes = {volume.get("name"): volume for volume in pod.get("volumes") or []}
    mounts = {mount.get("mountPath"): mount.get("name") for mount in container.get("volumeMounts") or []}
    for path, volume in mounts.items():
        if volume not in volumes:
            yield Problem(
                join(at, "volumes"),
                f"{path} of group {name} mounts {volume!r}, no volume of the pod",
                "add it",
            )
    shm = volumes.get(mounts.get("/dev/shm")) or {}
    if (shm.get("emptyDir") or {}).get("medium") != "Memory":
        yield Problem(join(at, "volumes"), f"group {name} has 64 MiB of /dev/shm, too little for batches and collectives",
                      "mount an emptyDir of medium Memory there")  # fmt: skip
    for entry in container.get("env") or []:
        if entry.get("name") == "SETOK_CACHE" and not _is_below(str(entry.get("value")), mounts):
            yield Problem(join(at, "containers.0.env"), f"SETOK_CACHE={entry.get('value')} is no volume of group {name}",
                          "mount an emptyDir or the node's disk there")  # fmt: skip


def _room(path: str, job: Job, cluster: dict[str, Any]) -> Iterator[Problem]:
    """Whether the groups can ever hold what the job asks for."""
    if isinstance(job, TrainConfig):
        asked = job.resources
    elif isinstance(job, ServeConfig):
        replicas, ingress = job.replicas, job.ingress
        asked = {
            "GPU": replicas.max * replicas.gpus,
            "CPU": replicas.max * replicas.cpus + ingress.replicas * ingress.cpus,
        }
    elif isinstance(job, EvaluateConfig):
        yield from _room_at_start(path, job, cluster)
        return
    else:
        return
    has = {"GPU": 0.0, "CPU": 0.0}
    for group in cluster.get("workerGroupSpecs") or []:
        limits = (container_of(pod_of(group)).get("resources") or {}).get("limits") or {}
        for kind, key in (("GPU", "nvidia.com/gpu"), ("CPU", "cpu")):
            has[kind] += group.get("maxReplicas", 0) * _amount(limits.get(key, 0))
    for kind, amount in asked.items():
        if amount > has[kind]:
            yield Problem(path, f"the job asks for {amount:g} {kind}s, and all groups at their maxReplicas have {has[kind]:g}",
                          "raise maxReplicas, or lower scaling.num_workers (replicas.max)")  # fmt: skip


def _room_at_start(path: str, job: EvaluateConfig, cluster: dict[str, Any]) -> Iterator[Problem]:
    """An evaluation waits for no nodes: what it needs must come with the cluster."""
    least = 0.0
    for group in cluster.get("workerGroupSpecs") or []:
        limits = (container_of(pod_of(group)).get("resources") or {}).get("limits") or {}
        least += max(group.get("minReplicas", 0), group.get("replicas", 0)) * _amount(limits.get("nvidia.com/gpu", 0))
    if job.use_gpu and least < job.num_replicas:
        yield Problem(path, f"an evaluation with num_replicas={job.num_replicas} is refused at its start: {least:g} GPUs come"
                      " with the cluster", "raise minReplicas of a group with GPUs")  # fmt: skip


def _storage(path: str, job: Job, cluster: dict[str, Any]) -> Iterator[Problem]:
    """Whether what has to outlive pods, or to be seen by several, lies where that is so."""
    pod = pod_of(cluster.get("headGroupSpec") or {})
    lasting = {v.get("name") for v in pod.get("volumes") or [] if "persistentVolumeClaim" in v or "nfs" in v}
    container = container_of(pod)
    mounts = [m.get("mountPath") for m in container.get("volumeMounts") or [] if m.get("name") in lasting]
    for key, place in _places(job):
        if place and not _REMOTE.match(place) and not _is_below(place, mounts):
            yield Problem(path, f"{key}={place} is gone with its pod, and no other pod sees it",
                          f"a folder below {' or '.join(map(str, mounts)) or 'a mounted claim'}, s3://… or gs://…")  # fmt: skip


def _places(job: Job) -> Iterator[tuple[str, str]]:
    if not isinstance(job, ServeConfig):
        yield "output_dir", job.output_dir
    if isinstance(job, TrainConfig):
        yield "checkpoint.init_from", job.checkpoint.init_from or ""
        yield "checkpoint.store", job.checkpoint.store or ""
        for number, entry in enumerate(job.data.train):
            yield f"data.train.{number}.path", entry.path
        if job.validation is not None:
            yield "validation.data", job.validation.data
    if isinstance(job, IngestConfig):
        yield "output", job.output
    if isinstance(job, EvaluateConfig):
        yield "checkpoint", job.checkpoint
        yield "data", job.data
    if isinstance(job, PipelineConfig):
        for number, ingest in enumerate(job.ingest):
            yield f"ingest.{number}.output", ingest.output
    if isinstance(job, ServeConfig):
        yield "checkpoint", job.checkpoint
        yield "access.keys_file", job.access.keys_file or ""


def _job(tree: dict[str, Any]) -> Iterator[Problem]:
    if tree.get("kind") != "RayJob":
        return
    spec = tree.get("spec") or {}
    if (
        not spec.get("shutdownAfterJobFinishes")
        and not spec.get("deletionStrategy")
        and not spec.get("clusterSelector")
    ):
        yield Problem("spec.shutdownAfterJobFinishes", "the cluster stays, and costs, after the job", "true")
    if spec.get("submissionMode") == "HTTPMode":
        yield Problem("spec.submissionMode", "with HTTPMode no pod submits the job: `kubectl logs -l job-name=…` finds no log,"
                      " and submitterConfig has no effect", "submissionMode: K8sJobMode")  # fmt: skip
    if spec.get("entrypointNumCpus", 0) or spec.get("entrypointNumGpus", 0):
        yield Problem("spec.entrypointNumCpus", "the driver belongs on the head, which has no CPUs to give", "0")


def _is_below(path: str, folders: Sequence[Any] | dict[Any, Any]) -> bool:
    return any(path == folder or path.startswith(f"{str(folder).rstrip('/')}/") for folder in folders)


def _amount(quantity: object) -> float:
    """A count of CPUs or GPUs as Kubernetes writes it: ``4``, ``"500m"``."""
    text = str(quantity)
    try:
        return float(text[:-1]) / 1000 if text.endswith("m") else float(text)
    except ValueError:
        return 0.0
