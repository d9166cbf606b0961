"""A plan as a table for people, and as JSON for programs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from setok.planning import GIB, Estimate, Hardware, ServingMemory, Suggestion

MEBIBYTE = 2**20


def show(console: Console, plan: Estimate, hardware: Hardware, suggestion: Suggestion | None) -> None:
    """Print a plan: verdict, memory, time, cost, and what the figures stand on."""
    config, memory, speed, assumed = plan.config, plan.memory, plan.speed, hardware.assumptions
    console.print(f"[bold]{config.name}[/bold]: stage {config.stage} on {plan.cluster.name}")
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    batch, micro, turns = (
        config.train.global_batch_size,
        config.train.micro_batch_size,
        config.gradient_accumulation_steps,
    )
    padding = config.num_ranks * micro * turns - batch
    steps = f"{config.num_ranks} × {micro} × {turns}" + (f" − {padding} of padding" if padding else "")
    table.add_row("workers", f"{config.num_ranks}; a global batch of {batch} = {steps}")
    learn = f"{_count(plan.trace.trainable)} of {_count(sum(t.parameters for t in plan.trace.turns))} learn"
    table.add_row("parameters", learn)
    parts = ("weights", "gradients", "optimizer", "batches", "activations", "buffers")
    held = ", ".join(f"{name} {size(getattr(memory, name))}" for name in parts if getattr(memory, name))
    table.add_row("a worker holds", f"{size(memory.total)}: {held}; most in the phase {memory.worst!r}")
    for need in plan.needs:
        have = f"{_figure(need.needed)} of {_figure(need.available)} {need.unit}".strip()
        verdict = "" if need.is_met else f"  [red]{_figure(need.needed - need.available)} {need.unit} too few[/red]"
        table.add_row(need.what, have + verdict)
    if plan.object_store_bytes:
        table.add_row("", f"of it {size(plan.object_store_bytes)} of data under way in shared memory")
    table.add_row(
        "step",
        f"{_seconds(speed.step_s)}: computing {_seconds(speed.compute_s)} ({_figure(speed.flops / 1e12)} TFLOP), communication"
        f" {_seconds(speed.communication_s)}, decoding {_seconds(speed.data_s)}",
    )
    keeping = f"{speed.images_per_s:,.0f} images/s; {_figure(speed.decode_cores)} decoding cores keep up"
    if speed.waits_for_data and config.scaling.num_workers:
        wanted = math.ceil(speed.decode_cores / min(1.0, config.data.decode_cpus))
        keeping += f"  [yellow]Workers would wait for data: --set data.decode_workers={wanted}[/yellow]"
    table.add_row("data", keeping)
    table.add_row("time", f"{config.train.steps:,} steps in {_seconds(plan.seconds)}; {plan.images:,} pictures")
    if plan.dollars is not None and plan.dollars_spot is not None:
        price = f"about ${plan.dollars:,.0f} on demand, ${plan.dollars_spot:,.0f} on spot nodes"
        table.add_row("cost", f"{price} (prices as of {hardware.as_of})")
    kept = (
        f"{plan.checkpoints} checkpoints of {size(plan.checkpoint_bytes)}; at most {size(plan.data_bytes)} of pictures"
    )
    monthly = f"; ${plan.storage_per_month:,.0f} a month" if plan.storage_per_month >= 1 else ""
    table.add_row("storage", kept + monthly)
    console.print(table)
    console.print(
        f"Assumed: {assumed.efficiency:.0%} of a GPU's TFLOP/s, {assumed.cpu_gflops:g} GFLOP/s a CPU core,"
        f" {assumed.link_efficiency:.0%} of a link, {assumed.overlap:.0%} of the communication hidden,"
        f" {assumed.decode_per_core:g} pictures/s a core, {assumed.text_tokens} words a picture (--prices FILE changes them).",
        style="dim",
    )
    _verdict(console, plan, suggestion)


def show_total(console: Console, plans: Sequence[Estimate]) -> None:
    """Print what runs that follow each other need together."""
    told = f"All {len(plans)} runs: {_seconds(sum(plan.seconds for plan in plans))} of training"
    if all(plan.dollars is not None for plan in plans):
        on_demand, spot = (sum(getattr(plan, kind) for plan in plans) for kind in ("dollars", "dollars_spot"))
        told += f", about ${on_demand:,.0f} on demand, ${spot:,.0f} on spot nodes"
    console.print(f"[bold]{told}.[/bold]")


def _verdict(console: Console, plan: Estimate, suggestion: Suggestion | None) -> None:
    if plan.fits:
        console.print("[bold green]It fits.[/bold green]")
        idle = plan.cluster.gpus - plan.config.num_ranks if plan.config.scaling.use_gpu else 0
        if idle > 0:
            console.print(f"{idle} GPU(s) would be idle: --set scaling.num_workers={plan.cluster.gpus}")
        return
    console.print("[bold red]It does not fit.[/bold red]")
    if plan.config.scaling.use_gpu and not plan.cluster.gpus:
        console.print(
            "The run is for GPUs, and there are none here: --nodes plans it for a cluster (python -m ray_jobs.plan), or"
            " --set scaling.use_gpu=false"
        )
        return
    if suggestion is None:
        console.print(
            "No change of checkpointing, ZeRO, micro-batch or number of nodes makes it fit: a smaller model would."
        )
        return
    change = f"--set {' '.join(suggestion.settings)}" if suggestion.settings else ""
    nodes = f"--nodes {suggestion.nodes}" if suggestion.nodes else ""
    needed = suggestion.estimate.memory.total
    console.print(
        f"It would with {' '.join(filter(None, (change, nodes)))}: then a worker holds {size(needed)}, and a step takes"
        f" {_seconds(suggestion.estimate.speed.step_s)}."
    )


def show_serving(console: Console, name: str, memory: ServingMemory, fit: tuple[float, float, bool]) -> None:
    """Print the memory of a model that answers."""
    needed, available, fits = fit
    console.print(f"[bold]{name}[/bold]: {memory.copies} cop{'y' if memory.copies == 1 else 'ies'} of the model")
    console.print(
        f"A copy holds {size(memory.total)}: weights {size(memory.weights)}, keys and values {size(memory.cache)}"
        f" ({memory.places:,} places of {memory.place / 1024:,.1f} KiB), reading pictures {size(memory.reading)}."
    )
    console.print(f"With what is beside it {needed:,.1f} of {available:,.1f} GiB.")
    console.print("[bold green]It fits.[/bold green]" if fits else "[bold red]It does not fit.[/bold red]")


def as_json(plan: Estimate, suggestion: Suggestion | None) -> dict[str, Any]:
    """The same as plain values: bytes, seconds, dollars; ``None`` for what never ends."""
    told = {
        "name": plan.config.name,
        "stage": plan.config.stage,
        "cluster": {name: count for name, _, count in plan.cluster.nodes},
        "workers": plan.config.num_ranks,
        "fits": plan.fits,
        "needs": [asdict(need) | {"is_met": need.is_met} for need in plan.needs],
        "memory": asdict(plan.memory) | {"total": plan.memory.total},
        "host_bytes": plan.host_bytes,
        "object_store_bytes": plan.object_store_bytes,
        "speed": {name: _finite(value) for name, value in asdict(plan.speed).items()},
        "steps": plan.config.train.steps,
        "images": plan.images,
        "checkpoint_bytes": plan.checkpoint_bytes,
        "checkpoints": plan.checkpoints,
        "data_bytes": plan.data_bytes,
        "seconds": _finite(plan.seconds),
        "dollars": {"on_demand": plan.dollars, "spot": plan.dollars_spot, "storage_per_month": plan.storage_per_month},
    }
    if suggestion is not None:
        told["suggestion"] = {"set": list(suggestion.settings), "nodes": suggestion.nodes}
    return told


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def size(value: float) -> str:
    """Bytes as people read them."""
    return f"{value / GIB:,.1f} GiB" if value >= GIB else f"{value / MEBIBYTE:,.1f} MiB"


def _count(value: int) -> str:
    return f"{value / 1e9:,.2f} G" if value >= 1e9 else f"{value / 1e6:,.2f} M"


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}" if value >= 1 else f"{value:.2g}"


def _seconds(value: float) -> str:
    if not math.isfinite(value):
        return "for ever"
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if value >= 1.5 * length:
            return f"{value / length:,.1f} {unit}"
    return f"{value:,.2f} s" if value >= 0.1 else f"{value * 1000:,.1f} ms"
