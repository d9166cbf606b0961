"""Generated scenes written in the official layouts of public data sets, so that the same readers read both.

    python -m setok.data.scenes --out DIR --split train --count 1000 --layouts coco,vqav2 --seed 1

Every layout has its root, ``DIR/<layout>``; below it, with ``train`` for the split (``val`` and ``test``
likewise):

* ``coco``: ``train2017/%012d.jpg``, ``annotations/{captions,instances,panoptic}_train2017.json`` and
  ``annotations/panoptic_train2017/%012d.png``.
* ``vqav2``: ``v2_OpenEnded_mscoco_train2014_questions.json`` and ``v2_mscoco_train2014_annotations.json``
  (``val2014``, ``test2015``). As with the real one, the pictures are those of COCO:
  ``DIR/coco/train2017/%012d.jpg`` of the ``image_id``; asking for ``vqav2`` therefore writes ``coco`` too.
* ``gqa``: ``train_balanced_questions.json`` and ``images/<imageId>.jpg``.
* ``refcoco``: a REFER ``data`` folder, all splits in one: ``refcoco/refs(unc).p`` (its splits are train,
  val and testA), ``refcoco/instances.json`` and
  ``images/mscoco/images/train2014/COCO_train2014_%012d.jpg``.
* ``instructpix2pix``: ``train/seeds.json`` and ``train/<name>/{prompt.json,<seed>_0.jpg,<seed>_1.jpg}``
  (``dev`` for val).
* ``magicbrush``: ``train/edit_turns.json``, ``train/edit_sessions.json`` and ``train/images/<id>/*.png``
  (``dev`` for val).
* ``imagenet``: ``train/data.json`` and ``train/images/`` (``dev`` for val).

A root also holds ``scenes_<split>.json``: what was asked for, how much was written, and whether it is all
there. It is marked complete last, so a run that was cut off is redone and a finished one is not. Two
processes must not write to one ``DIR`` at once.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from setok.children import deaf_to_interrupts
from setok.data.scenes.files import WRITE_FILES, prepare_folders, write_json
from setok.data.scenes.generate import FAMILIES, check_request, generate_scene
from setok.data.scenes.objects import contact_sheet
from setok.data.scenes.rows import WRITE_SCENE, Rows
from setok.data.scenes.samples import SPLIT_ROOM, SPLITS, Sample, SplitNames
from setok.errors import ConfigError, DataError, SetokError, did_you_mean

logger = logging.getLogger(__name__)

LAYOUTS = tuple(WRITE_SCENE)
FORMAT_VERSION = 1
"""Goes up whenever the same request gives other files."""
_CHUNK = 50


@dataclass(frozen=True, kw_only=True)
class _Request:
    """What a split was asked to hold."""

    split: str
    count: int
    start: int
    seed: int
    family: str
    image_size: int
    max_objects: int
    format_version: int = FORMAT_VERSION

    @property
    def names(self) -> SplitNames:
        return SPLITS[self.split]

    def check(self, layouts: Sequence[str]) -> None:
        for layout in layouts:
            if layout not in LAYOUTS:
                raise ConfigError(f"there is no layout {layout!r}", did_you_mean(layout, LAYOUTS))
        if not layouts:
            raise ConfigError("no layout was asked for", f"choose from: {', '.join(LAYOUTS)}")
        if self.split not in SPLITS:
            raise ConfigError(f"there is no split {self.split!r}", did_you_mean(self.split, SPLITS))
        if self.count < 1 or self.start < 0 or self.start + self.count > SPLIT_ROOM:
            raise ConfigError(
                f"start={self.start}, count={self.count}: a split has 1 to {SPLIT_ROOM} scenes",
                "use for example start=0, count=1000",
            )
        check_request(
            seed=self.seed,
            family=self.family,
            image_size=self.image_size,
            min_objects=1,
            max_objects=self.max_objects,
        )


def write_scenes(
    out: str | Path,
    *,
    split: str,
    count: int,
    seed: int,
    family: str,
    layouts: Sequence[str],
    start: int = 0,
    image_size: int = 64,
    max_objects: int = 6,
    num_processes: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Write scenes ``start`` to ``start + count - 1`` of a split in each of the layouts.

    A layout that already holds exactly this is left alone; a split that is half-written or differs is
    written anew.

    Args:
        out: folder of the layout roots.
        split: ``train``, ``val`` or ``test``; no two of them share a scene.
        count: number of scenes.
        seed: of the generator.
        family: one of ``setok.data.scenes.generate.FAMILIES``.
        layouts: some of ``LAYOUTS``.
        start: first scene.
        image_size: height and width in pixels.
        max_objects: most objects in a scene.
        num_processes: worker processes; None means one per core. With 1, everything happens in this process.
        on_progress: called with scenes done and scenes in all.

    Returns:
        ``scenes``, and rows by ``layout.what``, such as ``coco.captions``.

    Raises:
        ConfigError: an unknown name or a number out of range.
        DataError: a root holds files of somebody else.
    """
    request = _Request(
        split=split,
        count=count,
        start=start,
        seed=seed,
        family=family,
        image_size=image_size,
        max_objects=max_objects,
    )
    request.check(layouts)
    wanted = [name for name in LAYOUTS if name in layouts or (name == "coco" and "vqav2" in layouts)]
    out = Path(out)
    missing = [layout for layout in wanted if not _is_complete(out / layout, request)]
    for layout in missing:
        _begin(out / layout, layout, request)
    gathered: dict[str, Rows] = {layout: {} for layout in missing}
    for done, part in _write_pictures(out, request, missing, num_processes or os.cpu_count() or 1):
        for layout, rows in part.items():
            for what, some in rows.items():
                gathered[layout].setdefault(what, []).extend(some)
        if on_progress is not None:
            on_progress(done, count)
    for layout in missing:
        WRITE_FILES[layout](out / layout, request.names, request.family, gathered[layout])
        counts = {what: len(rows) for what, rows in gathered[layout].items()}
        _write_stamp(out / layout, request, complete=True, counts=counts)
    logger.debug("scenes %s: wrote %s, kept %s", split, missing, [name for name in wanted if name not in missing])
    totals = {"scenes": count}
    for layout in wanted:
        stamp = json.loads(_stamp(out / layout, split).read_text())
        totals |= {f"{layout}.{what}": number for what, number in stamp["counts"].items()}
    return totals


# ---------------------------------------------------------------- pictures, in worker processes


def _write_pictures(
    out: Path, request: _Request, layouts: list[str], num_processes: int
) -> Iterator[tuple[int, dict[str, Rows]]]:
    """Yield the number of scenes written so far and the rows of the latest ones, in order of the scenes."""
    if not layouts:
        return
    starts = range(request.start, request.start + request.count, _CHUNK)
    jobs = [(out, request, layouts, first) for first in starts]
    done = [min(request.count, number * _CHUNK) for number in range(1, len(jobs) + 1)]
    if num_processes == 1 or len(jobs) == 1:
        yield from zip(done, map(_write_chunk, jobs), strict=True)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(num_processes, len(jobs)), mp_context=context, initializer=_end_with_parent) as pool:
        with deaf_to_interrupts():
            gathered = pool.map(_write_chunk, jobs)  # starts them all
        yield from zip(done, gathered, strict=True)


def _end_with_parent() -> None:
    """End this worker when the process that asked is gone: one that was killed can tell nobody, and workers would wait on."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # workers are spawned

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def _write_chunk(job: tuple[Path, _Request, list[str], int]) -> dict[str, Rows]:
    """Draw up to ``_CHUNK`` scenes, write their pictures, and return their rows by layout."""
    out, request, layouts, first = job
    gathered: dict[str, Rows] = {layout: {} for layout in layouts}
    for number in range(first, min(first + _CHUNK, request.start + request.count)):
        scene = generate_scene(
            request.names.first_index + number,
            seed=request.seed,
            family=request.family,
            image_size=request.image_size,
            max_objects=request.max_objects,
        )
        sample = Sample(scene=scene, split=request.names)
        for layout in layouts:
            for what, rows in WRITE_SCENE[layout](sample, out / layout).items():
                gathered[layout].setdefault(what, []).extend(rows)
    return gathered


# ---------------------------------------------------------------- stamps, and clearing what is redone


def _stamp(root: Path, split: str) -> Path:
    return root / f"scenes_{split}.json"


def _write_stamp(root: Path, request: _Request, *, complete: bool, counts: dict[str, int]) -> None:
    write_json(_stamp(root, request.split), {"complete": complete, "request": asdict(request), "counts": counts})


def _is_complete(root: Path, request: _Request) -> bool:
    path = _stamp(root, request.split)
    if not path.is_file():
        return False
    stamp = json.loads(path.read_text())
    return stamp["complete"] and stamp["request"] == asdict(request)


def _begin(root: Path, layout: str, request: _Request) -> None:
    """Mark the split as unfinished, remove what an earlier run left of it, and make its folders."""
    if root.is_dir() and any(root.iterdir()) and not any(root.glob("scenes_*.json")):
        raise DataError(
            f"{str(root)!r} holds files that were not written by the scene generator",
            "choose another output folder, or move these files away",
        )
    root.mkdir(parents=True, exist_ok=True)
    _write_stamp(root, request, complete=False, counts={})
    if layout == "coco":
        _disown_questions(root.parent / "vqav2", request)
    prepare_folders(root, layout, request.names)


def _disown_questions(vqav2: Path, request: _Request) -> None:
    """Questions about other pictures than the ones that ``coco`` is about to hold are no longer complete."""
    path = _stamp(vqav2, request.split)
    if path.is_file() and not _is_complete(vqav2, request):
        write_json(path, json.loads(path.read_text()) | {"complete": False})


# ---------------------------------------------------------------- command line


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m setok.data.scenes",
        description="Write generated scenes in official layouts.",
        epilog="for example: python -m setok.data.scenes --out data/scenes --count 1000 --layouts coco,vqav2",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder of the layout roots")
    parser.add_argument("--split", default="train", help=f"one of {', '.join(SPLITS)} (default train)")
    parser.add_argument("--count", type=int, default=1000, help="number of scenes (default 1000)")
    parser.add_argument("--start", type=int, default=0, help="number of the first scene (default 0)")
    parser.add_argument("--family", default="plain", help=f"one of {', '.join(FAMILIES)} (default plain)")
    parser.add_argument("--layouts", default="coco", help=f"comma-separated, of {', '.join(LAYOUTS)} (default coco)")
    parser.add_argument("--seed", type=int, default=1, help="another one draws other scenes (default 1)")
    parser.add_argument("--size", type=int, default=64, help="height and width in pixels (default 64)")
    parser.add_argument("--max-objects", type=int, default=6, help="most objects of a scene (default 6)")
    parser.add_argument("--processes", type=int, default=None, help="worker processes; one per core if left out")
    parser.add_argument(
        "--preview", type=Path, default=None, help="also write a contact sheet of the first scenes here"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    console = Console()
    began = time.perf_counter()
    try:
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task("scenes", total=options.count)
            counts = write_scenes(
                options.out,
                split=options.split,
                count=options.count,
                seed=options.seed,
                family=options.family,
                layouts=[name.strip() for name in options.layouts.split(",") if name.strip()],
                start=options.start,
                image_size=options.size,
                max_objects=options.max_objects,
                num_processes=options.processes,
                on_progress=lambda done, _: progress.update(task, completed=done),
            )
    except SetokError as error:
        console.print(str(error), style="red", markup=False)
        return 2
    except KeyboardInterrupt:
        console.print("Interrupted.", style="yellow")
        return 130
    seconds = time.perf_counter() - began
    if options.preview is not None:
        first = SPLITS[options.split].first_index + options.start
        scenes = [
            generate_scene(
                first + number,
                seed=options.seed,
                family=options.family,
                image_size=options.size,
                max_objects=options.max_objects,
            )
            for number in range(min(40, options.count))
        ]
        contact_sheet(scenes).save(options.preview)
    rows = ", ".join(f"{what} {number}" for what, number in counts.items() if what != "scenes")
    rate = f"{options.count / seconds:.0f} scenes/s"
    console.print(
        f"{options.out}: {options.split}, {options.count} scenes, {seconds:.1f} s, {rate} ({rows})",
        soft_wrap=True,
    )
    return 0
