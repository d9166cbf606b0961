"""Writes inception.json: features of torch-fidelity's Inception with drawn weights, which our network must give as well.

torch-fidelity's package imports torchvision, its network does not: unpack the wheel of torch-fidelity 0.4.0 and name the folder::

    python -m tests.golden.inception FOLDER_OF_THE_WHEEL
"""

from __future__ import annotations

import json
import sys
import tempfile
import types
from pathlib import Path

import torch

from tests.unit.test_metrics_frechet import drawn_inception, drawn_pictures


def main(folder: str) -> None:
    package = types.ModuleType("torch_fidelity")
    package.__path__ = [str(Path(folder) / "torch_fidelity")]
    sys.modules["torch_fidelity"] = package
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    with tempfile.TemporaryDirectory() as scratch:
        weights = Path(scratch) / "weights.pth"
        torch.save(drawn_inception().state_dict(), weights)
        network = FeatureExtractorInceptionV3("golden", ["2048"], feature_extractor_weights_path=str(weights))
    (features,) = network(drawn_pictures())
    content = {"made by": "torch-fidelity 0.4.0", "features": features[:, ::64].tolist()}
    Path(__file__).with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
