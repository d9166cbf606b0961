"""A run of Setokim as one folder, with its adapters merged, gives what the run gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from setok import checkpoint
from setok.data.word_tokenizer import build_word_tokenizer
from setok.errors import CheckpointError
from setok.export import SETTINGS, export_setokim, export_tokenizer
from setok.models.setokim import Setokim
from setok.models.tokenizer import SeTok
from setok.predictor import Predictor, TokenizerPredictor
from setok.stages import SetokimTask
from tests.sequences import square
from tests.setokim_runs import config_of

WORDS = "what colour is the square ? red blue a on page draw Segment"


@pytest.mark.parametrize(
    ("train", "precision"), [("full", "fp32"), ("lora", "fp32"), ("frozen", "fp32"), ("full", "bf16")]
)
def test_export_and_load_in_one_line(tmp_path: Path, train: str, precision: str) -> None:
    build_word_tokenizer([WORDS], tmp_path / "words")
    lora = {"setokim__language_model__lora": {"rank": 4}} if train == "lora" else {}
    config = config_of(
        tmp_path / "words",
        output_dir=str(tmp_path),
        sequence__instructions="none",
        sequence__chat={"template": "plain"},
        setokim__language_model__train=train,
        train={"precision": precision},
        **lora,
    )
    torch.manual_seed(0)
    task = SetokimTask(config)
    with torch.no_grad():
        for parameter in task.parameters():
            if parameter.requires_grad:
                parameter.add_(0.02 * torch.randn(parameter.shape))
    state = checkpoint.TrainerState(step=1, samples=0, world_size=1)
    checkpoint.save(config.run_dir, config, {"model": checkpoint.copy_weights(task)}, {}, state)

    model = export_setokim(config.run_dir, tmp_path / "folder")
    assert isinstance(Setokim.from_pretrained(tmp_path / "folder"), Setokim)
    assert (tmp_path / "folder" / SETTINGS).is_file()
    assert model.language_model.new_tokens is None
    run, folder = Predictor.from_pretrained(config.run_dir), Predictor.from_pretrained(tmp_path / "folder")
    assert folder.bf16 == run.bf16 == (precision == "bf16")
    assert str(tmp_path) not in (tmp_path / "folder" / "config.json").read_text()
    assert folder.sequence == run.sequence == config.sequence
    pictures = [square("red", 4, 6)[0], square("blue", 14, 9)[0]]
    assert run.caption(pictures) == folder.caption(pictures)
    for one, other in zip(run.generate(["a red square"]), folder.generate(["a red square"]), strict=True):
        assert (one.int() - other.int()).abs().max() <= 1
    for one, other in zip(run.segment(pictures, ["a", "b"]), folder.segment(pictures, ["a", "b"]), strict=True):
        assert (one == other).float().mean() > 0.99
    draft = checkpoint.Draft("memory://exports/run", 1)
    draft.write_part({}, rank=0, world_size=1)
    draft.finish(config, {"model": checkpoint.copy_weights(task)}, state)
    stored = Predictor.from_pretrained("memory://exports/run")
    assert stored.caption(pictures) == run.caption(pictures), "an address does as well as a folder"
    tokenizer = export_tokenizer(config.run_dir, tmp_path / "setok")
    assert isinstance(tokenizer, SeTok)
    assert TokenizerPredictor.from_checkpoint(tmp_path / "setok").bf16 == run.bf16
    weights = SeTok.from_pretrained(tmp_path / "setok").state_dict()
    assert all(torch.equal(weights[name], value) for name, value in task.setokim.tokenizer.state_dict().items())


def test_what_is_no_setokim_is_refused(tmp_path: Path) -> None:
    from setok.config import TrainConfig, build
    from setok.models.concepts import build_concept_encoder
    from setok.stages import TokenizerTask
    from tests.sequences import setok_config

    tree = {"name": "t", "output_dir": str(tmp_path), "model": setok_config().model_dump()}
    config = build(TrainConfig, tree | {"data": {"train": [{"path": "x"}]}, "scaling": {"num_workers": 0}})
    task = TokenizerTask(config, build_concept_encoder(config.concepts).dim)
    state = checkpoint.TrainerState(step=1, samples=0, world_size=1)
    checkpoint.save(config.run_dir, config, {"model": checkpoint.copy_weights(task)}, {}, state)
    with pytest.raises(CheckpointError, match=r"stage tokenizer(.|\n)*export_tokenizer"):
        export_setokim(config.run_dir, tmp_path / "folder")
    (tmp_path / "file").touch()
    for export in (export_setokim, export_tokenizer):
        with pytest.raises(CheckpointError, match=r"file is a file(.|\n)*new folder"):
            export(config.run_dir, tmp_path / "file" / "folder")
    with pytest.raises(CheckpointError, match=r"stage tokenizer(.|\n)*TokenizerPredictor"):
        Predictor.from_pretrained(config.run_dir)
