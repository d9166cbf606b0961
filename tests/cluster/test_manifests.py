"""The files of ``cluster/`` are right, no key in them may be misspelt, and the command says so."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ray_jobs.manifests import check_files, house
from ray_jobs.manifests.__main__ import main
from ray_jobs.manifests.checking import check_document, check_together
from ray_jobs.manifests.problems import items
from ray_jobs.manifests.reading import Document, kind_of
from ray_jobs.manifests.together import Placed
from setok.errors import ConfigError

TRAINING = {"tokenizer": "tokenizer-siglip", "pretrain": "pretrain", "instruct": "instruct"}
"""Files by stage, with the name of the run."""
JOBS = ("ingest", *TRAINING, "evaluate")
RAY_FILES = ("raycluster", *(f"rayjob-{stage}" for stage in JOBS), "rayservice")


def load(repo_root: Path, name: str) -> Any:
    return yaml.safe_load((repo_root / "cluster" / name).read_text("utf-8"))


def test_what_ships_is_right(repo_root: Path, crds: Path | None) -> None:
    report = check_files([repo_root / "cluster", repo_root / "README.md"], root=repo_root, crds=crds)
    assert not report.problems, "\n".join(map(str, report.problems))
    assert {file.name for file in report.files} >= {
        *(
            "Dockerfile",
            "README.md",
            "aws.yaml",
            "gcp.yaml",
            "onprem.yaml",
            "serve.yaml",
            "common.yaml",
            "spot-watcher.service",
        ),
        *(f"{name}.yaml" for name in RAY_FILES),
    }
    assert crds is None or not report.not_checked, report.not_checked
    assert len(report.unfilled) >= 20, "the places that users fill in are no longer found"


def test_the_pin_is_rays_version(repo_root: Path) -> None:
    pins = (repo_root / "constraints.txt").read_text("utf-8")
    assert f"\nray=={house.ray_version()}\n" in pins


def test_machines_cost_what_the_plan_says(repo_root: Path) -> None:
    nodes = yaml.safe_load((repo_root / "setok/planning/hardware.yaml").read_text("utf-8"))["nodes"]
    rows = re.findall(
        r"^\|.*\(`(.+)`\).*\| ([\d.]+) \|$", (repo_root / "cluster/README.md").read_text("utf-8"), re.MULTILINE
    )
    assert {name: float(price) for name, price in rows} == {
        name: nodes[name]["on_demand"] for name in ("cpu16", "4xl4", "8xa100-40")
    }


def test_the_server_on_kubernetes_is_that_of_serve_yaml(repo_root: Path) -> None:
    service = load(repo_root, "kuberay/rayservice.yaml")
    assert yaml.safe_load(service["spec"]["serveConfigV2"]) == load(repo_root, "serve.yaml")


def test_jobs_bring_the_cluster_of_raycluster(repo_root: Path) -> None:
    """One description of a training cluster, four times: what is changed in one place is changed in all."""
    cluster = load(repo_root, "kuberay/raycluster.yaml")["spec"]
    for stage in TRAINING:
        assert load(repo_root, f"kuberay/rayjob-{stage}.yaml")["spec"]["rayClusterSpec"] == cluster, stage


def test_ingest_and_evaluation_bring_one_group_of_it(repo_root: Path) -> None:
    """The same but for the number of nodes, of which the first one comes with the cluster."""
    cluster = load(repo_root, "kuberay/raycluster.yaml")["spec"]
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    for stage, name in (("ingest", "cpu-data"), ("evaluate", "gpu-ondemand")):
        brought = load(repo_root, f"kuberay/rayjob-{stage}.yaml")["spec"]["rayClusterSpec"]
        (group,) = brought["workerGroupSpecs"]
        assert {**brought, "workerGroupSpecs": None} == {**cluster, "workerGroupSpecs": None}, stage
        assert group["groupName"] == name and group["minReplicas"] == 1
        assert group["template"] == groups[name]["template"], stage


def test_jobs_are_tried_again_under_the_same_name(repo_root: Path) -> None:
    for stage in JOBS:
        spec = load(repo_root, f"kuberay/rayjob-{stage}.yaml")["spec"]
        assert spec["backoffLimit"] > 0 and spec["shutdownAfterJobFinishes"], stage
        name = TRAINING.get(stage, stage)
        assert re.search(rf" name={name} ", spec["entrypoint"]), "another name would be another run"


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
    document = Document(kind_of(tree), tree)
    beside = [
        Placed(other, Document("kubernetes", load(repo_root, other)))
        for other in ("kuberay/rayjob-pretrain.yaml", "kuberay/rayservice.yaml")
    ]
    for problem in (
        *check_document(document, root=repo_root, crds=None),
        *check_together([Placed(name, document), *beside], "", root=repo_root),
    ):
        assert problem.what and problem.remedy


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
