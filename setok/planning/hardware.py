"""What machines offer: the table of node types, clusters described by their names, and this machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from setok.config import Section
from setok.errors import ConfigError, did_you_mean

GIB = 2**30


class NodeType(Section):
    """One kind of machine."""

    gpus: int = Field(0, ge=0)
    gpu: str = ""
    gpu_memory_gib: float = Field(0.0, ge=0.0)
    """Of each GPU, what a process can take."""
    tflops: float = Field(0.0, ge=0.0)
    """Of each GPU, 10^12 floating-point operations a second in bf16."""
    gpu_link_gbs: float = Field(16.0, gt=0.0)
    """Gigabytes a second from a GPU to the others of its node, one way."""
    network_gbits: float = Field(10.0, gt=0.0)
    """Gigabits a second from the node to others."""
    cpus: float = Field(gt=0.0)
    memory_gib: float = Field(gt=0.0)
    disk_gib: float = Field(100.0, ge=0.0)
    on_demand: float = Field(0.0, ge=0.0)
    """Dollars an hour."""
    spot: float = Field(0.0, ge=0.0)
    also: str = ""
    """What a provider calls it."""


class Assumptions(Section):
    """How much of its machines a run gets, and what it costs beside the model; the table's file says what each means."""

    efficiency: float = Field(gt=0.0, le=1.0)
    cpu_gflops: float = Field(gt=0.0)
    link_efficiency: float = Field(gt=0.0, le=1.0)
    overlap: float = Field(ge=0.0, le=1.0)
    decode_per_core: float = Field(gt=0.0)
    gpu_overhead_gib: float = Field(ge=0.0)
    worker_gib: float = Field(ge=0.0)
    decoder_gib: float = Field(ge=0.0)
    node_gib: float = Field(ge=0.0)
    image_kb: float = Field(gt=0.0)
    blocks_per_worker: int = Field(ge=1)
    pauses: float = Field(ge=0.0)
    text_tokens: int = Field(ge=1)
    concepts: int = Field(ge=0)
    regions: int = Field(ge=0)


class Hardware(Section):
    """Node types, prices and assumptions: one file."""

    as_of: str
    nodes: dict[str, NodeType]
    storage_per_tb_month: float = Field(ge=0.0)
    assumptions: Assumptions


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Nodes of one or several types."""

    nodes: tuple[tuple[str, NodeType, int], ...]
    """Name, type and number."""
    has_prices: bool = True

    @property
    def num_nodes(self) -> int:
        return sum(count for _, _, count in self.nodes)

    @property
    def gpus(self) -> int:
        return sum(node.gpus * count for _, node, count in self.nodes)

    @property
    def cpus(self) -> float:
        return sum(node.cpus * count for _, node, count in self.nodes)

    def hosts(self, *, use_gpu: bool) -> tuple[tuple[str, NodeType, int], ...]:
        """The nodes that workers can be on."""
        return tuple(entry for entry in self.nodes if entry[1].gpus or not use_gpu)

    @property
    def name(self) -> str:
        return " + ".join(f"{count} × {name}" for name, _, count in self.nodes)


def load_hardware(path: str | None = None) -> Hardware:
    """The table that ships, or a user's.

    Raises:
        ConfigError: there is no such file, or a figure is missing, unknown or impossible.
    """
    shipped = resources.files("setok") / "planning" / "hardware.yaml"
    remedy = f"copy {shipped} and change what you know better"
    if path is not None and not Path(path).is_file():
        raise ConfigError(f"--prices: there is no file {path!r}", remedy)
    try:
        return Hardware.model_validate(
            yaml.safe_load((Path(path).read_bytes() if path is not None else shipped.read_bytes()).decode())
        )
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--prices {path} is not valid YAML: {error}", remedy) from error
    except ValidationError as error:
        wrong = [
            ": ".join(filter(None, [".".join(map(str, e["loc"])), f"{e['msg'][0].lower()}{e['msg'][1:]}"]))
            for e in error.errors()
        ]
        raise ConfigError(f"--prices {path}: {'; '.join(wrong)}", remedy) from error


def parse_nodes(descriptions: Sequence[str], hardware: Hardware) -> Cluster:
    """A cluster described as ``8xh100:4 cpu16:2``: names of the table, each with a number, which is 1 where it is left out.

    Raises:
        ConfigError: a name is not in the table, a number is none, or a type comes twice.
    """
    found: dict[str, int] = {}
    for description in descriptions:
        name, colon, count = description.partition(":")
        if name not in hardware.nodes:
            raise ConfigError(f"--nodes: no node type is called {name!r}", did_you_mean(name, hardware.nodes))
        if colon and not (count.isdecimal() and int(count) > 0):
            raise ConfigError(f"--nodes {description}: {count!r} is no number of nodes", f"write for example {name}:4")
        if name in found:
            raise ConfigError(f"--nodes names {name} twice", "give each type once, with the number of all its nodes")
        found[name] = int(count) if colon else 1
    return Cluster(nodes=tuple((name, hardware.nodes[name], count) for name, count in found.items()))


def this_machine() -> Cluster:
    """The machine that this process is on; its links and prices are not known."""
    import torch

    cuda = torch.cuda.is_available()
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdecimal():  # a container's
        memory = min(memory, int(text))
    node = NodeType(
        gpus=torch.cuda.device_count() if cuda else 0,
        gpu=torch.cuda.get_device_name(0) if cuda else "",
        gpu_memory_gib=torch.cuda.get_device_properties(0).total_memory / GIB if cuda else 0.0,
        tflops=_tflops_of(torch.cuda.get_device_name(0)) if cuda else 0.0,
        cpus=cpus,
        memory_gib=memory / GIB,
        disk_gib=shutil.disk_usage(".").free / GIB,
    )
    return Cluster(nodes=(("this machine", node, 1),), has_prices=False)


def _tflops_of(gpu: str) -> float:
    """Of the table's GPU whose name the device's has in it, else a cautious figure."""
    known = {node.gpu: node.tflops for node in load_hardware().nodes.values() if node.gpu}
    return next((tflops for name, tflops in known.items() if name in gpu), 100.0)
