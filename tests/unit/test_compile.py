"""``torch.compile`` takes tokenizing and reconstructing as one graph each, and the results are those of eager mode.

Each test runs in a process of its own, without the type checks of the tests around every function.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.towers import FAMILIES, save_tower

SCRIPT = """
import sys
import torch
from setok.config import ClusteringConfig, TokenizerConfig
from setok.models.tokenizer import SeTok

DETOKENIZER = {"width": 48, "depth": 1, "flow": {"sampling_steps": 2, "depth": 1}}

def build(encoder, clustering, kind="pixels", merger={}):
    torch.manual_seed(0)
    config = {"image_size": 32, "encoder": encoder, "merger": merger, "detokenizer": DETOKENIZER | {"kind": kind}}
    model = SeTok(TokenizerConfig.model_validate(config | {"clustering": clustering})).eval().requires_grad_(False)
    if kind == "flow":  # it starts as no correction at all
        torch.nn.init.normal_(model.detokenizer.flow.to_velocity.weight, std=0.05)
    return model

def compiled(function, backend):
    torch._dynamo.reset()
    return torch.compile(function, backend=backend, fullgraph=True)

def same_tokens(model, images, backend, **arguments):
    tokenize = compiled(model.tokenize, backend)
    expected, found = model.tokenize(images, **arguments), tokenize(images, **arguments)
    for name in ("assignment", "mask"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.grid == expected.grid
    for name in ("scores", "features"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.tokens[found.mask], expected.tokens[found.mask], atol=1e-4, rtol=1e-4)
    return tokenize

def same_picture(model, images, backend, **arguments):
    reconstruct = compiled(model.reconstruct, backend)
    expected, found = model.reconstruct(images, **arguments), reconstruct(images, **arguments)
    assert found.dtype == torch.uint8 and expected.float().std() > 1
    assert (found.int() - expected.int()).abs().max() <= 1
    return reconstruct

images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
"""

METHODS = """
model = build({"width": 48}, {"max_tokens": 5, "feature_dim": 16})
tokenize = same_tokens(model, images, "aot_eager")
bias = model.encoder.norm.bias.clone()
model.encoder.norm.bias[0] = torch.nan
try:
    tokenize(images)
except RuntimeError as error:
    assert "NaN or infinity" in str(error), error
else:
    raise AssertionError("features that are not finite are taken")
model.encoder.norm.bias.copy_(bias)
same_picture(model, images, "aot_eager")
same_tokens(model, images, "eager", clustering=ClusteringConfig(max_tokens=3, feature_dim=16, assignment="hard"))
same_tokens(model, images, "eager", sizes=torch.tensor([[16, 32], [32, 8]]))
same_picture(model, images, "eager", sizes=torch.tensor([[16, 32], [32, 8]]))
for setting in (
    {"method": "dpc_knn"}, {"method": "cosine_graph"}, {"method": "grid"}, {"method": "kmeans", "num_iterations": 3},
    {"method": "resampler"},
):
    model = build({"width": 48, "depth": 0}, {"max_tokens": 4} | setting, merger={"inter_layers": 0})
    same_tokens(model, images, "eager")
print("done")
"""

FLOW = """
model = build({"width": 48}, {"max_tokens": 3}, "flow")
reconstruct = same_picture(model, images, "eager", seed=4)
plain = model.reconstruct(images, sampling_steps=0)
for seed in (5, 6):  # 5 makes the graph that takes any seed, and 6 finds it made
    found, expected = reconstruct(images, seed=seed), model.reconstruct(images, seed=seed)
    assert (found.int() - expected.int()).abs().max() <= 1
    assert (found.int() - plain.int()).abs().max() > 3
print("done")
"""

TOWERS = """
for path in sys.argv[1:]:
    model = build({"kind": "huggingface", "path": path}, {"max_tokens": 3}, merger={"inter_layers": 0})
    same_tokens(model, torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8), "eager")
print("done")
"""

WHOLE = """
model = build({"width": 48, "depth": 0}, {"max_tokens": 2}, merger={"inter_layers": 0})  # one block of each other kind
whole = torch.compile(model, fullgraph=True)  # the default backend, which writes and builds C++
(visual, painted), (expected, pixels) = whole(images), model(images)
assert torch.equal(visual.assignment, expected.assignment)
torch.testing.assert_close(painted, pixels, atol=1e-4, rtol=1e-4)
print("done")
"""


def run(script: str, repo_root: Path, *arguments: str) -> None:
    command = [sys.executable, "-c", SCRIPT + script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, cwd=repo_root)
    assert done.stdout.strip() == "done", done.stderr[-3000:]


@pytest.mark.parametrize("script", [METHODS, FLOW], ids=["methods", "flow"])
def test_tokenizing_and_reconstructing_are_one_graph(repo_root: Path, script: str) -> None:
    run(script, repo_root)


def test_the_model_compiles_with_the_default_backend(repo_root: Path) -> None:
    run(WHOLE, repo_root)


def test_on_every_pretrained_family(repo_root: Path, tmp_path: Path) -> None:
    for family in FAMILIES:
        save_tower(family, tmp_path / family, depth=2)
    run(TOWERS, repo_root, *(str(tmp_path / family) for family in FAMILIES))
