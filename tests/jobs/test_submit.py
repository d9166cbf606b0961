"""Every stage, sent to a real head by the lines that README gives."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_jobs.launch import EXIT_STOPPED
from setok import checkpoint
from setok.data.scenes import write_scenes
from setok.data.schema import Manifest
from setok.data.word_tokenizer import build_word_tokenizer
from tests.ray_head import Head, started

TRAIN = "train.steps=2 train.log_every=1 model.encoder.width=24 model.detokenizer.width=24"
ON_RAY, IN_THE_DRIVER = "scaling.num_workers=1", "scaling.num_workers=0"
LANGUAGE = (
    "setokim.language_model.width=48 setokim.language_model.depth=1 setokim.diffusion.width=32 setokim.diffusion.depth=1"
    " setokim.diffusion.sampling_steps=2 setokim.mask_decoder.width=16 train.threads_per_worker=1"
)
SMALL = {
    "ingest": "",
    "tokenizer_demo": f"{TRAIN} {ON_RAY}",
    "pretrain_demo": f"{TRAIN} {LANGUAGE} {IN_THE_DRIVER}",
    "instruct_demo": f"{TRAIN} {LANGUAGE} {IN_THE_DRIVER}",
    "evaluate": "limit=4 max_new_tokens=4",
}
"""The stages in their order, and what makes each of them a matter of seconds."""


def lines_of(readme: str, shared: Path) -> dict[str, list[str]]:
    """README's submissions by config, and of the doctor: their arguments, with ``/shared`` being another folder."""
    text = readme.replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in re.findall(r"^    python -m ray_jobs\.submit (.*)$", text, flags=re.MULTILINE):
        words = [word.replace("/shared", str(shared)) for word in shlex.split(line, comments=True)]
        found["doctor" if "--job" in words else words[words.index("--config") + 1]] = words
    return found


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    folder = tempfile.TemporaryDirectory(prefix="h")  # short: a socket's path may have 107 letters
    with folder as name, started(Path(name)) as head:
        yield head


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    write_scenes(folder, split="train", count=16, seed=1, family="plain", layouts=["coco"], image_size=64)
    texts = ["a red circle and a blue square on a white background"]
    build_word_tokenizer(texts, folder / "words")
    return folder


def submit(head: Head, repo_root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, in the folder of the code."""
    command = [sys.executable, "-m", "ray_jobs.submit", *arguments]
    return subprocess.run(command, env=head.environment, cwd=repo_root, text=True, capture_output=True, timeout=900)


@pytest.mark.timeout(3000)  # five jobs
def test_every_stage_by_readmes_own_lines(head: Head, shared: Path, repo_root: Path) -> None:
    lines = lines_of((repo_root / "README.md").read_text(), shared)
    assert lines.keys() == {*SMALL, "doctor"}
    for config, small in SMALL.items():
        done = submit(head, repo_root, *lines[config], *(["--set", *small.split()] if small else []))
        assert done.returncode == 0, f"{config}\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}"
    assert Manifest.load(shared / "data" / "coco").num_rows == 16
    for run in ("tokenizer-demo", "pretrain-demo", "instruct-demo"):
        assert checkpoint.Store.of_run(shared / "runs" / run).steps() == [2], run
    assert (shared / "runs" / "evaluate" / "metrics.json").is_file()


def test_a_wrong_token_is_told_in_a_line(head: Head, repo_root: Path) -> None:
    """By the client of jobs, and by a process that joins the cluster itself."""
    nobody = Head(address=head.address, gcs=head.gcs, environment=head.environment | {"RAY_AUTH_TOKEN": "wrong" * 9})
    refused = submit(nobody, repo_root, "--config", "tokenizer_demo", "--no-wait")
    assert refused.returncode == 2 and "Traceback" not in refused.stderr
    assert "→ set RAY_AUTH_MODE=token" in refused.stderr
    command = [sys.executable, "-m", "ray_jobs.doctor", "--address", head.gcs]
    done = subprocess.run(command, env=nobody.environment, cwd=repo_root, text=True, capture_output=True, timeout=600)
    told = done.stdout.partition("fail  cluster")[2].splitlines()[:2]
    assert done.returncode == 1 and "the cluster at 127.0.0.1" in told[0] and "RAY_AUTH_MODE=token" in told[1]
    assert "Traceback" not in done.stderr


@pytest.mark.timeout(1800)
def test_a_run_is_followed_again_stopped_and_gone_on_with(head: Head, shared: Path, repo_root: Path) -> None:
    """Needs what the test above ingested."""
    base = ["--config", "tokenizer_demo", "--set", f"output_dir={shared}/runs", f"data.train.0.path={shared}/data/coco"]
    long = [*base, *TRAIN.replace("steps=2", "steps=100000").split(), "name=long", IN_THE_DRIVER]
    sent = submit(head, repo_root, *long, "--no-wait")
    assert sent.returncode == 0 and "train-long" in sent.stdout, sent.stderr
    other = submit(head, repo_root, *long, "seed=7")
    assert other.returncode == 2 and "is going on as train-long, with other settings" in other.stderr
    deadline = time.monotonic() + 600
    metrics = shared / "runs" / "long" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size):
        assert time.monotonic() < deadline, submit(head, repo_root, *long, "--no-wait").stdout
        time.sleep(0.5)
    (shared / "runs" / "long" / "stop").touch()
    followed = submit(head, repo_root, *long)
    assert "train-long is running already" in followed.stdout
    assert followed.returncode == EXIT_STOPPED, followed.stdout + followed.stderr
    (step,) = checkpoint.Store.of_run(shared / "runs" / "long").steps()
    again = submit(head, repo_root, *long, f"train.steps={step}")
    assert again.returncode == 0 and "train-long-2" in again.stdout
    assert f"is finished: {step} steps" in again.stdout


@pytest.mark.timeout(1800)
def test_the_doctor_looks_at_the_cluster(head: Head, shared: Path, repo_root: Path) -> None:
    """Needs what the first test ingested."""
    line = lines_of((repo_root / "README.md").read_text(), shared)["doctor"]
    done = submit(head, repo_root, *line, "--set", "scaling.num_workers=0")
    told = {line[6:16].strip(): line for line in done.stdout.splitlines() if line[:6].strip() in ("ok", "warn", "fail")}
    for subject in ("nodes", "clock", "network", "storage", "data", "resources"):
        assert told[subject].startswith("ok"), done.stdout
    assert "16 of them decoded" in told["data"] and "token asked for" in told["ports"]
    assert done.returncode == int("\nfail " in done.stdout), done.stdout + done.stderr
