"""The evaluate job without Ray: what it asks, what it writes, how it goes on after it was stopped, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.evaluate import describe, evaluate, main
from ray_jobs.evaluation import files
from ray_jobs.evaluation.files import ANSWERS
from ray_jobs.evaluation.preflight import labels_of
from ray_jobs.evaluation.setokim_files import read_examples
from ray_jobs.reporting.comparison import headlines
from ray_jobs.scoring import command
from setok import checkpoint
from setok.config import EvaluateConfig, TrainConfig, build
from setok.data.word_tokenizer import texts_of_set
from setok.errors import CheckpointError, ConfigError, DataError
from setok.models.concepts import build_concept_encoder
from setok.stages import TokenizerTask
from tests.evaluations import Here, write_official_set
from tests.sequences import setok_config
from tests.setokim_runs import write_run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, data: Path) -> dict[str, Path]:
    """An untrained tokenizer and an untrained Setokim."""
    root = tmp_path_factory.mktemp("runs")
    tree = {"name": "tokenizer", "output_dir": str(root), "model": setok_config().model_dump()}
    more = {"data": {"train": [{"path": "nowhere"}]}, "train": {"global_batch_size": 8, "micro_batch_size": 4}}
    config = build(TrainConfig, tree | more)
    task = TokenizerTask(config, build_concept_encoder(config.concepts).dim)
    state = checkpoint.TrainerState(step=1, samples=0, world_size=1)
    checkpoint.save(config.run_dir, config, {"model": checkpoint.copy_weights(task)}, {}, state)
    words = " ".join(texts_of_set(data))
    return {"tokenizer": config.run_dir, "setokim": write_run(root / "s", words, sequence__max_length=120)}


def config_of(output: Path, run: Path, data: Path, **settings: Any) -> EvaluateConfig:
    tree = {"name": "e", "output_dir": str(output), "checkpoint": str(run), "data": str(data), "batch_size": 5}
    short = {} if run.name == "tokenizer" else {"max_new_tokens": 3}
    return build(EvaluateConfig, tree | short | {"num_pictures": 6, "num_threads": 1} | settings)


def of_files(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, bytes]:
    """Contents of all files, but for what says how long it took."""
    found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name not in (*without, files.CONFIG)}


def scored(folder: Path, task: str, file: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """What the command ``score`` says of what was written."""
    capsys.readouterr()
    where = [str(folder / kind / file) for kind in ("predictions", "annotations")]
    command.main(["--task", task, "--predictions", where[0], "--annotations", where[1]])
    figures: dict[str, Any] = json.loads(capsys.readouterr().out)["figures"]
    return figures


def test_every_task_that_a_set_allows(
    tmp_path: Path,
    runs: dict[str, Path],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Here(monkeypatch)
    metrics = evaluate(config_of(tmp_path, runs["setokim"], data, tasks=["all"]))
    folder = tmp_path / "e"
    asked = ["vqa", "caption", "segment", "generate", "edit", "vqav2", "pope", "coco_caption", "refcoco", "editing"]
    assert metrics["run"]["tasks"] == asked
    assert metrics["num_skipped"] == 1 and metrics["vqa"]["num_unanswered"] == 1
    assert metrics["vqa"]["num"] == 12 and metrics["vqav2"]["num_samples"] == 8
    for task, file in (
        ("vqav2", "vqav2.json"),
        ("coco_caption", "coco_caption.json"),
        ("refcoco", "refcoco.jsonl"),
        ("editing", "editing"),
    ):
        assert scored(folder, task, file, capsys) == metrics[task], task
    by_part = metrics["pope"]["by_part"]
    for part in ("random", "popular"):
        assert scored(folder, "pope", f"pope-{part}.jsonl", capsys) == by_part[part]
    assert metrics["pope"]["accuracy"] == (by_part["random"]["accuracy"] + by_part["popular"]["accuracy"]) / 2
    assert metrics["editing"]["l1"] == pytest.approx(metrics["edit"]["l1"])
    kinds = [(case["task"], case["kind"]) for case in read_examples(folder)]
    assert kinds.count(("edit", "best")) == kinds.count(("edit", "worst")) == kinds.count(("vqa", "random")) == 2
    rows = [json.loads(line) for line in (folder / ANSWERS).read_text().splitlines()]
    assert [row["id"] for row in rows if row["task"] == "unreadable"] == ["broken"]
    assert not (folder / "samples").exists()
    table = (folder / "table.md").read_text()
    assert "| vqa (12) | Answers right, % |" in table and "| pope (4) | Accuracy, % |" in table
    assert "<h2>All figures</h2>" in (folder / "report.html").read_text()
    assert any(line.startswith("refcoco (8): cIoU, % ") for line in headlines(metrics))


def test_what_was_stopped_goes_on_and_ends_the_same(
    tmp_path: Path, runs: dict[str, Path], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stage, tasks in (("setokim", ["all"]), ("tokenizer", ["tokens", "reconstruction"])):
        config = config_of(tmp_path / "whole", runs[stage], data, tasks=tasks, name=stage)
        whole = Here(monkeypatch)
        metrics = evaluate(config)
        cut = config_of(tmp_path / "cut", runs[stage], data, tasks=tasks, name=stage)
        with pytest.raises(KeyboardInterrupt):
            evaluate(cut) if Here(monkeypatch, dies_at=3) else None
        assert not (cut.run_dir / files.METRICS).exists()
        with pytest.raises(ConfigError, match="unfinished evaluation of something else: seed was 0 and is 1"):
            evaluate(cut.model_copy(update={"seed": 1}))
        again = Here(monkeypatch)
        found = evaluate(cut)
        assert again.asked == whole.asked[3:], "finished samples were asked again"
        assert {k: v for k, v in found.items() if k != "run"} == {k: v for k, v in metrics.items() if k != "run"}
        first, second = (of_files(c.run_dir, without=(files.METRICS, "report.html")) for c in (config, cut))
        assert first == second and len(first) > 4
        nothing = Here(monkeypatch)
        evaluate(cut.model_copy(update={"num_replicas": 7}))
        assert nothing.asked == [], "replicas change no figure"
        assert evaluate(cut) == found and not nothing.asked
        kept = of_files(cut.run_dir)
        with pytest.raises(ConfigError, match="finished evaluation of something else: limit was None and is 5"):
            evaluate(cut.model_copy(update={"limit": 5}))
        other = write_run(tmp_path / "other", "where is the square red", sequence__max_length=120, name="other")
        with pytest.raises(ConfigError, match=r"finished evaluation of something else: .*checkpoint was"):
            evaluate(cut.model_copy(update={"checkpoint": str(other), "tasks": ()}))
        assert of_files(cut.run_dir) == kept, "what is measured is not lost by a slip"


def test_checkpoints_side_by_side(
    tmp_path: Path, runs: dict[str, Path], data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Here(monkeypatch)
    other = write_run(tmp_path / "o", "where is the square red", sequence__max_length=120, name="other")
    config = config_of(tmp_path, runs["setokim"], data, beside=[str(other)], tasks=["vqa", "pope"], limit=36)
    metrics = evaluate(config)
    assert list(metrics["checkpoints"]) == ["tiny", "other"]
    assert json.loads((tmp_path / "e" / files.METRICS).read_text()) == metrics
    for label, own in metrics["checkpoints"].items():
        assert json.loads((tmp_path / "e" / label / files.METRICS).read_text()) == own
    assert (tmp_path / "e" / "table.md").read_text().startswith("| task | figure | tiny | other |\n")
    page = (tmp_path / "e" / "report.html").read_text()
    assert "<h2>Questions: tiny</h2>" in page and "<h2>Questions: other</h2>" in page


def test_a_tokenizer_for_a_benchmark_alone(
    tmp_path: Path,
    runs: dict[str, Path],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Here(monkeypatch)
    both = evaluate(config_of(tmp_path, runs["tokenizer"], data, tasks=["tokens", "reconstruction"], limit=9))
    assert both["reconstruction"]["psnr"] == pytest.approx(both["psnr"], abs=1e-9)
    assert both["reconstruction"]["num_samples"] == both["num_images"] == 9
    alone = evaluate(config_of(tmp_path, runs["tokenizer"], data, tasks=["reconstruction"], limit=9, name="alone"))
    assert alone.keys() == {"reconstruction", "run"} and alone["reconstruction"] == both["reconstruction"]
    assert scored(tmp_path / "alone", "reconstruction", "reconstruction", capsys) == alone["reconstruction"]
    page = (tmp_path / "alone" / "report.html").read_text()
    assert "<h2>Pictures: tokenizer</h2>" in page and "Best" in page


# ---------------------------------------------------------------- refusals


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path, runs: dict[str, Path], data: Path) -> None:
    config = config_of(
        tmp_path,
        runs["tokenizer"],
        data,
        beside=[str(tmp_path / "nothing_here")],
        tasks=["vqav3", "nocaps", "pope", "fid"],
        networks={"lpips": str(tmp_path / "no.safetensors")},
        guidance=2.0,
    )
    with pytest.raises(ConfigError) as told:
        evaluate(config)
    for part in (
        "9 things are wrong",
        "task 'vqav3' is unknown: did you mean 'vqav2'",
        "task 'nocaps' can only be scored",
        "networks.lpips: there is no",
        "networks.lpips has no part in these tasks",
        "task 'fid' needs the weights of inception",
        "guidance=2.0 has no part",
        "task 'pope' needs the checkpoint of Setokim",
        "nothing_here",
    ):
        assert part in str(told.value), part


def test_one_thing_that_is_wrong_is_told_as_what_it_is(tmp_path: Path, runs: dict[str, Path], data: Path) -> None:
    run, nothing = runs["setokim"], tmp_path / "nothing"
    with pytest.raises(CheckpointError, match="nothing"):
        evaluate(config_of(tmp_path, nothing, data))
    with pytest.raises(DataError, match="does not exist"):
        evaluate(config_of(tmp_path, run, nothing))
    with pytest.raises(DataError, match=r"'mme' finds nothing in .*vqa records of mme\n.*1 vqa of s, 9 vqa of vqav2"):
        evaluate(config_of(tmp_path, run, data, tasks=["mme"]))
    with pytest.raises(DataError, match=r"the first 2 records of .* finds|'edit' finds nothing in the first 2 records"):
        evaluate(config_of(tmp_path, run, data, tasks=["edit"], limit=2))
    for again in (str(run), f"{run}/."):
        with pytest.raises(ConfigError, match="one checkpoint, named twice"):
            evaluate(config_of(tmp_path, run, data, beside=[again]))
    with pytest.raises(ConfigError, match="go together"):
        config_of(tmp_path, run, data, tasks=["fid"], networks={"inception": "x"})
    with pytest.raises(
        ConfigError, match=r"'tokens' needs the checkpoint of a tokenizer, and there is .* \(stage=pretrain"
    ):
        evaluate(config_of(tmp_path, run, data, tasks=["tokens"]))


@pytest.mark.parametrize(
    ("kind", "clustering", "expected"),
    [
        (
            "setokim",
            {"stop_mass": 4.0},
            r"clustering=.* is for tokenizers, and .*stage=pretrain(.|\n)*that it started from",
        ),
        ("tokenizer", {"stop_mas": 4.0}, r"tokenizer: .*no 'stop_mas'(.|\n)*did you mean 'stop_mass'"),
        (
            "tokenizer",
            {"stop_mass": -1.0},
            r"stop_mass=-1.0 is no setting of the clustering: .*greater than or equal to 0",
        ),
        ("tokenizer", {"score_threshold": 0.5}, r"score_threshold=0.5 has no part in clustering.method=stick_breaking"),
        ("tokenizer", {"feature_dim": 3}, r"feature_dim=3 is not that of the model"),
    ],
)
def test_a_clustering_that_cannot_be_is_refused(
    tmp_path: Path, runs: dict[str, Path], data: Path, kind: str, clustering: dict[str, Any], expected: str
) -> None:
    with pytest.raises(ConfigError, match=expected):
        evaluate(config_of(tmp_path, runs[kind], data, clustering=clustering))


def test_names_of_checkpoints() -> None:
    assert labels_of(["runs/a/tokenizer", "runs/b/tokenizer@best"]) == ["tokenizer", "tokenizer@best"]
    assert labels_of(["runs/a/tokenizer", "./runs/b/tokenizer"]) == ["a", "b"]
    assert labels_of(["runs/a/x/1", "runs/b/x/2", "runs/b/y/2"]) == ["x-1", "x-2", "y-2"]
    assert labels_of(["s3://x/run"]) == ["run"]
    assert labels_of(["runs/a+b", "runs/a_b"]) == ["runs-a_b-1", "runs-a_b-2"]
    assert labels_of(["runs/a/tokenizer/checkpoints/step_00001000", "runs/a/tokenizer"]) == [
        "tokenizer-step-1000",
        "tokenizer",
    ]


def test_the_command(
    tmp_path: Path,
    runs: dict[str, Path],
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run(*argv: str) -> str:
        monkeypatch.setattr("sys.argv", ["evaluate", *argv])
        with pytest.raises(SystemExit) as ended:
            main()
        assert not ended.value.code
        return capsys.readouterr().out

    assert "groups, of which" in run("--tasks", "list")
    given = ("--checkpoints", str(runs["setokim"]), "--data", str(data), "--tasks", "vqa,pope", "--limit", "36")
    assert "vqa, pope; 36 of 38 rows" in run(*given, "--dry-run").replace("\n", " ")
    printed = run(*given, "--print-config", "--set", "batch_size=3")
    assert "batch_size: 3" in printed and "limit: 36" in printed and "- pope" in printed
    old = run("--config", "evaluate", "--set", f"checkpoint={runs['setokim']}", f"data={data}", "--dry-run")
    assert "vqa, caption, segment, generate, edit; 38 of 38 rows" in old.replace("\n", " ")
    describe(config_of(tmp_path, runs["setokim"], data))
