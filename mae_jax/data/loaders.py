"""Makes batches from sources with Grain.

Batch k depends only on the sources, the seed and k, not on threads, worker processes or the number of hosts. A
resumed run starts at batch k. Everything random about an image depends on its place in the endless sequence of
images, `k * batch_size + row`.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from multiprocessing import resource_tracker
from typing import Protocol

import grain
import numpy as np
from absl import flags
from jaxtyping import Float, Int, UInt8

from mae_jax.data.sources import Purpose, Source
from mae_jax.runtime import limits
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count

Transform = Callable[..., dict]  # (element, rng) or (element)
Batch = dict[str, np.ndarray]
Rows = slice | range | None
Indices = Int[np.ndarray, " n"]  # indices of images of one source
_WHAT = {  # in words, what each fingerprint of a position covers
    "files": "files (names, labels and bytes of the training images)",
    "tests": "tests (names, labels and bytes of the test images)",
    "subset": "subset (which training images are used)",
}
PART = 8  # images that a thread reads at a time


class Batches(Protocol):
    """An iterator over batches. Closing it ends its worker processes, if it has any."""

    def __iter__(self) -> Iterator[Batch]: ...

    def __next__(self) -> Batch: ...

    def close(self) -> None: ...


def train_batches(
    sources: Sequence[Source],
    indices: Sequence[Indices | None] | None,
    transforms: Sequence[Transform],
    *,
    batch_size: int,
    seed: int,
    weights: Sequence[float] = (),
    balance: bool = False,
    rows: Rows = None,
    start: int = 0,
    threads: int = 8,
    workers: int = 0,
    prefetch: int = 4,
) -> Batches:
    """Endless batches from number `start` on: image uint8 (b h w c), label, index, source int32.

    Each source is shuffled again every epoch, and every image is used. Several sources are mixed by `weights`, their
    shares of the images (default: by size, to within 1 %). `balance` draws each class in proportion to the square
    root of its size: an epoch has images of a small class several times, and lacks some of a large one. `rows` are
    this process's part of the `batch_size` rows; `prefetch` is a number of batches. Close the iterator if it has
    worker processes. Raises UserError for weights or rows that do not fit and for a damaged image.
    """
    order = _order(sources, indices, seed, weights, balance)
    mine = _rows(rows, batch_size)

    def load(place: int) -> dict:
        number, index = order(place)
        rng = np.random.default_rng((seed, Purpose.AUGMENT, place))
        element = sources[number][index]
        for transform in transforms:
            element = transform(element, rng)
        return _fields(element) | {"source": np.int32(number)}

    numbers = grain.MapDataset.range(start, sys.maxsize // batch_size)
    if not workers:
        return iter(_read(numbers, load, batch_size, mine, threads, prefetch))
    if not flags.FLAGS.is_parsed():  # in a notebook; Grain reads its own flags
        flags.FLAGS.mark_as_parsed()
    # Workers take turns to make whole batches, so that only finished batches are sent.
    batches = _read(numbers, load, batch_size, mine, max(1, threads // workers), max(1, prefetch // workers))
    return _in_workers(batches.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers), _end_with_parent))


def eval_batches(
    source: Source,
    indices: Int[np.ndarray, " n"] | None,
    transforms: Sequence[Transform],
    *,
    batch_size: int,
    rows: Rows = None,
    threads: int = 8,
    prefetch: int = 4,
) -> Iterator[Batch]:
    """Batches of every image once, in order: image uint8 (b h w c), label, index int32 and mask float32 (b).

    The last batch is padded with black images: mask 0, index and label -1. With `rows`, all processes get the same
    number of batches.
    """
    chosen = np.arange(len(source)) if indices is None else np.asarray(indices)
    mine = _rows(rows, batch_size)
    if not len(chosen):
        return iter(())

    def real(index: int) -> dict:
        element = source[index]
        for transform in transforms:
            element = transform(element)
        return _fields(element) | {"mask": np.float32(1)}

    black = np.zeros_like(real(int(chosen[0]))["image"])
    nothing = np.int32(-1)
    padding = {"image": black, "label": nothing, "index": nothing, "mask": np.float32(0)}

    def load(place: int) -> dict:
        return real(int(chosen[place])) if place < len(chosen) else padding

    numbers = grain.MapDataset.range(-(-len(chosen) // batch_size))
    return iter(_read(numbers, load, batch_size, mine, threads, prefetch))


def eval_images(
    source: Source, indices: Indices | None, transforms: Sequence[Transform], threads: int = 8
) -> UInt8[np.ndarray, "n h w c"]:
    """The images `indices` of a source (None: all), in order, after `transforms`, which give all the same size."""
    return np.concatenate(list(eval_image_batches(source, indices, transforms, threads)))


def eval_image_batches(
    source: Source, indices: Indices | None, transforms: Sequence[Transform], threads: int = 8
) -> Iterator[UInt8[np.ndarray, "n h w c"]]:
    """`eval_images` in parts, for many images."""
    for batch in eval_batches(source, indices, transforms, batch_size=64, threads=threads):
        yield batch["image"][batch["mask"] > 0]


def epoch_counts(sizes: Sequence[int], weights: Sequence[float] = ()) -> Float[np.ndarray, " s"]:
    """Expected number of images from each source in an epoch of sum(sizes) images."""
    share = np.asarray(weights if len(weights) else sizes, float)
    return share / share.sum() * np.sum(sizes)


def drawn(sizes: Sequence[int], weights: Sequence[float], start: int, stop: int) -> Int[np.ndarray, " s"]:
    """Number of images from each source at the places `start` to `stop` - 1 of the endless sequence."""
    mixed = _mixed(sizes, weights)

    def before(place: int) -> list[int]:
        counts = [0] * len(sizes)
        missing = set(range(len(sizes)))
        while place > 0 and missing:  # the last image of each source before the place gives its count
            place -= 1
            number, draw = _at(mixed, place)
            if number in missing:
                missing.remove(number)
                counts[number] = draw + 1
        return counts

    return np.subtract(before(stop), before(start))


def position(
    batch_number: int,
    sources: Sequence[Source],
    indices: Sequence[Indices | None] | None,
    *,
    seed: int,
    batch_size: int,
    weights: Sequence[float] = (),
) -> dict:
    """The position of training in its data, for JSON: the next batch and everything it depends on."""
    return {
        "next_batch": batch_number,
        "files": [source.fingerprint for source in sources],
        "subset": [
            hashlib.sha256(np.asarray(chosen, "<i8").tobytes()).hexdigest() for chosen in _indices(sources, indices)
        ],
        "seed": seed,
        "batch_size": batch_size,
        "weights": [float(weight) for weight in weights],
    }


def check_position(saved: dict, now: dict) -> None:
    """Raises UserError that names the differences if resuming from `saved` would give other batches."""
    names = sorted((saved.keys() | now.keys()) - {"next_batch"})
    differ = [name for name in names if saved.get(name) != now.get(name)]
    if differ:
        shown = "; ".join(f"{_WHAT.get(name, name)} was {saved.get(name)}, but is {now.get(name)}" for name in differ)
        raise UserError(
            f"the data differ from those of the run to resume ({shown}); restore them, or start a new run directory"
        )


def _order(
    sources: Sequence[Source],
    indices: Sequence[Indices | None] | None,
    seed: int,
    weights: Sequence[float],
    balance: bool = False,
) -> Callable[[int], tuple[int, int]]:
    """A function that maps each place in the endless sequence to (source, index)."""
    chosen = _indices(sources, indices)
    empty = [number for number, part in enumerate(chosen) if not len(part)]
    if empty or not sources:
        raise UserError(f"data: no image to train on in source {empty[0] if empty else 0}")
    if len(weights) not in (0, len(sources)) or not all(0 < w < np.inf for w in weights):
        raise UserError(
            f"data.weights={tuple(weights)!r}: give {count(len(sources), 'number')} above 0, one for each source"
        )
    sizes = [len(part) for part in chosen]
    mixed = _mixed(sizes, weights)
    labels = [source.labels[part] if balance else None for source, part in zip(sources, chosen, strict=True)]
    epochs = [
        _Epochs(size, seed, number, part_labels)
        for number, (size, part_labels) in enumerate(zip(sizes, labels, strict=True))
    ]

    def at(place: int) -> tuple[int, int]:
        number, draw = _at(mixed, place)
        epoch, k = divmod(draw, sizes[number])
        return number, int(chosen[number][epochs[number](epoch)[k]])

    return at


def _mixed(sizes: Sequence[int], weights: Sequence[float]) -> grain.MapDataset[tuple[int, int]]:
    """For every place in the endless sequence: the source, and the number of images drawn from it before."""
    draws = [grain.MapDataset.range(sys.maxsize).map(partial(_pair, n)) for n in range(len(sizes))]
    return draws[0] if len(draws) == 1 else grain.MapDataset.mix(draws, [*weights] or [*sizes])


def _at(mixed: grain.MapDataset[tuple[int, int]], place: int) -> tuple[int, int]:
    pair = mixed[place]
    assert pair is not None  # Grain returns None only for filtered elements
    return pair


def _pair(number: int, draw: int) -> tuple[int, int]:
    return number, draw


class _Epochs:
    """The order of each epoch of a source. Grain's own shuffle takes milliseconds per image if n is small."""

    def __init__(self, n: int, seed: int, number: int, labels: Int[np.ndarray, " n"] | None = None):
        """`labels`: classes are drawn in proportion to the square root of their sizes; None: each image once."""
        self.n, self.key, self.labels = n, (seed, Purpose.SHUFFLE, number), labels
        self.kept: dict[
            int, Int[np.ndarray, " n"]
        ] = {}  # the last two epochs, because images in progress may belong to either

    def __call__(self, epoch: int) -> Int[np.ndarray, " n"]:
        order = self.kept.get(epoch)
        if order is None:
            rng = np.random.default_rng((*self.key, epoch))
            order = rng.permutation(self.n if self.labels is None else balanced(self.labels, rng))
            self.kept = dict([*self.kept.items(), (epoch, order)][-2:])
        return order


def balanced(labels: Int[np.ndarray, " n"], rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Draws n image indices, with each class in proportion to the square root of its size.

    Within a class, all images occur equally often, give or take one. Rounding is random, so that the mean over epochs
    is exact.
    """
    members = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    root = np.sqrt([len(those) for those in members])
    exact = len(labels) * root / root.sum()
    ends = np.floor(np.cumsum(exact) + rng.random())  # systematic sampling: each class gets its floor or one more
    ends[-1] = len(labels)  # exactly, despite rounding
    counts = np.diff(ends, prepend=0).astype(int)
    return np.concatenate([_cycled(those, n, rng) for those, n in zip(members, counts, strict=True)])


def _cycled(members: Int[np.ndarray, " m"], n: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Draws n of the m members: each n // m times, and some once more."""
    return np.concatenate([np.tile(members, n // len(members)), rng.permutation(members)[: n % len(members)]])


def _indices(sources: Sequence[Source], indices: Sequence[Indices | None] | None) -> list[Indices]:
    chosen = [None for _ in sources] if indices is None else indices
    return [
        np.arange(len(source)) if part is None else np.asarray(part)
        for source, part in zip(sources, chosen, strict=True)
    ]


def _rows(rows: Rows, batch_size: int) -> range:
    everything = range(batch_size)
    mine = everything[rows] if isinstance(rows, slice) else everything if rows is None else rows
    if not len(mine) or mine[0] < 0 or mine[-1] >= batch_size:
        raise UserError(
            f"train.batch_size={batch_size} gives a process no rows ({rows}); use at least one for each process"
        )
    return mine


def _fields(element: dict) -> dict:
    return {name: element[name] for name in ("image", "label", "index")}


def _read(
    numbers: grain.MapDataset[int],
    load: Callable[[int], dict],
    batch_size: int,
    mine: range,
    threads: int,
    prefetch: int,
) -> grain.IterDataset[Batch]:
    """Batches by index. Threads prefetch them; without threads, the calling thread makes them on demand."""

    def make(number: int) -> Batch:
        places = [number * batch_size + row for row in mine]
        first = load(places[0])
        batch = {name: np.empty((len(places), *np.shape(v)), np.asarray(v).dtype) for name, v in first.items()}

        def fill(rows: range) -> None:  # each image is copied once, to its place in the batch
            for row in rows:
                for name, value in (load(places[row]) if row else first).items():
                    batch[name][row] = value

        parts = [range(i, min(i + PART, len(places))) for i in range(0, len(places), PART)]
        for _ in _pool(threads).map(fill, parts) if threads > 1 else map(fill, parts):
            pass
        return batch

    # Two readers, so that the next batch starts while the last images of the current one are read.
    readers = min(2 if threads > 1 else 1, prefetch)
    options = grain.ReadOptions(num_threads=readers, prefetch_buffer_size=prefetch if threads else 0)
    return numbers.map(make).to_iter_dataset(options)


def _in_workers(batches: grain.IterDataset[Batch]) -> Generator[Batch, None, None]:
    """Batches from worker processes. Closing this generator ends the processes.

    SIGTERM and SIGINT often go to a whole process group (Ctrl-C, a batch system): workers block them from the start, so
    that the training process can save and close them.
    """
    # Starting the tracker unblocks both signals, so it is started first. If a run ends with an error, the tracker
    # frees the memory of unfinished batches; its warning about them would only confuse.
    sys.warnoptions.append("ignore:resource_tracker")
    resource_tracker.ensure_running()
    sys.warnoptions.pop()
    stream = iter(batches)
    try:
        old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        try:  # threads and processes that start here inherit the blocked signals
            with limits.without_missing_script():
                first = next(stream)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, old)
        yield first
        del first  # its memory is shared with a worker
        yield from stream
    except RuntimeError as error:
        if "Worker process was terminated" not in str(error):
            raise
        code = "".join(re.findall(r"exit code (-?\d+)", str(error)))
        if code == str(limits.SCRIPT_IMPORTED):
            raise limits.no_main_guard(
                "data.workers", "starts the run again in each process that reads images", 0
            ) from None
        raise UserError(
            f"a process that reads images (data.workers) was killed (exit code {code}; -9 often means too little "
            f"memory); use fewer data.workers, then rerun the same command"
        ) from None
    finally:
        stream.close()


def _end_with_parent(worker: int, workers: int) -> None:
    """Ends this worker process when its parent is killed, because Grain does not do so.

    Python's resource tracker, which both share, then also ends and frees the memory that holds batches.
    """

    def wait() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """The threads that read images, shared by all streams of this process."""
    return ThreadPoolExecutor(threads, "images")
