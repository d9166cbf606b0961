"""A run on a cluster of several nodes on this machine, one of which goes.

    python -m ray_jobs.benchmarks.fault_nodes CONFIG drain|kill STEP

A program of its own, because this Ray must meet no other. After the step, one of the two nodes with a worker is announced to
go, and goes when its time is over (``drain``), or its raylet gets SIGKILL (``kill``); a third one takes its place. The last line
that it prints is JSON: when that was, and which checkpoints there were then.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

DEADLINE_SECONDS = 4
NODE = {"object_store_memory": 100 * 2**20}


def main() -> None:
    """The command."""
    file, how, step = sys.argv[1:]
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    import ray
    from ray.cluster_utils import Cluster
    from ray.core.generated import autoscaler_pb2

    from ray_jobs.benchmarks.fault_run import Run
    from setok import checkpoint
    from setok.config import TrainConfig, load_config

    run = Run(load_config(TrainConfig, file))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **NODE})
    _, second = (cluster.add_node(num_cpus=1, **NODE) for _ in range(2))
    ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")
    with run.started(ray_address=cluster.address):
        run.wait_for(lambda: run.step >= int(step), f"step {step}")
        seen: dict[str, Any] = {"struck_at": run.step}
        if how == "drain":
            gcs = ray._private.worker.global_worker.gcs_client
            reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
            deadline = int((time.time() + DEADLINE_SECONDS) * 1000)
            accepted, _ = gcs.drain_node(second.node_id, reason, "spot", deadline)
            assert accepted, "the drain was refused"
            time.sleep(DEADLINE_SECONDS)
        seen |= {"gone_at": run.step, "saved": checkpoint.Store.of_run(run.config.run_dir).steps()}
        gone = time.time()
        cluster.remove_node(second, allow_graceful=False)
        cluster.add_node(num_cpus=1, **NODE)
        if code := run.finish():
            raise SystemExit(f"the run ended with {code}\n{run.tail()}")
    ray.shutdown()
    cluster.shutdown()
    sys.stdout.write(json.dumps(seen | {"gone": gone}) + "\n")  # for the program that started this one


if __name__ == "__main__":
    main()
