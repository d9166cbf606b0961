"""Look for what runs fail of later, on this machine or on every node of a cluster.

    python -m ray_jobs.doctor                                      # this machine
    python -m ray_jobs.doctor --config tokenizer                   # and what this run needs: storage, data, weights, processors
    python -m ray_jobs.doctor --address 10.0.0.1:6379              # every node of a cluster that this machine is part of
    python -m ray_jobs.submit --config tokenizer --job doctor      # the same from outside of it

Each line is ok, warn or fail, with what to do. The exit code is 1 if one failed. A node or a mount that hangs is told as
such, and does not hang this.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from ray_jobs.checking import missing

try:
    from ray_jobs import launch
    from ray_jobs.checking import data, machine, nodes, resources, storage, versions, weights
    from ray_jobs.checking.findings import Check, Finding, as_json, is_well, run, show
    from ray_jobs.checking.nodes import Nodes
    from ray_jobs.checking.places import Place, is_made_by_the_run, places
    from ray_jobs.command_line import Parser, overrides_of
    from setok.config import Job, TrainConfig, load_any_config
    from setok.errors import ConfigError
except ModuleNotFoundError as error:
    sys.stdout.write(missing.report(error, as_json="--json" in sys.argv) + "\n")
    raise SystemExit(1) from None

DATA_SECONDS = 120.0
CLUSTER_SECONDS = 4 * nodes.ANSWER_SECONDS


def checks_of_machine(config: Job | None) -> list[Check]:
    """What is looked at on the machine that this runs on."""
    facts = partial(_facts, config)
    pins = Check(subject="versions", ask=lambda: versions.check_pins(versions.read_pins()))
    return [pins, Check(subject="machine", ask=facts, seconds=60.0)]


def _facts(config: Job | None) -> list[Finding]:
    return judge(machine.look(), config)


def judge(facts: machine.Facts, config: Job | None, *, object_store_bytes: int = 0) -> list[Finding]:
    """What a node's facts mean for a run."""
    return [
        *machine.check_gpus(facts, wanted=_wants_gpu(config)),
        *machine.check_shared_memory(facts, object_store_bytes=object_store_bytes),
        *machine.check_disks(facts),
        *machine.check_limits(facts),
        *machine.check_sessions(facts),
        *machine.check_ports(facts, token=os.environ.get("RAY_AUTH_MODE") == "token"),
    ]


def _wants_gpu(config: Job | None) -> bool:
    return isinstance(config, TrainConfig) and config.scaling.use_gpu


def checks_of_config(config: Job, *, on_cluster: bool) -> list[Check]:
    """What a run needs besides machines: what it writes to, reads, and starts from, as far as it does not make it itself."""
    checks = []
    for place in _outside(config):
        if place.kind == "output" and not on_cluster:
            ask = partial(storage.check_storage, place.value, place.key)
            late = f"{place.value} hangs: mount it again, or set {place.key} to another place"
            checks.append(Check(subject="storage", ask=ask, seconds=60.0, late=late))
        elif place.kind == "set":
            checks.append(
                Check(subject="data", ask=partial(data.check_set, place.value, place.key), seconds=DATA_SECONDS)
            )
        elif place.kind in {"checkpoint", "model", "file"}:
            checks.append(Check(subject="weights", ask=partial(weights.check_weights, place), seconds=DATA_SECONDS))
        elif place.kind == "source":
            checks.append(Check(subject="data", ask=partial(data.check_source, place.value, place.key)))
    if isinstance(config, TrainConfig) and not on_cluster:
        here = {"CPU": float(os.cpu_count() or 1), "GPU": float(_num_gpus())}
        checks.append(Check(subject="resources", ask=partial(resources.check_resources, config, here), seconds=60.0))
    return checks


def _outside(config: Job) -> list[Place]:
    """The places of a config, each once, but for those that the run makes itself."""
    found = {(place.kind, place.value): place for place in reversed(places(config))}
    return [place for place in reversed(found.values()) if not is_made_by_the_run(place, config)]


def _num_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def checks_of_cluster(config: Job | None) -> list[Check]:
    """What is looked at on every node, and between them; Ray must be running."""
    late = "a node hangs: look at `ray status`, and at the node's load and network"
    return [Check(subject="nodes", ask=partial(_ask_nodes, config), seconds=CLUSTER_SECONDS, late=late)]


def _ask_nodes(config: Job | None) -> list[Finding]:
    import ray

    with Nodes(use_gpu=_wants_gpu(config)) as cluster:
        answers = cluster.ask("look")
        findings = nodes.check_answers(answers)
        facts = {name: answer for name, answer in answers.items() if isinstance(answer, machine.Facts)}
        for name, fact in facts.items():
            judged = judge(fact, config, object_store_bytes=cluster.object_store_bytes(name))
            findings += [replace(finding, node=name) for finding in judged]
        findings += versions.check_same(
            [(name, {"python": fact.python, **fact.versions}) for name, fact in facts.items()]
        )
        if len(facts) == len(answers):  # what asks all of them has no sense with one that is silent
            findings += nodes.check_clocks(cluster.clocks())
            findings += cluster.reduce()
        for place in _outside(config) if config is not None else []:
            if place.kind == "output":
                told = cluster.ask("measure", place.value, storage.PROBE_BYTES)
                findings += nodes.check_shared_storage(told, place.value, place.key)
        if isinstance(config, TrainConfig):
            findings += resources.check_resources(config, ray.cluster_resources())
    return findings


def diagnose(config: Job | None, *, on_cluster: bool) -> list[Check]:
    """All checks, in the order of their lines."""
    machines = checks_of_machine(config)
    if on_cluster:
        machines = [machines[0], *checks_of_cluster(config)]
    return [*machines, *(checks_of_config(config, on_cluster=on_cluster) if config is not None else [])]


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The command line."""
    parser = Parser("ray_jobs.doctor", __doc__)
    parser.add_config(required=False)
    parser.add_argument(
        "--address", metavar="HOST:PORT", help="of a cluster's head, as ray start takes it; else RAY_ADDRESS"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    arguments = parse(sys.argv[1:] if argv is None else argv)
    config = None
    if arguments.config is not None:
        config = load_any_config(arguments.config, overrides_of(arguments))
    if arguments.address:
        if arguments.address.startswith("http"):
            raise ConfigError(
                f"--address {arguments.address} is where jobs are sent to",
                "python -m ray_jobs.submit --address … --config … --job doctor looks at that cluster; from a machine that is part"
                " of it, --address HEAD:6379 does",
            )
        os.environ["RAY_ADDRESS"] = arguments.address
    on_cluster = launch.joins_cluster()
    findings: list[Finding] = []
    if on_cluster:
        reached = run(
            Check(subject="cluster", ask=_reach, seconds=60.0, late="check --address, and that the head runs")
        )
        findings += reached
        on_cluster = is_well(reached)
    checks = diagnose(config, on_cluster=on_cluster)
    if not arguments.json:
        for finding in findings:
            show(launch.console(), finding)
    for check in checks:
        found = run(check)
        findings += found
        if not arguments.json:
            for finding in found:
                show(launch.console(), finding)
    if arguments.json:
        sys.stdout.write(as_json(findings) + "\n")
    else:
        counts = {status: sum(finding.status == status for finding in findings) for status in ("ok", "warn", "fail")}
        launch.console().print(", ".join(f"{number} {status}" for status, number in counts.items()))
    raise SystemExit(0 if is_well(findings) else 1)


def _reach() -> list[Finding]:
    launch.start_ray()
    return []


if __name__ == "__main__":
    launch.run(main)
