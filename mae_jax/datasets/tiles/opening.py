"""Finds slides and plain images in a folder, and opens both through one interface."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from mae_jax.data import tiff
from mae_jax.data.decode import decode, open_image
from mae_jax.data.folders import entries, is_folder
from mae_jax.datasets.builder import LeftOut
from mae_jax.runtime import disk
from mae_jax.runtime.errors import UNUSABLE, UserError

SUFFIXES = (".svs", ".tif", ".tiff", ".ndpi", ".vms", ".scn", ".mrxs", ".svslide", ".bif", ".dcm", ".czi")
PLAIN = (".png", ".jpg", ".jpeg")  # images that are cut like slides if their resolution is given
TIFFS = (".tif", ".tiff")
PARTS = (".vms", ".mrxs")  # slides whose parts, some of them JPEG, are next to them or in a folder of the same name
MAGNIFICATION_MPP = 10.0  # micrometers per pixel times magnification; by convention, 20x means 0.5
FINEST_MPP, COARSEST_MPP = (
    0.01,
    10.0,
)  # plausible micrometers per pixel of a scan; 72 dpi, a converter's default, means 353


def library():
    """The module `openslide`. Raises UserError that says what to install if it is missing."""
    try:
        import openslide
    except ImportError as error:
        raise UserError(
            f'slides need OpenSlide ({error}); install it: python -m pip install "mae_jax[slides]", or in the '
            f'project python -m pip install -e ".[slides]"'
        ) from None
    return openslide


def find(source: Path, plain: bool) -> tuple[list[Path], dict[str, list[str]]]:
    """Slides below `source`, sorted by name, and the names of files left out, by reason.

    `plain`: also PNG and JPEG images. A slide with several links counts once, under its own name if it is below
    `source`.
    """
    left_out: dict[str, list[str]] = {}
    slides: dict[tuple[int, int], Path] = {}
    paths = sorted(_files(source, set()), key=lambda path: (path.is_symlink() or _through_link(path, source), path))
    beside = {path.parent for path in paths if path.suffix.lower() in PARTS}
    beside |= {path.with_suffix("") for path in paths if path.suffix.lower() in PARTS}
    for path in paths:
        name, suffix = path.relative_to(source).as_posix(), path.suffix.lower()
        if suffix in PLAIN and not beside & {path.parent, *path.parents}:
            if not plain:
                left_out.setdefault("plain images (--assume_mpp takes them as slides)", []).append(name)
                continue
        elif suffix not in SUFFIXES:
            continue
        if UNUSABLE.search(name):
            left_out.setdefault("unusable name", []).append(name)
        elif not disk.is_file(path):  # opening a FIFO would block
            left_out.setdefault("not a regular file", []).append(name)
        else:
            status = path.stat()
            first = slides.setdefault((status.st_dev, status.st_ino), path)
            if first is not path:
                left_out.setdefault("a link to a slide that is already used", []).append(name)
    return sorted(slides.values()), left_out


def _files(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Files below a folder that are not hidden. Follows links, but visits each folder once, so links cannot loop.

    Raises UserError for a folder or link that cannot be read.
    """
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for entry in entries(folder, "--source"):
        if entry.name.startswith("."):
            continue
        if is_folder(entry, "--source"):
            yield from _files(Path(entry.path), seen)
        else:
            yield Path(entry.path)


def _through_link(path: Path, source: Path) -> bool:
    return any(parent.is_symlink() for parent in path.parents if parent.is_relative_to(source) and parent != source)


@contextlib.contextmanager
def opened(path: Path, plain: bool) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Opens a slide with OpenSlide, or (`plain`) an image with the same interface. Also yields assumptions made.

    Raises LeftOut if it cannot be read.
    """
    openslide = library()
    assumed: tuple[str, ...] = ()
    try:
        if path.suffix.lower() in PLAIN:
            image, assumed = _image(path)
            slide = openslide.ImageSlide(image)
        else:
            slide = openslide.OpenSlide(path)
    except openslide.OpenSlideUnsupportedFormatError:
        why = _unsupported(path)
        if not why or not plain:
            raise LeftOut(f"{why} (--assume_mpp takes it as a plain image)" if why else "cannot be read") from None
        image, assumed = _image(path, f"{why}, and ")
        slide = openslide.ImageSlide(image)
    with slide:
        yield slide, assumed


def announced(path: Path, plain: bool) -> tuple[tuple[int, int], Mapping[str, str]]:
    """Width and height in pixels, and the properties, from the header. Raises LeftOut as `opened` does."""
    if path.suffix.lower() in PLAIN:
        try:
            return open_image(disk.read_bytes(path), "it").size, {}
        except UserError as error:
            raise LeftOut(str(error)) from None
    with opened(path, plain) as (slide, _):
        return slide.dimensions, dict(slide.properties)


def _unsupported(path: Path) -> str:
    """Why OpenSlide does not read a TIFF; "" if the file is not a TIFF."""
    with disk.naming(path), open(path, "rb") as file:
        if path.suffix.lower() not in TIFFS or file.read(4) not in tiff.SIGNATURES:
            return ""
    import tifffile

    try:
        with tifffile.TiffFile(path) as opened_tiff:
            if not opened_tiff.pages.first.is_tiled:
                return "a TIFF in strips: OpenSlide needs tiles, which `vips tiffsave IN OUT --tile --pyramid` writes"
    except Exception as error:  # a damaged TIFF raises almost anything
        if fault := disk.failure(error):
            raise fault from None
    return "a TIFF that OpenSlide does not read"


def _image(path: Path, but: str = "") -> tuple[Image.Image, tuple[str, ...]]:
    """Decodes a plain image. Also returns assumptions made. Raises LeftOut with the reason if it cannot be decoded."""
    try:
        picture = decode(disk.read_bytes(path), "it")
    except UserError as error:
        raise LeftOut(f"cannot be read: {but}{error}") from None
    return Image.fromarray(picture.pixels), picture.assumed


def resolution(properties: Mapping[str, str], mpp: float, assume_mpp: float) -> float:
    """Micrometers per pixel of a scan, or `assume_mpp` if its header has no plausible value.

    Raises LeftOut if the resolution is not known, or is coarser than the requested `mpp`.
    """
    header = _positive(properties.get("openslide.mpp-x"))
    if not header and (power := _positive(properties.get("openslide.objective-power"))):
        header = MAGNIFICATION_MPP / power
    scan_mpp = header if FINEST_MPP <= header <= COARSEST_MPP else assume_mpp
    if not scan_mpp:
        what = f"says {header:.4g} micrometers per pixel, which no scanner has" if header else "has no resolution"
        raise LeftOut(f"its header {what} (set --assume_mpp)")
    if scan_mpp > mpp * 1.05:
        raise LeftOut(f"scanned at {scan_mpp:.4g} micrometers per pixel, coarser than the requested {mpp:g}")
    return scan_mpp


def _positive(text: str | None) -> float:
    """The positive number in `text`, from a slide's header; 0 if there is none."""
    try:
        value = float(text or 0)
    except ValueError:
        return 0.0
    return value if 0 < value < math.inf else 0.0
