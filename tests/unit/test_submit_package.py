"""The package that travels to a cluster: the code, whole, and nothing that must stay."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from ray_jobs import submit
from ray_jobs.submitting import cluster, package
from ray_jobs.submitting.package import CONFIG, collect, write_zip
from setok.errors import ConfigError
from tests.submitted import folder, request

__all__ = ["folder"]


def test_code_travels_and_nothing_else(folder: Path) -> None:
    assert list(collect(folder).sizes) == sorted(
        [".gitignore", "README.md", "ray_jobs/train.py", "setok/data/plan.py", "tests/data/x.txt"]
    )
    (folder / ".rayignore").write_text("README.md\n")
    assert list(collect(folder, ["tests"]).sizes) == sorted(
        [".gitignore", ".rayignore", "ray_jobs/train.py", "setok/data/plan.py"]
    )


def test_keys_and_what_lies_outside_stay_at_home(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    before = list(collect(folder).sizes)
    for name in ("id_rsa", "keys/id_ed25519", ".aws/credentials", "cert.p12", "gcp/credentials.json", ".netrc"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("secret")
    outside = tmp_path_factory.mktemp("outside")
    (outside / "passwd").write_text("root")
    (folder / "setok" / "passwd").symlink_to(outside / "passwd")
    (folder / "more").symlink_to(outside)
    (folder / "weights" / "far").symlink_to(outside)  # ignored anyway
    (folder / "copy.md").symlink_to(folder / "README.md")
    found = collect(folder)
    assert list(found.sizes) == sorted([*before, "copy.md"])
    assert found.links == ("more", "setok/passwd")
    submit.show(request(), found)
    assert "more, setok/passwd: symbolic links that lead out" in capsys.readouterr().out.replace("\n", " ")


def test_the_repository_itself_is_small_and_complete(repo_root: Path) -> None:
    found = collect(repo_root)
    for name in ("setok/presets/tokenizer.yaml", "ray_jobs/train.py", "setok/data/plan.py", "constraints.txt"):
        assert name in found.sizes
    assert found.num_bytes < 20e6 and found.links == ()
    assert not [name for name in found.sizes if name.startswith((".venv", ".git/", "runs/"))]


def test_too_much_is_refused_with_the_largest_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "setok" / "model.safetensors").write_bytes(b"x" * 3_000_000)
    monkeypatch.setattr(package, "MOST_BYTES", 2_000_000)
    with pytest.raises(
        ConfigError, match=r"3\.0 MB in 6 files, and 2 MB may travel[\s\S]*3\.0 MB  setok/model\.saf"
    ) as raised:
        collect(folder)
    assert "--exclude" in raised.value.remedy
    assert "README.md" not in raised.value.problem, "it is not what makes the package large"
    monkeypatch.setattr(package, "LEAST_NAMED_BYTES", 5_000_000)
    with pytest.raises(ConfigError, match=r"setok/model\.saf[\s\S]*README.md"):
        collect(folder)
    assert collect(folder, ["*.safetensors"]).num_bytes < 1000


def test_a_folder_that_is_not_there_or_empty_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere is no folder[\s\S]*--working-dir"):
        collect(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="no file of"):
        collect(tmp_path)


def test_the_same_files_make_the_same_package(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    out = tmp_path_factory.mktemp("out")
    (folder / CONFIG).write_text("of an earlier submission")
    write_zip(collect(folder), "job: train\n", out / "1.zip")
    (folder / "README.md").touch()
    write_zip(collect(folder), "job: train\n", out / "2.zip")
    assert (out / "1.zip").read_bytes() == (out / "2.zip").read_bytes()
    with zipfile.ZipFile(out / "1.zip") as archive:
        assert archive.read(CONFIG) == b"job: train\n"
        assert archive.read("setok/data/plan.py") == b"setok/data/plan.py"


def test_dry_run_shows_names_and_no_values(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(cluster, "connect", lambda address: pytest.fail("a dry run sends nothing"))
    submit.main(["--config", "tokenizer", "--dry-run", "--env", "WANDB_API_KEY"])
    shown = capsys.readouterr().out
    assert "WANDB_API_KEY" in shown and "very-secret" not in shown
    assert "ray_jobs/train.py" in shown and "Nothing was sent" in shown
