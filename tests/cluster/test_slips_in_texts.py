"""Slips of the pen in the Dockerfile, in texts with commands, in units of systemd, and in YAML itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from ray_jobs.manifests import check_files
from tests.cluster.conftest import Mistyped
from tests.cluster.slips import expect


@pytest.mark.parametrize(
    ("before", "after", "what", "remedy"),
    [
        ("FROM python:3.11.14-slim", "FROM python:latest", "may be another image tomorrow", "full version"),
        ("FROM python:3.11.14-slim", "FROM python:3.13.2-slim", "Python is 3.13 here and 3.11", "FROM python:3.11"),
        ("USER 1000:1000", "USER root", "run as root", "1000:1000"),
        ("useradd --uid 1000", "useradd --uid 1001", "the user 1001 is made, and USER is 1000", "make the user 1000"),
        ("groupadd --gid 1000", "groupadd -g 100", "the group 100 is made, and USER is 1000", "make the group 1000"),
        ("USER 1000:1000", "USER 1000:1002", "the group 1000 is made, and USER is 1002", "make the group 1002"),
        ("ARG TORCH=2.13.0", "ARG TORCH=2.12.0", "torch is 2.12.0 here and 2.13.0", "ARG TORCH=2.13.0"),
        (" -c constraints.txt", "", "newest", "-c constraints.txt"),
        ("COPY setok ./setok", "COPY tests ./tests", "tests is not sent", "!tests"),
        ("COPY setok ./setok", "COPY setokk ./setok", "there is no setokk", "root of the repository"),
        (
            "SETOK_CACHE=/cache",
            "SETOK_CAHCE=/cache",
            "nothing reads the environment variable SETOK_CAHCE",
            "SETOK_CACHE",
        ),
        ("PYTHONUNBUFFERED=1", "HF_TOKEN=hf_abc", "the value of HF_TOKEN", "~/.setok"),
    ],
)
def test_a_slip_in_the_dockerfile(before: str, after: str, what: str, remedy: str, mistyped: Mistyped) -> None:
    expect(mistyped("Dockerfile", before, after), "Dockerfile", "", what, remedy)


def test_a_dockerfile_away_from_its_repository(tmp_path: Path, repo_root: Path) -> None:
    copy = tmp_path / "Dockerfile"
    copy.write_text((repo_root / "cluster" / "Dockerfile").read_text())
    report = check_files([copy], root=tmp_path)
    assert ["versions" in told and "constraints.txt" in told for told in report.not_checked] == [True]
    expect(report.problems, "Dockerfile", "COPY", "there is no setok", "root of the repository")


@pytest.mark.parametrize(
    ("line", "what", "remedy"),
    [
        ("    python -m ray_jobs.serv --config serve", "no such module", "'ray_jobs.serve'"),
        ("run `python -m ray_jobs.train --config tokeniser`", "'tokeniser'", "'tokenizer'"),
        (
            "    python -m ray_jobs.train \\\n      --config tokenizer --set train.stpes=3",
            "'train.stpes': did you mean 'steps'",
            "--print-config",
        ),
        ("    python -m ray_jobs.train --config tokenizer --dryrun", "no flag --dryrun", "'--dry-run'"),
        ("    python -m ray_jobs.train --config instruct_demo --set 'name=x", "shell", "quotes"),
        ("    python -m ray_jobs.train --config ingest", "job: ingest", "ray_jobs.ingest"),
        ("    python -m ray_jobs.train --config tokenizer --set train.steps", "no form key=value", "train.steps=1000"),
    ],
)
def test_a_slip_in_a_text(line: str, what: str, remedy: str, tmp_path: Path, repo_root: Path) -> None:
    text = tmp_path / "README.md"
    text.write_text(f"# Title\n\n{line}\n")
    problems = list(check_files([text], root=repo_root).problems)
    assert [problem.path for problem in problems] == ["line 3"], problems
    expect(problems, "README.md", "", what, remedy)


@pytest.mark.parametrize(
    "line",
    [
        "    python -m ray_jobs.train --config NAME --set KEY=VALUE …",
        "    python -m ray_jobs.train --config tokenizer && python -m ray_jobs.train --config mine.yaml  # whatever",
        "    ray job submit --working-dir . -- python -m ray_jobs.train --config tokenizer --set output_dir=/x > log 2>&1",
        "`python -m ray_jobs.{ingest,train}` and `python -m json.tool` are no commands of ours",
    ],
)
def test_what_is_no_slip(line: str, tmp_path: Path, repo_root: Path) -> None:
    text = tmp_path / "README.md"
    text.write_text(line)
    assert not check_files([text], root=repo_root).problems


@pytest.mark.parametrize(
    ("before", "after", "path", "what", "remedy"),
    [
        ("--ray /opt", "--rays /opt", "line 7", "spot_watcher.py has no flag --rays", "'--ray'"),
        ("spot_watcher.py --ray", "spot_watcher.py --cloud awz --ray", "line 7", "invalid choice: 'awz'", "--help"),
        ("cluster/spot_watcher.py", "cluster/spot_wacher.py", "line 7", "does not start spot_watcher.py", "ExecStart="),
        ("/usr/bin/python3", "python3", "line 7", "['python3']", "whole path"),
        ("python3 /opt", "python3 -mu /opt", "line 7", "python3 -mu does not run spot_watcher.py", "leave -mu out"),
        ("python3 /opt", "python3 --unbuffered /opt", "line 7", "python3 --unbuffered does not run", "leave --unb"),
        ("python3 /opt", "python3 -V /opt", "line 7", "python3 -V does not run", "leave -V out"),
        ("python3 /opt", "python3 u /opt", "line 7", "python3 u does not run", "leave u out"),
        ("--ray /opt/setok/.venv/bin/ray", "--ray ray", "line 7", "--ray ray", "/bin/ray"),
        ("[Service]", "[Servce]", "line 6", "passes over a section 'Servce'", "'Service'"),
        ("ExecStart=", "ExecStrat=", "", "there is no ExecStart", "ExecStart="),
    ],
)
def test_a_slip_in_the_unit_of_systemd(
    before: str, after: str, path: str, what: str, remedy: str, mistyped: Mistyped
) -> None:
    expect(mistyped("spot-watcher.service", before, after), "spot-watcher.service", path, what, remedy)


@pytest.mark.parametrize("flags", ["-u", "-uB", "-W ignore", "-Wignore -X dev", "-uX dev"])
def test_what_python_takes_before_a_script(flags: str, mistyped: Mistyped) -> None:
    assert not mistyped("spot-watcher.service", "python3 /opt", f"python3 {flags} /opt")


@pytest.mark.parametrize(
    ("before", "after", "told_at", "what", "remedy"),
    [
        (
            "  port: 8000",
            "\tport: 8000",
            "port: 8000",
            "a tab, which YAML takes for no indentation: 'port: 8000'",
            "with spaces",
        ),
        ("  port: 8000", "   port: 8000", "port: 8000", "a key where a value was expected: 'port: 8000'", "neighbours"),
        ("  host: 0.0.0.0\n", "    host: 0.0.0.0\n", "port: 8000", "indented differently", "the same indentation"),
        ("  - name: setok", "   - name: setok", "route_prefix: /", "indented differently", "the same indentation"),
        (
            "replicas.gpus: 1",
            "replicas.gpus: [1",
            "replicas.gpus: 1",
            "a bracket or brace that nothing closes",
            "close it",
        ),
        ("config: serve", 'config: "serve', "config: serve", "a quotation mark that nothing closes", "close it"),
        ("config: serve", "config: *serve", "config: serve", "undefined alias 'serve'", "&NAME"),
        ("config: serve", "config: @serve", "config: serve", "a character that a value may not begin with", "quote"),
        (
            "import_path: ray",
            "import_path ray",
            "import_path: ray",
            "a key without its colon: 'import_path ray",
            "key: value",
        ),
        ("config: serve", "config serve", "set:", "a key where a value was expected: 'set:'", "line above"),
    ],
)
def test_what_is_no_yaml(
    before: str, after: str, told_at: str, what: str, remedy: str, mistyped: Mistyped, repo_root: Path
) -> None:
    (problem,) = mistyped("serve.yaml", before, after)
    lines = (repo_root / "cluster" / "serve.yaml").read_text("utf-8").splitlines()
    (number,) = (number for number, line in enumerate(lines, 1) if told_at in line)
    expect([problem], "serve.yaml", f"line {number}", what, remedy)
