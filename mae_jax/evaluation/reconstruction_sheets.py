"""Pictures and error tables of reconstructions, including the last files that a pre-training writes.

Every network gets the same images and masks, so pictures of two experiments can be compared side by side.
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
from mae_jax.step.objectives.reconstruction import masked
from mae_jax.step.spec import StepSpec

PANELS = ("original", "masked", "reconstruction", "visible pasted")
CELL = 128  # minimum side of a picture in a sheet, in pixels
GAP, LINE = 6, 20  # pixels between pictures, and per line of text
Held = Sequence[tuple[Source, np.ndarray]]  # sources and the indices of their images


def in_turn(held: Held, n: int) -> list[tuple[Source, int]]:
    """Up to `n` images (source, index), taking one from each source in turn."""
    longest = max((len(part) for _, part in held), default=0)
    return [(source, int(part[i])) for i in range(longest) for source, part in held if i < len(part)][:n]


def panels(
    spec: StepSpec, params: Params, chosen: Sequence[tuple[Source, int]], seed: int, how: str = pixel_space.NEIGHBOURS
) -> Float[np.ndarray, "4 n h w 3"]:
    """`PANELS` of the chosen images, values in 0..1; `how` as in `pixel_space.to_pixels`."""
    transforms = [Decode(), CenterResize(spec.shape.image_size)]
    images = []
    for source, index in chosen:
        element = source[index]
        for transform in transforms:
            element = transform(element)
        images.append(element["image"])
    index = np.array([index for _, index in chosen], np.int32)
    return np.asarray(reconstruction.reconstruct(spec, params, np.stack(images), index, np.int32(seed), how))


def rows(spec: StepSpec, params: Params, held: Held, n: int, seed: int) -> Float[np.ndarray, "n h w 3"]:
    """Up to `n` images, each as a row of its four panels, at the mask ratio of training."""
    spec = reconstruction.at_ratio(spec, masked(spec).mask_ratio)
    return np.concatenate(list(panels(spec, params, in_turn(held, n), seed)), axis=2)


def errors(spec: StepSpec, params: Params, held: Held, config: RunConfig, mask_ratio: float) -> list[dict[str, Any]]:
    """A row for each image: its name, group, mask ratio and `contents.ERRORS`."""
    spec = reconstruction.at_ratio(spec, mask_ratio)
    options = {"batch_size": config.eval.batch_size, "threads": config.data.threads, "seed": config.eval.mask_seed}
    records = []
    for source, indices in held:
        if not len(indices):
            continue
        values = per_image(spec, params, source, np.asarray(indices), **options, step=reconstruction.compare)
        for i, index in enumerate(indices):
            row = {"image": source.names[index], "group": source.groups[index], "mask_ratio": mask_ratio}
            records.append(row | {name: float(values[name][i]) for name in contents.ERRORS})
    return records


def means(records: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """A row for each mask ratio with the mean of each error over the images; `records` holds the rows of `errors`."""
    ratios = dict.fromkeys(row["mask_ratio"] for row in records)
    by_ratio = {ratio: [row for row in records if row["mask_ratio"] == ratio] for ratio in ratios}
    return [
        {"mask_ratio": ratio} | {name: float(np.mean([row[name] for row in part])) for name in contents.ERRORS}
        for ratio, part in by_ratio.items()
    ]


def sheet(columns: Sequence[tuple[str, Float[np.ndarray, "n h w 3"]]], lines: Sequence[str]) -> Image.Image:
    """A grid with one column for each (heading, pictures with values in 0..1), and `lines` of text below."""
    n, size = columns[0][1].shape[:2]
    zoom = max(1, -(-CELL // size))
    step, top = size * zoom + GAP, LINE * max(heading.count("\n") + 1 for heading, _ in columns)
    font = ImageFont.load_default(13)
    width = max([step * len(columns), *(int(font.getlength(line)) for line in lines)]) + GAP
    canvas = Image.new("RGB", (width, top + step * n + LINE * len(lines) + GAP), "white")
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
    networks: Iterable[tuple[str, StepSpec, Params]],
    chosen: Sequence[tuple[Source, int]],
    seed: int,
    how: str = pixel_space.NEIGHBOURS,
    pasted: bool = False,
    lines: Sequence[str] = (),
) -> Image.Image:
    """A sheet that compares networks, given as (heading, spec, parameters) and loaded one at a time.

    It shows the original and the masked image, then each network's reconstruction and, with `pasted`, also that with
    the visible patches pasted in. All specs must have the same grid and mask ratio, so that masks are equal. A line
    below the pictures explains `how`.
    """
    columns, normalized = [], False
    for heading, spec, params in networks:
        parts = panels(spec, params, chosen, seed, how)
        columns = columns or [(PANELS[0], parts[0]), (f"{100 * masked(spec).mask_ratio:g} % removed", parts[1])]
        columns += [(heading, parts[2]), (PANELS[3], parts[3])][: 1 + pasted]
        normalized |= masked(spec).norm_pix
    return sheet(columns, [*lines, pixel_space.WORDS[how if normalized else ""]])


def write_errors(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """Writes a CSV file with one row for each dict. Raises OSError."""
    with files.replacing(path) as file:
        table = csv.DictWriter(file, list(records[0]))
        table.writeheader()
        table.writerows({k: f"{v:.9g}" if isinstance(v, float) else cell(v) for k, v in row.items()} for row in records)


def finish(spec: StepSpec, params: Params, held: Held, config: RunConfig, workdir: Path, leader: bool) -> None:
    """Writes a pre-training's reconstructions of held-out images at each of `eval.mask_ratios`.

    reconstructions.csv holds the errors of each image, .json their means and how they were measured, and .png the
    pictures of `eval.images` images. Every process must call this; only the `leader` writes.
    """
    held = [(source, part) for source, part in held if len(part)]
    ratios = tuple(config.eval.mask_ratios)
    if not held or not ratios:
        return
    records = [row for ratio in ratios for row in errors(spec, params, held, config, ratio)]
    chosen = in_turn(held, config.eval.images)
    draw = partial(panels, params=params, chosen=chosen, seed=config.eval.mask_seed)
    parts = {ratio: draw(reconstruction.at_ratio(spec, ratio)) for ratio in ratios}
    if not leader:
        return
    how = pixel_space.WORDS[pixel_space.NEIGHBOURS if masked(spec).norm_pix else ""]
    columns = [(PANELS[0], parts[ratios[0]][0])]
    for ratio, part in parts.items():
        headings = [f"{100 * ratio:g} % removed", *PANELS[2:]]
        columns += list(zip(headings, part[1:], strict=True))
    write_errors(workdir / contents.RECONSTRUCTIONS, records)
    files.save_picture((workdir / contents.RECONSTRUCTIONS).with_suffix(".png"), sheet(columns, [how]))
    about = {
        "images": len(records) // len(ratios),
        "shown": [source.names[index] for source, index in chosen],
        "mask_seed": config.eval.mask_seed,
        "statistics": how,
        "trained_with": as_dict(config.mae),
        "means": means(records),
    }
    contents.write_json((workdir / contents.RECONSTRUCTIONS).with_suffix(".json"), about)
