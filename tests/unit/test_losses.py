"""Loss terms against hand-made references and the goldens of VQGAN's code."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from setok.config import DiscriminatorConfig
from setok.losses import (
    adaptive_adversarial_weight,
    concept_contrast,
    hinge_discriminator,
    patch_statistics,
    pixel_loss,
)
from setok.models.discriminator import Discriminator


def test_pixel_loss_is_one_mean_per_image() -> None:
    a, b = torch.rand(3, 3, 4, 4), torch.rand(3, 3, 4, 4)
    torch.testing.assert_close(pixel_loss(a, b, 1).mean(), F.l1_loss(a, b))
    torch.testing.assert_close(pixel_loss(a, b, 2).mean(), F.mse_loss(a, b))


def contrast_reference(tokens, mask, concepts, present, temperature) -> list[float]:
    """One image, one concept at a time."""
    losses = []
    for image in range(len(tokens)):
        logits = []
        for concept in concepts:
            similarity = np.array([float(concept @ t) for t in tokens[image][mask[image]]])
            weight = np.exp(similarity - similarity.max())
            pooled = (weight / weight.sum()) @ tokens[image][mask[image]].numpy()
            logits.append(float(pooled / np.linalg.norm(pooled) @ concept.numpy()) / temperature)
        negatives = [np.exp(logits[c]) for c in range(len(concepts)) if not present[image, c]]
        positives = [np.exp(logits[c]) for c in range(len(concepts)) if present[image, c]]
        losses.append(sum(-np.log(p / (p + sum(negatives))) for p in positives))
    return losses


def test_concept_contrast_equals_the_brute_force() -> None:
    torch.manual_seed(0)
    tokens, mask = torch.randn(3, 5, 8), torch.rand(3, 5) > 0.3
    mask[:, 0] = True
    concepts = F.normalize(torch.randn(6, 8), dim=-1)
    present = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 1]], dtype=torch.bool)
    loss, match = concept_contrast(tokens, mask, concepts, present, 0.1)
    np.testing.assert_allclose(
        loss.numpy(), contrast_reference(tokens, mask, concepts, present, 0.1), rtol=1e-4, atol=1e-5
    )
    assert match.abs().max() <= 1.0 + 1e-6


def test_concept_contrast_without_negatives_is_zero_and_not_nan() -> None:
    tokens = torch.randn(2, 3, 4, requires_grad=True)
    everything = torch.ones(2, 5, dtype=torch.bool)
    concepts = F.normalize(torch.randn(5, 4), dim=-1)
    loss, _ = concept_contrast(tokens, torch.ones(2, 3, dtype=torch.bool), concepts, everything, 0.1)
    loss.sum().backward()
    assert loss.abs().max().item() < 1e-6
    assert torch.isfinite(tokens.grad).all()


def test_patch_statistics_by_hand() -> None:
    patches = torch.rand(2, 12, 3, 16)
    statistics = patch_statistics(patches, (3, 4), ("mean", "deviation", "edges", "context"))
    assert statistics.shape == (2, 12, 14)
    torch.testing.assert_close(statistics[..., :3], patches.mean(-1))
    torch.testing.assert_close(statistics[..., 3:6], patches.std(-1, unbiased=False), atol=1e-4, rtol=1e-4)
    square = patches[0, 5].reshape(3, 4, 4)
    assert statistics[0, 5, 6].item() == pytest.approx(
        (square[:, :, 1:] - square[:, :, :-1]).abs().mean().item(), rel=1e-5
    )
    assert statistics[0, 5, 7].item() == pytest.approx((square[:, 1:] - square[:, :-1]).abs().mean().item(), rel=1e-5)
    around = torch.stack([patches[0, r * 4 + c] for r in (0, 1, 2) for c in (0, 1, 2)], dim=1)  # of patch (1, 1)
    torch.testing.assert_close(statistics[0, 5, 8:11], around.mean((1, 2)))
    torch.testing.assert_close(statistics[0, 5, 11:], around.flatten(1).std(-1, unbiased=False), atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------- goldens of taming-transformers


@pytest.fixture(scope="module")
def golden(realdata):
    folder = realdata / "golden" / "algorithms"
    arrays = np.load(folder / "taming_gan.npz")
    expected = json.loads((folder / "taming_gan_expected.json").read_text())
    return {key: torch.from_numpy(arrays[key]) for key in arrays.files}, expected


def test_hinge_equals_vqgan(golden) -> None:
    arrays, expected = golden
    loss = hinge_discriminator(arrays["logits_real"][:, None], arrays["logits_fake"][:, None]).mean()
    assert loss.item() == pytest.approx(expected["hinge"], rel=1e-6)


def test_discriminator_equals_vqgan(golden) -> None:
    arrays, _ = golden
    model = Discriminator(DiscriminatorConfig(width=8, depth=2, normalization="batch"))
    model.load_state_dict({k.removeprefix("disc/"): v for k, v in arrays.items() if k.startswith("disc/")})
    torch.testing.assert_close(model.eval()(arrays["inputs"]), arrays["disc_out"], atol=1e-5, rtol=1e-4)


def test_generator_and_discriminator_turns_equal_vqgan(golden) -> None:
    """Its perceptual term is a mean squared error here, its adversarial weight 0.8, its statistics those of a new network."""
    arrays, expected = golden
    model = Discriminator(DiscriminatorConfig(width=8, depth=2, normalization="batch"))
    model.load_state_dict({k.removeprefix("disc/"): v for k, v in arrays.items() if k.startswith("disc/")})
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()
    model.eval()
    last_layer = arrays["dec_weight"].requires_grad_(True)
    painted = F.conv2d(arrays["z"], last_layer, arrays["dec_bias"], padding=1)
    error, squared = (pixel_loss(painted, arrays["inputs"], power).mean() for power in (1, 2))
    adversarial = -model(painted).mean()
    gradients = [torch.autograd.grad(x, last_layer, retain_graph=True)[0] for x in (error + squared, adversarial)]
    weight = 0.8 * adaptive_adversarial_weight(*gradients)
    turn = expected["gen_step20"]
    assert squared.item() == pytest.approx(turn["train/p_loss"], rel=1e-6)
    assert (error + squared).item() == pytest.approx(turn["train/nll_loss"], rel=1e-6)
    assert adversarial.item() == pytest.approx(turn["train/g_loss"], rel=1e-5)
    assert weight.item() == pytest.approx(turn["train/d_weight"], rel=1e-4)
    total = error + squared + weight * adversarial + turn["train/quant_loss"]
    assert total.item() == pytest.approx(turn["train/total_loss"], rel=1e-5)
    real, fake = model(arrays["inputs"]), model(painted.detach())
    assert real.mean().item() == pytest.approx(expected["disc_step20"]["train/logits_real"], rel=1e-5)
    assert fake.mean().item() == pytest.approx(expected["disc_step20"]["train/logits_fake"], rel=1e-5)
    loss = hinge_discriminator(real, fake).mean()
    assert loss.item() == pytest.approx(expected["disc_step20"]["train/disc_loss"], rel=1e-6)


def test_concept_contrast_both_ways_is_that_of_groupvit(realdata) -> None:
    """One token an image, one concept each: then matching is trivial, and what is left is the symmetric contrast of its peer."""
    golden = np.load(realdata / "golden" / "algorithms" / "groupvit_contrastive.npz")
    image, text = (torch.from_numpy(golden[name]) for name in ("image", "text"))
    image.requires_grad_(True)

    def one_way(tokens: torch.Tensor, concepts: torch.Tensor) -> torch.Tensor:
        own, real = torch.eye(len(tokens), dtype=torch.bool), torch.ones(len(tokens), 1, dtype=torch.bool)
        return concept_contrast(tokens.unsqueeze(1), real, F.normalize(concepts, dim=-1), own, 0.07)[0].mean()

    loss = (one_way(image, text) + one_way(text, image)) / 2
    loss.backward()
    assert loss.item() == pytest.approx(float(golden["loss"]), rel=1e-6)
    torch.testing.assert_close(image.grad, torch.from_numpy(golden["grad_image"]), atol=1e-6, rtol=1e-5)


def test_discriminator_judges_every_picture_by_itself() -> None:
    model = Discriminator(DiscriminatorConfig(width=8, depth=2))
    pictures = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(model(pictures)[1:2], model(pictures[1:2]))


def test_adaptive_weight_balances_the_gradients() -> None:
    first, second = torch.randn(5, 5), torch.randn(5, 5)
    weight = adaptive_adversarial_weight(first, second)
    assert weight.item() == pytest.approx(first.norm().item() / (second.norm().item() + 1e-4), rel=1e-6)
    assert adaptive_adversarial_weight(first, torch.zeros(5, 5)).item() <= 1e4
