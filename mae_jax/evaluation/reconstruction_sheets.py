"""Pictures of reconstructions, and the files with which a pre-training ends.

Same images and same masks for every network: the grids of two experiments can be laid side by side.
"""

import csv
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from mae_jax.config.fields import RunConfig, as_dict
from mae_jax.data.sources import Source
from mae_jax.data.transforms import CenterResize, Decode
from mae_jax.evaluation import pixel_space, reconstruction
from mae_jax.evaluation.per_image import per_image
from mae_jax.models import Params
from mae_jax.rundir import contents
from mae_jax.runtime import files
from mae_jax.runtime.csv_cells import cell
from mae_jax.step.spec import Spec

PANELS = ("original", "masked", "reconstruction", "visible pasted")
CELL = 128  # pixels, at least, of one picture of a sheet
GAP, LINE = 6, 20  # pixels between pictures, and of a line of text
Held = Sequence[tuple[Source, np.ndarray]]  # sources and which of their images


def in_turn(held: Held, n: int) -> list[tuple[Source, int]]:
    """Up to `n` images, taken from the sources in turn."""
    longest = max((len(part) for _, part in held), default=0)
    return [(source, int(part[i])) for i in range(longest) for source, part in held if i < len(part)][:n]


def panels(
    spec: Spec, params: Params, chosen: Sequence[tuple[Source, int]], seed: int, how: str = pixel_space.NEIGHBOURS
) -> Float[np.ndarray, "4 n h w 3"]:
    """`PANELS` of the chosen images, values in 0..1; `how` as in `pixels.to_pixels`."""
    transforms = [Decode(), CenterResize(spec.shape.image_size)]
    images = []
    for source, index in chosen:
        element = source[index]
        for transform in transforms:
            element = transform(element)
        images.append(element["image"])
    index = np.array([index for _, index in chosen], np.int32)
    return np.asarray(reconstruction.reconstruct(spec, params, np.stack(images), index, np.int32(seed), how))


def rows(spec: Spec, params: Params, held: Held, n: int, seed: int) -> Float[np.ndarray, "n h w 3"]:
    """Up to `n` images, each as a row of its four panels, at the mask ratio of training."""
    spec = reconstruction.at_ratio(spec, spec.mask_ratio)
    return np.concatenate(list(panels(spec, params, in_turn(held, n), seed)), axis=2)


def errors(spec: Spec, params: Params, held: Held, config: RunConfig, mask_ratio: float) -> list[dict[str, Any]]:
    """`contents.ERRORS` of every image, with its name, at a mask ratio."""
    spec = reconstruction.at_ratio(spec, mask_ratio)
    options = {"batch_size": config.eval.batch_size, "threads": config.data.threads, "seed": config.eval.mask_seed}
    found = []
    for source, indices in held:
        if not len(indices):
            continue
        values = per_image(spec, params, source, np.asarray(indices), **options, step=reconstruction.compare)
        for i, index in enumerate(indices):
            one = {"image": source.names[index], "group": source.groups[index], "mask_ratio": mask_ratio}
            found.append(one | {name: float(values[name][i]) for name in contents.ERRORS})
    return found


def means(found: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """The mean over the images of each error, a row for each mask ratio."""
    ratios = dict.fromkeys(row["mask_ratio"] for row in found)
    own = {ratio: [row for row in found if row["mask_ratio"] == ratio] for ratio in ratios}
    return [
        {"mask_ratio": ratio} | {name: float(np.mean([row[name] for row in part])) for name in contents.ERRORS}
        for ratio, part in own.items()
    ]


def sheet(columns: Sequence[tuple[str, Float[np.ndarray, "n h w 3"]]], lines: Sequence[str]) -> Image.Image:
    """A grid: one column for each (heading, pictures of values in 0..1), `lines` of text below it."""
    n, size = columns[0][1].shape[:2]
    zoom = max(1, -(-CELL // size))
    step, top = size * zoom + GAP, LINE * max(heading.count("\n") + 1 for heading, _ in columns)
    font = ImageFont.load_default(13)
    wide = max([step * len(columns), *(int(font.getlength(line)) for line in lines)]) + GAP
    canvas = Image.new("RGB", (wide, top + step * n + LINE * len(lines) + GAP), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (heading, pictures) in enumerate(columns):
        draw.multiline_text((GAP + i * step, 2), heading, "black", font)
        for j, picture in enumerate(pictures):
            tile = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8).repeat(zoom, 0).repeat(zoom, 1)
            canvas.paste(Image.fromarray(tile), (GAP + i * step, top + j * step))
    for i, line in enumerate(lines):
        draw.text((GAP, top + step * n + i * LINE), line, "black", font)
    return canvas


def side_by_side(
    networks: Iterable[tuple[str, Spec, Params]],
    chosen: Sequence[tuple[Source, int]],
    seed: int,
    how: str = pixel_space.NEIGHBOURS,
    pasted: bool = False,
    lines: Sequence[str] = (),
) -> Image.Image:
    """One sheet for (heading, spec, parameters) of several networks, taken one after the other: original and
    masked image, then each network's reconstruction and, if asked for, that with the visible patches pasted.

    All specs have the same grid and mask ratio, and so the same masks. What `how` came to stands below.
    """
    columns, normalised = [], False
    for heading, spec, params in networks:
        parts = panels(spec, params, chosen, seed, how)
        columns = columns or [(PANELS[0], parts[0]), (f"{100 * spec.mask_ratio:g} % removed", parts[1])]
        columns += [(heading, parts[2]), (PANELS[3], parts[3])][: 1 + pasted]
        normalised |= spec.norm_pix
    return sheet(columns, [*lines, pixel_space.WORDS[how if normalised else ""]])


def write_errors(path: Path, found: Sequence[dict[str, Any]]) -> None:
    """A CSV file, one row for each dict."""
    with files.replacing(path) as file:
        table = csv.DictWriter(file, list(found[0]))
        table.writeheader()
        table.writerows({k: f"{v:.9g}" if isinstance(v, float) else cell(v) for k, v in row.items()} for row in found)


def finish(spec: Spec, params: Params, held: Held, config: RunConfig, workdir: Path, leader: bool) -> None:
    """The last files of a pre-training: reconstructions.csv (errors of each held-out image at each of
    `eval.mask_ratios`), .json (their means, and what they are) and .png (`eval.images` of them).

    Every process takes part; the `leader` writes.
    """
    held = [(source, part) for source, part in held if len(part)]
    ratios = tuple(config.eval.mask_ratios)
    if not held or not ratios:
        return
    found = [row for ratio in ratios for row in errors(spec, params, held, config, ratio)]
    chosen = in_turn(held, config.eval.images)
    at = partial(panels, params=params, chosen=chosen, seed=config.eval.mask_seed)
    parts = {ratio: at(reconstruction.at_ratio(spec, ratio)) for ratio in ratios}
    if not leader:
        return
    how = pixel_space.WORDS[pixel_space.NEIGHBOURS if spec.norm_pix else ""]
    columns = [(PANELS[0], parts[ratios[0]][0])]
    for ratio, part in parts.items():
        headings = [f"{100 * ratio:g} % removed", *PANELS[2:]]
        columns += list(zip(headings, part[1:], strict=True))
    write_errors(workdir / contents.RECONSTRUCTIONS, found)
    files.save_picture((workdir / contents.RECONSTRUCTIONS).with_suffix(".png"), sheet(columns, [how]))
    about = {
        "images": len(found) // len(ratios),
        "shown": [source.names[index] for source, index in chosen],
        "mask_seed": config.eval.mask_seed,
        "statistics": how,
        "trained_with": as_dict(config.mae),
        "means": means(found),
    }
    contents.write_json((workdir / contents.RECONSTRUCTIONS).with_suffix(".json"), about)
