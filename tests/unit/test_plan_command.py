"""``python -m ray_jobs.plan``: the paper's presets on clusters, exit codes, JSON, and errors that come at once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ray_jobs import evaluate, pipeline, plan, serve, train
from ray_jobs.planning.cluster import node_type
from setok.config import TrainConfig
from setok.errors import CheckpointError, ConfigError, SetokError
from setok.planning import Samples, Trace, load_hardware, search, trace
from tests import squares
from tests.setokim_runs import write_run

PARTS = ("language_model", "diffusion", "mask_decoder")
TRACES: dict[Any, Trace] = {}
SHALLOW = [f"{stage}.setokim.{part}.depth=1" for stage in ("pretrain", "instruct") for part in PARTS]


@pytest.fixture(autouse=True)
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that were gone through are remembered from one command to the next: they do not depend on the cluster."""

    def known(config: TrainConfig, samples: Samples, batch: Any = None) -> Trace:
        key = (config.model_dump_json(exclude={"scaling"}), config.scaling.use_gpu, samples)
        if batch is not None or key not in TRACES:
            TRACES[key] = trace(config, samples, batch)
        return TRACES[key]

    monkeypatch.setattr(search, "trace", known)


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Exit code and JSON of the command."""
    try:
        plan.main([*arguments, "--json"])
        code = 0
    except SystemExit as ended:
        code = int(ended.code or 0)
    return code, json.loads(capsys.readouterr().out)


def test_the_papers_second_stage_on_one_node_and_on_many(capsys: pytest.CaptureFixture[str]) -> None:
    """A row of 2048 tokens through 6.7 G weights: forward, again, and back to the adapters; 17 pictures through SigLIP."""
    code, one = told(capsys, "--config", "paper_pretrain", "--nodes", "8xh100:1")
    _, many = told(capsys, "--config", "paper_pretrain", "--nodes", "8xh100:64")
    assert (code, one["fits"], one["workers"], many["workers"]) == (0, True, 8, 512)
    flops = 512 * (2048 * 6 * 6.6e9 + 17 * 729 * 2 * 0.41e9)
    assert one["speed"]["flops"] == pytest.approx(flops, rel=0.25)
    assert one["images"] == pytest.approx(29.3e6, rel=0.02)
    assert one["memory"]["weights"] == pytest.approx(6.74e9 * 2 + 0.63e9 * 4 + 0.4e9 * 4, rel=0.1)
    assert many["memory"]["optimizer"] < one["memory"]["optimizer"] / 60
    assert many["seconds"] < one["seconds"]
    assert many["dollars"]["on_demand"] > one["dollars"]["on_demand"], "decoding does not keep up"


def test_too_small_a_gpu_says_what_to_change(capsys: pytest.CaptureFixture[str]) -> None:
    """A block of a billion parameters, which takes 20 GiB with its Adam, on GPUs of 22 GiB."""
    changes = ("model.encoder.width=8400", "optim.kind=adamw", "scaling.num_workers=4", "scaling.use_gpu=true")
    command = ("--config", "tokenizer_demo", "--set", *changes, "train.global_batch_size=32", "--nodes", "4xl4:1")
    code, first = told(capsys, *command)
    assert (code, first["fits"]) == (2, False)
    suggested = first["suggestion"]["set"]
    assert suggested
    code, second = told(capsys, *command, "--set", *suggested)
    assert (code, second["fits"]) == (0, True)


def test_what_never_ends_is_null(capsys: pytest.CaptureFixture[str]) -> None:
    code, found = told(capsys, "--config", "tokenizer_demo", "--set", "scaling.use_gpu=true", "--nodes", "cpu16")
    assert code == 2
    assert found["seconds"] is found["speed"]["step_s"] is found["dollars"]["on_demand"] is None


def test_the_table_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--config", "tokenizer_demo", "--set", "model.detokenizer.depth=1"]
    plan.main([*command, "--nodes", "cpu16"])
    shown = capsys.readouterr().out
    for part in ("a worker holds", "It fits.", "images/s", "on demand", "approximate", "Assumed: 40%"):
        assert part in shown
    with pytest.raises(SystemExit):
        plan.main([*command, "scaling.num_workers=[40,50]", "train.global_batch_size=800"])
    shown = capsys.readouterr().out
    assert "It does not fit." in shown
    assert "too few" in shown


def test_a_pipelines_runs_are_planned_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        pipeline.main(["--config", "demo", "--dry-run", "--set", *SHALLOW])
    shown = capsys.readouterr().out
    assert shown.count("It fits.") == 3
    assert shown.count("made before, by this job") == 7, "two sets, one and four"
    assert "does not exist" not in shown
    plan.main(["--config", "demo", "--nodes", "cpu16", "--set", *SHALLOW])
    assert re.search(r"All 3 runs: [\d.]+ min of training, about \$\d+ on demand", capsys.readouterr().out)
    with pytest.raises(CheckpointError, match="runs/tokenizer-demo cannot be used"):
        train.main(["--config", "pretrain_demo", "--dry-run"])


def test_a_wrong_config_comes_at_once() -> None:
    """Without torch."""
    script = (
        "import sys\nfrom ray_jobs import plan\n"
        "try:\n    plan.main(['--config', 'tokenizer_demo', '--set', 'train.step=3'])\n"
        "except Exception as error:\n    print(error, 'torch' in sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "did you mean 'steps'" in found.stdout
    assert found.stdout.rstrip().endswith("False")


def test_jobs_without_a_model_and_sweeps() -> None:
    with pytest.raises(ConfigError, match="whose needs do not depend on a model"):
        plan.main(["--config", "ingest"])
    with pytest.raises(ConfigError, match="plan one of them"):
        plan.main(["--config", "sweep_scenes"])


def test_serving_is_weights_and_a_cache(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path, "what colour is red")
    command = ("--config", "serve", "--set", f"checkpoint={run}", "--nodes", "cpu16")
    code, found = told(capsys, *command)
    assert (code, found["fits"]) == (0, True)
    memory = found["memory"]
    assert memory["place"] == 2 * 2 * 64 * 4, "keys and values of 2 layers of 64 channels in fp32"
    assert memory["total"] == memory["weights"] + memory["place"] * memory["places"] + memory["reading"]
    code, found = told(capsys, *command, "--set", "batching.max_places=200000000")
    assert (code, found["fits"]) == (2, False)


def test_dry_runs_of_what_asks_a_model_look_at_it_and_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dry(job: Any, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [job.__name__, *arguments, "--dry-run"])
        with pytest.raises(SystemExit, match="0"):
            job.main()
        return capsys.readouterr().out

    run = write_run(tmp_path, "what colour is red")
    told = dry(serve, "--config", "serve", "--set", f"checkpoint={run}", "model_name=mine")
    assert re.search(r"mine: .*/tiny/checkpoints/step_\d+, by 1 to 1 replica\(s\), at http://127.0.0.1:8000", told)
    assert "A copy holds" in told and "It fits." in told
    data = squares.write_set(tmp_path / "data")
    told = dry(evaluate, "--checkpoints", str(run), "--data", str(data))
    assert "A copy holds" in told and "It fits." in told
    for job, arguments in ((serve, ["--config", "serve", "--set"]), (evaluate, ["--config", "evaluate", "--set"])):
        monkeypatch.setattr(sys, "argv", [job.__name__, *arguments, "checkpoint=nowhere", "--dry-run"])
        with pytest.raises(SetokError, match="nowhere"):
            job.main()


def test_nodes_of_a_running_cluster() -> None:
    hardware = load_hardware()
    resources = {
        "CPU": 96.0,
        "GPU": 4.0,
        "memory": 2.0**38,
        "object_store_memory": 2.0**36,
        "accelerator_type:H100": 1.0,
    }
    node = node_type(resources, hardware)
    assert (node.gpus, node.cpus, node.memory_gib, node.gpu_memory_gib) == (4, 96, 320, 78)
    assert node_type({"CPU": 4.0, "memory": 2.0**32}, hardware).gpus == 0
    with pytest.raises(ConfigError, match=r"TPUX.*table does not know"):
        node_type({"CPU": 1.0, "GPU": 1.0, "accelerator_type:TPUX": 1.0}, hardware)
