"""What the pictures cost that training reads: photographs decoded and resized in a second, on one core.

    python -m ray_jobs.benchmark ingest --size 384 --cores 1

The pictures are ingested into a set and read back as a training worker reads them: Ray Data decodes in its own processes,
in the order of the plan, and hands over micro-batches. Next to that, on as many cores: a torch DataLoader with Pillow,
which reads the same files, cuts the same square and resizes it to the same size; and bare decoding of the JPEGs with
OpenCV, in this process. All three run in turn, round after round, and the median counts.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from rich.table import Table
from torch.utils.data import DataLoader, Dataset

from ray_jobs import launch
from ray_jobs.benchmarks.files import write_figures
from ray_jobs.training.batches import worker_batches
from ray_jobs.training.dataset import training_dataset
from setok.config import TrainConfig, build
from setok.data.images import configure_opencv
from setok.data.plan import WINDOW, Plan
from setok.data.schema import EncodedImage, Manifest, Record
from setok.data.shards import write_shard
from setok.errors import ConfigError

log = logging.getLogger(__name__)

HEIGHT, WIDTH = 480, 640
QUALITY = 90
DISTINCT = 256
"""Generated photographs; a longer run reads them again."""
PLAN_ROWS = 1_000_000
_STEPS_PER_BLOCK = 4


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Medians over the rounds, but for first batches, of which the slowest counts: the first round starts the processes.

    Rates are images a second, on all cores together; that of bare decoding on one.
    """

    size: int
    cores: int
    images: int
    """In one round."""
    mean_bytes: float
    """Of an encoded picture."""
    training_data: float
    data_loader: float
    bare_decoding: float
    first_batch_seconds: float
    """From the call, with Ray running, to the first micro-batch."""
    data_loader_first_batch_seconds: float
    plan_seconds: float
    """For the order of a million rows."""

    @property
    def per_core(self) -> float:
        """Images a second on one core, as training reads them."""
        return self.training_data / self.cores

    @property
    def over_data_loader(self) -> float:
        """How many times faster than the DataLoader."""
        return self.training_data / self.data_loader

    @property
    def of_bare_decoding(self) -> float:
        """Share of the rate of bare decoding on as many cores."""
        return self.per_core / self.bare_decoding


def photograph(generator: np.random.Generator) -> bytes:
    """A JPEG with the spectrum of a photograph: noise whose amplitude falls as frequency rises, alike in all colours."""
    rows, columns = np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH)[None]
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = 1 / WIDTH
    channels = [
        np.fft.irfft2(np.fft.rfft2(generator.standard_normal((HEIGHT, WIDTH))) / frequency**1.25, (HEIGHT, WIDTH))
        for _ in range(3)
    ]
    grey, *tints = [channel / channel.std() for channel in channels]
    colours = np.stack([grey, *(0.9 * grey + 0.4 * tint for tint in tints)], axis=-1)
    pixels: UInt8[np.ndarray, "height width 3"] = np.clip(118 + 50 * colours, 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def pictures(folder: Path | None) -> list[bytes]:
    """The JPEGs of a folder and all below it, or generated ones.

    Raises:
        ConfigError: there are none.
    """
    if folder is None:
        generator = np.random.default_rng(0)
        return [photograph(generator) for _ in range(DISTINCT)]
    files = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in (".jpg", ".jpeg")]
    if not files:
        raise ConfigError(f"--images {folder}: no .jpg or .jpeg below it", "name a folder with photographs")
    return [path.read_bytes() for path in files]


def write_set(folder: Path, data: Sequence[bytes]) -> None:
    """An ingested set of the pictures, and the same as files for the DataLoader."""
    records = [
        Record(id=f"{number:06d}", source="benchmark", images=[EncodedImage(data=one)])
        for number, one in enumerate(data)
    ]
    shard = write_shard(folder / "shard-00000.parquet", records)
    assert shard is not None  # there is at least one picture
    Manifest(shards=[shard], records_by_source={"benchmark": len(data)}, quarantined_by_reason={}).save(folder)
    for number, one in enumerate(data):
        (folder / f"{number:06d}.jpg").write_bytes(one)


class _Files(Dataset[torch.Tensor]):
    """Files decoded by Pillow: the middle square, resized."""

    def __init__(self, files: Sequence[Path], size: int) -> None:
        self.files, self.size = files, size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        image = Image.open(io.BytesIO(self.files[index].read_bytes())).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        square = image.resize(
            (self.size, self.size), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side)
        )
        return torch.from_numpy(np.array(square)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class _Reading:
    """One pass over some batches."""

    images: int
    seconds: float
    """From the first batch to the last."""
    first_batch_seconds: float

    @property
    def rate(self) -> float:
        return self.images / self.seconds


def _read(batches: Callable[[], Iterator[int]], *, skip: int) -> _Reading:
    """Time a pass: batches give their numbers of images; those up to number ``skip``, which fill queues, do not count."""
    start = time.perf_counter()
    first = began = 0.0
    images = 0
    for number, count in enumerate(batches()):
        now = time.perf_counter()
        if number == 0:
            first = now - start
        if number == skip:
            began = now
        elif number > skip:
            images += count
    return _Reading(images=images, seconds=time.perf_counter() - began, first_batch_seconds=first)


class Bench:
    """The same pictures, read in three ways."""

    def __init__(self, folder: Path, data: Sequence[bytes], *, size: int, cores: int, batch: int, batches: int) -> None:
        self.folder, self.data, self.size, self.cores, self.batch = folder, data, size, cores, batch
        self.skip = (
            2 * cores * _STEPS_PER_BLOCK - 1
        )  # up to the last batch of a block, for those of one arrive together
        self.batches = self.skip + 1 + batches
        configure_opencv(num_threads=1)

    def training_data(self) -> _Reading:
        """As a training worker reads them."""
        config = build(
            TrainConfig,
            {
                "name": "benchmark",
                "model": {"image_size": self.size},
                "data": {
                    "train": [{"path": str(self.folder)}],
                    "steps_per_block": _STEPS_PER_BLOCK,
                    "decode_workers": self.cores,
                    "decode_cpus": 1.0,
                },
                "train": {"steps": self.batches, "global_batch_size": self.batch, "micro_batch_size": self.batch},
                "scaling": {"num_workers": 1},
            },
        )

        def run() -> Iterator[int]:
            dataset = training_dataset(config, start_step=0, num_workers=1)
            stream = worker_batches(dataset.streaming_split(1, equal=True)[0], config, rank=0, start_step=0)
            for step in stream:
                yield sum(len(micro) for micro in step)

        return _read(run, skip=self.skip)

    def data_loader(self) -> _Reading:
        """A torch DataLoader with Pillow."""
        files = sorted(self.folder.glob("*.jpg"))
        repeated = [files[i % len(files)] for i in range(self.batches * self.batch)]

        def run() -> Iterator[int]:
            loader = DataLoader(
                _Files(repeated, self.size), batch_size=self.batch, num_workers=self.cores, shuffle=True
            )
            for pixels in loader:
                yield len(pixels)

        return _read(run, skip=self.skip)

    def bare_decoding(self) -> _Reading:
        """JPEGs decoded at full size by OpenCV, on one core, and nothing else."""

        def run() -> Iterator[int]:
            for _ in range(max(2, self.batches * self.batch // len(self.data) // self.cores)):
                for one in self.data:
                    cv2.imdecode(np.frombuffer(one, np.uint8), cv2.IMREAD_COLOR)
                yield len(self.data)

        return _read(run, skip=0)


def plan_seconds() -> float:
    """Time for the order of a million rows."""
    start = time.perf_counter()
    plan = Plan(0, [PLAN_ROWS], [1.0])
    for first in range(0, PLAN_ROWS, WINDOW):
        plan.samples(first, min(first + WINDOW, PLAN_ROWS))
    return time.perf_counter() - start


def measure(data: Sequence[bytes], *, size: int, cores: int, batch: int, batches: int, repeats: int) -> Figures:
    """Read the pictures in all ways, in turn."""
    rounds: dict[str, list[_Reading]] = {"training_data": [], "data_loader": [], "bare_decoding": []}
    with tempfile.TemporaryDirectory(prefix="setok-benchmark-") as name:
        folder = Path(name)
        write_set(folder, data)
        bench = Bench(folder, data, size=size, cores=cores, batch=batch, batches=batches)
        for number in range(repeats):
            for way, readings in rounds.items():
                log.info("round %d of %d: %s", number + 1, repeats, way)
                readings.append(getattr(bench, way)())
    rates = {way: statistics.median(reading.rate for reading in readings) for way, readings in rounds.items()}
    first = {way: max(reading.first_batch_seconds for reading in readings) for way, readings in rounds.items()}
    return Figures(
        size=size,
        cores=cores,
        images=batch * batches,
        mean_bytes=float(np.mean([len(one) for one in data])),
        training_data=rates["training_data"],
        data_loader=rates["data_loader"],
        bare_decoding=rates["bare_decoding"],
        first_batch_seconds=first["training_data"],
        data_loader_first_batch_seconds=first["data_loader"],
        plan_seconds=statistics.median(plan_seconds() for _ in range(3)),
    )


def report(figures: Figures) -> Table:
    """For people."""
    cores = f"{figures.cores} core{'s' if figures.cores > 1 else ''}"
    table = Table(
        title=f"Photographs of {figures.mean_bytes / 1e3:.0f} kB to {figures.size} × {figures.size} pixels, on {cores}"
    )
    for column in ("", "images/s a core", "ratio", "first batch"):
        table.add_column(column, justify="right" if column else "left")
    loader = figures.data_loader / figures.cores
    table.add_row("training data (Ray Data)", f"{figures.per_core:.0f}", "1", f"{figures.first_batch_seconds:.1f} s")
    table.add_row(
        "torch DataLoader with Pillow",
        f"{loader:.0f}",
        f"{1 / figures.over_data_loader:.2f}",
        f"{figures.data_loader_first_batch_seconds:.1f} s",
    )
    table.add_row(
        "bare JPEG decoding (OpenCV)", f"{figures.bare_decoding:.0f}", f"{1 / figures.of_bare_decoding:.2f}", "–"
    )
    return table


def ingest(arguments: argparse.Namespace) -> Figures:
    """Measure, print and write the table.

    Raises:
        ConfigError: a number is not positive, more cores are asked for than there are, or there are no pictures.
    """
    numbers = (arguments.size, arguments.cores, arguments.batch, arguments.batches, arguments.repeats)
    if min(numbers) < 1:
        raise ConfigError(
            "--size {} --cores {} --batch {} --batches {} --repeats {} are not all positive".format(*numbers),
            "for example --size 384 --cores 1 --batch 16 --batches 64 --repeats 3",
        )
    available = os.cpu_count() or 1
    if arguments.cores > available:
        raise ConfigError(
            f"--cores {arguments.cores}: this machine has {available}", f"use --cores {available} or fewer"
        )
    import ray

    own = not ray.is_initialized()
    if own:
        launch.start_ray(arguments.cores + 1)  # one for what is not decoding
    try:
        figures = measure(
            pictures(arguments.images),
            size=arguments.size,
            cores=arguments.cores,
            batch=arguments.batch,
            batches=arguments.batches,
            repeats=arguments.repeats,
        )
    finally:
        if own:
            ray.shutdown()
    launch.console().print(report(figures))
    launch.console().print(
        f"{figures.over_data_loader:.2f} × the DataLoader; the order of a million rows takes {figures.plan_seconds:.2f} s"
    )
    if arguments.output:
        derived = {name: getattr(figures, name) for name in ("per_core", "over_data_loader", "of_bare_decoding")}
        write_figures(arguments.output, {"repeats": arguments.repeats, "figures": asdict(figures) | derived})
    return figures


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``benchmark ingest``."""
    parser.add_argument(
        "--images", type=Path, default=None, metavar="FOLDER", help="JPEGs to read instead of generated ones"
    )
    parser.add_argument("--size", type=int, default=384, help="side of the square, in pixels (default 384)")
    parser.add_argument("--cores", type=int, default=1, help="processes that decode (default 1)")
    parser.add_argument("--batch", type=int, default=16, help="pictures in a micro-batch (default 16)")
    parser.add_argument("--batches", type=int, default=64, help="micro-batches of a round that count (default 64)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds (default 3)")
    parser.add_argument("--output", type=Path, default=None, metavar="FILE", help="also write the figures as JSON")
