"""Files of ``ray up``: Ray's schema and rules, and what this project asks; what the cloud asks is in ``clouds``."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ray_jobs.manifests import clouds, house
from ray_jobs.manifests.clouds import cloud_of, is_spot
from ray_jobs.manifests.problems import Problem, explain, join
from setok.config import ScalingConfig
from setok.errors import did_you_mean

_PROVIDER_KEYS = {"coordinator_address", "aws_credentials", "key_pair"}
"""Those that Ray's code reads and its schema does not tell."""
_NEEDED = {"aws": ("region",), "gcp": ("region", "availability_zone", "project_id")}
_RAYS_PORT = "6379"


def problems(tree: dict[str, Any]) -> Iterator[Problem]:
    """All that is wrong with a launcher file."""
    yield from _by_ray(tree)
    yield from _provider(tree)
    yield from clouds.problems(tree)
    types = tree.get("available_node_types")
    for name, node in types.items() if isinstance(types, dict) else ():
        if isinstance(node, dict):
            yield from _node_type(tree, str(name), node)
    yield from _workers(tree)
    yield from _head(tree)
    yield from _container(tree)
    yield from _access(tree)


def _provider(tree: dict[str, Any]) -> Iterator[Problem]:
    """Keys of ``provider``, of which Ray's schema tells names and lets others pass."""
    import ray.autoscaler

    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text("utf-8"))
    provider, known = tree.get("provider") or {}, {*schema["properties"]["provider"]["properties"], *_PROVIDER_KEYS}
    for key in provider:
        if key not in known:
            yield Problem(join("provider", key), f"unknown key {key!r}", did_you_mean(str(key), known))
    for key in _NEEDED.get(cloud_of(tree), ()):
        if not provider.get(key):
            yield Problem("provider", f"{key} is required for {cloud_of(tree)} and missing", "add it")


def _by_ray(tree: dict[str, Any]) -> Iterator[Problem]:
    """What ``ray up`` itself finds before it starts anything."""
    import click
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    try:
        validate_config(prepare_config(copy.deepcopy(tree)))
    except jsonschema.ValidationError as error:
        yield explain(error)
    except (ValueError, RuntimeError, AssertionError, KeyError, TypeError, AttributeError) as error:
        yield Problem(
            "", f"ray up would stop: {type(error).__name__}: {error}", "see the neighbouring files of cluster/"
        )
    except (click.ClickException, SystemExit):  # a local provider without addresses: told on the terminal only
        yield Problem(
            "provider", "ray up would stop: head_ip and worker_ips, or coordinator_address, are missing", "add them"
        )


def _node_type(tree: dict[str, Any], name: str, node: dict[str, Any]) -> Iterator[Problem]:
    at = join("available_node_types", name)
    known = {"node_config", "min_workers", "max_workers", "idle_timeout_s", "priority", "resources", "labels", "docker",
             "initialization_commands", "worker_setup_commands"}  # fmt: skip
    for key in node:
        if key not in known:  # Ray's schema lets it pass
            yield Problem(join(at, key), f"unknown key {key!r}", did_you_mean(str(key), known))
    least, most = node.get("min_workers", 0), node.get("max_workers", tree.get("max_workers", 0))
    if isinstance(least, int) and isinstance(most, int) and least > most:
        yield Problem(
            join(at, "min_workers"), f"min_workers={least} is above max_workers={most}", f"max_workers: {least}"
        )
    yield from clouds.node_problems(tree, node, at)
    if _is_gpu(node) and house.variant_of(_image_of(tree, node)) == "cpu":
        yield Problem(join(at, "docker"), "nodes with GPUs get the image without CUDA", "worker_image: …-gpu")


def _workers(tree: dict[str, Any]) -> Iterator[Problem]:
    """Workers that could never start, or never find their head."""
    head, types = tree.get("head_node_type"), tree.get("available_node_types")
    most = (
        [node.get("max_workers", tree.get("max_workers", 0)) for name, node in types.items() if name != head]
        if types
        else []
    )
    if tree.get("max_workers") == 0 or (most and not any(most)):
        yield Problem("max_workers", "max_workers=0: the cluster would be a head, and no work is placed on that",
                      "max_workers: as many nodes as it may cost")  # fmt: skip
    provider = tree.get("provider") or {}
    hosts, least = provider.get("worker_ips"), tree.get("min_workers", 0)
    if cloud_of(tree) == "local" and isinstance(hosts, list) and least > len(hosts):
        yield Problem("min_workers", f"min_workers={least}, and provider.worker_ips has {len(hosts)}",
                      f"min_workers: {len(hosts)}, or more machines")  # fmt: skip
    starts = " ".join(map(str, tree.get("head_start_ray_commands") or ()))
    port = found[1] if (found := re.search(r"\bray start\b[^;&|]*--port[= ](\d+)", starts)) else _RAYS_PORT
    joins = False
    for number, command in enumerate(tree.get("worker_start_ray_commands") or ()):
        for given in re.findall(r"--address[= ]\$\{?RAY_HEAD_IP\}?:(\d+)", str(command)):
            joins = True
            if given != port:
                yield Problem(
                    join("worker_start_ray_commands", number),
                    f"workers look for the head at port {given}, and it listens at {port}",
                    f"--address=$RAY_HEAD_IP:{port}",
                )
    if not joins:
        yield Problem("worker_start_ray_commands", "no command of a worker joins the head, whose address is in RAY_HEAD_IP",
                      f"ray start --address=$RAY_HEAD_IP:{port}")  # fmt: skip


def _head(tree: dict[str, Any]) -> Iterator[Problem]:
    """The head runs the driver and Ray's own services, and is not taken away."""
    start = " ".join(map(str, tree.get("head_start_ray_commands") or ()))
    if not re.search(r"--num-cpus[= ]0\b", start):
        yield Problem("head_start_ray_commands", "work would be placed on the head, beside driver and GCS",
                      "ray start --head --num-cpus=0 …")  # fmt: skip
    if cloud_of(tree) != "local" and "--autoscaling-config" not in start:
        yield Problem("head_start_ray_commands", "the head would not start any worker",
                      "ray start --head --autoscaling-config=~/ray_bootstrap_config.yaml …")  # fmt: skip
    name = tree.get("head_node_type")
    node = (tree.get("available_node_types") or {}).get(name)
    if not isinstance(node, dict):
        return
    at = join("available_node_types", name)
    if (node.get("resources") or {}).get("CPU") != 0:
        yield Problem(join(at, "resources.CPU"), "the autoscaler would count on the head's CPUs", "resources: {CPU: 0}")
    if is_spot(node):
        yield Problem(join(at, "node_config"), "the head is a spot machine: the run ends when it is taken", "on demand")


def _container(tree: dict[str, Any]) -> Iterator[Problem]:
    options = " ".join(map(str, (tree.get("docker") or {}).get("run_options") or ()))
    if not re.search(r"(--volume|-v)[= ]/shared:/shared\b", options):
        yield Problem(
            "docker.run_options", "containers do not see the storage that all nodes share", "--volume /shared:/shared"
        )
    mounts = "; ".join(map(str, tree.get("initialization_commands") or ()))
    way = r"mount(point)?" if cloud_of(tree) == "local" else "mount"  # a new machine has nothing mounted yet
    if not re.search(rf"\b{way}\s[^|&;]*\s/shared(?=[\s;]|$)", mounts):
        yield Problem(
            "initialization_commands", "nothing mounts shared storage at /shared", "mount NFS, EFS or Filestore there"
        )
    waits = re.search(r"RAY_JOB_STOP_WAIT_TIME_S=(\d+)", options)
    least = ScalingConfig().poll_seconds + house.SAVE_SECONDS
    if waits is None or int(waits[1]) < least:
        yield Problem(
            "docker.run_options",
            f"`ray job stop` leaves a run {waits[1] if waits else 3} s, and finding it and saving takes up to {least:g}",
            "--env RAY_JOB_STOP_WAIT_TIME_S=120",
        )


def _access(tree: dict[str, Any]) -> Iterator[Problem]:
    """Whoever reaches the Jobs API or the GCS may run anything."""
    options = " ".join(map(str, (tree.get("docker") or {}).get("run_options") or ()))
    if "RAY_AUTH_MODE=token" not in options:
        yield Problem("docker.run_options", "the cluster takes commands without a token", "--env RAY_AUTH_MODE=token")
    token = re.search(r"RAY_AUTH_TOKEN_PATH=(\S+)", options)
    mounted = [str(path).rstrip("/") for path in tree.get("file_mounts") or {}]
    if token is None or not any(token[1].startswith(f"{path}/") or token[1] == path for path in mounted):
        yield Problem("file_mounts", "the token does not reach the nodes",
                      "file_mounts: {/home/ray/secrets: ~/.setok}, and RAY_AUTH_TOKEN_PATH below it")  # fmt: skip
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        for number, command in enumerate(tree.get(key) or ()):
            if re.search(r"--(dashboard|ray-client-server)-host[= ](0\.0\.0\.0|::)", str(command)):
                yield Problem(join(key, number), "the dashboard, and with it the Jobs API, listens to other machines",
                              "--dashboard-host=127.0.0.1, and `ray dashboard` for a tunnel")  # fmt: skip
    for number, rule in enumerate(
        ((tree.get("provider") or {}).get("security_group") or {}).get("IpPermissions") or ()
    ):
        ports = range(int(rule.get("FromPort", 0)), int(rule.get("ToPort", 65535)) + 1)
        everyone = "0.0.0.0/0" in str(rule)
        for port in house.RAY_PORTS if everyone else ():
            if port in ports:
                yield Problem(join("provider.security_group.IpPermissions", number),
                              f"port {port} ({house.RAY_PORTS[port]}) is open to everyone",
                              "close it, and use a tunnel")  # fmt: skip


def _is_gpu(node: dict[str, Any]) -> bool:
    return bool((node.get("resources") or {}).get("GPU"))


def _image_of(tree: dict[str, Any], node: dict[str, Any]) -> str:
    docker, own = tree.get("docker") or {}, node.get("docker") or {}
    return str(own.get("worker_image") or docker.get("worker_image") or docker.get("image") or "")
