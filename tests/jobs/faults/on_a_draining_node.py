"""A run on two nodes of a cluster on this machine, one of which is announced to go, goes, and is replaced.

A program and no test, because a Ray of several nodes must not meet the one that the tests share. Its arguments are the
run's config and the number of steps after which the notice comes; it prints what happened as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time

DEADLINE_SECONDS = 4
NODE = {"object_store_memory": 100 * 2**20}


def main() -> None:
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    import ray
    from ray.cluster_utils import Cluster
    from ray.core.generated import autoscaler_pb2

    from ray_jobs.train import train
    from setok import checkpoint
    from setok.config import TrainConfig, load_config
    from tests.jobs.faults.tools import steps_logged, wait_until

    config = load_config(TrainConfig, sys.argv[1])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **NODE})
    _, second = (cluster.add_node(num_cpus=1, **NODE) for _ in range(2))
    ray.init(address=cluster.address, log_to_driver=False, logging_level="warning")

    thread = threading.Thread(target=train, args=[config], daemon=True)  # nodes must be added in the main thread
    thread.start()
    wait_until(lambda: steps_logged(config) >= int(sys.argv[2]), "the steps before the notice")
    gcs = ray._private.worker.global_worker.gcs_client
    reason = autoscaler_pb2.DrainNodeReason.DRAIN_NODE_REASON_PREEMPTION
    noticed_at = steps_logged(config)
    accepted, _ = gcs.drain_node(second.node_id, reason, "spot", int((time.time() + DEADLINE_SECONDS) * 1000))
    time.sleep(DEADLINE_SECONDS)
    cluster.remove_node(second, allow_graceful=False)
    seen = {"accepted": accepted, "noticed_at": noticed_at, "steps_when_gone": steps_logged(config)}
    seen["saved"] = [checkpoint.step_of(path) for path in checkpoint.list_checkpoints(config.run_dir)]
    cluster.add_node(num_cpus=1, **NODE)
    thread.join(120)
    assert not thread.is_alive(), "the run did not end"
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
