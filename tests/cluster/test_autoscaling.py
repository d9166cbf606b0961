"""A cluster that scales itself: up for a run that waits for nodes, down after it, and not at all for one that does not."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private import fake_multi_node

from tests.cluster.autoscaling import config
from tests.isolation import ALONE, skip_unless_permitted


@pytest.mark.timeout(1500)
def test_nodes_come_for_a_run_and_go_after_it(tmp_path: Path, repo_root: Path) -> None:
    skip_unless_permitted()
    provider = Path(fake_multi_node.__file__).parent
    shutil.copytree(provider, tmp_path / "provider")
    # The wheel lacks it, and Ray's monitor reads it; it goes where only the processes of this test see it.
    (tmp_path / "provider" / "example.yaml").write_text(yaml.safe_dump(config()))
    prepare = (
        f"ip link set lo up && mount --bind {shlex.quote(str(tmp_path / 'provider'))} {shlex.quote(str(provider))}"
    )
    program = shlex.join([sys.executable, "-m", "tests.cluster.autoscaling", str(tmp_path)])
    with tempfile.TemporaryDirectory(prefix="a") as temp:  # short: a socket's path may have 107 letters
        command = [*ALONE, "sh", "-c", f"{prepare} && {program} {temp}; exit $?"]  # sh takes in orphans
        done = subprocess.run(command, cwd=repo_root, capture_output=True, text=True, timeout=1400)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["code"] == 0, told["tail"]
    assert told["counts"][0] == 1, "a head alone"
    assert max(told["counts"]) in (3, 4), "two workers and what decodes need two or three nodes of one CPU"
    assert told["counts"][-1] == 1, "idle nodes are given back"
    assert told["refused"] == 2 and "needs 3.25 CPUs" in told["why"], told["why"]
    assert "scaling.wait_for_nodes=true" in told["why"]
