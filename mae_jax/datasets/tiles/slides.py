"""Cuts whole slides into tiles with tissue: one .zip of JPEGs per slide, in several processes, resumable."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from mae_jax.data import jpeg
from mae_jax.datasets.builder import LeftOut
from mae_jax.datasets.tiles import opening
from mae_jax.rundir import contents
from mae_jax.runtime import files, limits
from mae_jax.runtime.disk import entries, exists
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.progress import duration
from mae_jax.runtime.text import count

OVERVIEW = 2048  # maximum pixels along the longer side of the overview in which tissue is detected
FINEST = 16.0  # minimum scan pixels per overview pixel, so that gaps between fibers do not count as glass
LEAST_SATURATION = 0.05  # of tissue; otherwise Otsu's threshold would split the noise of an empty slide
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Cutting:
    """Options for cutting slides."""

    tile: int = 500  # side of a tile in pixels
    mpp: float = 0.0  # micrometers per pixel of a tile; 0: keep the pixels of the scan
    assume_mpp: float = 0.0  # for slides whose header has no mpp, and for plain images; 0: leave them out
    tissue: float = 0.25  # minimum share of tissue in a tile
    workers: int = 0  # number of processes; 0: one for each core


def cut_folder(
    source: Path, into: Path, cutting: Cutting, say: Callable[[str], None]
) -> tuple[list[Path], dict[str, list[str]]]:
    """Cuts all slides below `source`; returns their .zip files, and the names of files left out, by reason.

    With `cutting.assume_mpp`, plain images are also cut. Tiles in `into` are kept if the slide and the options have
    not changed. Raises UserError if there is no slide, or OpenSlide is not installed.
    """
    opening.library()
    slides, left_out = opening.find(source, plain=bool(cutting.assume_mpp))
    if not slides:
        others = f"; left out: {_reasons(left_out)}" if left_out else ""
        raise UserError(
            f"--source {source} has no slide ({', '.join(opening.SUFFIXES)}; with --assume_mpp also "
            f"{', '.join(opening.PLAIN)}); name the folder with the slides{others}"
        )
    into.mkdir(parents=True, exist_ok=True)
    how = {key: value for key, value in asdict(cutting).items() if key != "workers"}
    settings = into / SETTINGS
    if contents.peek(settings) != how:
        shutil.rmtree(into)
        into.mkdir()
        files.write(settings, json.dumps(how))
    zip_files, open_tasks = [], []
    for slide in slides:
        place = _place(slide, source, into)
        zip_files.append(place)
        if not exists(place):
            open_tasks.append((slide, place, slide.relative_to(source).as_posix()))
    kept = len(slides) - len(open_tasks)
    say(count(len(slides), "slide") + (f", {kept} of them already cut" if kept else ""))
    for name, reason in _run(open_tasks, cutting, say):
        left_out.setdefault(reason, []).append(name)
    for path in {path for path in entries(into) if path.suffix == ".zip"} - set(zip_files):
        path.unlink()  # its slide was removed or has changed
    zip_files = [path for path in zip_files if exists(path)]
    if not zip_files:
        raise UserError(f"--source {source}: no slide could be cut: {_reasons(left_out)}")
    return zip_files, left_out


def about(path: Path) -> dict:
    """The counts in a .zip: `slide` (its name), `tiles`, `blank` (tiles without tissue), `assumed`."""
    with zipfile.ZipFile(path) as file:
        return json.loads(file.comment)


def grid(length: int, step: float) -> list[int]:
    """Where tiles of width `step` begin along a side. The rest at the edge is not used."""
    return [round(i * step) for i in range(int(length / step + 1e-6))]


def tissue_mask(rgb: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Where the image has color: saturation above Otsu's threshold. Glass is gray or white."""
    high, low = rgb.max(axis=2).astype(np.float32), rgb.min(axis=2).astype(np.float32)
    saturation = (high - low) / np.maximum(high, 1)
    return saturation > max(otsu(saturation), LEAST_SATURATION)


def otsu(values: Float[np.ndarray, ...]) -> float:
    """The threshold that divides values of 0..1 into two groups with the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, 256, (0, 1))
    share = np.cumsum(counts) / counts.sum()
    mean = np.cumsum(counts * (edges[:-1] + edges[1:]) / 2) / counts.sum()
    variance = np.maximum(share * (1 - share), 1e-12)
    return float(edges[1:][np.argmax((mean[-1] * share - mean) ** 2 / variance)])


def _place(slide: Path, source: Path, into: Path) -> Path:
    """The slide's .zip file. Its name depends on the slide's name, size and time, so a changed slide is cut again."""
    status = slide.stat()
    who = f"{slide.relative_to(source).as_posix()} {status.st_size} {status.st_mtime_ns}"
    return into / f"{hashlib.sha256(who.encode()).hexdigest()[:24]}.zip"


def _reasons(left_out: dict[str, list[str]]) -> str:
    return "; ".join(f"{reason}: {len(names)} ({', '.join(names[:3])})" for reason, names in left_out.items())


# --- one slide, in a worker process

_looked = None  # number of tiles examined, in all processes
_stop = None  # set to abandon the slides in progress


def _start(counter, stop, parent: int) -> None:
    """Initializes a worker: it ends with its parent, even if that is killed, and ignores Ctrl-C."""
    global _looked, _stop
    _looked, _stop = counter, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def cut_slide(slide: Path, place: Path, name: str, cutting: Cutting) -> str:
    """Writes the tiles of one slide, called `name`; returns why it is left out, or ""."""
    openslide = opening.library()
    partial = place.with_suffix(".partial")
    try:
        with opening.opened(slide, plain=bool(cutting.assume_mpp)) as (opened, assumed):
            step = _step(opened.properties, cutting)
            if min(opened.dimensions) < step * (1 - 1e-6):
                raise LeftOut("smaller than a tile")
            level = opened.get_best_level_for_downsample(step / cutting.tile * 1.01)
            side = round(step / opened.level_downsamples[level])  # pixels to read
            mask, scale = _overview(opened)
            counts: dict[str, Any] = {"slide": name, "tiles": 0, "blank": 0}
            counts["assumed"] = assumed
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as file:
                for y in grid(opened.dimensions[1], step):
                    for x in grid(opened.dimensions[0], step):
                        if _share(mask, scale, x, y, step) < cutting.tissue:
                            counts["blank"] += 1
                        else:
                            pixels = _white(opened.read_region((x, y), level, (side, side)))
                            if side != cutting.tile:
                                pixels = pixels.resize((cutting.tile, cutting.tile), Image.Resampling.LANCZOS)
                            file.writestr(f"x{x:06}_y{y:06}.jpg", jpeg.encode(np.asarray(pixels)))
                            counts["tiles"] += 1
                        if _looked is not None:
                            with _looked.get_lock():
                                _looked.value += 1
                        if _stop is not None and _stop.is_set():
                            raise LeftOut("stopped")
                file.comment = json.dumps(counts).encode()
        if not counts["tiles"]:
            partial.unlink()
            return "no tile with tissue"
        os.replace(partial, place)
    except LeftOut as reason:
        partial.unlink(missing_ok=True)
        return str(reason)
    except (openslide.OpenSlideError, openslide.OpenSlideUnsupportedFormatError):
        partial.unlink(missing_ok=True)
        return "cannot be read"
    return ""


def _step(properties: Mapping[str, str], cutting: Cutting) -> float:
    """Side of a tile in pixels of the scan. Raises LeftOut if the slide's resolution is unknown or too coarse."""
    if not cutting.mpp:
        return float(cutting.tile)
    return cutting.tile * cutting.mpp / opening.resolution(properties, cutting.mpp, cutting.assume_mpp)


def _overview(opened) -> tuple[Bool[np.ndarray, "h w"], float]:
    """The tissue mask, and the number of scan pixels along a side of one of its pixels."""
    scale = max(FINEST, max(opened.dimensions) / OVERVIEW)
    level = opened.get_best_level_for_downsample(scale)
    width, height = (max(1, round(side / scale)) for side in opened.dimensions)
    return tissue_mask(np.asarray(_in_parts(opened, level, (width, height)))), opened.dimensions[0] / width


def _in_parts(opened, level: int, size: tuple[int, int]) -> Image.Image:
    """A small image of a slide, built from parts, because a scan without small levels does not fit into memory."""
    small = Image.new("RGB", size, "white")
    width, height = opened.level_dimensions[level]
    factor = opened.level_downsamples[level]
    part = 4096
    for top in range(0, height, part):
        for left in range(0, width, part):
            w, h = min(part, width - left), min(part, height - top)
            pixels = _white(opened.read_region((round(left * factor), round(top * factor)), level, (w, h)))
            box = [round(v * s / d) for v, s, d in zip((left, top), size, (width, height), strict=True)]
            end = [round(v * s / d) for v, s, d in zip((left + w, top + h), size, (width, height), strict=True)]
            if end[0] > box[0] and end[1] > box[1]:
                small.paste(pixels.resize((end[0] - box[0], end[1] - box[1]), Image.Resampling.BOX), tuple(box))
    return small


def _white(rgba: Image.Image) -> Image.Image:
    """The image on white, because scanners leave regions without tissue transparent."""
    page = Image.new("RGB", rgba.size, "white")
    page.paste(rgba, mask=rgba.getchannel("A"))
    return page


def _share(mask: Bool[np.ndarray, "h w"], scale: float, x: int, y: int, step: float) -> float:
    top, left = int(y / scale), int(x / scale)
    part = mask[top : max(top + 1, round((y + step) / scale)), left : max(left + 1, round((x + step) / scale))]
    return float(part.mean()) if part.size else 0.0


# --- all slides


def _run(tasks: list[tuple[Path, Path, str]], cutting: Cutting, say: Callable) -> list[tuple[str, str]]:
    """Cuts slides in `cutting.workers` processes. Returns the names of those left out, with the reason."""
    global _looked
    context = multiprocessing.get_context("spawn")  # forking is not safe with TFDS's and gRPC's threads
    workers = min(len(tasks), cutting.workers or os.cpu_count() or 1)
    counter = context.Value("q", 0)
    left_out: list[tuple[str, str]] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(_progress(tasks, cutting, counter, say))
        if workers <= 1:
            _looked = counter
            return [(task[2], reason) for task in tasks if (reason := cut_slide(*task, cutting))]
        stop = context.Event()
        pool = ProcessPoolExecutor(workers, context, _start, (counter, stop, os.getpid()))
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)
        stack.callback(stop.set)  # runs first, so that an error or a signal does not wait for slides in progress
        with limits.without_missing_script():
            waiting = {pool.submit(cut_slide, *task, cutting): task[2] for task in tasks}
        processes = list((pool._processes or {}).values())
        for future in as_completed(waiting):
            try:
                if reason := future.result():
                    left_out.append((waiting[future], reason))
            except BrokenProcessPool:
                pool.shutdown(wait=True, cancel_futures=True)  # then the exit codes are known
                if any(process.exitcode == limits.SCRIPT_IMPORTED for process in processes):
                    raise limits.no_main_guard("workers", "starts again in each process that cuts slides", 1) from None
                raise UserError(
                    f"a process that cuts slides has died, perhaps for lack of memory; rerun the same command with "
                    f"--workers {max(1, workers // 2)} to resume"
                ) from None
    return sorted(left_out)


@contextlib.contextmanager
def _progress(tasks: list[tuple[Path, Path, str]], cutting: Cutting, counter, say: Callable) -> Iterator[None]:
    """Prints a line every 5 seconds: tiles examined and time left."""
    total = _tiles_in_all([slide for slide, _, _ in tasks], cutting)
    began, stop = time.monotonic(), threading.Event()

    def report() -> None:
        while not stop.wait(5):
            n, passed = counter.value, time.monotonic() - began
            left = f" · {duration(passed / n * max(0, total - n))} left" if n else ""
            cut = sum(exists(place) for _, place, _ in tasks)
            say(f"{cut}/{count(len(tasks), 'slide')} · {n}/{count(total, 'tile')}{left}")

    threading.Thread(target=report, daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _tiles_in_all(slides: list[Path], cutting: Cutting) -> int:
    openslide, total, plain = opening.library(), 0, bool(cutting.assume_mpp)
    for slide in slides:
        with contextlib.suppress(LeftOut, OSError, openslide.OpenSlideError):
            size, properties = opening.announced(slide, plain)
            step = _step(properties, cutting)
            total += len(grid(size[0], step)) * len(grid(size[1], step))
    return total
