"""One slip of the pen of each kind in objects of Kubernetes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cluster.conftest import Mistyped
from tests.cluster.slips import expect

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
    ("rayjob-tokenizer", "--config tokenizer_siglip", "--config tokeniser_siglip", "spec.entrypoint",
     "'tokeniser_siglip'", "'tokenizer_siglip'"),
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
    ("rayservice", "    proxy_location: EveryNode", "    proxy_location: [", "spec.serveConfigV2: line",
     "it is no YAML", "close it"),
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

NEVER_STARTS = [
    ("rayjob-tokenizer", "kind: RayJob", "kind: RayJobs", "kind", "'RayJobs' is unknown", "'RayJob'"),
    ("common", "kind: PersistentVolumeClaim", "kind: PersistentVolumeClaims", "kind", "'PersistentVolumeClaims' is unknown",
     "'PersistentVolumeClaim'"),
    ("raycluster", "enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false", "spec.enableInTreeAutoscaling",
     "all groups stay at 0 replicas", "or replicas"),
    ("rayjob-ingest", "maxReplicas: 4", "maxReplicas: 0", "rayClusterSpec.workerGroupSpecs", "no group may have", "maxReplicas"),
    ("raycluster", "groupName: gpu-ondemand", "groupName: gpu-spot", "workerGroupSpecs.2.groupName", "the name of two groups",
     "of its own"),
    ("raycluster", "tolerations: [*gpu-nodes]", "tolerations: []", "workerGroupSpecs.2.template.spec.tolerations",
     "gpu-ondemand asks for GPUs, and does not tolerate", "nvidia.com/gpu"),
    ("raycluster", "{key: nvidia.com/gpu, operator: Exists", "{key: nvidia.com/gpus, operator: Exists",
     "workerGroupSpecs.1.template.spec.tolerations", "gpu-spot asks for GPUs", "nvidia.com/gpu"),
    ("raycluster", "operator: In, values: [SPOT]", "operator: In, values: [SPOTT]", "matchExpressions.0.values",
     "no node has eks.amazonaws.com/capacityType=SPOTT", "'SPOT'"),
    ("raycluster", "key: karpenter.sh/capacity-type, operator: NotIn", "key: karpenter.sh/capacitytype, operator: NotIn",
     "matchExpressions.1.key", "no node has the label 'karpenter.sh/capacitytype'", "'karpenter.sh/capacity-type'"),
    ("rayjob-evaluate", "minReplicas: 1", "minReplicas: 0", "spec.entrypoint", "refused at its start: 0 GPUs", "minReplicas"),
    ("rayjob-evaluate", "num_replicas=4", "num_replicas=8", "spec.entrypoint", "refused at its start: 4 GPUs", "minReplicas"),
    ("rayjob-tokenizer", "submissionMode: K8sJobMode", "submissionMode: HTTPMode", "spec.submissionMode", "no pod submits",
     "K8sJobMode"),
    ("rayservice", "ray_jobs.serve:build", "ray_jobs.serve:bild", "serveConfigV2.applications.0.import_path",
     "ray_jobs.serve has no 'bild'", "'ray_jobs.serve:build'"),
    ("rayservice", "ray_jobs.serve:build", "ray_job.serve:build", "serveConfigV2.applications.0.import_path",
     "no module 'ray_job.serve'", "'ray_jobs.serve:build'"),
]  # fmt: skip

OPEN = [
    ("common", "    - from:\n        - podSelector: {}\n", "    - {}\n", "spec.ingress.0",
     "and port 8265 (the dashboard and its Jobs API) and port 10001 (the client server) is open to", "podSelector"),
    ("common", "port: 8000", "port: 8265", "spec.ingress.2", "port 8265 (the dashboard and its Jobs API) is open to everyone",
     "podSelector"),
    ("common", "port: 8000", "port: 8000, endPort: 10001", "spec.ingress.2", "port 10001 (the client server)", "name the"),
    ("common", "port: 8000", "port: gcs-server", "spec.ingress.2", "port 6379 (GCS) is open to everyone", "podSelector"),
    ("common", "- podSelector: {}", "- ipBlock: {cidr: 10.0.0.0/8}", "spec.ingress.0", "is open to the addresses 10.0.0.0/8",
     "podSelector"),
    ("common", "namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kuberay-system}}", "namespaceSelector: {}",
     "spec.ingress.1", "port 8265 (the dashboard and its Jobs API) is open to pods of other namespaces", "podSelector"),
    ("common", "{protocol: TCP, port: 52365}", "{protocol: TCP, port: 6379}", "spec.ingress.1",
     "port 6379 (GCS) is open to the namespace kuberay-system", "podSelector"),
    ("common", "policyTypes: [Ingress]", "policyTypes: [Egress]", "spec.policyTypes", "not limited", "[Ingress]"),
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


@pytest.mark.parametrize(("name", "before", "after", "path", "what", "remedy"), [*KUBERAY, *NEVER_STARTS, *OPEN])
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


def test_a_serve_config_of_its_own(mistyped: Mistyped) -> None:
    expect(mistyped("serve.yaml", "replicas.min: 1", "replicas.min: 9"), "serve.yaml", "applications.0.args",
           "replicas.min=9 is above replicas.max=4", "replicas.max=9")  # fmt: skip
