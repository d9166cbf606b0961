"""Ray's launcher with the files of ``cluster/``: against an EC2 that is made up on this machine, and its commands in a shell."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from ray_jobs.manifests import machines

moto = pytest.importorskip("moto", reason="moto[server] is not installed")


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A client of an empty EC2; no credentials, keys or sleeps of the real one."""
    import boto3
    from ray.autoscaler._private.aws import utils

    (tmp_path / ".ssh").mkdir()
    for name, value in (("HOME", str(tmp_path)), ("AWS_ACCESS_KEY_ID", "none"), ("AWS_SECRET_ACCESS_KEY", "none")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # Ray waits for AWS to know a new role everywhere
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        yield boto3.client("ec2", region_name="us-west-2")
    utils.resource_cache.cache_clear()


def test_every_node_type_is_launched_as_it_is_described(cloud: Any, repo_root: Path) -> None:
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    group = cloud.create_security_group(GroupName="setok", Description="setok")["GroupId"]
    image = cloud.describe_images()["Images"][0]["ImageId"]
    text = (repo_root / "cluster" / "aws.yaml").read_text("utf-8")
    config = prepare_config(yaml.safe_load(text.replace("sg-change-me", group).replace("ami-change-me", image)))

    # What the file says of each machine is what EC2's catalogue says.
    stated = {name: dict(node["resources"]) for name, node in config["available_node_types"].items()}
    blank = {
        **config,
        "available_node_types": {n: {**t, "resources": {}} for n, t in config["available_node_types"].items()},
    }
    found = AWSNodeProvider.fillout_available_node_types_resources(blank)["available_node_types"]
    for name in stated.keys() - {"head"}:
        assert stated[name] == {kind: found[name]["resources"][kind] for kind in stated[name]}, name
        assert ("GPU" in stated[name]) == ("GPU" in found[name]["resources"]), name

    config = bootstrap_aws(config)
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    launched = {}
    for name, node in config["available_node_types"].items():
        tags = {"ray-node-kind": "worker", "ray-user-node-type": name, "ray-cluster-name": "setok"}
        (launched[name],) = provider.create_node(node["node_config"], tags, 1).values()
    assert {name for name, machine in launched.items() if machine.instance_lifecycle == "spot"} == {
        *("gpu-spot-l4", "gpu-spot-a10g", "gpu-spot-a100"),
    }
    for machine in launched.values():  # none of Ray's own groups, which let the world in at port 22
        assert [member["GroupId"] for member in machine.security_groups] == [group]


def test_what_is_said_of_machines_is_what_the_catalogue_has() -> None:
    """Every machine of EC2: its GPUs and CPUs are told right, or not at all."""
    from moto.ec2.models.instance_types import INSTANCE_TYPES

    told = 0
    for name, machine in INSTANCE_TYPES.items():
        config = {"InstanceType": name}
        gpus = sum(gpu["Count"] for gpu in machine.get("GpuInfo", {}).get("Gpus", ()))
        assert machines.gpus_of(config) in (None, gpus), name
        assert (machines.cpus_of(config) or 10**6) >= machine["VCpuInfo"]["DefaultVCpus"], name
        told += bool(machines.gpus_of(config))
    assert told >= 30, "machines with GPUs are no longer recognised"


@pytest.mark.parametrize(
    ("config", "gpus", "cpus"),
    [
        ({"machineType": "g2-standard-48"}, 4, 48),
        ({"machineType": "zones/us-central1-a/machineTypes/g2-standard-96"}, 8, 96),
        ({"machineType": "a2-highgpu-4g"}, 4, None),
        ({"machineType": "a3-megagpu-8g"}, 8, None),
        ({"machineType": "n1-standard-16", "guestAccelerators": [{"acceleratorCount": 2}]}, 2, 16),
        ({"machineType": "n2-highmem-8"}, 0, 8),
        ({"machineType": "custom-8-32768"}, None, None),
        ({}, None, None),
    ],
)
def test_machines_of_google_cloud(config: dict[str, Any], gpus: int | None, cpus: int | None) -> None:
    assert machines.gpus_of(config) == gpus
    assert machines.cpus_of(config) == cpus


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "onprem.yaml"])
def test_the_shell_takes_every_command(name: str, repo_root: Path) -> None:
    tree = yaml.safe_load((repo_root / "cluster" / name).read_text("utf-8"))
    commands = [command for key, listed in tree.items() if key.endswith("_commands") for command in listed]
    assert len(commands) >= 5
    for command in commands:
        done = subprocess.run(["bash", "-n", "-c", command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}\n{done.stderr}"


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml", "onprem.yaml"])
def test_ray_starts_with_the_secrets_of_the_node(name: str, repo_root: Path, tmp_path: Path) -> None:
    """The command itself, with a `ray` that writes down what it was given, and the folder of secrets elsewhere."""
    tree = yaml.safe_load((repo_root / "cluster" / name).read_text("utf-8"))
    (tmp_path / "env").write_text("WANDB_API_KEY='a b'\nHF_TOKEN=c\n")
    ray = tmp_path / "ray"
    ray.write_text(
        '#!/bin/bash\npython3 -c "import json, os, sys; '
        "json.dump([sys.argv[1:], dict(os.environ)], open('$0.json', 'w'))\" \"$@\"\n"
    )
    ray.chmod(0o755)
    for key, wanted in (
        ("head_start_ray_commands", "--num-cpus=0"),
        ("worker_start_ray_commands", "--address=10.0.0.1:6379"),
    ):
        command = tree[key][1].replace("/home/ray/secrets", str(tmp_path)).replace("ulimit -n 65536;", "")
        environment = {"PATH": f"{tmp_path}:/usr/local/bin:/usr/bin:/bin", "RAY_HEAD_IP": "10.0.0.1"}
        subprocess.run(["bash", "-c", command], env=environment, check=True, timeout=60)
        arguments, seen = json.loads((tmp_path / "ray.json").read_text())
        assert arguments[0] == "start" and wanted in arguments
        assert (seen["WANDB_API_KEY"], seen["HF_TOKEN"]) == ("a b", "c")
