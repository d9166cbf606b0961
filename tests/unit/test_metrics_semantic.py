"""Token-to-noun retrieval, token counts and complexity, likeness of edits, and what class features tell."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from setok.errors import CheckpointError, DataError
from setok.metrics.classification import LabelledFeatures, class_embeddings, linear_probe, top1_rows, zero_shot
from setok.metrics.editing import feature_similarity, picture_rows
from setok.metrics.running import INDEX, ImageRows
from setok.metrics.semantic import (
    counts_by_complexity,
    edge_density,
    noun_recall,
    rank_correlation,
    token_precision,
)

# ---------------------------------------------------------------- nouns


def test_nouns_by_hand() -> None:
    similarity = torch.tensor([[[0.9, 0.5, 0.1], [0.2, 0.3, 0.8], [0.0, 9.0, 0.0]]]).repeat(3, 1, 1)
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    present = torch.tensor([[True, True, False]] * 3)
    recall = noun_recall(similarity, mask, present, 1)
    assert recall[:2].tolist() == [0.5, 1.0] and recall[2].isnan()  # noun 1 is only nearest to the token that is masked
    assert noun_recall(similarity, mask, present, 2)[0] == 1.0  # it is second for the first token
    precision = token_precision(similarity, mask, present)
    assert precision[:2].tolist() == pytest.approx([1 / 2, 2 / 3]) and precision[2].isnan()
    assert token_precision(similarity, mask, torch.zeros_like(present)).isnan().all()


@given(st.integers(0, 2**31), st.integers(1, 4))
def test_nouns_against_loops(seed: int, k: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    similarity = torch.rand(4, 5, 6, generator=generator)
    mask = torch.rand(4, 5, generator=generator) < 0.7
    present = torch.rand(4, 6, generator=generator) < 0.4
    recall, precision = noun_recall(similarity, mask, present, k), token_precision(similarity, mask, present)
    for i in range(4):
        nouns = {n for n in range(6) if present[i, n]}
        tokens = [t for t in range(5) if mask[i, t]]
        near = {t: sorted(range(6), key=lambda n, t=t: -similarity[i, t, n].item()) for t in tokens}
        if not nouns or not tokens:
            assert recall[i].isnan() and precision[i].isnan()
            continue
        found = nouns & {n for t in tokens for n in near[t][:k]}
        assert recall[i].item() == pytest.approx(len(found) / len(nouns))
        assert precision[i].item() == pytest.approx(sum(near[t][0] in nouns for t in tokens) / len(tokens))


# ---------------------------------------------------------------- complexity


def test_edges_by_hand() -> None:
    pixels = torch.zeros(2, 3, 2, 2)
    pixels[1, 1] = torch.tensor([[0.0, 1.0], [0.0, 1.0]])  # green: two steps of luma 0.587 to the side, none downwards
    assert edge_density(pixels).tolist() == pytest.approx([0, 0.587 / 2])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=20))
def test_rank_correlation_is_scipys(pairs: list[tuple[int, int]]) -> None:
    x, y = np.array(pairs, dtype=np.float64).T
    if len(set(x)) == 1 or len(set(y)) == 1:
        assert rank_correlation(x, y) == 0
        return
    assert rank_correlation(x, y) == pytest.approx(scipy.stats.spearmanr(x, y).statistic, abs=1e-12)


def test_counts_follow_complexity() -> None:
    complexity = np.array([4.0, 1, 3, 2, np.nan, 5])
    tokens = np.array([16.0, 1, 9, 4, 7, np.nan])
    figures = counts_by_complexity(tokens, complexity, parts=2)
    assert figures["spearman"] == pytest.approx(1.0)
    assert figures["pearson"] == pytest.approx(np.corrcoef([1, 2, 3, 4], [1, 4, 9, 16])[0, 1])
    assert figures["mean_tokens"] == [2.5, 12.5]
    none = counts_by_complexity(tokens[:0], complexity[:0])
    assert none == {"pearson": None, "spearman": None, "mean_tokens": [None] * 4}


# ---------------------------------------------------------------- edits


def test_picture_rows_merge_by_image() -> None:
    target = torch.rand(4, 3, 16, 16)
    pixels = (target + 0.1 * torch.rand(4, 3, 16, 16)).clamp(0, 1)

    def brightest(picture: torch.Tensor) -> torch.Tensor:
        return picture.amax((2, 3))

    def gap(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return (one - other).abs().amax((1, 2, 3))

    def rows(part: slice) -> ImageRows:
        found = ImageRows()
        columns = picture_rows(pixels[part], target[part], distances={"lpips": gap}, features={"clip_i": brightest})
        found.update({INDEX: np.arange(4)[part], **columns})
        return found

    whole = rows(slice(0, 4)).compute()
    assert rows(slice(2, 4)).merge(rows(slice(0, 2))).compute() == whole
    assert whole["l2"] == pytest.approx((pixels - target).double().pow(2).mean().item())
    assert whole["lpips"] == pytest.approx(gap(pixels, target).double().mean().item())
    assert set(whole) == {"psnr", "ssim", "l1", "l2", "lpips", "clip_i"}


def test_feature_similarity_is_a_cosine() -> None:
    one, other = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[6.0, 8.0], [0.0, 2.0]])
    assert feature_similarity(one, other).tolist() == pytest.approx([1, 0])


# ---------------------------------------------------------------- classes


def test_zero_shot_by_hand() -> None:
    prompts = torch.tensor([[[10.0, 0.0], [0.0, 1.0]], [[-1.0, 0.0], [-1.0, 0.0]]])
    classes = class_embeddings(prompts)  # a long prompt counts no more than a short one
    assert classes.tolist() == [pytest.approx([0.5**0.5, 0.5**0.5]), pytest.approx([-1, 0])]
    assert zero_shot(torch.tensor([[0.0, 5.0], [-3.0, 0.1]]), classes).tolist() == [0, 1]
    rows = ImageRows()
    rows.update(top1_rows(np.arange(2), np.array([0, 1]), np.array([0, 0])))
    assert rows.compute() == {"top1": 0.5}


def test_linear_probe_whatever_the_order() -> None:
    generator = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = generator.normal(size=(60, 4)) + 3 * np.eye(4)[labels]

    def gathered(parts: list[np.ndarray]) -> LabelledFeatures:
        total = LabelledFeatures()
        for part in parts:
            one = LabelledFeatures()
            one.update(part, features[part], labels[part])
            total.merge(one)
        return total

    train = gathered([np.arange(40)])
    shuffled = gathered([part.copy() for part in np.array_split(generator.permutation(40), 3)])
    test = gathered([np.arange(40, 60)])
    np.testing.assert_array_equal(shuffled.arrays()[0], features[:40])
    accuracy = linear_probe(train, test)
    assert accuracy == linear_probe(shuffled, test) >= 0.85
    with pytest.raises(DataError, match="picture number 3 was added twice"):
        gathered([np.array([3]), np.array([3])]).arrays()
    with pytest.raises(DataError, match="no features"):
        LabelledFeatures().arrays()


# ---------------------------------------------------------------- networks


@pytest.mark.parametrize("kind", ["clip", "dino"])
def test_picture_features_of_a_saved_network(tmp_path: Path, kind: Literal["clip", "dino"]) -> None:
    from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

    from setok.models.picture_features import load_picture_features

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    if kind == "clip":
        vision = {**small, "intermediate_size": 16}
        text = {
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "vocab_size": 9,
        }
        network = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    else:
        network = Dinov2Model(Dinov2Config(**small, mlp_ratio=1)).eval()
    network.save_pretrained(tmp_path)
    settings = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.3]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    features = load_picture_features(tmp_path, kind)
    pixels = torch.rand(2, 3, 28, 28)
    normal = (pixels - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.2, 0.3]).view(3, 1, 1)
    with torch.no_grad():
        if kind == "clip":
            expected = network.visual_projection(network.vision_model(normal).pooler_output)
        else:
            expected = network(normal).last_hidden_state[:, 0]
    torch.testing.assert_close(features(pixels), expected, rtol=1e-4, atol=1e-5)
    wide = torch.cat([torch.zeros(2, 3, 28, 14), pixels, torch.zeros(2, 3, 28, 14)], -1)
    torch.testing.assert_close(features(wide), features(pixels), rtol=1e-4, atol=1e-5)  # the middle square
    assert features(torch.rand(1, 3, 50, 90)).shape == expected[:1].shape


def test_picture_features_that_are_not_there(tmp_path: Path) -> None:
    from setok.models.picture_features import load_picture_features

    with pytest.raises(
        CheckpointError, match=r"no config.json and preprocessor_config.json(.|\n)*clip-vit-base-patch32"
    ):
        load_picture_features(tmp_path, "clip")


def test_networks_with_drawn_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import Dinov2Config, Dinov2Model

    from setok.models.picture_features import load_picture_features

    config = Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    Dinov2Model(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}')
    weights = load_file(tmp_path / "model.safetensors")
    del weights["embeddings.cls_token"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks 1 weight\(s\) of its network, such as embeddings.cls_token"):
        load_picture_features(tmp_path, "dino")
    with pytest.raises(CheckpointError, match="holds a network of type 'dinov2', which is no CLIP"):
        load_picture_features(tmp_path, "clip")
    weights["embeddings.cls_token"] = torch.zeros(1, 1, 5)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"cannot be loaded|lacks 1 weight"):
        load_picture_features(tmp_path, "dino")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        load_picture_features(tmp_path, "dino")
