"""Breaks training runs in every way we know, and compares what is left with a run that nothing happened to.

    python -m ray_jobs.benchmark faults --kills 50

Each fault strikes a small run of two workers. A run has survived if it ends by itself (or by the same command again) with the
same records in every global batch, the same losses and the same final weights, to the last bit, as the undisturbed run. Then one
long run is killed at random moments, a worker or the driver, before, during and after saves.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import psutil

from ray_jobs.benchmarks.fault_run import (
    DATA,
    PARTS,
    WORKER,
    Run,
    differences,
    end_well,
    ends_well,
    recovery,
    small_run,
)
from ray_jobs.benchmarks.files import ingested_scenes, write_figures
from ray_jobs.launch import EXIT_STOPPED, console
from setok import checkpoint
from setok.config import TrainConfig, dump_config
from setok.errors import ConfigError, TrainingError, did_you_mean

NUM_PICTURES = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("--kills", type=int, default=50, help="random kills of the long run; 0 leaves it out")
    parser.add_argument("--only", default="", help="faults whose name contains this; `none` for the kills alone")
    parser.add_argument("--seed", type=int, default=0, help="of the random kills")
    parser.add_argument("--output", type=Path, default=Path("runs/faults"), help="folder of the runs; it is emptied")


def faults(arguments: argparse.Namespace) -> None:
    """The command.

    Raises:
        ConfigError: there is no such fault.
        TrainingError: a run did not survive.
    """
    output: Path = arguments.output.absolute()
    chosen = {name: fault for name, fault in FAULTS.items() if arguments.only in name and arguments.only != "none"}
    if not chosen and arguments.only != "none":
        raise ConfigError(f"no fault has {arguments.only!r} in its name", did_you_mean(arguments.only, FAULTS))
    shutil.rmtree(output, ignore_errors=True)
    data = ingested_scenes(output, count=NUM_PICTURES)
    rows = struck(data, output, chosen) if chosen else []
    if arguments.kills:
        rows.append(random_kills(data, output, arguments.kills, random.Random(arguments.seed)))
    write_figures(output / "faults.json", {"faults": rows})
    page = table(rows)
    (output / "faults.md").write_text(page, encoding="utf-8")
    console().print(page)
    console().print(f"→ {output / 'faults.json'}, {output / 'faults.md'}")
    if broken := [row["fault"] for row in rows if row["differences"]]:
        raise TrainingError(f"not survived: {', '.join(broken)}", f"the runs are in {output}")


def struck(data: Path, output: Path, chosen: Mapping[str, Callable[[Run], dict[str, float]]]) -> list[dict[str, Any]]:
    """Every fault on a run of its own, beside one that nothing happens to."""
    calm = undisturbed(small_run(data, output, "undisturbed"))
    rows: list[dict[str, Any]] = []
    began = time.monotonic()
    for name, fault in chosen.items():
        run = Run(small_run(data, output, name.replace(" ", "-")))
        rows.append({"fault": name} | outcome(run, fault, calm))
        left = (time.monotonic() - began) / len(rows) * (len(chosen) - len(rows))
        console().print(f"{len(rows)}/{len(chosen)} {one_line(rows[-1])} · {left / 60:.0f} min left of these")
    return rows


def outcome(run: Run, fault: Callable[[Run], dict[str, float]], calm: TrainConfig) -> dict[str, Any]:
    """How a run took a fault. One that does not outlive it says so in its row, and the other faults have their turn."""
    try:
        return fault(run) | {"differences": differences(run.config, calm)}
    except TrainingError as error:
        return {"differences": [str(error)]}


def undisturbed(config: TrainConfig) -> TrainConfig:
    """Train, without any fault."""
    end_well(Run(config))
    return config


# ---------------------------------------------------------------- the faults: each takes a run that was not started yet


def worker_before_save(run: Run) -> dict[str, float]:
    """A worker is killed when most of the steps since the last save are done."""
    with run.started():
        every = run.config.checkpoint.every
        killed, step = run.kill(WORKER, when=lambda: run.step % every >= every - 3 and run.newest())
        ends_well(run)
    return recovery(run.config, killed, step)


def worker_in_save(run: Run) -> dict[str, float]:
    """A worker is killed while a checkpoint is being written, which is then no checkpoint."""
    with run.started():
        run.wait_for(run.newest, "the first save")
        killed, step = run.kill(WORKER, when=run.is_saving)
        ends_well(run)
    return recovery(run.config, killed, step)


def worker_after_save(run: Run) -> dict[str, float]:
    """The first worker is killed as soon as a checkpoint has its name."""
    with run.started():
        killed, step = run.kill(WORKER, 0, when=lambda: run.newest() >= 2 * run.config.checkpoint.every)
        ends_well(run)
    return recovery(run.config, killed, step)


def data_process(run: Run) -> dict[str, float]:
    """A process that decodes pictures is killed: Ray reads its block again, and training only waits."""
    with run.started():
        killed, step = run.kill(DATA, when=lambda: run.step >= 5)
        ends_well(run)
    return recovery(run.config, killed, step)


def frozen(run: Run) -> dict[str, float]:
    """A worker stops without ending (SIGSTOP); the others give up on it after ``scaling.collective_timeout_s``, here 5 s."""
    scaling = run.config.scaling.model_copy(update={"collective_timeout_s": 5.0})
    saving = run.config.checkpoint.model_copy(update={"commit_timeout": 4.0})
    run.config = run.config.model_copy(update={"scaling": scaling, "checkpoint": saving})
    with run.started():
        killed, step = run.kill(WORKER, when=lambda: run.step >= 15, by=signal.SIGSTOP)
        ends_well(run)
    return recovery(run.config, killed, step)


def driver(run: Run) -> dict[str, float]:
    """The driver is killed, and with it Ray; the same command is given again at once."""
    step, killed = killed_driver(run)
    end_well(run)
    return recovery(run.config, killed, step)


def told_to_end(run: Run) -> dict[str, float]:
    """The driver's process group gets SIGTERM, as from ``timeout`` or systemd; it saves and ends, and is given again."""
    with run.started() as process:
        run.wait_for(lambda: run.step >= 15, "15 steps")
        killed = time.time()
        os.killpg(process.pid, signal.SIGTERM)
        if (code := run.finish()) != EXIT_STOPPED:
            raise TrainingError(f"SIGTERM ended the driver with {code} instead of {EXIT_STOPPED}", f"see {run.log}")
    step = run.step
    end_well(run)
    return recovery(run.config, killed, step)


def disk_full(run: Run) -> dict[str, float]:
    """No file of a worker may grow to half the size of the weights while one checkpoint is written; then there is room again."""
    with run.started():
        run.wait_for(run.newest, "the first save")
        room = (checkpoint.folder_of(run.config.run_dir, run.newest()) / checkpoint.MODEL).stat().st_size // 2
        limits = {worker: worker.rlimit(psutil.RLIMIT_FSIZE) for worker in run.processes(WORKER)}
        for worker, (_, most) in limits.items():
            worker.rlimit(psutil.RLIMIT_FSIZE, (room, most))
        run.wait_for(lambda: "the run goes on" in run.output(), "a save that fails")
        for worker, limit in limits.items():
            worker.rlimit(psutil.RLIMIT_FSIZE, limit)
        ends_well(run)
    return {}


def damaged_by(damage: Callable[[Path], None]) -> Callable[[Run], dict[str, float]]:
    """The driver is killed, and its newest checkpoint is damaged; the same command goes on from the one before."""

    def fault(run: Run) -> dict[str, float]:
        step, killed = killed_driver(run)
        damage(checkpoint.folder_of(run.config.run_dir, run.newest()))
        end_well(run)
        return recovery(run.config, killed, step)

    return fault


def truncate(folder: Path) -> None:
    """The weights lose their last bytes."""
    file = folder / checkpoint.MODEL
    file.write_bytes(file.read_bytes()[:-100])


def flip_bit(folder: Path) -> None:
    """One bit of the weights turns over."""
    file = folder / checkpoint.MODEL
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def lose_part(folder: Path) -> None:
    """A rank's part of the optimizer's state is not there."""
    max(folder.glob("optimizer-*")).unlink()


def lose_end(folder: Path) -> None:
    """What was to be written last is not there, as after an upload that broke off."""
    (folder / checkpoint.MANIFEST).unlink()


def node_drained(run: Run) -> dict[str, float]:
    """One of two nodes is announced to go, goes four seconds later, and is replaced; the time counts from its going."""
    config = one_to_a_node(run)
    seen = on_nodes(config, "drain", 12)
    return recovery(config, seen["gone"], seen["gone_at"])


def raylet_killed(run: Run) -> dict[str, float]:
    """The raylet of one of two nodes is killed; a third node comes."""
    config = one_to_a_node(run)
    seen = on_nodes(config, "kill", 12)
    return recovery(config, seen["gone"], seen["gone_at"])


def one_to_a_node(run: Run) -> TrainConfig:
    """The run's config with workers so large that a node of one CPU holds one of them."""
    scaling = run.config.scaling.model_copy(update={"cpus_per_worker": 0.75})
    return run.config.model_copy(update={"scaling": scaling})


def on_nodes(config: TrainConfig, how: Literal["drain", "kill"], step: int) -> dict[str, Any]:
    """Train on several nodes of which one goes after a step; see ``ray_jobs.benchmarks.fault_nodes``.

    Raises:
        TrainingError: the run did not outlive it.
    """
    file = config.run_dir.with_suffix(".yaml")
    file.write_text(dump_config(config), encoding="utf-8")
    command = [sys.executable, "-m", "ray_jobs.benchmarks.fault_nodes", str(file), how, str(step)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise TrainingError(f"{config.name} ended with {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def killed_driver(run: Run) -> tuple[int, float]:
    """Kill the driver when there are two checkpoints; the step it was at, and when."""
    with run.started() as process:
        run.wait_for(lambda: run.newest() >= 2 * run.config.checkpoint.every and not run.is_saving(), "two saves")
        step, killed = run.step, time.time()
        process.kill()
    return step, killed


FAULTS: dict[str, Callable[[Run], dict[str, float]]] = {
    "worker killed before a save": worker_before_save,
    "worker killed during a save": worker_in_save,
    "worker killed after a save": worker_after_save,
    "worker frozen": frozen,
    "data process killed": data_process,
    "driver killed": driver,
    "driver told to end": told_to_end,
    "node drained": node_drained,
    "raylet of a node killed": raylet_killed,
    "disk full during a save": disk_full,
    "newest checkpoint truncated": damaged_by(truncate),
    "newest checkpoint with a wrong bit": damaged_by(flip_bit),
    "newest checkpoint without a part": damaged_by(lose_part),
    "newest checkpoint half written": damaged_by(lose_end),
}


# ---------------------------------------------------------------- many kills in one run


def random_kills(data: Path, output: Path, number: int, rng: random.Random) -> dict[str, Any]:
    """One long run that is killed again and again: four times out of five a worker, else the driver.

    Every kill comes a random number of steps after training has got going again, and one in three waits for a save to begin.
    """
    # Steps done between two kills last, on average, longer than what a kill takes back.
    steps = {"steps": 14 * number + 40}
    calm = undisturbed(small_run(data, output, "long-undisturbed", train=steps))
    run = Run(small_run(data, output, "long", train=steps))
    recoveries: list[dict[str, float]] = []
    done, began = 0, time.monotonic()
    while done < number and run.newest() < run.config.train.steps:
        with run.started():
            alive = True
            while alive and done < number:
                run.wait_for(partial(run.has_come_to, run.step + rng.randint(1, 16)), "the next steps")
                if run.has_ended:
                    break
                alive, parts = strike(run, rng)
                recoveries += [parts] if parts else []
                done += 1
                left = (time.monotonic() - began) / done * (number - done) / 60
                who = f"worker, {parts['total']:.1f} s" if parts else "driver"
                console().print(f"kill {done}/{number} ({who}) at step {run.step} · {left:.0f} min left")
            if alive:
                ends_well(run)
    end_well(run)
    mean = {key: round(statistics.mean(one[key] for one in recoveries), 2) for key in recoveries[0]}
    worst = {"worst": max(one["total"] for one in recoveries)}
    return {"fault": f"{done} random kills, mean"} | mean | worst | {"differences": differences(run.config, calm)}


def strike(run: Run, rng: random.Random) -> tuple[bool, dict[str, float]]:
    """Kill a worker, or the driver; whether the run lives on, and the parts of its recovery if it does."""

    def saves() -> bool:
        return run.is_saving() or run.has_ended

    def now() -> bool:
        return True

    when = saves if rng.random() < 1 / 3 else now
    if run.driver is not None and rng.random() < 0.2:
        run.wait_for(when, "a save")
        run.driver.kill()
        return False, {}
    killed, step = run.kill(WORKER, rng.randrange(2), when=when)

    def has_recovered() -> bool:
        return run.has_ended or bool(recovery(run.config, killed, step))

    run.wait_for(has_recovered, "the next step")
    return True, recovery(run.config, killed, step)


# ---------------------------------------------------------------- what is shown


def one_line(row: dict[str, Any]) -> str:
    """A fault and how it went."""
    result = "; ".join(row["differences"]) or "the same to the last bit"
    if "total" not in row:
        return f"{row['fault']}: {result}, no restart"
    return f"{row['fault']}: {result}, {row['total']:.1f} s to the next step, {row['repeated']:g} steps again"


def table(rows: list[dict[str, Any]]) -> str:
    """All faults as a table in Markdown."""
    head = ["fault", "samples, losses, weights", *PARTS, "total, s", "steps again"]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for row in rows:
        result = "; ".join(row["differences"]) or "same to the last bit"
        seconds = [f"{row[part]:.1f}" if part in row else "–" for part in (*PARTS, "total")]
        lines.append(f"| {row['fault']} | {result} | {' | '.join(seconds)} | {row.get('repeated', 0):g} |")
    return "\n".join(lines) + "\n"
