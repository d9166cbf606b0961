"""What AWS and Google Cloud would refuse of a launcher file: regions and zones, machines and their disks."""

from __future__ import annotations

import functools
import importlib.util
import re
from collections.abc import Iterator
from typing import Any

from ray_jobs.manifests import machines, schemas
from ray_jobs.manifests.problems import Problem, join, schema_problems, shown, strings
from setok.errors import did_you_mean

_EFS_HOST = re.compile(r"(?<![\w-])(?P<id>fs-[\w-]+)\.(?P<service>\w+)\.(?P<region>[\w-]+)\.(?P<domain>[\w.]+)")
_SSD_DISKS = ("pd-balanced", "pd-ssd", "hyperdisk-balanced")
_DISKS = {
    **dict.fromkeys(("g2", "c3", "c3d", "a3", "h3", "m3", "z3"), _SSD_DISKS),
    **dict.fromkeys(("n4", "n4a", "n4d", "c4", "c4a", "c4d", "a4", "a4x", "x4", "h4d", "m4", "g4"), _SSD_DISKS[2:]),
}
"""Boot disks by family of machines, where it does not take ``pd-standard``; after Compute Engine's pages on them."""
_DISK_TYPES = ("pd-standard", "pd-balanced", "pd-ssd", "pd-extreme", "hyperdisk-balanced", "hyperdisk-extreme",
               "hyperdisk-throughput", "hyperdisk-ml", "hyperdisk-balanced-high-availability", "local-ssd")  # fmt: skip


def cloud_of(tree: dict[str, Any]) -> str:
    """``aws``, ``gcp``, ``local``, …; empty where the file does not say."""
    return str((tree.get("provider") or {}).get("type", ""))


def is_spot(node: Any) -> bool:
    """Whether the cloud may take machines of this type away."""
    config = str(node.get("node_config") if isinstance(node, dict) else "").lower()
    return bool(re.search(r"'markettype': 'spot'|'provisioningmodel': 'spot'|'preemptible': true", config))


def not_checked(tree: dict[str, Any]) -> Iterator[str]:
    """What cannot be looked at because the cloud's client is not installed."""
    cloud = cloud_of(tree)
    if (cloud == "aws" and schemas.of_aws_instance() is None) or (cloud == "gcp" and schemas.of_gcp_instance() is None):
        yield f"node_config: the client of {cloud} is missing (pip install -c constraints.txt '.[cluster]')"


def problems(tree: dict[str, Any]) -> Iterator[Problem]:
    """What the cloud would refuse, wherever in the file it stands."""
    provider = tree.get("provider") or {}
    region = str(provider.get("region") or "")
    zones = [zone.strip() for zone in str(provider.get("availability_zone") or "").split(",") if zone.strip()]
    if region and cloud_of(tree) == "aws":
        yield from _aws_places(tree, region, zones)
    if region and cloud_of(tree) == "gcp":
        for zone in zones:
            if not re.fullmatch(rf"{re.escape(region)}-[a-z]", zone):
                yield _zone(zone, region, f"{region}-a")


def node_problems(tree: dict[str, Any], node: dict[str, Any], at: str) -> Iterator[Problem]:
    """What it would refuse of one node type, at the path ``at``, and what no such machine has."""
    config = node.get("node_config")
    if not isinstance(config, dict):
        return
    here = join(at, "node_config")
    if cloud_of(tree) == "aws":
        yield from _aws_machine(config, here)
    if cloud_of(tree) == "gcp":
        if (schema := schemas.of_gcp_instance()) is not None:
            yield from schema_problems(schema, config, here)
        yield from _disks(config, str((tree.get("provider") or {}).get("availability_zone") or ""), here)
        yield from _maintenance(node, config, here)
    stated = node.get("resources") or {}
    for kind, has in (("GPU", machines.gpus_of(config)), ("CPU", machines.cpus_of(config))):
        if has is not None and isinstance(stated.get(kind), int) and stated[kind] > has:
            yield Problem(join(at, "resources", kind),
                          f"{kind}={stated[kind]}, and a {machines.machine_of(config)} has {has}: what asks for more than"
                          " it has is sent there and never starts", f"{kind}: {has}")  # fmt: skip


# ---------------------------------------------------------------- AWS


def _aws_places(tree: dict[str, Any], region: str, zones: list[str]) -> Iterator[Problem]:
    known = _aws_regions()
    if known and region not in known:
        yield Problem("provider.region", f"{region!r} is no region of AWS", did_you_mean(region, known))
    for zone in zones:
        if not re.fullmatch(rf"{re.escape(region)}(-[a-z]+-\d+)?[a-z]", zone):  # also local zones: us-west-2-lax-1a
            yield _zone(zone, region, f"{region}a")
    for path, text in strings(tree):
        for host in _EFS_HOST.finditer(text):
            if host["region"] != region:
                yield Problem(path, f"{host[0]} is in {host['region']}, and the machines are in {region}",
                              f"{host['id']}.efs.{region}.amazonaws.com, with a mount target in each zone")  # fmt: skip
            if host["service"] not in ("efs", "fsx") or not host["domain"].startswith("amazonaws.com"):
                yield Problem(path, f"{host[0]} is no host of EFS or FSx", f"{host['id']}.efs.{region}.amazonaws.com")
            if not re.fullmatch(r"fs-([0-9a-f]{8}|[0-9a-f]{17}|change-me)", host["id"]):
                yield Problem(
                    path, f"{host['id']} is no id of a file system", "fs- and 17 hexadecimal digits (old ones 8)"
                )


@functools.cache
def _aws_regions() -> tuple[str, ...]:
    """Regions of EC2, from AWS's client; none without it."""
    if importlib.util.find_spec("botocore") is None:
        return ()
    import botocore.session

    session = botocore.session.get_session()
    return tuple(r for part in session.get_available_partitions() for r in session.get_available_regions("ec2", part))


def _aws_machine(config: dict[str, Any], at: str) -> Iterator[Problem]:
    """What EC2 would refuse; ``SubnetIds`` is the launcher's own, which makes ``SubnetId`` of it."""
    shape = schemas.of_aws_instance()
    if shape is None:
        return
    from botocore.validate import ParamValidator

    asked = {key: value for key, value in config.items() if key != "SubnetIds"} | {"MinCount": 1, "MaxCount": 1}
    report = ParamValidator().validate(asked, shape)
    for line in report.generate_report().splitlines():
        path = found[1] if (found := re.search(r"(?:in|for parameter) ([A-Z][\w.\[\]]*)[:,]", line)) else ""
        yield Problem(join(at, path), line.replace(" in input", ""), "see RunInstances of the EC2 API")
    yield from _enums(asked, shape, at)


def _enums(value: Any, shape: Any, at: str) -> Iterator[Problem]:
    """Values that a shape does not list, which botocore leaves to the server; new machine types need a new botocore."""
    if shape.type_name == "structure" and isinstance(value, dict):
        for key, member in value.items():
            if key in shape.members:
                yield from _enums(member, shape.members[key], join(at, key))
    elif shape.type_name == "list" and isinstance(value, list):
        for number, member in enumerate(value):
            yield from _enums(member, shape.member, join(at, number))
    elif getattr(shape, "enum", None) and isinstance(value, str) and value not in shape.enum:
        yield Problem(at, f"{shown(value)} is unknown to EC2", did_you_mean(value, shape.enum))


# ---------------------------------------------------------------- Google Cloud


def _disks(config: dict[str, Any], zone: str, at: str) -> Iterator[Problem]:
    """Disks that the machine does not take. Compute Engine's own default is ``pd-standard``."""
    machine = machines.machine_of(config)
    takes = _DISKS.get(machine.partition("-")[0])
    for number, disk in enumerate(config.get("disks") or ()):
        if disk.get("source") or disk.get("type") == "SCRATCH":
            continue
        path = join(at, "disks", number, "initializeParams.diskType")
        told = (disk.get("initializeParams") or {}).get("diskType")
        kind = str(told or "pd-standard").rpartition("/")[2]
        if kind not in _DISK_TYPES:
            yield Problem(path, f"{kind!r} is no type of disk", did_you_mean(kind, _DISK_TYPES))
        elif takes is not None and kind.startswith("pd-") and kind not in takes:
            yield Problem(path, f"{machine} takes no {kind}{'' if told else ', which is the default'}",
                          f"diskType: zones/{zone}/diskTypes/{takes[0]} (it takes {', '.join(takes)})")  # fmt: skip
        if told is not None and not re.search(rf"(^|/)zones/{re.escape(zone)}/diskTypes/[\w-]+$", str(told)):
            yield Problem(path, f"{told!r} is no disk type of the zone {zone}", f"zones/{zone}/diskTypes/{kind}")


def _maintenance(node: dict[str, Any], config: dict[str, Any], at: str) -> Iterator[Problem]:
    """Machines with GPUs, and spot machines, cannot be moved to another host; Compute Engine refuses them unless that is said."""
    why = "a spot machine" if is_spot(node) else "a machine with GPUs" if machines.gpus_of(config) else ""
    said = (config.get("scheduling") or {}).get("onHostMaintenance")
    if why and said != "TERMINATE":
        yield Problem(join(at, "scheduling.onHostMaintenance"), f"{shown(said)} for {why}, which cannot be moved while it runs",
                      "scheduling: {onHostMaintenance: TERMINATE}")  # fmt: skip


def _zone(zone: str, region: str, example: str) -> Problem:
    return Problem("provider.availability_zone", f"{zone!r} is not in the region {region}", f"zones such as {example}")
