"""What tokenizing costs: images per second of the parts, against the bare encoder and against a plain loop.

    python -m ray_jobs.benchmark tokenizer --size demo --batch 8,16 --repeats 7
    python -m ray_jobs.benchmark tokenizer --size siglip_so400m --batch 1,8,64 --references-up-to 8

Weights are random. The encoder sees random pictures; clustering and merger see features with planted regions, since a
random encoder gives none. Parts are timed in turn, over and over, and the median counts, so that a load that comes and
goes meets all alike.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from jaxtyping import Float, UInt8
from rich.table import Table
from torch import Tensor, nn

from ray_jobs import launch
from ray_jobs.benchmarks.loop import tokens_by_loops
from setok.config import TokenizerConfig, TrainConfig, load_config
from setok.errors import ConfigError, TrainingError
from setok.models.encoder import ScratchEncoder
from setok.models.merger import TokenMerger
from setok.models.tokenizer import ClusteringHead

log = logging.getLogger(__name__)

PRESETS = {"demo": "tokenizer_demo", "siglip_so400m": "tokenizer_siglip"}
PUBLISHED_PARTS = (
    "model.clustering.split_regions=0",
    "model.merger.outline=0",
    "model.merger.relative_position=false",
)
"""The loop is the published method; what a preset adds to it is left out on both sides."""
REGIONS = {"demo": 10, "siglip_so400m": 25}
"""Planted regions: objects and ground of a generated scene; the mean number of tokens of the paper."""
PARTS = ("encoder", "tokenizer", "loop")
DERIVED = ("images_per_second", "milliseconds_per_image", "over_encoder", "over_loop", "parts")
TABLE_WIDTH = 140
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One batch size. Times are medians, in seconds a batch; ``None`` for what was not asked for."""

    size: str
    batch: int
    patches: int
    width: int
    tokens: float
    """Mean number of tokens of an image."""
    encoder: float | None
    clustering: float
    merger: float
    loop: float | None
    memory_mib: float | None
    """Most memory that clustering and merger hold at once, beyond what was there before."""

    @property
    def images_per_second(self) -> float:
        """Through all parts that were timed."""
        return self.batch / ((self.encoder or 0.0) + self.clustering + self.merger)

    @property
    def milliseconds_per_image(self) -> float:
        """Of clustering and merger; the same for every batch where time grows linearly with it."""
        return 1000 * (self.clustering + self.merger) / self.batch

    @property
    def parts(self) -> dict[str, dict[str, float]]:
        """Images per second and share of the time of every part that was timed."""
        times = {"encoder": self.encoder, "clustering": self.clustering, "merger": self.merger}
        timed = {name: seconds for name, seconds in times.items() if seconds is not None}
        whole = sum(timed.values())
        return {n: {"images_per_second": self.batch / t, "share": t / whole} for n, t in timed.items()}

    @property
    def over_encoder(self) -> float | None:
        """Whole tokenizer over the bare encoder: 1.1 means ten per cent more time."""
        return None if self.encoder is None else 1 + (self.clustering + self.merger) / self.encoder

    @property
    def over_loop(self) -> float | None:
        """How many times faster clustering and merger are than the loop."""
        return None if self.loop is None else self.loop / (self.clustering + self.merger)


class Siglip(nn.Module):
    """A vision tower of SigLIP-SO400M's size with random weights; nothing is downloaded."""

    def __init__(self) -> None:
        super().__init__()
        from transformers import SiglipVisionConfig, SiglipVisionModel  # slow to import

        config = SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=384,
            patch_size=14,
            vision_use_head=False,
        )
        with torch.device("meta"):
            tower = SiglipVisionModel(config)
        self.tower = tower.to_empty(device="cpu")
        for parameter in self.tower.parameters():
            parameter.data.uniform_(-0.02, 0.02)
        for name, buffer in self.tower.named_buffers():
            assert name.endswith("position_ids")  # the only buffer there is
            buffer.copy_(torch.arange(buffer.numel()).view_as(buffer))

    def forward(self, pixel_values: UInt8[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches dim"]:
        """Features of the last layer."""
        hidden: Tensor = self.tower(pixel_values=pixel_values.float() / 127.5 - 1).last_hidden_state
        return hidden


def planted(
    batch: int, grid: tuple[int, int], width: int, regions: int, generator: torch.Generator
) -> Float[Tensor, "batch patches width"]:
    """Features of pictures that fall into regions: a direction for each, and a little noise."""
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    places = torch.stack([rows.flatten(), columns.flatten()], -1).float()
    seeds = torch.rand(batch, regions, 2, generator=generator) * torch.tensor(grid)
    region = torch.cdist(places.expand(batch, -1, -1), seeds).argmin(-1)
    directions = torch.randn(batch, regions, width, generator=generator)
    features = directions.gather(1, region.unsqueeze(-1).expand(-1, -1, width))
    noise = 0.02 + 0.08 * torch.rand(
        *features.shape[:2], 1, generator=generator
    )  # uneven, so that no two are equally dense
    return features + noise * torch.randn(features.shape, generator=generator)


class Bench:
    """The parts of a tokenizer, each to be called by itself."""

    def __init__(
        self, size: str, device: torch.device, dtype: torch.dtype, *, with_encoder: bool, clock: Callable[[], float]
    ) -> None:
        self.size, self.device, self.dtype, self.clock = size, device, dtype, clock
        config: TokenizerConfig = load_config(TrainConfig, PRESETS[size], PUBLISHED_PARTS).model
        self.config = config
        torch.manual_seed(0)
        self.encoder: nn.Module | None = None
        if size == "demo":
            self.width, self.grid = config.encoder.width, (config.image_size // config.encoder.patch_size,) * 2
            self.encoder = ScratchEncoder(config.encoder) if with_encoder else None
        else:
            self.width, self.grid = 1152, (27, 27)
            self.encoder = Siglip() if with_encoder else None
        self.head = ClusteringHead(config.clustering, self.width)
        self.merger = TokenMerger(config.merger, self.width, config.detokenizer.width)
        for module in (self.encoder, self.head, self.merger):
            if module is not None:
                module.to(device).eval()

    def measure(self, batch: int, repeats: int, *, with_encoder: bool, with_loop: bool) -> Row:
        """Time every part at a batch size; the encoder if there is one.

        Raises:
            TrainingError: the loop disagrees with the batched parts: the figures would compare different things.
        """
        generator = torch.Generator().manual_seed(batch)
        side = self.config.image_size
        pixels = torch.randint(0, 256, (batch, 3, side, side), generator=generator, dtype=torch.uint8).to(self.device)
        features = planted(batch, self.grid, self.width, REGIONS[self.size], generator).to(self.device)
        setting = self.config.clustering
        clusters = self.head(features, grid=self.grid)[0]

        def merge() -> Tensor:
            weights = clusters.pooling_weights(setting.assignment)
            return self.merger(features, clusters.assignment, weights, clusters.mask, self.grid)

        def loop() -> list[Tensor]:
            return tokens_by_loops(self.head, self.merger, features, self.grid)

        tokens, memory = self._memory(lambda: (self.head(features, grid=self.grid), merge())[1])
        calls: dict[str, Callable[[], object]] = {
            "clustering": lambda: self.head(features, grid=self.grid),
            "merger": merge,
        }
        if with_encoder and self.encoder is not None:
            encoder = self.encoder
            calls["encoder"] = lambda: encoder(pixels)
        if with_loop:
            self._same(tokens, clusters.mask, loop())
            calls["loop"] = loop
        times = self._interleaved(calls, repeats)
        return Row(
            size=self.size,
            batch=batch,
            patches=features.shape[1],
            width=self.width,
            tokens=clusters.counts.float().mean().item(),
            encoder=times.get("encoder"),
            clustering=times["clustering"],
            merger=times["merger"],
            loop=times.get("loop"),
            memory_mib=memory,
        )

    def _interleaved(self, calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
        """Median seconds of every call, after one round that does not count."""
        times: dict[str, list[float]] = {name: [] for name in calls}
        for round_ in range(repeats + 1):
            for name, call in calls.items():
                self._wait()
                start = self.clock()
                call()
                self._wait()
                if round_:
                    times[name].append(self.clock() - start)
        return {name: statistics.median(values) for name, values in times.items()}

    def _same(self, tokens: Tensor, mask: Tensor, expected: list[Tensor]) -> None:
        tolerance = 1e-3 if self.dtype == torch.float32 else 5e-2
        for image, (row, own) in enumerate(zip(tokens, expected, strict=True)):
            real = row[mask[image]]
            if real.shape != own.shape or not torch.allclose(real, own, atol=tolerance, rtol=tolerance):
                raise TrainingError(
                    f"image {image}: the loop's {len(own)} tokens are not the {len(real)} of the batched tokenizer",
                    "one of the two has a bug; their times cannot be compared",
                )

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _memory(self, call: Callable[[], Tensor]) -> tuple[Tensor, float | None]:
        """The call's result and its peak memory, in MiB; ``None`` where the system does not tell."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            return call(), (torch.cuda.max_memory_allocated(self.device) - before) / 2**20
        try:
            _give_memory_back()
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
            before = _status("VmRSS")
            return call(), (_status("VmHWM") - before) / 2**20
        except OSError:
            return call(), None


def _give_memory_back() -> None:
    """Return freed memory to the system, so that using it again counts; with glibc, elsewhere it comes back by itself."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status(key: str) -> int:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{key}:")).split()[1])


def _processor() -> str:
    """Name of the processor, as far as the system tells it."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def report(rows: Sequence[Row]) -> Table:
    """For people."""
    table = Table(title=f"Tokenizing, {rows[0].patches} patches of {rows[0].width}")
    columns = (
        "batch",
        "tokens",
        "images/s",
        "encoder",
        "clustering",
        "merger",
        "ms/image",
        "× encoder",
        "× loop",
        "MiB",
    )
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*_cells(row))
    return table


def markdown(rows: Sequence[Row]) -> str:
    """Rows for the table of BENCHMARKS.md."""
    return "\n".join(f"| {row.size} | {' | '.join(_cells(row))} |" for row in rows)


def _cells(row: Row) -> list[str]:
    whole = (row.encoder or 0.0) + row.clustering + row.merger

    def part(seconds: float | None) -> str:
        return "–" if seconds is None else f"{1000 * seconds:.1f} ms ({seconds / whole:.0%})"

    return [
        str(row.batch),
        f"{row.tokens:.1f}",
        f"{row.images_per_second:.2f}",
        part(row.encoder),
        part(row.clustering),
        part(row.merger),
        f"{row.milliseconds_per_image:.1f}",
        "–" if row.over_encoder is None else f"{row.over_encoder:.3f}",
        "–" if row.over_loop is None else f"{row.over_loop:.2f}",
        "–" if row.memory_mib is None else f"{row.memory_mib:.0f}",
    ]


def tokenizer(arguments: argparse.Namespace) -> list[Row]:
    """Measure, print and write the table.

    Raises:
        ConfigError: a batch size or a number of repeats is no positive number, or there is no such part or device.
    """
    batches = [int(b) for b in arguments.batch.split(",") if b.isdigit()]
    parts = arguments.parts.split(",")
    if not batches or min(batches) < 1 or len(batches) != len(arguments.batch.split(",")) or arguments.repeats < 1:
        raise ConfigError(
            f"--batch {arguments.batch} --repeats {arguments.repeats} are not all positive numbers",
            "for example --batch 1,8,16 --repeats 5",
        )
    if "tokenizer" not in parts or not set(parts) <= set(PARTS):
        raise ConfigError(f"--parts {arguments.parts} is unknown", f"name tokenizer, and any of {', '.join(PARTS)}")
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"--device {arguments.device}: this torch sees no CUDA device", "use --device cpu")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    dtype = DTYPES[arguments.dtype]
    rows = []
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        bench = Bench(arguments.size, device, dtype, with_encoder="encoder" in parts, clock=CLOCKS[arguments.clock])
        for batch in batches:
            log.info("batch %d", batch)
            small = arguments.references_up_to is None or batch <= arguments.references_up_to
            rows.append(
                bench.measure(batch, arguments.repeats, with_encoder=small, with_loop=small and "loop" in parts)
            )
    console = launch.console()
    console.width = max(console.width, TABLE_WIDTH)  # a pipe says 80
    console.print(report(rows))
    console.print(markdown(rows))
    if arguments.output:
        machine = {
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
        }
        figures = [asdict(row) | {name: getattr(row, name) for name in DERIVED} for row in rows]
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(
            json.dumps(
                {
                    "machine": machine,
                    "dtype": arguments.dtype,
                    "clock": arguments.clock,
                    "repeats": arguments.repeats,
                    "rows": figures,
                },
                indent=2,
            )
        )
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``benchmark tokenizer``."""
    parser.add_argument("--size", choices=sorted(PRESETS), default="demo", help="which preset's model")
    parser.add_argument("--batch", default="8", metavar="N,N…", help="batch sizes (default 8)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count; one more warms up (default 5)")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"what to time (default {','.join(PARTS)})")
    up_to = "time encoder and loop, which take long, only at batches up to this (default all)"
    parser.add_argument("--references-up-to", type=int, default=None, metavar="N", help=up_to)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    parser.add_argument("--dtype", choices=sorted(DTYPES), default="fp32", help="bf16 means autocast (default fp32)")
    parser.add_argument("--threads", type=int, default=None, help="threads of one operation on CPU (default torch's)")
    clock = (
        "cpu: seconds this process computes, which other loads hardly change; use it with --threads 1 (default wall)"
    )
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="wall", help=clock)
    parser.add_argument("--output", type=Path, default=None, metavar="FILE", help="also write the figures as JSON")
