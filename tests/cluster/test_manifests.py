"""The files of ``cluster/`` are right, and a slip of the pen of any kind is found and explained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.manifests import check_files, house, schemas
from ray_jobs.manifests.__main__ import main
from ray_jobs.manifests.checking import check_document
from ray_jobs.manifests.problems import items
from ray_jobs.manifests.reading import Document, kind_of
from setok.errors import ConfigError
from tests.cluster.conftest import Mistyped

RAY_FILES = ("raycluster", "rayjob-tokenizer", "rayjob-pretrain", "rayjob-instruct", "rayservice")


def load(repo_root: Path, name: str) -> Any:
    return yaml.safe_load((repo_root / "cluster" / name).read_text("utf-8"))


def test_what_ships_is_right(repo_root: Path, crds: Path | None) -> None:
    report = check_files([repo_root / "cluster", repo_root / "README.md"], root=repo_root, crds=crds)
    assert not report.problems, "\n".join(map(str, report.problems))
    assert {file.name for file in report.files} >= {
        *("Dockerfile", "README.md", "aws.yaml", "gcp.yaml", "onprem.yaml", "serve.yaml", "common.yaml"),
        *(f"{name}.yaml" for name in RAY_FILES),
    }
    assert crds is None or not report.not_checked, report.not_checked
    assert len(report.unfilled) >= 20, "the places that users fill in are no longer found"


def test_the_pin_is_rays_version(repo_root: Path) -> None:
    pins = (repo_root / "constraints.txt").read_text("utf-8")
    assert f"\nray=={house.ray_version()}\n" in pins


def test_the_server_on_kubernetes_is_that_of_serve_yaml(repo_root: Path) -> None:
    service = load(repo_root, "kuberay/rayservice.yaml")
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == load(repo_root, "serve.yaml")


def test_jobs_bring_the_cluster_of_raycluster(repo_root: Path) -> None:
    """One description of a training cluster, four times: what is changed in one place is changed in all."""
    cluster = load(repo_root, "kuberay/raycluster.yaml")["spec"]
    for stage in ("tokenizer", "pretrain", "instruct"):
        assert load(repo_root, f"kuberay/rayjob-{stage}.yaml")["spec"]["rayClusterSpec"] == cluster, stage


def test_jobs_are_tried_again_under_the_same_name(repo_root: Path) -> None:
    for stage in ("tokenizer", "pretrain", "instruct"):
        spec = load(repo_root, f"kuberay/rayjob-{stage}.yaml")["spec"]
        assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"], stage
        assert re.search(rf" name={stage} ", spec["entrypoint"]), "another name would be another run"


# ---------------------------------------------------------------- one slip of the pen of each kind

LAUNCHER = [
    # file, text, slip; then what the path, the message and the remedy say
    ("aws.yaml", "--num-cpus=0", "--num-cpus=0 --dashbord-host=::1", "head_start_ray_commands.1", "no flag --dashbord-host",
     "'--dashboard-host'"),
    ("aws.yaml", "max_workers: 12", "max_worker: 12", "max_worker", "unknown key 'max_worker'", "'max_workers'"),
    ("aws.yaml", "max_workers: 12", "max_workers: twelve", "max_workers", "'twelve' has the wrong type", "integer"),
    ("aws.yaml", "head_node_type: head", "head_node_type: boss", "", "`head_node_type` must be one of", "cluster/"),
    ("aws.yaml", "    min_workers: 0", "    min_wrokers: 0", "cpu-data.min_wrokers", "unknown key", "'min_workers'"),
    ("aws.yaml", "    min_workers: 0\n    max_workers: 4", "    min_workers: 5\n    max_workers: 4", "cpu-data.min_workers",
     "min_workers=5 is above max_workers=4", "max_workers: 5"),
    ("aws.yaml", "min_workers: 0", "min_workers: 99", "", "smaller than the sum of `min_workers`", "cluster/"),
    ("aws.yaml", "  region:", "  regoin:", "provider.regoin", "unknown key 'regoin'", "'region'"),
    ("gcp.yaml", "  project_id: change-me\n", "", "provider", "project_id is required for gcp", "add it"),
    ("aws.yaml", "ssh_user", "ssh_usr", "auth.ssh_usr", "unknown key", "'ssh_user'"),
    ("aws.yaml", "VolumeType: gp3", "VolumeTyp: gp3", "BlockDeviceMappings", "VolumeTyp", "RunInstances"),
    ("aws.yaml", "VolumeSize: 200", "VolumeSize: big", "VolumeSize", "Invalid type", "RunInstances"),
    ("aws.yaml", "InstanceType: g5.12xlarge", "InstanceType: g5.12xlrage", "gpu-spot-a10g.node_config.InstanceType",
     "'g5.12xlrage' is unknown to EC2", "g5.12xlarge"),
    ("aws.yaml", "{MarketType: spot}", "{MarketType: sopt}", "MarketType", "'sopt' is unknown", "'spot'"),
    ("gcp.yaml", "machineType: g2", "machinType: g2", "gpu-spot-l4.node_config.machinType", "unknown key", "'machineType'"),
    ("gcp.yaml", "provisioningModel: SPOT", "provisioningModel: SPTO", "provisioningModel", "'SPTO' is unknown", "'SPOT'"),
    ("gcp.yaml", "autoDelete: true", "autoDelete: maybe", "autoDelete", "'maybe' has the wrong type", "boolean"),
    ("gcp.yaml", "automaticRestart: false", "automaticRestrat: false", "scheduling.automaticRestrat", "unknown key",
     "'automaticRestart'"),
    ("onprem.yaml", "  worker_ips: [gpu1.change-me, gpu2.change-me]\n", "", "provider", "ray up would stop", "add them"),
    ("aws.yaml", "resources: {CPU: 0}", "resources: {CPU: 8}", "head.resources.CPU", "count on the head's CPUs", "{CPU: 0}"),
    ("aws.yaml", " --num-cpus=0", "", "head_start_ray_commands", "placed on the head", "--num-cpus=0"),
    ("gcp.yaml", " --autoscaling-config=~/ray_bootstrap_config.yaml", "", "head_start_ray_commands", "not start any worker",
     "--autoscaling-config"),
    ("aws.yaml", "      InstanceType: m6i.2xlarge",
     "      InstanceType: m6i.2xlarge\n      InstanceMarketOptions: {MarketType: spot}",
     "head.node_config", "the head is a spot machine", "on demand"),
    ("aws.yaml", "nohup python3 /opt/setok/cluster/spot_watcher.py", "true", "worker_start_ray_commands", "nothing tells Ray",
     "spot_watcher.py"),
    ("aws.yaml", "RAY_AUTH_MODE=token", "RAY_AUTH_MODE=disabled", "docker.run_options", "without a token",
     "RAY_AUTH_MODE=token"),
    ("gcp.yaml", "  /home/ray/secrets: ~/.setok", "  /home/ray/secret: ~/.setok", "file_mounts", "token does not reach",
     "~/.setok"),
    ("onprem.yaml", "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "head_start_ray_commands.1", "Jobs API",
     "127.0.0.1"),
    ("aws.yaml", "  cache_stopped_nodes", "  security_group: {GroupName: x, IpPermissions: [{FromPort: 8265, ToPort: 8265,"
     " IpProtocol: tcp, IpRanges: [{CidrIp: 0.0.0.0/0}]}]}\n  cache_stopped_nodes", "IpPermissions.0", "port 8265", "tunnel"),
    ("aws.yaml", "STOP_WAIT_TIME_S=120", "STOP_WAIT_TIME_S=30", "docker.run_options", "leaves a run 30 s", "=120"),
    ("aws.yaml", "RAY_JOB_STOP_WAIT_TIME_S", "RAY_JOB_STOP_WAITTIME_S", "run_options.3",
     "nothing reads the environment variable",
     "'RAY_JOB_STOP_WAIT_TIME_S'"),
    ("aws.yaml", "--volume /shared:/shared", "--volume /share:/share", "docker.run_options", "do not see the storage",
     "/shared"),
    ("onprem.yaml", "mountpoint -q /shared", "true", "initialization_commands", "nothing mounts", "NFS"),
    ("aws.yaml", "image: change-me.example.com/setok:ray2.60.0-gpu", "image: change-me.example.com/setok:ray2.59.0-gpu",
     "docker.image", "holds Ray 2.59.0, and the pin is 2.60.0", "setok:ray2.60.0-gpu"),
    ("aws.yaml", "image: change-me.example.com/setok:ray2.60.0-gpu", "image: change-me.example.com/setok:latest",
     "docker.image",
     "does not say which Ray", "setok:ray2.60.0-gpu"),
    ("aws.yaml", "image: change-me.example.com/setok:ray2.60.0-gpu", "image: change-me.example.com/setok:ray2.60.0-cpu",
     "gpu-spot-l4.docker", "without CUDA", "-gpu"),
    ("aws.yaml", "RAY_AUTH_TOKEN_PATH=/home/ray/secrets/auth_token", "RAY_AUTH_TOKEN=5f2b9c", "run_options.2",
     "the value of RAY_AUTH_TOKEN stands in the file", "~/.setok"),
    ("gcp.yaml", "  project_id: change-me", "  project_id: change-me\n  project_id: other", "", "'project_id' comes twice",
     "place"),
]  # fmt: skip

KUBERAY = [
    ("rayjob-tokenizer", "submissionMode: K8sJobMode", "submissionMode: K8SJobMode", "spec.submissionMode",
     "'K8SJobMode' is unknown", "'K8sJobMode'"),
    ("rayjob-tokenizer", "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "spec.ttlSecondsAfterFinished",
     "refused", "shutdownAfterJobFinishes: true"),
    ("rayjob-pretrain", "  shutdownAfterJobFinishes: true       # takes the cluster away, the folder in /shared stays\n"
     "  ttlSecondsAfterFinished: 600\n", "", "spec.shutdownAfterJobFinishes", "the cluster stays", "true"),
    ("rayjob-tokenizer", "backoffLimit: 5", "backoffLimit: -1", "spec.backoffLimit", "-1 is below 0", "0 or more"),
    ("rayjob-tokenizer", "activeDeadlineSeconds: 1209600", "activeDeadlineSeconds: 0", "activeDeadlineSeconds", "below 1", "1"),
    ("rayjob-tokenizer", "submissionMode: K8sJobMode", "submissionMode: SidecarMode", "spec.submitterConfig",
     "SidecarMode takes no submitterConfig", "K8sJobMode"),
    ("rayjob-tokenizer", "submissionMode: K8sJobMode", "submissionMode: InteractiveMode", "spec.backoffLimit",
     "not tried again",
     "backoffLimit: 0"),
    ("rayjob-tokenizer", "rayClusterSpec:", "clusterSelector: {ray.io/cluster: setok}\n  rayClusterSpec:", "spec.backoffLimit",
     "cluster of its own", "rayClusterSpec"),
    ("rayjob-tokenizer", "ttlSecondsAfterFinished: 600", "deletionStrategy: {deletionRules: [{policy: DeleteWorkers, condition:"
     " {ttlSeconds: 5}}]}", "deletionStrategy.deletionRules", "exclude shutdownAfterJobFinishes", "one of the two"),
    ("rayjob-tokenizer", "entrypointNumCpus: 0", "entrypointNumCpus: 1", "spec.entrypointNumCpus", "no CPUs to give", "0"),
    ("rayjob-tokenizer", "name: setok-tokenizer", "name: Setok_Tokenizer", "metadata.name", "no DNS label", "lower-case"),
    ("rayjob-tokenizer", "name: setok-tokenizer", f"name: setok-{'x' * 50}", "metadata.name", "56 characters", "at most 47"),
    ("raycluster", "restartPolicy: Never", "restartPolicy: Always", "headGroupSpec.template.spec.restartPolicy",
     "'Always' with autoscaler v2", "Never"),
    ("raycluster", "minReplicas: 0", "minReplicas: 9", "workerGroupSpecs.0.minReplicas", "minReplicas=9 is above maxReplicas=4",
     "maxReplicas: 9"),
    ("raycluster", "rayStartParams: {}", 'rayStartParams: {labels: "a=b"}', "rayStartParams.labels", "not taken", "labels"),
    ("raycluster", 'rayStartParams: {num-cpus: "0"}', 'rayStartParams: {num-cpus: "0"}\n    resources: {CPU: "0"}',
     "headGroupSpec.resources", "and in rayStartParams", "one of the two"),
    ("raycluster", "rayStartParams: {}", "rayStartParams: {blok: 'true'}", "workerGroupSpecs.0.rayStartParams.blok",
     "ray start has no flag --blok", "'--block'"),
    ("raycluster", 'requests: {cpu: "44", memory: 160Gi, nvidia.com/gpu: "4"}\n                limits: {cpu: "44", memory: 160Gi,'
     ' nvidia.com/gpu: "4"}', 'requests: &x {cpu: "44", memory: 160Gi, nvidia.com/gpus: "4"}\n                limits: *x',
     "containers.0.resources", "asks for none", "nvidia.com/gpu"),
    ("raycluster", 'rayStartParams: {num-cpus: "0"}', "rayStartParams: {}", "num-cpus", "placed on the head", '"0"'),
    ("raycluster", "{mode: token}", "{mode: disabled}", "authOptions.mode", "without a token", "mode: token"),
    ("raycluster", 'rayVersion: "2.60.0"', 'rayVersion: "2.61.0"', "spec.rayVersion", "the pin is 2.60.0", "2.60.0"),
    ("raycluster", 'rayVersion: "2.60.0"', 'rayVersion: "2.51.0"', "spec.rayVersion", "needs Ray 2.52.0", "image's version"),
    ("raycluster", "setok:ray2.60.0-gpu", "setok:ray2.58.1-gpu", "containers.0.image", "holds Ray 2.58.1", "ray2.60.0-gpu"),
    ("raycluster", "setok:ray2.60.0-gpu", "setok:ray2.60.0-cpu", "containers.0.image", "without CUDA", "-gpu"),
    ("raycluster", "{name: RAY_JOB_STOP_WAIT",
     "{name: RAY_enable_autoscaler_v2, value: \"1\"}\n              - {name: RAY_JOB_STOP_WAIT",
     "spec.headGroupSpec", "contradicts", "autoscalerOptions.version"),
    ("raycluster", "terminationGracePeriodSeconds: 120", "terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds",
     "killed after 60 s", "110 or more"),
    ("raycluster", 'DRAIN_TIMEOUT_S, value: "90"', 'DRAIN_TIMEOUT_S, value: "40"', "containers.0.env", "drains for 40 s",
     "65 or more"),
    ("raycluster", "emptyDir: {medium: Memory, sizeLimit: 32Gi}", "emptyDir: {sizeLimit: 32Gi}", "volumes", "/dev/shm",
     "Memory"),
    ("raycluster", "claimName: setok-shared", "claimNam: setok-shared", "persistentVolumeClaim", "claimNam", "claimName"),
    ("raycluster", "value: /cache}", "value: /tmp/cache}", "containers.0.env", "SETOK_CACHE=/tmp/cache is no volume",
     "emptyDir"),
    ("raycluster", "name: SETOK_CACHE", "name: SETOK_CACHES", "containers.0.env", "nothing reads", "'SETOK_CACHE'"),
    ("raycluster", "{name: shared, mountPath: /shared}", "{name: sharde, mountPath: /shared}", "volumes", "'sharde'", "add it"),
    ("raycluster", 'limits: {cpu: "15", memory: 56Gi}', 'limits: {cpu: "16", memory: 56Gi}', "resources", "other limits",
     "equal"),
    ("raycluster", "runAsNonRoot: true", "runAsNonRoot: false", "securityContext", "may run as root", "runAsNonRoot: true"),
    ("rayjob-pretrain", "scaling.num_workers=[4,8]", "scaling.num_workers=32 train.global_batch_size=128", "spec.entrypoint",
     "asks for 32 GPUs, and all groups at their maxReplicas have 24", "raise maxReplicas"),
    ("rayjob-tokenizer", "output_dir=/shared/runs", "output_dir=/tmp/runs", "spec.entrypoint",
     "output_dir=/tmp/runs is gone", "/shared"),
    ("rayjob-tokenizer", "--config tokenizer", "--config tokeniser", "spec.entrypoint", "'tokeniser'", "'tokenizer'"),
    ("rayjob-tokenizer", "ray_jobs.train", "ray_jobs.trian", "spec.entrypoint", "no such module", "'ray_jobs.train'"),
    ("rayjob-tokenizer", "scaling.use_gpu", "scaling.use_gpus", "spec.entrypoint",
     "'scaling.use_gpus': did you mean 'use_gpu'", "--print-config"),
    ("rayjob-tokenizer", "train.global_batch_size=256", "train.global_batch_size=many", "spec.entrypoint", "'many'",
     "--print-config"),
    ("rayjob-tokenizer", "--set", "--sett", "spec.entrypoint", "has no flag --sett", "--set"),
    ("rayservice", "type: NewCluster", "type: NewClutser", "upgradeStrategy.type", "'NewClutser' is unknown", "'NewCluster'"),
    ("rayservice", "type: NewCluster", "type: NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions",
     "needs gatewayClassName",
     "gatewayClassName"),
    ("rayservice", "replicas.max: 4", "replicas.maxx: 4", "serveConfigV2.applications.0.args",
     "'replicas.maxx': did you mean 'max'", "--print-config"),
    ("rayservice", "replicas.max: 4", "replicas.max: 40", "serveConfigV2", "40 GPUs", "maxReplicas"),
    ("rayservice", "    proxy_location: EveryNode", "    proxy_location: [", "spec.serveConfigV2", "it is no YAML", "check it"),
    ("rayservice", "route_prefix: /", "route_prefx: /", "serveConfigV2.applications.0.route_prefx", "unknown key",
     "'route_prefix'"),
    ("rayservice", "proxy_location: EveryNode", "proxy_location: Everywhere", "serveConfigV2.proxy_location", "Everywhere",
     "Serve"),
    ("rayservice", 'DRAIN_TIMEOUT_S, value: "90"', 'DRAIN_TIMEOUT_S, value: "20"', "containers.0.env", "needs 30",
     "30 or more"),
    ("raycluster", "- &cache", "- {name: WANDB_API_KEY, value: 0123abcd}\n              - &cache", "env.2.value",
     "the value of WANDB_API_KEY stands in the file", "setok-secrets"),
    ("common", "kind: ServiceAccount", "kind: Secret\nstringData: {HF_TOKEN: hf_" + "a" * 30 + "}", "stringData", "in a file",
     "kubectl create secret"),
    ("common", "apiVersion: networking.k8s.io/v1", "apiVersion: v1", "apiVersion", "has no NetworkPolicy",
     "networking.k8s.io/v1"),
    ("raycluster", "apiVersion: ray.io/v1", "apiVersion: ray.io/v1alpha1", "apiVersion", "has no RayCluster", "ray.io/v1"),
]  # fmt: skip

ONLY_BY_SCHEMA = [
    ("raycluster", "tolerations: [*gpu-nodes]", "toleration: [*gpu-nodes]", "spec.toleration", "unknown key", "'tolerations'"),
    ("raycluster", "operator: Exists", "operatr: Exists", "tolerations.0.operatr", "unknown key", "'operator'"),
    ("raycluster", "maxReplicas: 4", "maxReplicas: four", "maxReplicas", "'four' has the wrong type", "integer"),
    ("raycluster", "version: v2", "version: v3", "autoscalerOptions.version", "'v3' is unknown", "v1, v2"),
    ("rayjob-instruct", "backoffLimit: 5", "backoffLimits: 5", "spec.backoffLimits", "unknown key", "'backoffLimit'"),
    ("rayjob-instruct", "preRunningDeadlineSeconds: 3600", "preRunningDeadlineSeconds: soon", "preRunning", "wrong type",
     "integer"),
    ("rayservice", "rayClusterDeletionDelaySeconds", "rayClusterDeletionDelay", "rayClusterDeletionDelay", "unknown key",
     "Seconds"),
    ("common", "accessModes", "accessMode", "spec.accessMode", "unknown key", "'accessModes'"),
    ("common", "podSelector: {}", "podSelectors: {}", "from.0.podSelectors", "unknown key", "'podSelector'"),
    ("common", "policyTypes: [Ingress]", "policyTypes: [Igress]", "policyTypes.0", "'Igress' is unknown", "'Ingress'"),
    ("common", "name: setok  ", "nam: setok  ", "metadata", "unknown key 'nam'", "'name'"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "before", "after", "path", "what", "remedy"), LAUNCHER)
def test_a_slip_in_a_launcher_file(
    file: str, before: str, after: str, path: str, what: str, remedy: str, mistyped: Mistyped
) -> None:
    expect(mistyped(file, before, after), file, path, what, remedy)


@pytest.mark.parametrize(("name", "before", "after", "path", "what", "remedy"), KUBERAY)
def test_a_slip_in_a_manifest(
    name: str, before: str, after: str, path: str, what: str, remedy: str, mistyped: Mistyped
) -> None:
    expect(mistyped(f"kuberay/{name}.yaml", before, after), f"{name}.yaml", path, what, remedy)


@pytest.mark.parametrize(("name", "before", "after", "path", "what", "remedy"), ONLY_BY_SCHEMA)
def test_a_slip_that_only_the_schema_knows(
    name: str, before: str, after: str, path: str, what: str, remedy: str, mistyped: Mistyped, crds: Path | None
) -> None:
    if crds is None:
        pytest.skip("no CRDs of KubeRay beside the repository")
    expect(mistyped(f"kuberay/{name}.yaml", before, after), f"{name}.yaml", path, what, remedy)


def expect(problems: list[Any], file: str, path: str, what: str, remedy: str) -> None:
    """One of the problems names file, place and remedy."""
    told = "\n".join(map(str, problems))
    assert problems, "nothing was found"
    assert any(p.file.endswith(file) and path in p.path and what in p.what and remedy in p.remedy for p in problems), (
        told
    )


FREE = {"matchLabels", "limits", "requests", "metadata", "run_options", "resources", "drop", "file_mounts", "set"}
"""Mappings whose keys are the user's; ``limits`` and ``resources`` have a case above, and ``set`` is told by the job's config."""


def misspelt(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Copies of a tree in each of which one key has a letter too many."""
    for key, value in items(tree):
        if isinstance(tree, dict) and not FREE & {*path}:
            yield (*path, key), {f"{k}x" if k == key else k: v for k, v in tree.items()}
        for where, changed in misspelt(value, (*path, key)):
            copy = tree.copy()
            copy[key] = changed
            yield where, copy


@pytest.mark.parametrize(
    "name", ["aws.yaml", "gcp.yaml", "onprem.yaml", "kuberay/rayjob-tokenizer.yaml", "kuberay/rayservice.yaml"]
)
def test_no_key_may_be_misspelt(name: str, repo_root: Path, crds: Path | None) -> None:
    """Whichever key, however deep."""
    if crds is None and name.startswith("kuberay"):
        pytest.skip("no CRDs of KubeRay beside the repository")
    tree = load(repo_root, name)
    assert not any(check_document(Document(kind_of(tree), tree), root=repo_root, crds=crds))
    node_types = {str(key) for key in tree.get("available_node_types", ())}
    missed, tried = [], set()
    for path, changed in misspelt(tree):
        place = tuple(part for part in path if isinstance(part, str) and part not in node_types)
        if path[-1] in node_types or place in tried:  # names that the user gives; the same key in another group
            continue
        tried.add(place)
        document = Document(kind_of(changed), changed)
        if not any(check_document(document, root=repo_root, crds=crds)):
            missed.append(".".join(map(str, path)))
    assert len(tried) >= 20
    assert not missed, missed


@settings(max_examples=60)
@given(data=st.data())
def test_a_value_of_another_kind_ends_in_a_problem_and_not_in_a_traceback(data: st.DataObject, repo_root: Path) -> None:
    """Without the CRDs too, whose schema would keep most of it from the rules."""
    name = data.draw(
        st.sampled_from(["aws.yaml", "onprem.yaml", "serve.yaml", "kuberay/rayservice.yaml", "kuberay/raycluster.yaml"])
    )
    tree = load(repo_root, name)
    node = tree
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not node[key] or not isinstance(node[key], (dict, list)) or data.draw(st.booleans()):
            break
        node = node[key]
    node[key] = data.draw(st.sampled_from([None, 3, "x", [], {}, ["x"], {"a": 1}]))
    for problem in check_document(Document(kind_of(tree), tree), root=repo_root, crds=None):
        assert problem.what and problem.remedy


# ---------------------------------------------------------------- texts, images, the command


@pytest.mark.parametrize(
    ("before", "after", "what", "remedy"),
    [
        ("FROM python:3.11.14-slim", "FROM python:latest", "may be another image tomorrow", "full version"),
        ("USER 1000:1000", "USER root", "run as root", "1000:1000"),
        ("ARG TORCH=2.13.0", "ARG TORCH=2.12.0", "torch is 2.12.0 here and 2.13.0", "ARG TORCH=2.13.0"),
        (" -c constraints.txt", "", "newest", "-c constraints.txt"),
        ("COPY setok ./setok", "COPY tests ./tests", "tests is not sent", "!tests"),
        ("COPY setok ./setok", "COPY setokk ./setok", "there is no setokk", "root of the repository"),
        (
            "SETOK_CACHE=/cache",
            "SETOK_CAHCE=/cache",
            "nothing reads the environment variable SETOK_CAHCE",
            "SETOK_CACHE",
        ),
        ("PYTHONUNBUFFERED=1", "HF_TOKEN=hf_abc", "the value of HF_TOKEN", "~/.setok"),
    ],
)
def test_a_slip_in_the_dockerfile(before: str, after: str, what: str, remedy: str, mistyped: Mistyped) -> None:
    expect(mistyped("Dockerfile", before, after), "Dockerfile", "", what, remedy)


@pytest.mark.parametrize(
    ("line", "what", "remedy"),
    [
        ("    python -m ray_jobs.serv --config serve", "no such module", "'ray_jobs.serve'"),
        ("run `python -m ray_jobs.train --config tokeniser`", "'tokeniser'", "'tokenizer'"),
        (
            "    python -m ray_jobs.train \\\n      --config tokenizer --set train.stpes=3",
            "'train.stpes': did you mean 'steps'",
            "--print-config",
        ),
        ("    python -m ray_jobs.train --config tokenizer --dryrun", "no flag --dryrun", "'--dry-run'"),
        ("    python -m ray_jobs.train --config instruct_demo --set 'name=x", "shell", "quotes"),
        ("    python -m ray_jobs.train --config ingest", "job: ingest", "ray_jobs.ingest"),
        ("    python -m ray_jobs.train --config tokenizer --set train.steps", "no form key=value", "train.steps=1000"),
    ],
)
def test_a_slip_in_a_text(line: str, what: str, remedy: str, tmp_path: Path, repo_root: Path) -> None:
    text = tmp_path / "README.md"
    text.write_text(f"# Title\n\n{line}\n")
    problems = list(check_files([text], root=repo_root).problems)
    assert [problem.path for problem in problems] == ["line 3"], problems
    expect(problems, "README.md", "", what, remedy)


@pytest.mark.parametrize(
    "line",
    [
        "    python -m ray_jobs.train --config NAME --set KEY=VALUE …",
        "    python -m ray_jobs.train --config tokenizer && python -m ray_jobs.train --config mine.yaml  # whatever",
        "    ray job submit --working-dir . -- python -m ray_jobs.train --config tokenizer --set output_dir=/x > log 2>&1",
        "`python -m ray_jobs.{ingest,train}` and `python -m json.tool` are no commands of ours",
    ],
)
def test_what_is_no_slip(line: str, tmp_path: Path, repo_root: Path) -> None:
    text = tmp_path / "README.md"
    text.write_text(line)
    assert not check_files([text], root=repo_root).problems


def test_a_serve_config_of_its_own(mistyped: Mistyped) -> None:
    expect(mistyped("serve.yaml", "replicas.min: 1", "replicas.min: 9"), "serve.yaml", "applications.0.args",
           "replicas.min=9 is above replicas.max=4", "replicas.max=9")  # fmt: skip


def test_the_clouds_own_descriptions_are_there(repo_root: Path) -> None:
    """Otherwise the checks of node_config above would have been left out."""
    assert schemas.of_aws_instance() is not None and schemas.of_gcp_instance() is not None


def test_without_crds_the_rest_is_checked_and_that_is_said(repo_root: Path, tmp_path: Path) -> None:
    copy = tmp_path / "raycluster.yaml"
    copy.write_text(
        (repo_root / "cluster/kuberay/raycluster.yaml").read_text().replace("mode: token", "mode: disabled")
    )
    report = check_files([copy], root=repo_root)
    assert [problem.path for problem in report.problems] == ["spec.authOptions.mode"]
    assert any("--crds" in what for what in report.not_checked)


def test_the_command_refuses_what_is_not_filled_in(
    repo_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(repo_root)
    main(["cluster/onprem.yaml"])
    with pytest.raises(ConfigError, match=r"5 problem\(s\) in 1 file"):
        main(["--ready", "cluster/onprem.yaml"])
    assert "provider.head_ip: 'head.change-me' is still to be filled in" in capsys.readouterr().out


def test_paths_that_are_not_there(repo_root: Path) -> None:
    with pytest.raises(ConfigError, match="there is no nowhere"):
        check_files([Path("nowhere")], root=repo_root)
    with pytest.raises(ConfigError, match=r"CRDs in .* cannot be read"):
        check_files([], root=repo_root, crds=repo_root / "cluster")
