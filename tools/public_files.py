"""Compares the decoder of images with second readers on public test files.

    pip install pypng opencv-python-headless av
    apt-get install imagemagick
    python tools/public_files.py DIR [DIR ...]

DIR is a folder with files, such as Tests/images of python-pillow/Pillow, tests of image-rs/image-tiff and
image-rs/image-png (PngSuite), and input of uclouvain/openjpeg-data. None of them is part of this project. For each DIR
it prints how many files are decoded equally, are refused, differ, or are read by no second reader; then the files that
differ. `--refused` lists the refused ones with the reason.

The second readers do not share the code that decodes the format here: pypng for PNG; libtiff, for uncompressed files of
any bit depth a few lines in this tool, and ImageMagick for TIFF; OpenCV, Pillow and, with a decoder of its own, FFmpeg
for JPEG 2000; OpenCV and Pillow for the others. Their values are reduced to
8 bits and put on white independently. Pixels may differ by 2, and those of lossy formats by more where their mean
difference is below 1, because inverse transforms and color conversions round.
"""

import argparse
import io
import struct
import subprocess
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from mae_jax.data.decode import load_image
from mae_jax.runtime.errors import UserError

SUFFIXES = {
    ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".jp2": "JPEG 2000", ".j2k": "JPEG 2000", ".j2c": "JPEG 2000",
    ".jpc": "JPEG 2000", ".jpx": "JPEG 2000", ".jpg": "JPEG", ".jpeg": "JPEG", ".bmp": "BMP", ".gif": "GIF",
    ".webp": "WebP", ".ppm": "PPM", ".pgm": "PPM", ".pbm": "PPM", ".pnm": "PPM",
}  # fmt: skip
PAGES = 4  # pages of a TIFF to compare with
Pixels = np.ndarray


def on_white(values: np.ndarray, white: float, alpha: np.ndarray | None = None) -> Pixels:
    """Gray (h w 1) or RGB (h w 3) of the range 0..white as 8-bit RGB on white."""
    rgb = np.repeat(values, 3, 2) if values.shape[2] == 1 else values
    rgb = 255.0 * rgb / white
    if alpha is not None:
        share = (alpha / white)[..., None]
        rgb = rgb * share + 255 * (1 - share)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def by_pypng(data: bytes) -> Iterator[Pixels]:
    import png  # pyright: ignore[reportMissingImports]

    width, height, rows, info = png.Reader(bytes=data).asDirect()
    values = np.array([list(row) for row in rows], float).reshape(height, width, info["planes"])
    n = 1 if info["greyscale"] else 3
    alpha = values[..., n] if info["alpha"] else None
    yield on_white(values[..., :n], 2 ** info["bitdepth"] - 1, alpha)


def by_libtiff(data: bytes) -> Iterator[Pixels]:
    """The first pages by libtiff's own conversion to RGB, which multiplies colors by the transparency."""
    import imagecodecs

    for page in range(PAGES):
        try:
            rgba = imagecodecs.tiff_decode(data, index=page, asrgb=True).astype(int)
        except Exception:
            if not page:
                raise
            return
        yield np.clip(rgba[..., :3] + 255 - rgba[..., 3:], 0, 255).astype(np.uint8)


def by_bits(data: bytes) -> Iterator[Pixels]:
    """The first page of an uncompressed TIFF in strips, from its bits (TIFF 6.0), without a library."""
    order = {b"II": "<", b"MM": ">"}[data[:2]]
    at = struct.unpack_from(f"{order}I", data, 4)[0]
    tags: dict[int, tuple[int, ...]] = {}
    for i in range(struct.unpack_from(f"{order}H", data, at)[0]):
        tag, kind, n = struct.unpack_from(f"{order}HHI", data, at + 2 + 12 * i)
        if form := {1: "B", 3: "H", 4: "I"}.get(kind):
            inside = n * struct.calcsize(form) <= 4
            where = at + 10 + 12 * i
            start = where if inside else struct.unpack_from(f"{order}I", data, where)[0]
            tags[tag] = struct.unpack_from(f"{order}{n}{form}", data, start)
    (width,), (height,), bits, (kind,) = tags[256], tags[257], tags.get(258, (1,))[0], tags[262]
    n, planar = tags.get(277, (1,))[0], tags.get(284, (1,))[0] == 2
    usual = tags.get(259, (1,)) == (1,) and tags.get(266, (1,)) == (1,) and set(tags.get(339, (1,))) == {1}
    if not usual or len(set(tags.get(258, (1,)))) > 1 or 338 in tags or kind not in (0, 1, 2, 3, 5):
        return
    joined = np.frombuffer(b"".join(data[a : a + b] for a, b in zip(tags[273], tags[279], strict=True)), np.uint8)
    if bits == 16:
        values = joined.view(f"{order}u2").astype(np.int64)
    else:
        across = width * (1 if planar else n) * bits
        rows = np.unpackbits(joined).reshape(-1, -(-across // 8) * 8)[:, :across].reshape(-1, bits)
        values = rows.astype(np.int64) @ (1 << np.arange(bits)[::-1])
    values = np.moveaxis(values.reshape(n, height, width), 0, 2) if planar else values.reshape(height, width, n)
    white = 2**bits - 1
    if tags.get(317, (1,)) == (2,):
        values = np.cumsum(values, 1) & white
    if kind == 3:
        yield np.array(tags[320]).reshape(3, -1).T[values[..., 0]] // 256
    elif kind == 5:
        yield on_white((white - values[..., :3]) * (white - values[..., 3:]), white**2)
    else:
        yield on_white(white - values if kind == 0 else values, white)


def by_opencv(data: bytes) -> Iterator[Pixels]:
    import cv2  # pyright: ignore[reportMissingImports]

    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype not in (np.uint8, np.uint16):
        return
    values = values[..., None] if values.ndim == 2 else values
    n = 1 if values.shape[2] <= 2 else 3
    alpha = values[..., n].astype(float) if values.shape[2] > n else None
    white = int(np.iinfo(values.dtype).max)
    if values.dtype == np.uint16 and (start := data.find(b"\xff\x4f\xff\x51")) >= 0:  # JPEG 2000 with 9 to 16 bits
        white = 2 ** ((data[start + 42] & 127) + 1) - 1
    yield on_white(values[..., :n][..., ::-1], white, alpha)


def by_pillow(data: bytes) -> Iterator[Pixels]:
    with Image.open(io.BytesIO(data)) as image:
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            values = np.asarray(image).astype(float)[..., None]
            yield on_white(values, 65535)
            return
        rgba = np.asarray(image.convert("RGBA"), float)
    yield on_white(rgba[..., :3], 255, rgba[..., 3])


def by_ffmpeg(data: bytes) -> Iterator[Pixels]:
    """JPEG 2000 by FFmpeg's own decoder, which returns the channels. Their colors are computed here."""
    import av  # pyright: ignore[reportMissingImports]

    def decoded(code: bytes):
        with av.open(io.BytesIO(code), format="j2k_pipe") as container:
            return next(container.decode(video=0))

    boxes = {data[at + 4 : at + 8]: data[at + 8 : at + size] for at, size in _header_boxes(data)}
    try:
        frame = decoded(data)
    except Exception:
        if b"pclr" not in boxes:
            raise
        indices = _plane(decoded(data[data.index(b"\xff\x4f\xff\x51") :]).planes[0])
        yield on_white(_by_palette(boxes, indices), 255)
        return
    space = struct.unpack_from(">I", boxes.get(b"colr", b"\1" + bytes(9)), 3)[0]
    if frame.format.name.startswith("yuv") and not frame.format.name.endswith(("le", "be")):
        height, width = frame.height, frame.width
        full = []
        for values in map(_plane, frame.planes):
            down, across = -(-height // len(values)), -(-width // values.shape[1])
            full.append(np.repeat(np.repeat(values, down, 0), across, 1)[:height, :width].astype(float))
        y, blue, red = full[0], full[1] - 128, full[2] - 128
        rgb = np.stack([y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue], -1)
        yield on_white(np.clip(rgb, 0, 255), 255)
    elif frame.format.name == "rgba":
        values = frame.to_ndarray(format="rgba").astype(float)
        if space == 12:  # CMYK
            yield on_white((255 - values[..., :3]) * (255 - values[..., 3:]), 255**2)
        else:
            yield on_white(values[..., :3], 255, values[..., 3])
    elif frame.format.name in ("pal8", "rgb24", "gray"):
        yield frame.to_ndarray(format="rgb24")


def _header_boxes(data: bytes) -> Iterator[tuple[int, int]]:
    """Place and size of the boxes in the header of a JPEG 2000 file (ISO/IEC 15444-1, Annex I)."""
    start = data.find(b"jp2h") - 4
    if start < 0:
        return
    at, end = start + 8, start + struct.unpack_from(">I", data, start)[0]
    while at + 8 <= end:
        (size,) = struct.unpack_from(">I", data, at)
        if size < 8:
            return
        yield at, size
        at += size


def _plane(plane) -> np.ndarray:
    return np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[:, : plane.width]


def _by_palette(boxes: dict[bytes, bytes], indices: np.ndarray) -> np.ndarray:
    """Colors of 8 bits from palette and channel definitions."""
    entries, columns = struct.unpack_from(">HB", boxes[b"pclr"])
    palette = np.frombuffer(boxes[b"pclr"], np.uint8, entries * columns, 3 + columns).reshape(entries, columns)
    (n,) = struct.unpack_from(">H", boxes[b"cdef"])
    of = {struct.unpack_from(">HHH", boxes[b"cdef"], 2 + 6 * i)[2]: i for i in range(n)}
    return palette[indices][..., [of[color] for color in (1, 2, 3)]]


def by_imagemagick(data: bytes) -> Iterator[Pixels]:
    """The first page by ImageMagick, on white."""
    command = ["convert", "-[0]", "-background", "white", "-flatten", "-colorspace", "sRGB", "-depth", "8", "png:-"]
    done = subprocess.run(command, input=data, capture_output=True, check=True, timeout=60)
    with Image.open(io.BytesIO(done.stdout)) as image:
        yield np.asarray(image.convert("RGB"))


READERS: dict[str, tuple[Callable[[bytes], Iterator[Pixels]], ...]] = {
    "PNG": (by_pypng, by_opencv),
    "TIFF": (by_libtiff, by_bits, by_opencv, by_pillow, by_imagemagick),
    "JPEG 2000": (by_opencv, by_pillow, by_ffmpeg),
}
OTHER = (by_opencv, by_pillow)
LOSSY = ("JPEG", "JPEG 2000", "WebP", "TIFF")


def seconds(data: bytes, kind: str) -> Iterator[Pixels]:
    """The images that the second readers find in a file. What they cannot read is left out."""
    for reader in READERS.get(kind, OTHER):
        try:
            yield from reader(data)
        except ImportError:
            raise
        except Exception:  # a broken file makes readers raise almost anything
            continue


def equal(ours: Pixels, theirs: Pixels, kind: str) -> bool:
    """Whether two images are the same in one of the eight orientations: not all readers turn images upright."""
    for turn in range(8):
        turned = np.rot90(theirs[:, ::-1] if turn >= 4 else theirs, turn % 4)
        if turned.shape == ours.shape:
            difference = np.abs(ours.astype(int) - turned)
            if difference.max() <= 2 or (kind in LOSSY and difference.mean() < 1):
                return True
    return False


def compare(path: Path, kind: str) -> tuple[str, str]:
    """equal, refused, different or alone (no second reader), and why."""
    data = path.read_bytes()
    try:
        ours = load_image(data, path.name)
    except UserError as error:
        return "refused", str(error)
    any_reader = False
    differences = []
    for theirs in seconds(data, kind):
        any_reader = True
        if equal(ours, theirs, kind):
            return "equal", ""
        same = ours.shape == theirs.shape
        differences.append(f"by {np.abs(ours.astype(int) - theirs).mean():.1f}" if same else f"size {theirs.shape[:2]}")
    if not any_reader:
        return "alone", ""
    return "different", f"{ours.shape[:2]}: {', '.join(differences)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="+", metavar="DIR", type=Path)
    parser.add_argument("--refused", action="store_true", help="list the refused files with the reason")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    listed = []
    print("| folder | format | files | equal | refused | different | no second reader |")
    print("|---|---|---|---|---|---|---|")
    for directory in options.directories:
        counts: dict[str, Counter] = {}
        for path in sorted(directory.rglob("*")):
            kind = SUFFIXES.get(path.suffix.lower())
            if kind is None or not path.is_file():
                continue
            outcome, why = compare(path, kind)
            counts.setdefault(kind, Counter())[outcome] += 1
            if outcome in ("different", "alone") or (outcome == "refused" and options.refused):
                listed.append(f"{outcome}: {path} {why}")
        for kind, outcomes in sorted(counts.items()):
            row = [outcomes.total(), *(outcomes[key] for key in ("equal", "refused", "different", "alone"))]
            print(f"| {directory} | {kind} | {' | '.join(map(str, row))} |", flush=True)
    print("\n".join(listed))


if __name__ == "__main__":
    main()
