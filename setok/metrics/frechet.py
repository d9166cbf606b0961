"""The Fréchet distance of two sets of features: FID, and rFID where one set is the other's reconstructions.

Heusel et al. 2017, "GANs Trained by a Two Time-Scale Update Rule": |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½), of the Gaussians with
the sets' means and covariances. A figure depends on the features, so it is named with them; those that papers mean are made by
``setok.models.inception``. It also depends on how many pictures there are (a small set has a larger distance), so compare equal
numbers.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Float

from setok.errors import DataError

Features = Float[np.ndarray, "items width"]
_REMEDY = "an npz with `features` (items × width), or with `mu` and `sigma` as pytorch-fid writes them"


class FeatureStatistics:
    """Mean and covariance of features, in float64.

    Parts merge by the update of Chan, Golub & LeVeque 1979, which does not cancel where the mean is large beside the spread. The
    order of merging moves the last digits only.
    """

    def __init__(self) -> None:
        self.count = 0
        self._mean: Float[np.ndarray, " width"] | None = None
        self._scatter: Float[np.ndarray, "width width"] | None = None

    def update(self, features: Features) -> None:
        """Add the features of some pictures."""
        if len(features):
            features = features.astype(np.float64)
            mean = features.mean(0)
            self._add(len(features), mean, (features - mean).T @ (features - mean))

    def merge(self, other: FeatureStatistics) -> FeatureStatistics:
        """Add another accumulator's pictures to this one, and return it."""
        if other._mean is not None and other._scatter is not None:
            self._add(other.count, other._mean, other._scatter)
        return self

    def _add(self, count: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if self._mean is None or self._scatter is None:
            self.count, self._mean, self._scatter = count, mean.copy(), scatter.copy()
            return
        if mean.shape != self._mean.shape:
            raise DataError(
                f"features of width {len(mean)} and {len(self._mean)} cannot be put together",
                "use one network for both",
            )
        total, gap = self.count + count, mean - self._mean
        self._mean = self._mean + gap * (count / total)
        self._scatter = self._scatter + scatter + np.outer(gap, gap) * (self.count * count / total)
        self.count = total

    @property
    def mean(self) -> Float[np.ndarray, " width"]:
        """Mean of the features."""
        if self._mean is None:
            raise DataError("there are no features to take the mean of", "add some pictures")
        return self._mean

    @property
    def covariance(self) -> Float[np.ndarray, "width width"]:
        """Covariance of the features, divided by one less than their number."""
        if self._scatter is None or self.count < 2:
            raise DataError(f"the covariance of {self.count} picture(s) is undefined", "add at least two pictures")
        return self._scatter / (self.count - 1)


def read_statistics(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance from an npz file: of its ``features``, or its ``mu`` and ``sigma``.

    Raises:
        DataError: the file holds neither, or not in their shapes.
    """
    try:
        with np.load(path) as arrays:
            if "features" in arrays:
                features = np.asarray(arrays["features"], np.float64)
                if features.ndim != 2:
                    raise DataError(f"{path} has features of shape {features.shape}", "give them as [pictures, width]")
                statistics = FeatureStatistics()
                statistics.update(features)
                return statistics.mean, statistics.covariance
            if "mu" in arrays and "sigma" in arrays:
                mean, covariance = np.asarray(arrays["mu"], np.float64), np.asarray(arrays["sigma"], np.float64)
                if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
                    shapes = f"mu of shape {mean.shape} and sigma of shape {covariance.shape}"
                    raise DataError(f"{path} has {shapes}", "give them as [width] and [width, width]")
                if (np.diag(covariance) < 0).any():
                    raise DataError(f"{path} has a negative variance, so sigma is no covariance", _REMEDY)
                return mean, covariance
            found = ", ".join(sorted(arrays.files)) or "nothing"
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is no npz file: {error}", _REMEDY) from error
    raise DataError(f"{path} holds {found}", _REMEDY)


def frechet_distance(
    mean: Float[np.ndarray, " width"],
    covariance: Float[np.ndarray, "width width"],
    other_mean: Float[np.ndarray, " other"],
    other_covariance: Float[np.ndarray, "other other"],
) -> float:
    """The distance of two Gaussians, at least 0; singular covariances are no special case.

    tr (Σ₁Σ₂)^½ is taken as the sum of the singular values of Σ₁^½ Σ₂^½. That keeps more digits than the square root of the
    product, which the usual packages take: of a set and itself it is 0 to 12 digits.

    Raises:
        DataError: the widths differ, or a value is not finite.
    """
    if not all(np.isfinite(part).all() for part in (mean, covariance, other_mean, other_covariance)):
        raise DataError("features hold NaN or infinity", "look for what gave them: a picture, or the network")
    if mean.shape != other_mean.shape:
        raise DataError(f"features of width {len(mean)} and {len(other_mean)} cannot be compared", "use one network")
    crossed = np.linalg.svd(_root(covariance) @ _root(other_covariance), compute_uv=False).sum()
    gap = mean - other_mean
    return max(0.0, float(gap @ gap + np.trace(covariance) + np.trace(other_covariance) - 2 * crossed))


def _root(covariance: Float[np.ndarray, "width width"]) -> Float[np.ndarray, "width width"]:
    """The symmetric square root of a matrix that is nowhere negative but for rounding."""
    values, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def distance(one: FeatureStatistics, other: FeatureStatistics) -> float:
    """The Fréchet distance of two accumulators' features."""
    return frechet_distance(one.mean, one.covariance, other.mean, other.covariance)
