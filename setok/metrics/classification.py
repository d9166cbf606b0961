"""What class features tell: top-1 of a linear probe, and of zero-shot classification by the names of the classes.

Both are the protocols of Radford et al. 2021 (CLIP): the probe is L2-regularised logistic regression on frozen features, fitted
by L-BFGS (scikit-learn's); zero-shot takes the class whose prompts, averaged, are nearest to the picture.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from setok.errors import ConfigError, DataError
from setok.metrics.running import INDEX, Columns

CLIP_REGULARISATION = 0.316
"""scikit-learn's ``C`` that the CLIP paper found for ImageNet."""


def class_embeddings(prompts: Float[Tensor, "classes templates width"]) -> Float[Tensor, "classes width"]:
    """One direction per class: the mean of its prompts' directions, of unit length."""
    return F.normalize(F.normalize(prompts.double(), dim=-1).mean(1), dim=-1)


def zero_shot(pictures: Float[Tensor, "batch width"], classes: Float[Tensor, "classes width"]) -> Int[Tensor, " batch"]:
    """The class whose direction is nearest to each picture's, of equally near ones the first."""
    return (F.normalize(pictures.double(), dim=-1) @ classes.double().T).argmax(-1)


def top1_rows(
    index: Int[np.ndarray, " images"], predicted: Int[np.ndarray, " images"], labels: Int[np.ndarray, " images"]
) -> Columns:
    """Rows for ``running.ImageRows``, whose mean of ``top1`` is the accuracy in [0, 1]."""
    return {INDEX: index, "top1": (predicted == labels).astype(np.float64)}


class LabelledFeatures:
    """Features and labels of pictures, gathered over workers and put in order, so that a probe is the same however they came."""

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def update(
        self,
        index: Int[np.ndarray, " images"],
        features: Float[np.ndarray, "images width"],
        labels: Int[np.ndarray, " images"],
    ) -> None:
        """Add some pictures; ``index`` says which ones of the set they are."""
        self._parts.append((index, features, labels))

    def merge(self, other: LabelledFeatures) -> LabelledFeatures:
        """Add another accumulator's pictures to this one, and return it."""
        self._parts += other._parts
        return self

    def arrays(self) -> tuple[Float[np.ndarray, "images width"], Int[np.ndarray, " images"]]:
        """Features and labels, ordered by index.

        Raises:
            DataError: there are none, or a picture was added twice.
        """
        if not sum(len(index) for index, _, _ in self._parts):
            raise DataError("there are no features to fit a probe to", "add some pictures")
        index, features, labels = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        order = np.argsort(index, kind="stable")
        twice = index[order][:-1][np.diff(index[order]) == 0]
        if len(twice):
            raise DataError(f"picture number {twice[0]} was added twice", "merge each worker's features once")
        return features[order], labels[order]


def linear_probe(
    train: LabelledFeatures, test: LabelledFeatures, *, regularisation: float = CLIP_REGULARISATION, steps: int = 1000
) -> float:
    """Top-1 accuracy in [0, 1] on ``test`` of a linear classifier fitted to ``train``.

    Args:
        regularisation: scikit-learn's ``C``, the inverse of the penalty's strength.
        steps: L-BFGS stops after so many.

    Raises:
        ConfigError: scikit-learn is not installed.
        DataError: either set is empty.
    """
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise ConfigError("a linear probe needs scikit-learn", "`pip install 'setok[eval]'`") from error
    features, labels = train.arrays()
    probe = LogisticRegression(C=regularisation, max_iter=steps).fit(features, labels)
    return float(probe.score(*test.arrays()))
