"""A run on a cluster that begins with a head alone, grows for it, and shrinks again; then one that does not say that it waits.

    unshare --pid --net --fork --mount-proc python -m tests.cluster.autoscaling FOLDER TEMP

A program of its own, because the start of Ray's fake cluster ends every Ray that it can see: here, in a PID namespace, there is
none but its own. The last line is JSON: the numbers of nodes over time and the exit codes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil

HEAD = {"CPU": 0, "object_store_memory": 100 * 2**20}
NODE = {"CPU": 1, "object_store_memory": 100 * 2**20}
MOST_NODES = 3
IDLE_MINUTES = 0.1


def config() -> dict[str, Any]:
    """What Ray's fake cluster starts from: the file of that name that the wheel lacks."""
    lists = ("setup", "initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "fake",
        "max_workers": MOST_NODES,
        "provider": {"type": "fake_multinode"},
        "available_node_types": {},
        "head_node_type": "ray.head.default",
        "upscaling_speed": 10.0,
        "idle_timeout_minutes": IDLE_MINUTES,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "rsync_exclude": [],
        "rsync_filter": [],
        "file_mounts_sync_continuously": False,
        **{f"{name}_commands": [] for name in lists},
    }


def main() -> None:
    """The command."""
    if any(process.name() in ("raylet", "gcs_server") for process in psutil.process_iter()):
        raise SystemExit("there is another Ray here, which this would end: unshare --pid --net --fork --mount-proc")
    folder = Path(sys.argv[1])
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0", "RAY_TMPDIR": sys.argv[2]}
    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # Ray calls its own command
    import ray
    from ray.cluster_utils import AutoscalingCluster

    from ray_jobs.benchmarks.fault_run import Run, small_run
    from tests import squares

    data = squares.write_set(folder / "data")
    scaling = {"num_workers": 2, "cpus_per_worker": 0.75, "max_failures": 0}
    run = Run(small_run(data, folder, "grown", scaling=scaling | {"wait_for_nodes": True}, train={"steps": 8}))
    never = small_run(data, folder, "never", scaling=scaling | {"num_workers": 4}, train={"steps": 8})
    kinds = {"cpu": {"resources": NODE, "node_config": {}, "min_workers": 0, "max_workers": MOST_NODES}}
    AutoscalingCluster(head_resources=HEAD, worker_node_types=kinds, autoscaler_v2=True).start()
    ray.init("auto", log_to_driver=False, logging_level="warning")

    def count() -> int:
        return sum(node["Alive"] for node in ray.nodes())

    counts = [count()]
    address = ray.get_runtime_context().gcs_address
    with run.started(ray_address=address) as driver:
        deadline = time.monotonic() + 700
        while driver.poll() is None and time.monotonic() < deadline:
            counts.append(count())
            time.sleep(0.5)
        code = driver.poll()
    refused = Run(never)
    with refused.started(ray_address=address) as driver:
        refused_code = driver.wait(60)
    deadline = time.monotonic() + 600
    while count() > 1 and time.monotonic() < deadline:
        counts.append(count())
        time.sleep(0.5)
    told = {
        "counts": [*counts, count()],
        "code": code,
        "tail": run.tail(),
        "refused": refused_code,
        "why": refused.tail(),
    }
    sys.stdout.write(json.dumps(told) + "\n")
    sys.stdout.flush()
    os._exit(0)  # the namespace ends with this process, and with it everything in it


if __name__ == "__main__":
    main()
