"""Reads and decodes every image file of a data set once, before a run starts."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int8, Int32, UInt64

from mae_jax.data.decode import decode
from mae_jax.data.looks import SIDE, look_of
from mae_jax.runtime.disk import OF_ONE_PATH
from mae_jax.runtime.errors import UNUSABLE, UserError
from mae_jax.runtime.text import count

Progress = Callable[[int, int], None]  # images checked so far, all images
# By device, inode, bytes and time of change of a file: digest, height and width, assumptions, perceptual hash.
Decoded = dict[tuple[int, int, int, int], tuple[tuple[int, int, int], tuple[str, ...], Int8[np.ndarray, " pixels"]]]
MAX_BYTES = 2**30  # of a file; even the largest accepted image has fewer
LARGE = 10  # images are reported from this many times the network's input side


class ReadError(UserError):
    """The storage failed, for example the disk or a mount. The image may be good, so it is never skipped."""


@dataclass(frozen=True)
class Checked:
    """Facts about the files that can be used."""

    names: list[str]
    digests: UInt64[np.ndarray, " n"]
    sizes: Int32[np.ndarray, "n 2"]  # height and width in pixels
    looks: Int8[np.ndarray, "n pixels"]  # perceptual hashes, see `looks`
    assumed: dict[str, int]  # number of images read with each assumption, see `decode.Picture`


def digest(data: bytes) -> int:
    """The first 64 bits of the SHA-256 of an image's bytes; equal for byte-identical images."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "little")


def read_file(root: str, names: Sequence[str], i: int) -> bytes:
    """The bytes of the file `names[i]` below `root`.

    Raises UserError for a file that cannot be used (not a regular file, empty, too large, no permission to read it),
    and ReadError if the storage fails.
    """
    path = Path(root, names[i])
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a FIFO would block
            raise UserError(f"{path} is not a regular file, but a FIFO, a socket or a device")
        if not 0 < status.st_size <= MAX_BYTES:
            what = f"has {status.st_size} bytes, but at most {MAX_BYTES} are allowed" if status.st_size else "is empty"
            raise UserError(f"{path} {what}")
        return path.read_bytes()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP) and os.path.islink(path):
            raise UserError(f"{path} is a broken link ({error.strerror})") from None
        if error.errno in OF_ONE_PATH:
            raise UserError(f"{path} cannot be read ({error.strerror})") from None
        raise ReadError(
            f"{path} cannot be read ({error.strerror}); the storage failed, so the image is not skipped: check the "
            f"disk or the mount, then run the same command again"
        ) from None


def _identity(path: Path) -> tuple[int, int, int, int] | None:
    """What identifies a file and its content; None if it cannot be found."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class _Examined(NamedTuple):
    """What the decoding of one file showed. `reason` says why it cannot be used ("" if it can), `message` in full."""

    facts: tuple[int, int, int] = (0, 0, 0)  # digest, height, width
    assumed: tuple[str, ...] = ()
    look: Int8[np.ndarray, " pixels"] | None = None
    reason: str = ""
    message: str = ""


def _examine(root: str, names: Sequence[str], i: int, decoded: Decoded) -> _Examined:
    """Decodes file `i`, unless it is in `decoded`. Raises ReadError if the storage fails."""
    path = Path(root, names[i])
    if UNUSABLE.search(names[i]):
        message = f"{path} has control characters or bytes that are not UTF-8 in its name"
        return _Examined(reason="unusable name", message=message)
    key = _identity(path)
    if key in decoded:
        return _Examined(*decoded[key])
    try:
        data = read_file(root, names, i)
        picture = decode(data, str(path))
    except ReadError:
        raise
    except UserError as error:
        return _Examined(reason=getattr(error, "kind", "cannot be read"), message=str(error))
    facts, look = (digest(data), *picture.pixels.shape[:2]), look_of(picture.pixels)
    if key is not None:
        decoded[key] = facts, picture.assumed, look
    return _Examined(facts, picture.assumed, look)


def check(
    directory: str | os.PathLike,
    names: Sequence[str],
    bad_images: str,
    field: str,
    skipped: dict[str, list[str]],
    progress: Progress | None,
    decoded: Decoded | None = None,
) -> Checked:
    """Decodes every file in full, because the header does not show whether a file is truncated.

    Files in `decoded` that have not changed are not read again; new ones are added to it. With bad_images='skip', files
    that cannot be used are added to `skipped`, by reason. Raises UserError for the first of them with
    bad_images='stop', and ReadError if the storage fails.
    """
    root, all_names = os.fspath(directory), tuple(names)
    decoded = {} if decoded is None else decoded
    examined: list[_Examined] = []
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        numbers = range(len(all_names))
        for done, one in enumerate(pool.map(lambda i: _examine(root, all_names, i, decoded), numbers), 1):
            examined.append(one)
            if progress is not None:
                progress(done, len(all_names))
    except ReadError as error:
        raise ReadError(f"{field}: {error}") from None
    finally:
        pool.shutdown(cancel_futures=True)
    bad = [(name, one.reason, one.message) for name, one in zip(all_names, examined, strict=True) if one.reason]
    if bad and bad_images == "stop":
        more = f" (and {count(len(bad) - 1, 'more such file')})" if len(bad) > 1 else ""
        raise UserError(
            f"{field}: {bad[0][2]}{more}; fix, rename or remove it, or set data.bad_images='skip' to leave such files "
            f"out"
        )
    for name, reason, _ in bad:
        skipped.setdefault(reason, []).append(name)
    good = [(name, one) for name, one in zip(all_names, examined, strict=True) if not one.reason]
    return Checked(
        names=[name for name, _ in good],
        digests=np.asarray([one.facts[0] for _, one in good], np.uint64),
        sizes=np.asarray([one.facts[1:] for _, one in good], np.int32).reshape(-1, 2),
        looks=np.asarray([one.look for _, one in good], np.int8).reshape(-1, SIDE * SIDE),
        assumed=dict(Counter(phrase for _, one in good for phrase in one.assumed)),
    )


def large(sizes: Int32[np.ndarray, "n 2"] | None, pixels: int, labeled: bool) -> str:
    """A warning if most images are much larger than `pixels`, the side of the network's input; else "".

    `sizes` are heights and widths (None: not known); `labeled` images cannot be cut into tiles.
    """
    if sizes is None or not len(sizes):
        return ""
    side = float(np.median(sizes.min(axis=1)))
    if side < LARGE * pixels:
        return ""
    cut = (
        "crop them around what the label describes, or raise model.image_size"
        if labeled
        else f"cut them: mae-jax prepare tiles:NAME --source DIR --assume_mpp MPP --tile {4 * pixels}"
    )
    return (
        f"the shorter side of {side:,.0f} pixels (median) becomes {pixels}, so structures smaller than "
        f"{side / pixels:.0f} pixels are lost; {cut}"
    )
