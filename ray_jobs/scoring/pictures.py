"""Pictures against pictures: reconstruction, editing, and the Fréchet distance of two sets."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from ray_jobs.scoring.files import Complaints, Given, compare_ids
from ray_jobs.scoring.samples import Sample, Written, file_name, places
from setok.data.images import decode_image
from setok.errors import ConfigError, DataError, SetokError
from setok.metrics import frechet
from setok.metrics.editing import Distance, Features, picture_rows
from setok.metrics.frechet import FeatureStatistics
from setok.metrics.running import INDEX, ImageRows

PICTURES = (
    "a folder of pictures with the names of the true ones, or an npz with arr_0 (pictures × height × width × 3, bytes)"
)
STATISTICS = "a folder of pictures, or an npz with arr_0, with features, or with mu and sigma"
_ENDINGS = frozenset((".png", ".jpg", ".jpeg", ".webp", ".bmp"))
_AT_ONCE = 16
Read = Callable[[], np.ndarray]


def score_reconstruction(given: Given) -> dict[str, Any]:
    """PSNR, SSIM, L1 and L2 of every pair; LPIPS and rFID where their weights are given."""
    figures = _pairs(given, ("psnr", "ssim", "l1", "l2", "lpips"))
    return figures | ({"rfid": score_frechet(given)["fid"], "variant": given.variant} if given.inception else {})


def score_editing(given: Given) -> dict[str, Any]:
    """L1 and L2 of every pair; CLIP-I and DINO where the networks are given."""
    return _pairs(given, ("l1", "l2", "clip_i", "dino"))


def score_frechet(given: Given) -> dict[str, Any]:
    """FID of two sets."""
    (mean, covariance), (other_mean, other_covariance) = (
        _statistics(path, given) for path in (given.predictions, given.truth)
    )
    value = frechet.frechet_distance(mean, covariance, other_mean, other_covariance)
    return {"fid": value} | ({"variant": given.variant} if given.inception else {})


# ---------------------------------------------------------------- pairs


def _pairs(given: Given, wanted: tuple[str, ...]) -> dict[str, Any]:
    """Means of figures over all pairs of pictures."""
    complaints = Complaints(given.predictions, given, PICTURES)
    made, true = pictures_of(given.predictions), pictures_of(given.truth)
    compare_ids(made, true, complaints)
    complaints.settle()
    distances, features = _networks(given)
    rows, torn = ImageRows(), []
    for number, name in enumerate(sorted(true)):
        one, other = _unit(made[name]()), _unit(true[name]())
        if one.shape != other.shape:
            torn.append(f"{name} ({_size(one)}, not {_size(other)})")
            continue
        figures = picture_rows(one, other, distances=distances, features=features)
        rows.update({INDEX: np.array([number]), **{name: figures[name] for name in wanted if name in figures}})
    if torn:
        complaints.add(f"{len(torn)} of another size than the true one", torn)
    complaints.settle()
    return rows.compute() | {"num_samples": len(rows)}


def _networks(given: Given) -> tuple[dict[str, Distance], dict[str, Features]]:
    """The networks that were named."""
    distances: dict[str, Distance] = {}
    features: dict[str, Features] = {}
    if given.lpips is not None:
        from setok.models.perceptual import load_perceptual

        distances["lpips"] = torch.inference_mode()(named("--lpips", load_perceptual, given.lpips))
    if given.clip is not None or given.dino is not None:
        from setok.models.picture_features import load_picture_features

        if given.clip is not None:
            features["clip_i"] = named("--clip", load_picture_features, given.clip, "clip")
        if given.dino is not None:
            features["dino"] = named("--dino", load_picture_features, given.dino, "dino")
    return distances, features


def named(option: str, load: Callable[..., Any], *given: Any) -> Any:
    """What a function loads; where it refuses, the error names the option or setting that the user gave."""
    try:
        return load(*given)
    except SetokError as error:
        raise error.about(option) from error


def _unit(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1).unsqueeze(0).float() / 255


def _size(pixels: torch.Tensor) -> str:
    return f"{pixels.shape[-2]} × {pixels.shape[-1]}"


def pictures_of(path: Path) -> Mapping[str, Read]:
    """How to read every picture of a folder, by its name without ending, or of an npz, by its number.

    Raises:
        DataError: it is neither, it has no pictures, or two with one name.
    """
    if path.is_dir():
        found: dict[str, Read] = {}
        for file in sorted(path.iterdir()):
            if file.suffix.lower() in _ENDINGS:
                if file.stem in found:
                    raise DataError(f"{path} has two pictures {file.stem!r}", "keep one of each name")
                found[file.stem] = _reader(file)
        if not found:
            raise DataError(f"{path} has no pictures", f"files that end in {', '.join(sorted(_ENDINGS))}")
        return found
    stack = _npz(path).get("arr_0")
    if stack is None or stack.ndim != 4 or stack.shape[-1] != 3 or stack.dtype != np.uint8:
        raise DataError(f"{path} has no pictures", f"give {PICTURES}")
    return {str(number): _entry(stack, number) for number in range(len(stack))}


def _reader(file: Path) -> Read:
    def read() -> np.ndarray:
        try:
            return decode_image(file.read_bytes())
        except DataError as error:
            raise DataError(f"{file}: {error.problem}", error.remedy) from error

    return read


def _entry(stack: np.ndarray, number: int) -> Read:
    return lambda: stack[number]


def _npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (ValueError, AttributeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} cannot be read as npz: {error}", f"give {PICTURES}") from error


# ---------------------------------------------------------------- sets


def _statistics(path: Path, given: Given) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a set's features: those of the file, or Inception's of the pictures."""
    if path.is_file() and "arr_0" not in _npz(path):
        return frechet.read_statistics(path)
    if given.inception is None or given.variant is None:
        from setok.models.inception import Variant

        raise ConfigError(
            f"{path} holds pictures, and there is no network to take features with",
            f"--inception FILE --variant {' or '.join(get_args(Variant))}; or give features",
        )
    from setok.models.inception import load_inception

    network = named("--inception", load_inception, given.inception, given.variant)
    statistics = FeatureStatistics()
    for batch in _batches(pictures_of(path)):
        statistics.update(network(batch).double().numpy())
    return statistics.mean, statistics.covariance


def _batches(pictures: Mapping[str, Read]) -> Iterator[torch.Tensor]:
    """Pictures in bytes, as many of one size together as follow each other."""
    batch: list[np.ndarray] = []
    for name in sorted(pictures):
        pixels = pictures[name]()
        if batch and (pixels.shape != batch[0].shape or len(batch) == _AT_ONCE):
            yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)
            batch = []
        batch.append(pixels)
    if batch:
        yield torch.from_numpy(np.stack(batch)).permute(0, 3, 1, 2)


# ---------------------------------------------------------------- writing


def write_pictures(samples: Iterable[Sample], folder: Path, name: str) -> Written:
    """What was drawn and what should have been, as PNGs named by the records."""
    predictions, annotations = places(folder, name)
    for path in (predictions, annotations):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
    for sample in samples:
        file = f"{file_name(sample.record.id)}.png"
        (predictions / file).write_bytes(sample.drawn)
        (annotations / file).write_bytes(sample.truth)
    return Written(predictions=predictions, annotations=annotations)
