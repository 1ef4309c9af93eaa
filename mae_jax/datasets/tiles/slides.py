"""Whole slides to tiles with tissue on them: one .zip of JPEGs a slide, in several processes, resumable."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import signal
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from mae_jax.data import jpeg
from mae_jax.datasets.builder import LeftOut
from mae_jax.errors import UNUSABLE, UserError
from mae_jax.progress import duration

SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".vms", ".scn", ".mrxs", ".svslide", ".bif", ".dcm", ".czi")
OVERVIEW = 2048  # pixels at most along the longer side of the picture that tissue is looked for in
FINEST = 16.0  # pixels of the scan along a pixel of that picture, at least: gaps between fibres are no glass
LEAST_SATURATION = 0.05  # of tissue; below it Otsu's threshold would split the noise of an empty slide
MAGNIFICATION_MPP = 10.0  # micrometres per pixel times magnification, by convention: 20x is 0.5
SETTINGS = "settings.json"


@dataclass(frozen=True)
class Cutting:
    """How slides are cut."""

    tile: int = 500  # pixels, side of a tile
    mpp: float = 0.0  # micrometres per pixel of a tile; 0: the pixels as they were scanned
    assume_mpp: float = 0.0  # of slides that do not say theirs; 0: leave them out where `mpp` is asked for
    tissue: float = 0.25  # least share of a tile that is tissue
    workers: int = 0  # processes; 0: one for each core

    def check(self) -> None:
        """Raises UserError for what cannot work."""
        for name, low, high in (("tile", 16, 10_000), ("mpp", 0, 100), ("assume_mpp", 0, 100), ("tissue", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"--{name} {getattr(self, name)} is out of range; allowed: {low} to {high}")
        if not 0 <= self.workers <= 1024:
            raise UserError(f"--workers {self.workers} is out of range; allowed: 0 (one for each core) to 1024")


def cut_folder(
    source: Path, into: Path, cutting: Cutting, say: Callable[[str], None]
) -> tuple[list[Path], dict[str, list[str]]]:
    """Cuts all slides below `source`; returns their .zip files, and the names of slides left out, by reason.

    A slide that is in `into` already, unchanged and cut in the same way, is kept. Raises UserError where there
    is no slide or no program library for them.
    """
    cutting.check()
    _library()
    found = sorted(p for p in source.rglob("*") if p.suffix.lower() in SUFFIXES and not _hidden(p, source))
    left_out: dict[str, list[str]] = {}
    slides = []
    for path in found:
        name = path.relative_to(source).as_posix()
        if UNUSABLE.search(name) or not path.is_file():  # a pipe would be waited for
            left_out.setdefault("unusable name" if path.is_file() else "no regular file", []).append(name)
        else:
            slides.append(path)
    if not slides:
        raise UserError(f"--source {source} has no slide ({', '.join(SUFFIXES)}); name the folder with the slides")
    into.mkdir(parents=True, exist_ok=True)
    how = {key: value for key, value in asdict(cutting).items() if key != "workers"}
    settings = into / SETTINGS
    if not settings.exists() or json.loads(settings.read_text()) != how:
        shutil.rmtree(into)
        into.mkdir()
        settings.write_text(json.dumps(how))
    made, open_tasks = [], []
    for slide in slides:
        place = _place(slide, source, into)
        made.append(place)
        if not place.exists():
            open_tasks.append((slide, place, slide.relative_to(source).as_posix()))
    kept = len(slides) - len(open_tasks)
    say(f"{len(slides)} slides" + (f", {kept} of them cut before" if kept else ""))
    for name, reason in _run(open_tasks, cutting, say):
        left_out.setdefault(reason, []).append(name)
    for path in set(into.glob("*.zip")) - set(made):
        path.unlink()  # of a slide that has gone or has changed
    made = [path for path in made if path.exists()]
    if not made:
        raise UserError(f"--source {source}: no slide could be cut: {_reasons(left_out)}")
    return made, left_out


def about(path: Path) -> dict:
    """What a .zip says of its slide: slide, tiles, blank."""
    with zipfile.ZipFile(path) as file:
        return json.loads(file.comment)


def grid(length: int, step: float) -> list[int]:
    """Where tiles `step` wide begin along a side; what is left at the edge is not used."""
    return [round(i * step) for i in range(int(length / step + 1e-6))]


def tissue_mask(rgb: UInt8[np.ndarray, "h w 3"]) -> Bool[np.ndarray, "h w"]:
    """Where the picture is coloured: saturation above Otsu's threshold. Glass is grey or white."""
    high, low = rgb.max(axis=2).astype(np.float32), rgb.min(axis=2).astype(np.float32)
    saturation = (high - low) / np.maximum(high, 1)
    return saturation > max(otsu(saturation), LEAST_SATURATION)


def otsu(values: Float[np.ndarray, ...]) -> float:
    """The threshold that parts values of 0..1 into two groups with the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, 256, (0, 1))
    share = np.cumsum(counts) / counts.sum()
    mean = np.cumsum(counts * (edges[:-1] + edges[1:]) / 2) / counts.sum()
    spread = np.maximum(share * (1 - share), 1e-12)
    return float(edges[1:][np.argmax((mean[-1] * share - mean) ** 2 / spread)])


def _library():
    try:
        import openslide
    except ImportError as error:
        raise UserError(
            f'slides need OpenSlide ({error}); install it: python -m pip install "mae_jax[slides]", or in the '
            f'project python -m pip install -e ".[slides]"'
        ) from None
    return openslide


def _hidden(path: Path, source: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(source).parts)


def _place(slide: Path, source: Path, into: Path) -> Path:
    """Named after the slide, its size and its time, so that another file of this name is cut anew."""
    status = slide.stat()
    who = f"{slide.relative_to(source).as_posix()} {status.st_size} {status.st_mtime_ns}"
    return into / f"{hashlib.sha256(who.encode()).hexdigest()[:24]}.zip"


def _reasons(left_out: dict[str, list[str]]) -> str:
    return "; ".join(f"{reason}: {len(names)} ({', '.join(names[:3])})" for reason, names in left_out.items())


# --- one slide, in a process of its own

_looked = None  # counts the tiles looked at, in all processes
_stop = None  # set where the slides under way are to be left


def _start(counter, stop, parent: int) -> None:
    """A worker ends with its parent, also where that is killed, and leaves Ctrl-C to it."""
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
    openslide = _library()
    partial = place.with_suffix(".partial")
    try:
        with openslide.OpenSlide(slide) as opened:
            step = _step(opened, cutting)
            level = opened.get_best_level_for_downsample(step / cutting.tile * 1.01)
            side = round(step / opened.level_downsamples[level])  # pixels to read
            mask, scale = _overview(opened)
            counts = {"slide": name, "tiles": 0, "blank": 0}
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


def _step(opened, cutting: Cutting) -> float:
    """Side of a tile in pixels of the scan. Raises LeftOut where the slide does not allow it."""
    if not cutting.mpp:
        return float(cutting.tile)
    found = opened.properties
    own = _positive(found.get("openslide.mpp-x"))
    if not own and (power := _positive(found.get("openslide.objective-power"))):
        own = MAGNIFICATION_MPP / power
    own = own or cutting.assume_mpp
    if not own:
        raise LeftOut("its header does not say its resolution (--assume_mpp gives one)")
    if own > cutting.mpp * 1.05:
        raise LeftOut("scanned at a coarser resolution than is asked for")
    return cutting.tile * cutting.mpp / own


def _positive(text: str | None) -> float:
    """A number in a slide's header, 0 where it is none."""
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if 0 < value < math.inf else 0.0


def _overview(opened) -> tuple[Bool[np.ndarray, "h w"], float]:
    """Where there is tissue, and the pixels of the scan that one pixel of it stands for."""
    scale = max(FINEST, max(opened.dimensions) / OVERVIEW)
    level = opened.get_best_level_for_downsample(scale)
    size = [max(1, round(d / scale)) for d in opened.dimensions]
    return tissue_mask(np.asarray(_in_parts(opened, level, size))), opened.dimensions[0] / size[0]


def _in_parts(opened, level: int, size: list[int]) -> Image.Image:
    """A small picture of a slide; a scan without small levels does not fit into memory at once."""
    small = Image.new("RGB", tuple(size), "white")
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
    """On white: a scanner leaves out what it did not see."""
    page = Image.new("RGB", rgba.size, "white")
    page.paste(rgba, mask=rgba.getchannel("A"))
    return page


def _share(mask: Bool[np.ndarray, "h w"], scale: float, x: int, y: int, step: float) -> float:
    top, left = int(y / scale), int(x / scale)
    part = mask[top : max(top + 1, round((y + step) / scale)), left : max(left + 1, round((x + step) / scale))]
    return float(part.mean()) if part.size else 0.0


# --- all slides


def _run(tasks: list[tuple[Path, Path, str]], cutting: Cutting, say: Callable) -> list[tuple[str, str]]:
    """Cuts them, in several processes where asked for; returns those left out, with the reason."""
    global _looked
    context = multiprocessing.get_context("spawn")  # no fork beside TFDS's and gRPC's threads
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
        stack.callback(stop.set)  # before that: an error or a signal does not wait for the slides under way
        waiting = {pool.submit(cut_slide, *task, cutting): task[2] for task in tasks}
        for future in as_completed(waiting):
            try:
                if reason := future.result():
                    left_out.append((waiting[future], reason))
            except BrokenProcessPool:
                raise UserError(
                    f"a process that cuts slides has died, of too little memory perhaps; the same command goes on "
                    f"where it was, with --workers {max(1, workers // 2)}"
                ) from None
    return sorted(left_out)


@contextlib.contextmanager
def _progress(tasks: list[tuple[Path, Path, str]], cutting: Cutting, counter, say: Callable) -> Iterator[None]:
    """A line now and then: tiles looked at, and the time that is left."""
    total = _tiles_in_all([slide for slide, _, _ in tasks], cutting)
    began, stop = time.monotonic(), threading.Event()

    def report() -> None:
        while not stop.wait(5):
            n, passed = counter.value, time.monotonic() - began
            left = f" · {duration(passed / n * max(0, total - n))} left" if n else ""
            say(f"{sum(place.exists() for _, place, _ in tasks)}/{len(tasks)} slides · {n}/{total} tiles{left}")

    threading.Thread(target=report, daemon=True).start()
    try:
        yield
    finally:
        stop.set()


def _tiles_in_all(slides: list[Path], cutting: Cutting) -> int:
    openslide, total = _library(), 0
    for slide in slides:
        with contextlib.suppress(LeftOut, openslide.OpenSlideError), openslide.OpenSlide(slide) as opened:
            step = _step(opened, cutting)
            total += len(grid(opened.dimensions[0], step)) * len(grid(opened.dimensions[1], step))
    return total
