"""Measures how many copies the search for near-identical images misses, and how many different images it reports.

    python tools/measure_copies.py [--images DIR] [--sets SET ...] [--seed 0]

Without --images it draws sets of images that resemble each other: nuclei, empty tiles, organoids, cells and tissue.
For each set it prints the pairs of different images that are reported (of all pairs), and for each kind of copy how
many of the planted ones are missed. `DIR` is a folder of images without copies. `--cost N` measures the time for N
random hashes instead.
"""

import argparse
import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from mae_jax.data import duplicates, sources, synthetic
from mae_jax.data.decode import load_image
from mae_jax.data.looks import look, picture

SIDE, N, COPIED = 96, 80, 20
Pixels = np.ndarray


def grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    return y, x


def finished(rng: np.random.Generator, plane: np.ndarray, noise: float, colors=(1.0, 1.0, 1.0)) -> Pixels:
    image = plane[..., None] * np.array(colors) + rng.normal(0, noise, (SIDE, SIDE, 1)) * np.array(colors)
    return np.clip(image, 0, 255).astype(np.uint8)


def nucleus(rng: np.random.Generator, noise: float, texture: float = 0.0, colors=(1.0, 1.0, 1.0)) -> Pixels:
    """A bright blurred ellipse on black."""
    y, x = grid()
    a, angle = rng.uniform(0.18, 0.3), rng.uniform(0, np.pi)
    b, cx, cy = a * rng.uniform(0.65, 1), *rng.uniform(-0.05, 0.05, 2)
    u = (x - cx) * np.cos(angle) + (y - cy) * np.sin(angle)
    v = (y - cy) * np.cos(angle) - (x - cx) * np.sin(angle)
    inside = ((u / a) ** 2 + (v / b) ** 2 < 1) * (1 + texture * gaussian_filter(rng.normal(size=x.shape), 4) * 8)
    plane = gaussian_filter(inside, rng.uniform(2, 5)) * rng.uniform(120, 220) + rng.uniform(5, 15)
    return finished(rng, plane, noise, colors)


def nuclei_anywhere(rng: np.random.Generator, n: int, noise: float) -> Pixels:
    """Bright blurred ellipses anywhere on black."""
    y, x = grid()
    plane = np.full(x.shape, 8.0)
    for _ in range(n):
        cx, cy = rng.uniform(-0.3, 0.3, 2)
        u, v = (x - cx) / rng.uniform(0.09, 0.16), (y - cy) / rng.uniform(0.09, 0.16)
        plane = np.maximum(plane, gaussian_filter(rng.uniform(100, 240) * (u * u + v * v < 1), 2))
    return finished(rng, plane, noise)


def gradient(rng: np.random.Generator, noise: float) -> Pixels:
    """An empty tile that is brighter on one side."""
    y, x = grid()
    angle = rng.uniform(0, 2 * np.pi)
    slope = rng.uniform(20, 120) * (x * np.cos(angle) + y * np.sin(angle))
    return finished(rng, rng.uniform(100, 160) + slope, noise, (1, 0.95, 0.9))


def empty(rng: np.random.Generator, noise: float) -> Pixels:
    """An empty tile with the shading of the microscope."""
    y, x = grid()
    return finished(rng, 240 - 100 * ((x - 0.1) ** 2 + (y + 0.05) ** 2) + rng.uniform(-3, 3), noise, (1, 0.98, 0.99))


def organoid(rng: np.random.Generator, noise: float) -> Pixels:
    """A dark ring on gray, as in bright-field microscopy."""
    y, x = grid()
    radius, stretch = rng.uniform(0.2, 0.38), rng.uniform(0.85, 1.15)
    cx, cy = rng.uniform(-0.06, 0.06, 2)
    d = np.hypot((x - cx) * stretch, (y - cy) / stretch) / radius
    plane = (
        150 - rng.uniform(30, 60) * np.exp(-(((d - 1) / rng.uniform(0.08, 0.15)) ** 2)) - rng.uniform(5, 30) * (d < 1)
    )
    return finished(rng, gaussian_filter(plane, 2) + 15 * x, noise)


def shape(rng: np.random.Generator, i: int, noise: float) -> Pixels:
    """A drawing: the same ellipse on an empty background, in one of five colors, shifted by up to 6 pixels."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE - 0.5
    cx, cy = rng.integers(-6, 7, 2) / SIDE
    inside = ((x - cx) / 0.25) ** 2 + ((y - cy) / 0.22) ** 2 < 1
    colors = ((150, 40, 160), (220, 90, 60), (60, 60, 170), (120, 120, 60), (60, 150, 90))
    image = np.where(inside[..., None], np.array(colors[i % 5]), np.array((235, 225, 230)))
    return np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)


SETS: dict[str, Callable[[np.random.Generator, int], Pixels]] = {
    "nuclei": lambda rng, i: nucleus(rng, 0),
    "nuclei in blue": lambda rng, i: nucleus(rng, 0, colors=(0.12, 0.2, 1)),
    "nuclei with noise": lambda rng, i: nucleus(rng, 4),
    "nuclei with texture": lambda rng, i: nucleus(rng, 2, 0.5),
    "gradients": lambda rng, i: gradient(rng, 0),
    "gradients with noise": lambda rng, i: gradient(rng, 2),
    "empty tiles": lambda rng, i: empty(rng, 2),
    "organoids": lambda rng, i: organoid(rng, 1.5),
    "one drawn shape": lambda rng, i: shape(rng, i, 0),
    "one drawn shape with noise": lambda rng, i: shape(rng, i, 6),
    "generated cells": lambda rng, i: synthetic.draw_cell(rng, i % 5, SIDE),
    "generated tissue": lambda rng, i: synthetic.draw_tissue(rng, SIDE),
    "one or several nuclei anywhere with noise": lambda rng, i: nuclei_anywhere(rng, 1 + i % 2 * (2 + i % 3), 3),
}


def encoded(image: Pixels, quality: int) -> bytes:
    """The image as JPEG; quality 100 means PNG."""
    file = io.BytesIO()
    form = {"format": "PNG"} if quality == 100 else {"format": "JPEG", "quality": quality}
    Image.fromarray(np.ascontiguousarray(image)).save(file, **form)
    return file.getvalue()


def resized(image: Pixels, scale: float) -> Pixels:
    size = [max(16, round(scale * n)) for n in image.shape[1::-1]]
    return np.asarray(Image.fromarray(image).resize((size[0], size[1]), Image.Resampling.BICUBIC))


def shifted(image: Pixels, rng: np.random.Generator) -> Pixels:
    """The image shifted by up to a tenth; the area that it leaves is black."""
    h, w = image.shape[:2]
    dy, dx = round(rng.uniform(-0.1, 0.1) * h), round(rng.uniform(-0.1, 0.1) * w)
    moved = np.zeros_like(image)
    moved[max(dy, 0) : h + min(dy, 0), max(dx, 0) : w + min(dx, 0)] = image[
        max(-dy, 0) : h + min(-dy, 0), max(-dx, 0) : w + min(-dx, 0)
    ]
    return moved


def cropped(image: Pixels, rng: np.random.Generator) -> Pixels:
    h, w = image.shape[:2]
    x, y = rng.integers(0, 2, 2)
    top, left = round(0.1 * h * y), round(0.1 * w * x)
    return image[top : top + round(0.9 * h), left : left + round(0.9 * w)]


def turned(image: Pixels, rng: np.random.Generator) -> Pixels:
    turn = int(rng.integers(1, 8))
    return np.rot90(image[:, ::-1] if turn >= 4 else image, turn % 4)


COPIES: dict[str, Callable[[Pixels, np.random.Generator], bytes]] = {
    "saved without loss": lambda image, rng: encoded(image, 100),
    "JPEG quality 90": lambda image, rng: encoded(image, 90),
    "JPEG quality 60": lambda image, rng: encoded(image, 60),
    "half the size": lambda image, rng: encoded(resized(image, 0.5), 85),
    "twice the size": lambda image, rng: encoded(resized(image, 2), 75),
    "darker by 20 %": lambda image, rng: encoded((image * 0.8).astype(np.uint8), 85),
    "turned or mirrored": lambda image, rng: encoded(turned(image, rng), 85),
    "shifted": lambda image, rng: encoded(shifted(image, rng), 85),
    "cropped": lambda image, rng: encoded(cropped(image, rng), 85),
}


def measure(name: str, images: list[bytes], rng: np.random.Generator) -> None:
    """Prints a line about different images, and one with the missed copies of each kind."""
    looks = np.stack([look(data) for data in images])
    start = time.process_time()
    false = list(duplicates.find(looks, lambda i: picture(images[i])))
    pairs = len(images) * (len(images) - 1) // 2
    seconds = time.process_time() - start
    print(
        f"{name}: {len(false)} of {pairs:,} pairs of different images reported, {seconds:.1f} s of CPU time", flush=True
    )
    missed, wrong = [], 0
    chosen = np.unique(np.linspace(0, len(images) - 1, COPIED).round().astype(int)).tolist()
    for kind, make in COPIES.items():
        data = [make(load_image(images[i]), rng) for i in chosen]
        hashes = np.stack([look(one) for one in data])
        pairs = duplicates.find(hashes, lambda i, data=data: picture(data[i]), looks, lambda i: picture(images[i]))
        detected = {(i, j) for i, j, _ in pairs}
        right = {(k, i) for k, i in enumerate(chosen)}
        missed.append(f"{kind} {len(right - detected)}")
        wrong += len(detected - right)
    print(f"  missed of {len(chosen)}: {', '.join(missed)}; other images reported: {wrong}", flush=True)


def cost(n: int) -> None:
    """Prints the CPU time for `n` random smooth hashes, without the decoding of candidates."""
    rng = np.random.default_rng(0)
    plain = gaussian_filter(rng.normal(size=(n, 16, 16)), (0, 1.5, 1.5)).reshape(n, -1)
    alike = plain[:1] * 3 + plain  # all images resemble each other
    for words, rows in (("different images", plain), ("images that all resemble each other", alike)):
        looks = (127 * rows / np.abs(rows).max(1, keepdims=True)).astype(np.int8)
        start, cpu = time.perf_counter(), time.process_time()
        count = sum(1 for _ in duplicates.near(looks))
        wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        print(f"{n:,} {words}: {count:,} candidates, {cpu:.0f} s of CPU time, {wall:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", metavar="DIR", help="a folder of images without copies")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cost", type=int, default=0, metavar="N")
    parser.add_argument("--sets", nargs="*", default=list(SETS), choices=list(SETS), help="sets to draw")
    options = parser.parse_args()
    if options.cost:
        cost(options.cost)
    elif options.images:
        source = sources.unlabeled_folder(options.images, bad_images="skip")
        measure(options.images, [source.encoded(i) for i in range(len(source))], np.random.default_rng(options.seed))
    else:
        for name in options.sets:  # each from a seed of its own, so one set alone gives the same numbers
            rng = np.random.default_rng([options.seed, list(SETS).index(name)])
            measure(name, [encoded(SETS[name](rng, i), 100) for i in range(N)], rng)


if __name__ == "__main__":
    main()
