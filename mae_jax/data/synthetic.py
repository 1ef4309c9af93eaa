"""Generated blood cells, tissue and radiographs, for tests and the demo: no real image may be shipped.

Cells resemble the Giemsa-stained white blood cells of Raabin-WBC, and tissue resembles H&E tiles. Scores on them say
nothing about real images. Lengths are in field widths (1 = the side of the image), so a picture looks the same at
every size. Colors are optical densities of red, green and blue. Densities of stain layers add up, and `_develop`
converts them to light: `image = light * exp(-density)`.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, UInt8

from mae_jax.runtime.errors import UserError

CLASSES = ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")
_TRAIN_COUNTS = (212, 744, 2427, 561, 6231)  # of Raabin-WBC, Train
PROPORTIONS = tuple(count / sum(_TRAIN_COUNTS) for count in _TRAIN_COUNTS)
MIN_SIZE = 16  # pixels; below this a nucleus is a few pixels wide

Range = tuple[float, float]
Color = tuple[float, float, float]
Plane = Float[np.ndarray, "h w"]
Density = Float[np.ndarray, "3 size size"]

# Optical densities: of a smear, then of a section.
_RED_CELL: Color = (0.22, 0.34, 0.24)
_NUCLEUS: Color = (1.30, 1.75, 0.55)
_PLATELET: Color = (0.60, 0.85, 0.35)
_HEMATOXYLIN: Color = (1.20, 1.10, 0.40)
_EOSIN: Color = (0.10, 0.75, 0.30)
_ERYTHROCYTE: Color = (0.12, 1.25, 0.75)


@dataclass(frozen=True)
class _Kind:
    """The appearance of a class of white cells. Each cell draws its own values from the ranges."""

    radius: Range  # of the cell, in field widths
    nucleus: Range  # area of the lobes over area of the cell
    lobes: tuple[float, ...]  # probabilities of 2, 3, 4 and 5 lobes
    arc: Range  # distance of the lobes from the center, in cell radii
    sweep: Range  # angle from one lobe to the next, in radians
    waist: Range  # width between two lobes over width of a lobe: 1 is one body, 0.1 a strand
    cytoplasm: Color
    granule: Color
    granules: Range  # number
    granule_radius: Range  # in field widths
    over_nucleus: float  # how strongly granules cover the nucleus, 0 to 1
    clumps: float  # contrast of the chromatin
    ragged: Range  # deviation of the outline from a circle, in cell radii
    vacuoles: int  # maximum number


_KINDS = (
    _Kind(  # basophil: dark violet granules hide the nucleus
        radius=(0.155, 0.215), nucleus=(0.35, 0.60), lobes=(0.6, 0.4), arc=(0.15, 0.45),
        sweep=(1.6, 2.6), waist=(0.5, 1.0), cytoplasm=(0.50, 0.65, 0.22),
        granule=(1.45, 1.85, 0.65), granules=(70, 190), granule_radius=(0.008, 0.013),
        over_nucleus=0.75, clumps=0.14, ragged=(0.03, 0.10), vacuoles=2,
    ),
    _Kind(  # eosinophil: two lobes among coarse orange-red granules
        radius=(0.165, 0.225), nucleus=(0.28, 0.44), lobes=(0.75, 0.25), arc=(0.36, 0.56),
        sweep=(1.7, 2.8), waist=(0.1, 0.65), cytoplasm=(0.22, 0.42, 0.26),
        granule=(0.34, 0.85, 0.66), granules=(60, 240), granule_radius=(0.007, 0.011),
        over_nucleus=0.15, clumps=0.14, ragged=(0.02, 0.07), vacuoles=1,
    ),
    _Kind(  # lymphocyte: small, nearly all nucleus, a thin rim of clear blue
        radius=(0.125, 0.205), nucleus=(0.55, 0.92), lobes=(1.0,), arc=(0.02, 0.14),
        sweep=(2.2, 4.0), waist=(0.95, 1.05), cytoplasm=(0.52, 0.40, 0.06),
        granule=(0.60, 0.95, 0.40), granules=(0, 6), granule_radius=(0.005, 0.008),
        over_nucleus=0.1, clumps=0.10, ragged=(0.02, 0.11), vacuoles=1,
    ),
    _Kind(  # monocyte: large, kidney-shaped, horseshoe-shaped or folded, gray-blue with vacuoles
        radius=(0.180, 0.260), nucleus=(0.40, 0.62), lobes=(0.30, 0.45, 0.25), arc=(0.22, 0.50),
        sweep=(0.9, 1.6), waist=(0.75, 1.05), cytoplasm=(0.42, 0.44, 0.12),
        granule=(0.55, 0.75, 0.28), granules=(0, 60), granule_radius=(0.004, 0.006),
        over_nucleus=0.1, clumps=0.17, ragged=(0.04, 0.16), vacuoles=7,
    ),
    _Kind(  # neutrophil: three to five lobes on strands, sometimes two or a band; fine and pink
        radius=(0.155, 0.225), nucleus=(0.28, 0.42), lobes=(0.14, 0.42, 0.30, 0.14),
        arc=(0.42, 0.60), sweep=(1.00, 1.75), waist=(0.12, 0.85), cytoplasm=(0.19, 0.33, 0.12),
        granule=(0.42, 0.72, 0.30), granules=(30, 160), granule_radius=(0.004, 0.006),
        over_nucleus=0.1, clumps=0.14, ragged=(0.02, 0.09), vacuoles=2,
    ),
)  # fmt: skip


def draw_labels(rng: np.random.Generator, n: int) -> Int[np.ndarray, " n"]:
    """n labels in random order (int32), counted out in PROPORTIONS by largest remainder.

    For n >= 10, every class occurs at least twice. Raises UserError for a negative n.
    """
    if not (isinstance(n, int | np.integer) and n >= 0):
        raise UserError(f"n is {n!r}: the number of labels must be a whole number, 0 or more")
    shares = np.asarray(PROPORTIONS) * n
    counts = np.floor(shares).astype(np.int64)
    counts[np.argsort(counts - shares)[: n - counts.sum()]] += 1
    if n >= 2 * len(CLASSES):
        for label in np.flatnonzero(counts < 2):
            counts[np.argmax(counts)] -= 2 - counts[label]
            counts[label] = 2
    return rng.permutation(np.repeat(np.arange(len(CLASSES), dtype=np.int32), counts))


def draw_cell(rng: np.random.Generator, label: int, size: int = 96) -> UInt8[np.ndarray, "size size 3"]:
    """A field of a stained smear, size x size pixels: one white cell of class `label`, red cells.

    `label` is an index into CLASSES. The picture depends only on the state of `rng`. Raises UserError for a label that
    is not a class and for a size below MIN_SIZE pixels.
    """
    if not (isinstance(label, int | np.integer) and 0 <= label < len(CLASSES)):
        raise UserError(f"label is {label!r}: it must be 0 to {len(CLASSES) - 1}, one of {CLASSES}")
    _check_size(size)
    density = np.zeros((3, size, size), np.float32)
    cy, cx = (0.5 + rng.uniform(-0.09, 0.09, 2)).tolist()
    radius = rng.uniform(*_KINDS[label].radius)
    _red_cells(rng, density, cy, cx, radius)
    _debris(rng, density, cy, cx, radius)
    if rng.random() < 0.22:  # a neighbor of any class, cut off by the border
        angle, away = rng.uniform(0, 2 * math.pi), rng.uniform(0.50, 0.62)
        dy, dx = math.sin(angle), math.cos(angle)
        away /= max(abs(dy), abs(dx))
        other = int(rng.integers(len(CLASSES)))
        _white_cell(rng, density, other, 0.5 + away * dy, 0.5 + away * dx, rng.uniform(0.13, 0.24))
    _white_cell(rng, density, label, cy, cx, radius)
    warm = rng.uniform(0.0, 1.0) if rng.random() < 0.75 else rng.uniform(-0.8, 0.0)
    light = (1.0 + 0.10 * min(warm, 0.0), 0.93 - 0.02 * warm, 0.90 - 0.11 * warm)
    return _develop(rng, density, light)


def draw_tissue(rng: np.random.Generator, size: int = 96) -> UInt8[np.ndarray, "size size 3"]:
    """An H&E-like tile without a label, size x size pixels: fibers, nests, glands, gaps, fat.

    The picture depends only on the state of `rng`. Raises UserError for a size below MIN_SIZE.
    """
    _check_size(size)
    zoom = rng.uniform(0.7, 1.7)  # how large a nucleus is
    density, flat_y, flat_x = _window(np.zeros((3, size, size), np.float32))
    bend = rng.uniform(0.03, 0.09)
    y = flat_y + bend * _noise(rng, flat_y, flat_x, 0.3)
    x = flat_x + bend * _noise(rng, flat_y, flat_x, 0.3)

    # Regions: nests of epithelium and gaps (air, clefts, lumens, fat); the rest is stroma.
    nests = _cover(rng.normal(0.1, 0.5) - _noise(rng, flat_y, flat_x, rng.uniform(0.25, 0.5)), 0.2)
    gaps = _noise(rng, flat_y, flat_x, rng.uniform(0.15, 0.35))
    if rng.random() < 0.5:  # thin septa, as in lung
        gaps = _cover(rng.uniform(0.4, 1.1) - np.abs(gaps), 0.25 * zoom)
    else:
        gaps = _cover(rng.uniform(0.4, 1.8) - gaps, 0.15)
    if rng.random() < 0.5:  # lumens, or fat where they crowd
        pitch, crowd = zoom * rng.uniform(0.16, 0.5), np.full_like(gaps, rng.uniform(0.3, 1))
        gaps = np.maximum(gaps, _ellipses(rng, y, x, pitch, crowd, (0.3, 0.45), (1.0, 1.4))[0])
    tissue = 1 - gaps

    angle = rng.uniform(0, math.pi)
    across = (y * math.cos(angle) - x * math.sin(angle)) * (64 / zoom)
    waves = np.convolve(rng.standard_normal(256 + 6), np.hanning(9)[1:-1] / 2, "valid")
    fibres = waves.astype(np.float32).take(across.astype(np.intp) % 256) * (1 - nests)
    grain = _noise(rng, flat_y, flat_x, 0.03 * zoom)
    eosin = tissue * np.maximum(rng.uniform(0.35, 0.7) + 0.24 * fibres + 0.09 * grain, 0.05)
    density += _tint(_EOSIN, eosin)
    density += _tint(_HEMATOXYLIN, tissue * nests * (rng.uniform(0.1, 0.45) * (1 + 0.2 * grain)))

    if rng.random() < 0.5:  # red cells, most of them where there is no tissue
        where = rng.uniform(0.2, 0.9) * (0.1 + 0.9 * gaps)
        cells, depth = _ellipses(rng, y, x, 0.085 * zoom, where, (0.30, 0.42), (1.0, 1.4))
        density += _tint(_ERYTHROCYTE, cells * depth)
    stroma, crowd = tissue * (1 - nests), tissue * nests * rng.uniform(0.6, 1.0)
    for pitch, where, radius, aspect in (
        (0.10, stroma * rng.uniform(0.2, 0.8), (0.14, 0.26), (1.4, 3.2)),  # spindles
        (0.07, stroma * rng.uniform(0.0, 0.3), (0.28, 0.40), (1.0, 1.3)),  # lymphocytes
        (0.10, crowd, (0.28, 0.46), (1.0, 1.5)),
        (0.12, crowd * 0.5, (0.26, 0.42), (1.0, 1.7)),
    ):
        nuclei, depth = _ellipses(rng, y, x, pitch * zoom, where, radius, aspect, angle)
        density += _tint(_HEMATOXYLIN, nuclei * depth * (1 + 0.15 * grain))
    return _develop(rng, density, (0.94, 0.92, 0.92))


def draw_xray(rng: np.random.Generator, size: int = 96) -> UInt8[np.ndarray, "size size 3"]:
    """A gray radiograph-like image, size x size pixels: two dark lungs, ribs, a spine and a heart. Another domain.

    The picture depends only on the state of `rng`. Raises UserError for a size below MIN_SIZE.
    """
    _check_size(size)
    _, y, x = _window(np.zeros((3, size, size), np.float32))
    tilt, wide = rng.normal(0, 0.06), rng.uniform(0.85, 1.15)
    bent_y, bent_x = y + tilt * x, (x - tilt * y) / wide
    body = _cover(np.abs(bent_x) - rng.uniform(0.40, 0.48) + 0.15 * np.square(bent_y), 0.06)
    bright = body * (0.55 + 0.06 * _noise(rng, y, x, 0.25))
    lungs = np.zeros_like(bright)
    for side in (-1, 1):
        cy, cx = rng.uniform(-0.06, 0.04), side * rng.uniform(0.17, 0.22)
        away = _distance(bent_y - cy, (bent_x - cx) * 1.9, rng.normal(0, 0.1), 1.0)
        lungs = np.maximum(lungs, _cover(away - rng.uniform(0.27, 0.34), 0.08))
    bright -= 0.38 * lungs * (1 + 0.12 * _noise(rng, y, x, 0.04))
    pitch, phase = rng.uniform(0.085, 0.12), rng.uniform(0, 1)
    waves = (bent_y + rng.uniform(0.3, 0.6) * np.square(bent_x)) / pitch + phase
    bright += 0.10 * lungs * np.square(np.square(np.cos(math.pi * waves)))
    spine = _cover(np.abs(bent_x) - rng.uniform(0.03, 0.045), 0.03)
    bright += 0.16 * body * spine * (0.8 + 0.2 * np.cos(2 * math.pi * bent_y / 0.07))
    heart = _distance(bent_y - rng.uniform(0.08, 0.16), bent_x - rng.uniform(0.03, 0.08), 0.6, 1.25)
    bright += 0.28 * _cover(heart - rng.uniform(0.11, 0.17), 0.06)
    image = _blur(np.clip(bright, 0, 1)[None], size * rng.uniform(0.002, 0.008))[0]
    image += rng.uniform(0.005, 0.03) * rng.standard_normal(image.shape, dtype=np.float32)
    gray = np.clip(255 * rng.uniform(0.85, 1.1) * image + 0.5, 0, 255).astype(np.uint8)
    return np.repeat(gray[..., None], 3, 2)


def _white_cell(rng, density: Density, label: int, cy: float, cx: float, radius: float) -> None:
    """Adds a white cell to `density`, in place. It hides what is under it."""
    kind = _KINDS[label]
    soft = 1.6 / density.shape[-1]
    granular = kind.granules[0] >= 30
    burst = granular and rng.random() < 0.06  # a torn cell spills its granules
    under, y, x = _window(density, cy, cx, radius * (1.9 if burst else 1.45))
    body, nucleus = _outlines(rng, kind, y, x, radius)
    cell = _cover(body, soft) * (rng.uniform(0.2, 0.5) if burst else 1.0)

    cloud = 0.85 + 0.2 * _noise(rng, y, x, 0.05) + 0.5 * _cover(np.abs(body), 0.02)
    for _ in range(rng.integers(kind.vacuoles + 1)):
        angle, away = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.4, 0.95)
        hole = _distance(y - away * math.sin(angle), x - away * math.cos(angle))
        cloud *= 1 - 0.8 * _cover(hole - rng.uniform(0.008, 0.02), 2 * soft)
    under += (_tint(kind.cytoplasm, rng.uniform(0.6, 1.35) * cloud) - under) * cell

    count = int(rng.uniform(*kind.granules))
    angles = rng.uniform(0, 2 * math.pi, count)
    away = radius * (1.7 if burst else 0.98) * np.sqrt(rng.random(count))
    coarse = rng.uniform(*kind.granule_radius)
    grains = _dots(y, x, away * np.sin(angles), away * np.cos(angles), coarse, 0.35 * soft)
    grains *= rng.uniform(0.55, 1.0) * (1.0 if burst else cell)
    granule = _tint(kind.granule, rng.uniform(0.75, 1.15))
    under += (granule - under) * grains

    clumps = _noise(rng, y, x, rng.uniform(0.018, 0.03)) + 0.5 * _noise(rng, y, x, 0.06)
    chromatin = np.maximum(0.95 + kind.clumps * clumps, 0.6) + 0.2 * _cover(np.abs(nucleus), 0.015)
    layer = _tint(_NUCLEUS, rng.uniform(0.72, 1.12) * chromatin)
    layer += (granule - layer) * (grains * kind.over_nucleus)
    under += (layer - under) * _cover(nucleus, soft)


def _outlines(rng, kind: _Kind, y, x, radius: float) -> tuple[Plane, Plane]:
    """Signed distances to the outlines of the cell and of its nucleus, negative inside."""
    wander = radius * rng.uniform(*kind.ragged)
    bent_y = y + wander * _noise(rng, y, x, 0.7 * radius)
    bent_x = x + wander * _noise(rng, y, x, 0.7 * radius)
    body = _distance(bent_y, bent_x, rng.uniform(0, math.pi), rng.uniform(0.85, 1.18)) - radius

    # The nucleus is a chain of dumb-bells: lobes on an arc, each joined to the next by a waist.
    lobes = 2 + int(np.searchsorted(np.cumsum(kind.lobes), rng.random()))
    turn = min(rng.uniform(*kind.sweep), 5.4 / (lobes - 1))  # so that the chain does not close into a ring
    turn *= 1 if rng.random() < 0.5 else -1
    angles = rng.uniform(0, 2 * math.pi) + np.cumsum(turn * rng.uniform(0.8, 1.2, lobes))
    arc = rng.uniform(*kind.arc)
    arcs, shift = radius * arc * rng.uniform(0.8, 1.2, lobes), radius * rng.normal(0, 0.06, 2)
    cy = (arcs * np.sin(angles) + shift[0]).tolist()
    cx = (arcs * np.cos(angles) + shift[1]).tolist()
    apart = 1 + (lobes - 1) * min(1.0, 1.2 * arc)  # overlapping lobes count as one
    width = radius * math.sqrt(rng.uniform(*kind.nucleus) / apart)
    widths = (width * rng.uniform(0.87, 1.13, lobes)).tolist()
    waists = np.clip(rng.uniform(*kind.waist) * rng.uniform(0.8, 1.2, lobes), 0.1, 1.0).tolist()
    bent_y = y + 0.09 * radius * _noise(rng, y, x, 0.5 * radius)
    bent_x = x + 0.09 * radius * _noise(rng, y, x, 0.5 * radius)
    chain = np.full_like(body, np.inf)
    for i in range(lobes - 1):
        dy, dx = cy[i + 1] - cy[i], cx[i + 1] - cx[i]
        ty, tx = bent_y - cy[i], bent_x - cx[i]
        along = np.clip((ty * dy + tx * dx) * (1 / max(dy * dy + dx * dx, 1e-8)), 0, 1)
        away = _distance(ty - along * dy, tx - along * dx)
        ends = np.square(np.square(2 * along - 1))  # 1 at the lobes, 0 between them
        lobe = widths[i] + (widths[i + 1] - widths[i]) * along
        chain = np.minimum(chain, away - lobe * (waists[i] + (1 - waists[i]) * ends))
    return body, np.maximum(chain, body + 0.04 * radius)  # the nucleus stays within the cell


def _red_cells(rng, density: Density, cy: float, cx: float, clear: float) -> None:
    """Adds red cells with pale centers; few of them touch the white cell at (cy, cx)."""
    usual, pallor = rng.uniform(0.105, 0.15), rng.uniform(0.2, 1.0)
    gap = usual * rng.uniform(1.4, 2.1)  # how close two may come; below two radii they overlap
    spiky = rng.random() < 0.04
    kept: list[complex] = []
    for py, px in rng.uniform(-0.12, 1.12, (int(rng.integers(10, 80)), 2)).tolist():
        place = complex(py, px)
        far = abs(place - complex(cy, cx)) > clear + 0.85 * usual
        if not far or any(abs(place - other) < gap for other in kept):
            continue
        kept.append(place)
        radius = usual * rng.normal(1.0, 0.07)
        field, y, x = _window(density, py, px, radius * 1.3)
        away = _distance(y, x, rng.uniform(0, math.pi), rng.uniform(0.88, 1.14))
        if spiky:
            away *= 1 + 0.07 * np.cos(9 * np.arctan2(y, x))
        hollow = 1 - pallor * rng.uniform(0.6, 0.9) * _cover(away - 0.42 * radius, 0.6 * radius)
        disc = _cover(away - radius, 2.0 / density.shape[-1]) * hollow
        field += _tint(_RED_CELL, disc * rng.uniform(0.85, 1.2))


def _debris(rng, density: Density, cy: float, cx: float, clear: float) -> None:
    """Adds platelets, small violet bodies away from the white cell, and at times a faint smudge."""
    for _ in range(rng.poisson(1.2)):
        py, px, radius = rng.uniform((0, 0, 0.018), (1, 1, 0.04)).tolist()
        if math.hypot(py - cy, px - cx) > clear + radius:
            field, y, x = _window(density, py, px, 1.6 * radius)
            blot = _cover(_distance(y, x) + 0.01 * _noise(rng, y, x, 0.02) - radius, 0.02)
            field += _tint(_PLATELET, blot * rng.uniform(0.4, 1.1))
    if rng.random() < 0.35:
        field, y, x = _window(density, *rng.uniform(0, 1, 2).tolist(), reach=0.22)
        blot = _cover(-_noise(rng, y, x, 0.07), 1.0) * _cover(_distance(y, x) - 0.1, 0.24)
        field += _tint(_PLATELET, blot * rng.uniform(0.1, 0.4))


def _ellipses(rng, y, x, pitch: float, where: Plane, radius: Range, aspect: Range, angle=None):
    """Ellipses on a jittered grid, each present with the probability in `where` at its center.

    Returns their cover (h w) and the depth of stain drawn for each (h w). `pitch` is in field widths and `radius` in
    pitches. `aspect` is length over width. `angle` is the direction of most ellipses (None: all directions).
    """
    size = where.shape[0]
    row = np.floor(y / pitch).astype(np.intp)
    column = np.floor(x / pitch + 0.5 * (row & 1)).astype(np.intp)
    top, left = int(row.min()), int(column.min())
    across = int(column.max()) - left + 1
    index = (row - top) * across + (column - left)

    places = np.arange((int(row.max()) - top + 1) * across)
    rows, n = top + places // across, places.size
    cy = pitch * (rows + rng.uniform(0.32, 0.68, n))
    cx = pitch * (left + places % across - 0.5 * (rows & 1) + rng.uniform(0.32, 0.68, n))
    at_y, at_x = (np.clip((c + 0.5) * size, 0, size - 1).astype(np.intp) for c in (cy, cx))
    present = rng.random(n) < where[at_y, at_x]
    turn = rng.uniform(0, math.pi, n) if angle is None else angle + rng.normal(0, 0.4, n)
    stretch = rng.uniform(*aspect, n)  # squared lengths of the axes: stretch and 1 / stretch
    scale = 1 / (pitch * np.where(present, rng.uniform(*radius, n), 1e-3)) ** 2
    c2, s2, cs = np.cos(turn) ** 2, np.sin(turn) ** 2, np.cos(turn) * np.sin(turn)
    yy, xx = scale * (c2 * stretch + s2 / stretch), scale * (s2 * stretch + c2 / stretch)
    yx = scale * 2 * cs * (1 / stretch - stretch)
    table = np.stack([cy, cx, yy, xx, yx, rng.uniform(0.45, 1.1, n)]).astype(np.float32)
    cy, cx, yy, xx, yx, depth = (values.take(index) for values in table)
    dy, dx = y - cy, x - cx
    away = np.sqrt(np.maximum(dy * (yy * dy + yx * dx) + xx * dx * dx, 0)) - 1
    return _cover(away, 1.6 / (size * pitch * radius[1])), depth


def _develop(rng, density: Density, light: Color) -> UInt8[np.ndarray, "size size 3"]:
    """Converts density to 8-bit color, with the stain of one slide and the light, blur and noise of one camera."""
    size = density.shape[-1]
    strength, saturation = math.exp(rng.normal(0, 0.22)), math.exp(rng.normal(0, 0.25))
    hue, gray = rng.normal(0, 0.20), np.full((3, 3), 1 / 3)  # an angle around the gray axis
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = math.cos(hue) * (np.eye(3) - gray) + math.sin(hue) * cross
    stain = (strength * (gray + saturation * turn)).astype(np.float32)
    _, y, x = _window(density)
    tilt_y, tilt_x = rng.normal(0, 0.10, 2).tolist()
    shade = rng.uniform(0.80, 1.04) * (1 + tilt_y * y + tilt_x * x)

    image = np.einsum("ij,jhw->ihw", stain, density)
    image = np.exp(-np.maximum(image, 0)) * shade
    image = _blur(image, size * rng.uniform(0.002, 0.013))
    image *= _tint(light * np.exp(rng.normal(0, 0.025, 3)), 1.0)
    image += rng.uniform(0.004, 0.025) * rng.standard_normal(image.shape, dtype=np.float32)
    image = np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)
    return np.ascontiguousarray(image.transpose(1, 2, 0))


def _blur(image: Density, sigma: float) -> Density:
    """Gaussian blur, `sigma` in pixels. No matrix product: BLAS would start threads for each image."""
    reach = max(1, math.ceil(3 * sigma))
    taps = np.exp(-0.5 * np.square(np.arange(-reach, reach + 1) / sigma))
    taps /= taps.sum()
    for axis in (1, 2):
        wide = np.pad(image, [(reach, reach) if i == axis else (0, 0) for i in range(3)], "edge")
        windows = np.lib.stride_tricks.sliding_window_view(wide, len(taps), axis)
        image = np.einsum("chwt,t->chw", windows, taps.astype(np.float32))
    return image


def _noise(rng, y, x, period: float) -> Plane:
    """Smooth noise of mean 0 and variance about 1; `period` is the pitch of its grid."""

    def weights(along):  # cubic B-spline: the share of each node of the grid in each pixel
        along = along.ravel() / period
        nodes = np.arange(math.floor(along[0]) - 1, math.floor(along[-1]) + 3, dtype=np.float32)
        t = np.abs(along[:, None] - nodes)
        wide, narrow = np.maximum(2 - t, 0), np.maximum(1 - t, 0)
        return wide * wide * wide / 6 - narrow * narrow * narrow * (4 / 6)

    down, right = weights(y), weights(x)
    grid = rng.standard_normal((down.shape[1], right.shape[1]), dtype=np.float32)
    return 2.1 * np.einsum(
        "yn,nw->yw", down, np.einsum("nm,wm->nw", grid, right)
    )  # the spline reduces the standard deviation to 1 / 2.1


def _dots(y, x, cy, cx, radius: float, finest: float) -> Plane:
    """Cover of soft round dots at (cy, cx). Dots smaller than the `finest` radius are drawn wider, but fainter."""
    width = max(radius, finest)
    down = np.exp(-np.square((y - cy.astype(np.float32)) / width))
    right = np.exp(-np.square((x.T - cx.astype(np.float32)) / width))
    return np.minimum(1.2 * (radius / width) ** 2 * np.einsum("yn,xn->yx", down, right), 1)


def _window(density: Density, cy: float = 0.5, cx: float = 0.5, reach: float = 0.5):
    """A view of `density` within `reach` of (cy, cx), and the coordinates y (h 1) and x (1 w) of its pixels."""
    size = density.shape[-1]
    top, left = (max(math.floor((c - reach) * size), 0) for c in (cy, cx))
    bottom, right = (min(max(math.ceil((c + reach) * size), 0), size) for c in (cy, cx))
    y = (np.arange(top, bottom, dtype=np.float32) + 0.5) / size - cy
    x = (np.arange(left, right, dtype=np.float32) + 0.5) / size - cx
    return density[:, top:bottom, left:right], y[:, None], x[None, :]


def _distance(y, x, angle: float = 0.0, stretch: float = 1.0) -> Plane:
    """Distance from the origin; with `stretch`, lines of equal distance are ellipses of the same area."""
    sine, cosine = math.sin(angle), math.cos(angle)
    u, v = (y * cosine - x * sine) * stretch, (y * sine + x * cosine) / stretch
    return np.sqrt(u * u + v * v)


def _tint(color, amount) -> Float[np.ndarray, "3 h w"]:
    """A stain of the given color and thickness `amount`."""
    return np.asarray(color, np.float32)[:, None, None] * np.asarray(amount, np.float32)


def _cover(distance, soft: float) -> Plane:
    """1 inside (distance < 0) and 0 outside, with a smooth step of width `soft`."""
    t = np.clip(0.5 - distance * (1 / soft), 0, 1)
    return t * t * (3 - 2 * t)


def _check_size(size: int) -> None:
    if not (isinstance(size, int | np.integer) and size >= MIN_SIZE):
        raise UserError(f"size is {size!r}: it must be a whole number >= {MIN_SIZE} (pixels)")
