#!/usr/bin/env python3
"""Tells Ray that this spot machine is about to be taken away, so that a run saves in time.

    python3 spot_watcher.py --cloud aws          # or gcp, azure; auto asks each metadata service which one answers

On plain virtual machines nobody reads the cloud's notice (on Kubernetes KubeRay does). This program does, and drains the
node with `ray drain-node`; training sees the drain within seconds and writes a checkpoint. It needs Python alone: copy it
to the machine and start it beside `ray start`, as cluster/README.md shows. It ends after a drain that Ray accepted.
"""

from __future__ import annotations

import argparse
import calendar
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

METADATA = "http://169.254.169.254"  # the same address in all three clouds
TIMEOUT_S = 2.0
DRAIN_TIMEOUT_S = 60.0
GCP_GRACE_S = 30.0
TRIES = 15
MAX_ANSWER_BYTES = 1 << 20


@dataclass(frozen=True)
class Notice:
    """That the machine goes."""

    reason: str
    seconds: float
    """Time left."""


class NoMetadataError(Exception):
    """The metadata service does not answer, or not as this cloud's does."""


def ask(url: str, headers: Mapping[str, str] | None = None, *, method: str = "GET") -> str | None:
    """A metadata page; None where there is no such page (404).

    Raises:
        NoMetadataError: no answer within the time limit, or another error.
    """
    request = urllib.request.Request(url, headers=dict(headers or {}), method=method)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # a proxy's metadata would be another machine's
    try:
        with opener.open(request, timeout=TIMEOUT_S) as answer:
            return str(answer.read(MAX_ANSWER_BYTES).decode("utf-8", "replace"))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise NoMetadataError(f"{url}: HTTP {error.code}") from error
    except (OSError, ValueError) as error:
        raise NoMetadataError(f"{url}: {error}") from error


def aws(metadata: str, now: float, *, rebalance: bool = False) -> Notice | None:
    """The two minutes' notice of a spot instance, and with ``rebalance`` also the earlier hint that it is at risk."""
    token = ask(f"{metadata}/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "300"}, method="PUT")
    if not token:
        raise NoMetadataError("no IMDSv2 token")
    headers = {"X-aws-ec2-metadata-token": token}
    action = ask(f"{metadata}/latest/meta-data/spot/instance-action", headers)
    if action is not None:
        told = as_object(action)
        if told.get("action") in {"terminate", "stop", "hibernate"}:
            return Notice(f"AWS spot {told['action']}", until_utc(str(told.get("time")), now, default=120.0))
    if rebalance and ask(f"{metadata}/latest/meta-data/events/recommendations/rebalance", headers) is not None:
        return Notice("AWS rebalance recommendation", 120.0)
    return None


def gcp(metadata: str, now: float, *, rebalance: bool = False) -> Notice | None:
    """The half minute's notice of a preemptible or spot VM."""
    told = ask(f"{metadata}/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    if told is None:
        raise NoMetadataError("not a Google Cloud metadata server")
    return Notice("GCP preemption", GCP_GRACE_S) if told.strip().upper() == "TRUE" else None


def azure(metadata: str, now: float, *, rebalance: bool = False) -> Notice | None:
    """The half minute's notice of a spot VM."""
    told = ask(f"{metadata}/metadata/scheduledevents?api-version=2020-07-01", {"Metadata": "true"})
    if told is None:
        raise NoMetadataError("not an Azure metadata server")
    events = as_object(told).get("Events")
    for event in events if isinstance(events, list) else []:
        if isinstance(event, dict) and event.get("EventType") == "Preempt":
            try:
                seconds = parsedate_to_datetime(str(event.get("NotBefore"))).timestamp() - now
            except (TypeError, ValueError):
                seconds = GCP_GRACE_S
            return Notice("Azure preemption", max(0.0, seconds))
    return None


CLOUDS: dict[str, Callable[..., Notice | None]] = {"aws": aws, "gcp": gcp, "azure": azure}


def as_object(text: str) -> dict[str, object]:
    """A JSON object; empty where the text is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def until_utc(stamp: str, now: float, *, default: float) -> float:
    """Seconds from now to a time such as 2026-01-31T08:22:00Z."""
    try:
        return max(0.0, calendar.timegm(time.strptime(stamp, "%Y-%m-%dT%H:%M:%SZ")) - now)
    except ValueError:
        return default


def find_cloud(metadata: str, *, every: float) -> str:
    """The cloud whose metadata service answers; a machine that just started may need a few tries.

    Raises:
        NoMetadataError: none does.
    """
    for _ in range(TRIES):
        for name, notice in CLOUDS.items():
            try:
                notice(metadata, time.time())
            except NoMetadataError:
                continue
            return name
        time.sleep(every)
    raise NoMetadataError(f"no metadata service of {', '.join(CLOUDS)} answers at {metadata}; name it with --cloud")


def drain(ray: str, notice: Notice, *, address: str | None, node_id: str | None) -> bool:
    """Ask Ray to drain this node; whether it accepted."""
    command = [ray, "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", notice.reason]
    command += ["--deadline-remaining-seconds", str(max(1, int(notice.seconds)))]
    command += ["--address", address] if address else []
    command += ["--node-id", node_id] if node_id else []
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DRAIN_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        say(f"ray drain-node did not run: {error}")
        return False
    if done.returncode:
        say(f"ray drain-node failed with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.returncode == 0


def watch(arguments: argparse.Namespace) -> int:
    """Ask until a notice comes, and drain; a metadata service that fails for a while is asked again."""
    notice_of = CLOUDS[
        arguments.cloud if arguments.cloud != "auto" else find_cloud(arguments.metadata, every=arguments.every)
    ]
    say(f"watching for notices of {notice_of.__name__}, every {arguments.every:g} s")
    silent = False
    while True:
        began = time.time()
        try:
            notice = notice_of(arguments.metadata, began, rebalance=arguments.rebalance)
        except NoMetadataError as error:
            if not silent:
                say(f"{error}; asking on")
            silent, notice = True, None
        else:
            silent = False
        if notice is not None:
            say(f"{notice.reason}: {notice.seconds:.0f} s left; draining this node")
            if drain(arguments.ray, notice, address=arguments.address, node_id=arguments.node_id):
                say("drained")
                return 0
        time.sleep(max(0.0, arguments.every - (time.time() - began)))


def say(text: str) -> None:
    """A line for the journal."""
    print(f"spot_watcher: {text}", file=sys.stderr, flush=True)


def positive(text: str) -> float:
    """A number of seconds above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def make_parser() -> argparse.ArgumentParser:
    """The command line; what checks files of clusters asks it, too."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--cloud", choices=["auto", *CLOUDS], default="auto", help="whose machine this is (default auto)"
    )
    parser.add_argument(
        "--every", type=positive, default=2.0, metavar="SECONDS", help="time between two questions (default 2)"
    )
    parser.add_argument("--rebalance", action="store_true", help="AWS: also act on the recommendation to rebalance")
    parser.add_argument("--ray", default="ray", metavar="PATH", help="the ray command (default ray)")
    parser.add_argument("--address", help="of the cluster; as a rule Ray finds the one this node is in")
    parser.add_argument("--node-id", help="of the node; as a rule this one")
    parser.add_argument("--metadata", default=METADATA, metavar="URL", help="of the metadata service, for trials")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    arguments = make_parser().parse_args(argv)
    try:
        return watch(arguments)
    except NoMetadataError as error:
        say(str(error))
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
