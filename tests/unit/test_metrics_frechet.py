"""The Fréchet distance against scipy's matrix root and the packages' figures; Inception against torch-fidelity's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from setok.errors import CheckpointError, ConfigError, DataError
from setok.metrics.frechet import FeatureStatistics, distance, frechet_distance, read_statistics
from setok.models.inception import Inception, _as_tensorflow, load_inception


def statistics(features: np.ndarray, parts: int = 1) -> FeatureStatistics:
    total = FeatureStatistics()
    for part in np.array_split(features, parts):
        one = FeatureStatistics()
        one.update(part)
        total.merge(one)
    return total


def two_sets() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    mix = generator.normal(size=(6, 6))
    return generator.normal(size=(80, 6)) @ mix + 100, generator.normal(size=(50, 6)) * 2 + 101


def test_definition_with_scipys_root() -> None:
    one, other = two_sets()
    root = scipy.linalg.sqrtm(np.cov(one.T) @ np.cov(other.T)).real
    gap = one.mean(0) - other.mean(0)
    expected = gap @ gap + np.trace(np.cov(one.T) + np.cov(other.T) - 2 * root)
    assert distance(statistics(one), statistics(other)) == pytest.approx(expected, rel=1e-10)


def test_one_dimension_by_hand() -> None:
    one, other = np.array([[1.0]]), np.array([[9.0]])  # standard deviations 1 and 3
    assert frechet_distance(np.array([0.0]), one, np.array([5.0]), other) == pytest.approx(25 + 4)


@pytest.mark.parametrize("parts", [1, 2, 7, 80])
def test_parts_merge(parts: int) -> None:
    features, _ = two_sets()
    merged = statistics(features, parts)
    np.testing.assert_allclose(merged.mean, features.mean(0), rtol=1e-13)
    np.testing.assert_allclose(merged.covariance, np.cov(features.T), rtol=1e-9)


def test_a_set_and_itself() -> None:
    features, _ = two_sets()
    assert distance(statistics(features), statistics(features, 3)) == pytest.approx(0, abs=1e-9)


def test_what_cannot_be_compared() -> None:
    with pytest.raises(DataError, match="width 6 and 5"):
        distance(statistics(two_sets()[0]), statistics(two_sets()[0][:, :5]))
    with pytest.raises(DataError, match="width 5 and 6"):
        statistics(two_sets()[0]).update(two_sets()[0][:, :5])
    with pytest.raises(DataError, match=r"covariance of 1 picture\(s\)"):
        _ = statistics(two_sets()[0][:1]).covariance
    with pytest.raises(DataError, match="no features"):
        _ = FeatureStatistics().mean


def test_files(tmp_path: Path) -> None:
    features, _ = two_sets()
    np.savez(tmp_path / "features.npz", features=features)
    np.savez(tmp_path / "known.npz", mu=features.mean(0), sigma=np.cov(features.T))
    np.savez(tmp_path / "other.npz", x=features)
    one, other = read_statistics(tmp_path / "features.npz"), read_statistics(tmp_path / "known.npz")
    assert frechet_distance(*one, *other) == pytest.approx(0, abs=1e-9)
    with pytest.raises(DataError, match=r"holds x(.|\n)*`mu` and `sigma`"):
        read_statistics(tmp_path / "other.npz")


def test_golden(realdata: Path) -> None:
    folder = realdata / "golden" / "fid"
    with np.load(folder / "features.npz") as arrays:
        sets = {name: statistics(arrays[name], 3) for name in ("f1", "f2", "f3")}
    packages = json.loads((folder / "expected.json").read_text())["results"]
    assert len(packages) == 5
    for expected in packages.values():
        assert distance(sets["f1"], sets["f2"]) == pytest.approx(expected["f1_f2"], abs=1e-9)
        assert distance(sets["f1"], sets["f1"]) == pytest.approx(expected["f1_f1"], abs=1e-9)
        # f3 has fewer items than dimensions: the packages differ among themselves by 2e-7
        assert distance(sets["f1"], sets["f3"]) == pytest.approx(expected["f1_f3"], rel=5e-9)


# ---------------------------------------------------------------- Inception


def drawn_inception() -> Inception:
    """Random weights under which features still depend on the picture."""
    network, generator = Inception("torch-fidelity"), torch.Generator().manual_seed(0)
    for name, tensor in sorted(network.state_dict().items()):
        if tensor.ndim == 4:
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif name.endswith(("bn.weight", "running_var")):
            tensor.uniform_(0.8, 1.2, generator=generator)
        elif tensor.is_floating_point():
            tensor.normal_(0, 0.1, generator=generator)
    return network


def drawn_pictures() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(2, 3, 5, 7, generator=generator) * 255
    return torch.nn.functional.interpolate(coarse, (40, 52), mode="nearest").to(torch.uint8)


def test_inception_is_torch_fidelitys(tmp_path: Path) -> None:
    """The golden numbers were made with torch-fidelity 0.4.0's network from these weights; see inception.py beside them."""
    golden = json.loads((Path(__file__).parents[1] / "golden" / "inception.json").read_text())
    torch.save(drawn_inception().state_dict(), tmp_path / "weights.pth")
    features = load_inception(tmp_path / "weights.pth", "torch-fidelity")(drawn_pictures())
    assert features.shape == (2, 2048)
    assert (features[0] - features[1]).abs().max() > 0.1
    torch.testing.assert_close(features[:, ::64].tolist(), golden["features"], rtol=1e-4, atol=1e-5)
    other = load_inception(tmp_path / "weights.pth", "pytorch-fid")(drawn_pictures())
    assert (features - other).abs().max() > 1e-2  # the variants feed pictures differently


def test_resizing_as_tensorflow_did() -> None:
    """A ramp enlarged: pixel i is read at i·s from the left corner, and the last pixel is repeated."""
    side = 100
    ramp = torch.arange(side, dtype=torch.uint8).expand(1, 3, side, side)
    read = _as_tensorflow(ramp)[0, 0, 0] * 128 + 128
    expected = (torch.arange(299) * (side / 299)).clamp_max(side - 1)
    torch.testing.assert_close(read, expected, rtol=0, atol=1e-3)


def test_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file .*weights.pth(.|\n)*pt_inception-2015-12-05"):
        load_inception(tmp_path / "weights.pth", "pytorch-fid")
    with pytest.raises(ConfigError, match=r"'pytorchfid' is unknown(.|\n)*'pytorch-fid'"):
        load_inception(tmp_path / "weights.pth", "pytorchfid")
    (tmp_path / "weights.pth").write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_inception(tmp_path / "weights.pth", "pytorch-fid")
    torch.save({"x": torch.zeros(1)}, tmp_path / "weights.pth")
    with pytest.raises(CheckpointError, match="holds no Inception of FID"):
        load_inception(tmp_path / "weights.pth", "pytorch-fid")
