"""One slip of the pen of each kind in files of ``ray up``."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_jobs.manifests import schemas, watcher
from tests.cluster.conftest import Mistyped
from tests.cluster.slips import expect

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
    ("gcp.yaml", "  project_id: change-me", "  project_id: change-me\n  project_id: other", "line 14",
     "'project_id' comes twice", "keep one"),
]  # fmt: skip

NEVER_STARTS = [
    ("aws.yaml", "max_workers: 12", "max_workers: 0", "max_workers", "max_workers=0: the cluster would be", "as many nodes"),
    ("aws.yaml", "resources: {CPU: 96, GPU: 8}", "resources: {CPU: 96, GPU: 16}", "gpu-spot-a100.resources.GPU",
     "GPU=16, and a p4d.24xlarge has 8", "GPU: 8"),
    ("aws.yaml", "resources: {CPU: 16}", "resources: {CPU: 160}", "cpu-data.resources.CPU", "CPU=160, and a c6i.4xlarge has 16",
     "CPU: 16"),
    ("aws.yaml", "resources: {CPU: 16}", "resources: {CPU: 16, GPU: 1}", "cpu-data.resources.GPU",
     "GPU=1, and a c6i.4xlarge has 0", "GPU: 0"),
    ("gcp.yaml", "resources: {CPU: 48, GPU: 4}", "resources: {CPU: 48, GPU: 8}", "gpu-spot-l4.resources.GPU",
     "GPU=8, and a g2-standard-48 has 4", "GPU: 4"),
    ("gcp.yaml", "machineType: a2-highgpu-4g", "machineType: a2-highgpu-2g", "gpu-spot-a100.resources.GPU",
     "GPU=4, and a a2-highgpu-2g has 2", "GPU: 2"),
    ("gcp.yaml", "--address=$RAY_HEAD_IP:6379", "--address=$RAY_HEAD_IP:6380", "worker_start_ray_commands.1",
     "at port 6380, and it listens at 6379", "$RAY_HEAD_IP:6379"),
    ("gcp.yaml", "--head --port=6379", "--head --port=6378", "worker_start_ray_commands.1", "listens at 6378", ":6378"),
    ("aws.yaml", "$RAY_HEAD_IP:6379", "$RAY_HEADIP:6379", "worker_start_ray_commands", "no command of a worker joins the head",
     "$RAY_HEAD_IP:6379"),
    ("gcp.yaml", "filestore-change-me:/shared /shared", "filestore-change-me:/shared /share", "initialization_commands",
     "nothing mounts", "Filestore"),
    ("onprem.yaml", "min_workers: 2", "min_workers: 3", "min_workers", "min_workers=3, and provider.worker_ips has 2",
     "min_workers: 2"),
    ("onprem.yaml", "worker_ips: [gpu1.change-me, gpu2.change-me]", "worker_ips: [gpu1.change-me]", "min_workers",
     "worker_ips has 1", "more machines"),
]  # fmt: skip

CLOUDS = [
    ("aws.yaml", "us-west-2a,us-west-2b", "us-west-2a,us-east-2b", "provider.availability_zone",
     "'us-east-2b' is not in the region us-west-2", "us-west-2a"),
    ("aws.yaml", "region: us-west-2", "region: us-wset-2", "provider.region", "'us-wset-2' is no region", "'us-west-2'"),
    ("aws.yaml", ".efs.us-west-2.", ".efs.us-east-1.", "initialization_commands.2", "is in us-east-1, and the machines",
     "fs-change-me.efs.us-west-2.amazonaws.com"),
    ("aws.yaml", ".efs.us-west-2.amazonaws.com", ".esf.us-west-2.amazonaws.com", "initialization_commands.2", "no host of EFS",
     ".efs.us-west-2.amazonaws.com"),
    ("aws.yaml", "fs-change-me.efs", "fs-0123456789abcdefg.efs", "initialization_commands.2", "is no id of a file system", "17"),
    ("gcp.yaml", "availability_zone: us-central1-a", "availability_zone: us-central2-a", "provider.availability_zone",
     "'us-central2-a' is not in the region us-central1", "us-central1-a"),
    ("gcp.yaml", "onHostMaintenance: TERMINATE, ", "", "gpu-spot-l4.node_config.scheduling.onHostMaintenance",
     "None for a spot machine", "TERMINATE"),
    ("gcp.yaml", "scheduling: {onHostMaintenance: TERMINATE}}", "scheduling: {onHostMaintenance: MIGRATE}}",
     "gpu-ondemand.node_config.scheduling.onHostMaintenance", "'MIGRATE' for a machine with GPUs", "TERMINATE"),
    ("gcp.yaml", "            diskType: zones/us-central1-a/diskTypes/pd-balanced\n", "",
     "gpu-spot-l4.node_config.disks.0.initializeParams.diskType", "g2-standard-48 takes no pd-standard, which is the default",
     "zones/us-central1-a/diskTypes/pd-balanced"),
    ("gcp.yaml", "machineType: n2-standard-16", "machineType: n4-standard-16", "cpu-data.node_config.disks.0",
     "takes no pd-balanced",
     "hyperdisk-balanced"),
    ("gcp.yaml", "diskTypes/pd-balanced", "diskTypes/pd-blanaced", "disks.0.initializeParams.diskType",
     "'pd-blanaced' is no type of disk", "'pd-balanced'"),
    ("gcp.yaml", "diskType: zones/us-central1-a/", "diskType: zones/us-central1-b/", "disks.0.initializeParams.diskType",
     "no disk type of the zone us-central1-a", "zones/us-central1-a/diskTypes/pd-balanced"),
]  # fmt: skip

WATCHER = [
    ("aws.yaml", "--cloud aws", "--clod aws", "worker_start_ray_commands.2", "has no flag --clod", "'--cloud'"),
    ("aws.yaml", "--cloud aws", "--cloud gcp", "worker_start_ray_commands.2", "and provider.type is aws", "--cloud aws"),
    ("gcp.yaml", "--cloud gcp", "--cloud gpc", "worker_start_ray_commands.2", "invalid choice: 'gpc'", "--help"),
    ("gcp.yaml", "/opt/setok/cluster/spot_watcher.py", "/opt/setok/spot_watcher.py", "worker_start_ray_commands.2",
     "the image has no /opt/setok/spot_watcher.py", "/opt/setok/cluster/spot_watcher.py"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "before", "after", "path", "what", "remedy"), [*LAUNCHER, *NEVER_STARTS, *CLOUDS, *WATCHER]
)
def test_a_slip_in_a_launcher_file(
    file: str, before: str, after: str, path: str, what: str, remedy: str, mistyped: Mistyped
) -> None:
    expect(mistyped(file, before, after), file, path, what, remedy)


def test_the_clouds_own_descriptions_are_there(repo_root: Path) -> None:
    """Otherwise the checks of node_config above would have been left out."""
    assert schemas.of_aws_instance() is not None and schemas.of_gcp_instance() is not None


def test_the_watcher_lies_where_the_image_has_it(repo_root: Path) -> None:
    steps = (repo_root / "cluster" / "Dockerfile").read_text("utf-8").splitlines()
    folder = next(line.split()[1] for line in steps if line.startswith("WORKDIR"))
    copied = next(line.split()[2] for line in steps if line.startswith(f"COPY {watcher.SCRIPT}"))
    assert f"{folder}/{copied.removeprefix('./')}" == watcher.IN_IMAGE
