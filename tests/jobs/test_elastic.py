"""A node joins a running cluster and is lost again: the run goes on with two workers, and then with one.

The cluster has to be another one than that of the other tests, so all of it happens in a process of its own. The workers
hold at certain steps until the cluster has changed: no time decides what is tested.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from ray_jobs.train import train
from ray_jobs.training import loop
from ray_jobs.training.tracking import read_metrics
from ray_jobs.training.worker import run_worker
from setok import checkpoint
from setok.config import TrainConfig, build
from setok.optim import learning_rate_factor
from tests.squares import write_set

ROOT = Path(__file__).resolve().parents[2]
GROW, SHRINK, STEPS = 6, 12, 16
LOSSES = ("train/loss", "train/l1", "train/l2", "train/grad_norm")


def config_of(root: Path, name: str, **scaling: Any) -> TrainConfig:
    """Three micro-batches in a step: one worker takes all, of two the second one has one and one of padding."""
    tree = {
        "name": name,
        "output_dir": str(root),
        "model": {
            "image_size": 16,
            "encoder": {"width": 24},
            "clustering": {"feature_dim": 8, "sharpness": 4.0, "max_tokens": 4},
            "detokenizer": {"width": 24, "depth": 1},
        },
        "data": {
            "train": [{"path": str(root / "set")}],
            "steps_per_block": 2,
            "decode_workers": 1,
            "decode_cpus": 0.25,
        },
        "train": {
            "steps": STEPS,
            "global_batch_size": 6,
            "micro_batch_size": 2,
            "log_every": 1,
            "threads_per_worker": 1,
        },
        "scaling": scaling,
        "deepspeed": {"zero_stage": 2},
        "checkpoint": {"every": 2, "keep": STEPS},
        "logging": {"tensorboard": False},
    }
    return build(TrainConfig, tree)


def holding_worker(settings: dict[str, TrainConfig]) -> None:
    """``run_worker`` that one worker leaves at ``GROW`` only for two, and that two leave at ``SHRINK`` only for one."""
    two = settings["config"].run_dir / "two"

    def factor(step: int, config: TrainConfig) -> float:
        if config.num_ranks == 2:
            two.touch()
        while step == GROW and config.num_ranks == 1 and not two.exists():
            time.sleep(0.05)
        while step == SHRINK and config.num_ranks == 2:
            time.sleep(0.05)
        return learning_rate_factor(step, config)

    loop.learning_rate_factor = factor
    run_worker(settings)


def script(root: Path) -> None:
    """Train while a node is added, and then taken away."""
    import ray
    from ray.cluster_utils import Cluster

    from ray_jobs.training import worker

    # One worker on each node: Ray counts how often 1.5 CPUs go into 2.
    config = config_of(root, "elastic", num_workers=[1, 2], cpus_per_worker=1.5, resize_seconds=1.0)
    node = {"num_cpus": 2, "object_store_memory": 150 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False)

    def wait_for(step: int) -> None:
        while not checkpoint.folder_of(config.run_dir, step).is_dir():
            assert running.is_alive(), f"the run ended before step {step}"
            time.sleep(0.1)

    worker.run_worker = holding_worker
    running = threading.Thread(target=train, args=[config], daemon=True)  # nodes must be added in the main thread
    running.start()
    wait_for(GROW)
    added = cluster.add_node(**node)
    wait_for(SHRINK)
    cluster.remove_node(added, allow_graceful=False)
    running.join()
    ray.shutdown()
    cluster.shutdown()


def test_a_run_takes_a_node_that_comes_and_outlives_its_loss(tmp_path: Path) -> None:
    write_set(tmp_path / "set")
    code = f"from pathlib import Path; from tests.jobs.test_elastic import script; script(Path({str(tmp_path)!r}))"
    here = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    here |= {"RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | here,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert "the run starts with fewer" in done.stdout + done.stderr
    run = tmp_path / "elastic"
    states = {state.step: state.world_size for state in map(checkpoint.read_state, checkpoint.list_checkpoints(run))}
    assert states == {step: 2 if GROW < step <= SHRINK else 1 for step in range(2, STEPS + 1, 2)}
    alone = train(config_of(tmp_path, "alone", num_workers=0))
    expected, got = ({int(line["step"]): line for line in read_metrics(folder)} for folder in (alone, run))
    lines = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert list(expected) == list(got) == list(range(1, STEPS + 1)) == sorted(set(lines))
    for step, line in expected.items():
        np.testing.assert_allclose(
            [got[step][name] for name in LOSSES],
            [line[name] for name in LOSSES],
            rtol=2e-3,
            atol=1e-5,
            err_msg=str(step),
        )
