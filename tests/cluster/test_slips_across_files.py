"""Names that one file gives and another one uses: a slip in either is found where the files are checked together."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ray_jobs.manifests import check_files
from ray_jobs.manifests.selecting import _selects
from tests.cluster.conftest import Mistyped
from tests.cluster.slips import expect

NAMES = [
    # file, text, slip; then what the path, the message and the remedy say
    ("raycluster.yaml", "secretRef: {name: setok-secrets", "secretRef: {name: setok-secret", "envFrom.0.secretRef.name",
     "no file has the Secret 'setok-secret'", "'setok-secrets'"),
    ("raycluster.yaml", "- &cache",
     "- {name: HF_TOKEN, valueFrom: {secretKeyRef: {name: setok-secrts, key: t}}}\n              - &cache",
     "env.2.valueFrom.secretKeyRef.name", "no file has the Secret 'setok-secrts'", "'setok-secrets'"),
    ("rayservice.yaml", "claimName: setok-shared", "claimName: setok-share", "persistentVolumeClaim.claimName",
     "no file has the PersistentVolumeClaim 'setok-share'", "'setok-shared'"),
    ("rayjob-ingest.yaml", "serviceAccountName: setok", "serviceAccountName: stok", "headGroupSpec.template.spec.service",
     "no file has the ServiceAccount 'stok'", "'setok'"),
    ("rayjob-pretrain.yaml", "metadata:\n", "metadata:\n  namespace: setok\n", "serviceAccountName",
     "the ServiceAccount 'setok' is in the namespace default, and this object in setok", "the same metadata.namespace"),
    ("common.yaml", "apiVersion: v1\nkind: ServiceAccount\nmetadata:",
     "apiVersion: v1\nkind: Namespace\nmetadata: {name: train}\n---\n"
     "apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  namespace: trian", "metadata.namespace",
     "no file has the Namespace 'trian'", "'train'"),
    ("rayjob-instruct.yaml", "name: setok-instruct", "name: setok-pretrain", "metadata.name",
     "the RayJob 'setok-pretrain' is also in", "another metadata.name"),
    ("rayjob-instruct.yaml", "name=instruct", "name=pretrain", "spec.entrypoint",
     "the run /shared/runs/pretrain is also that of", "another name"),
    ("rayjob-instruct.yaml", "init_from=/shared/runs/pretrain", "init_from=/shared/runs/pretrian", "spec.entrypoint",
     "checkpoint.init_from=/shared/runs/pretrian, a run that none of these files makes", "'/shared/runs/pretrain'"),
    ("rayjob-evaluate.yaml", "checkpoint=/shared/runs/instruct", "checkpoint=/shared/runs/instrct@best", "spec.entrypoint",
     "checkpoint=/shared/runs/instrct@best, a run that none", "'/shared/runs/instruct'"),
    ("serve.yaml", "checkpoint: /shared/exports/my-setokim", "checkpoint: /shared/exports/my-setok",
     "serveConfigV2.applications.0.args.set.checkpoint", "'/shared/exports/my-setokim' here, and '/shared/exports/my-setok' in",
     "one server"),
    ("rayservice.yaml", "replicas.max: 4", "replicas.max: 3", "serveConfigV2.applications.0.args.set.replicas.max",
     "3 here, and 4 in", "one server"),
    ("common.yaml", "{key: ray.io/cluster, operator: Exists}", "{key: ray.io/clusters, operator: Exists}", "spec.podSelector",
     "selects no pod of these files", "ray.io/cluster"),
    ("common.yaml", "matchExpressions:\n      - {key: ray.io/cluster, operator: Exists}",
     "matchLabels: {ray.io/node-type: workers}", "spec.podSelector", "selects no pod of these files", "ray.io/cluster"),
    ("common.yaml", "accessModes: [ReadWriteMany]", "accessModes: [ReadWriteOnce]", "spec.accessModes",
     "pods on several nodes mount setok-shared", "ReadWriteMany"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "before", "after", "path", "what", "remedy"), NAMES)
def test_a_name_that_no_other_file_has(
    file: str, before: str, after: str, path: str, what: str, remedy: str, mistyped_folder: Mistyped
) -> None:
    expect(mistyped_folder(file, before, after), "", path, what, remedy)


def test_a_folder_without_a_slip(mistyped_folder: Mistyped) -> None:
    """So that the cases above are found for their slip alone; a config map that only one file speaks of is nobody's slip."""
    use = (
        "- configMapRef: {name: made-by-hand}\n              - secretRef: {name: setok}  # KubeRay's, with the token\n"
        "              - secretRef: {name: setok-secrets"
    )
    assert not mistyped_folder("raycluster.yaml", "- secretRef: {name: setok-secrets", use)


def test_pods_run_as_the_user_of_the_image(repo_root: Path, tmp_path: Path, mistyped: Mistyped) -> None:
    """Of the Dockerfile beside them, where there is one, else of ours."""
    found = mistyped(
        "kuberay/rayjob-ingest.yaml", "runAsUser: 1000, runAsGroup: 1000", "runAsUser: 1001, runAsGroup: 100"
    )
    for key, wrong in (("runAsUser", 1001), ("runAsGroup", 100)):
        expect(found, "rayjob-ingest.yaml", key, f"pods run as {wrong}, and folders of the image", f"{key}: 1000")
    image = tmp_path / "Dockerfile"
    image.write_text((repo_root / "cluster" / "Dockerfile").read_text().replace("1000", "1001"))
    found = list(check_files([tmp_path], root=repo_root).problems)
    expect(found, "rayjob-ingest.yaml", "runAsGroup", f"({image}) belong to 1001", "runAsGroup: 1001")
    assert not [problem for problem in found if problem.path.endswith("runAsUser")]
    image.write_text(image.read_text().replace("USER 1001:1001", "USER ray"))
    assert not [problem for problem in check_files([tmp_path], root=repo_root).problems if "runAs" in problem.path]


LABELS = {"cluster": "setok", "node-type": "head", "made-later": None}


@given(
    key=st.sampled_from([*LABELS, "other"]),
    values=st.lists(st.sampled_from(["setok", "head", "x"]), min_size=1, unique=True),
)
def test_selectors_hold_as_kubernetes_has_it(key: str, values: list[str]) -> None:
    """An operator and its opposite exclude each other, but for a value that is not known yet, which fits both."""

    def holds(operator: str) -> bool:
        return _selects({"matchExpressions": [{"key": key, "operator": operator, "values": values}]}, LABELS)

    assert holds("Exists") is (key in LABELS) is not holds("DoesNotExist")
    if key in LABELS and LABELS[key] is None:
        assert holds("In") and holds("NotIn")
    else:
        assert holds("In") is (LABELS.get(key) in values) is not holds("NotIn")
        assert _selects({"matchLabels": {key: values[0]}}, LABELS) is (LABELS.get(key) == values[0])
