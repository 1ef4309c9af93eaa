"""Selects the images to label first. Command: `mae-jax select`."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mae_jax.data import tables
from mae_jax.evaluation import selection
from mae_jax.predict import images as reading
from mae_jax.predict import loading, writers
from mae_jax.predict.files import name_skipped, with_progress
from mae_jax.runtime import files
from mae_jax.runtime.command import out_file, say
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import local
from mae_jax.runtime.text import count

SIDE, LINE, ACROSS = 128, 18, 10  # pixels of a picture and of its caption, pictures in a row of the contact sheet
MOST_SHOWN = 500  # pictures on the contact sheet


def select(
    place: str,
    images: str,
    budget: int,
    out: Path,
    *,
    method: str = "typical",
    labeled: str = "",
    seed: int = 0,
    columns: str = "",
    bad_images: str = reading.STOP,
    directory: str = "",
) -> list[str]:
    """Writes `budget` images to the CSV file `out` with the columns path, label (empty) and rank, and a contact sheet.

    `place` is a run, a bundle or weights whose encoder gives the features. `labeled` is a CSV or Parquet file of images
    that have labels already. `columns` and `directory` are those of `files.Options`. Returns the names in the order of
    their rank. Raises UserError for wrong arguments and, with `bad_images="stop"`, for the first image that cannot be
    read.
    """
    out = out_file(local(out, "--out"), "--out")
    writers.kind_of(out, (".csv",))
    sheet = out_file(out.with_suffix(".png"), "--out")
    source = reading.named(images, columns, directory=directory, bad_images=bad_images)
    names = list(source.names)
    known = _known(labeled, names)
    left = len(names) - len(known)
    if not 0 < budget <= left:
        raise UserError(
            f"--budget={budget} is out of range; {count(len(names), 'image')} of which {len(known)} have labels allow "
            f"1 to {left}"
        )
    model = loading.load(local(place, "RUN_OR_WEIGHTS"), "RUN_OR_WEIGHTS")
    for line in model.notes:
        say(f"note: {line}")
    reader, parts = reading.Reader(source, bad_images), []
    for batch in with_progress(model.batches(reader, classify=False, embed=True), len(names), model.origin):
        parts.append((batch.indices, batch.embeddings))
    indices = np.concatenate([part for part, _ in parts])
    features = np.concatenate([part for _, part in parts])
    usable = len(indices) - int(np.isin(indices, known).sum())
    if budget > usable:
        raise UserError(f"--budget={budget} is out of range; only {count(usable, 'image')} can be read")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="One of the clusters is empty")
        order = selection.FUNCTIONS[method](features, budget, np.flatnonzero(np.isin(indices, known)), seed)
    chosen = [int(i) for i in indices[order]]
    with writers.table(out, ["path", "label", "rank"], ("path", "label", "rank"), {}) as write:
        write([[names[i] for i in chosen], [""] * budget, [str(rank) for rank in range(1, budget + 1)]])
    files.save_picture(sheet, contact_sheet([reader.read(i) for i in chosen[:MOST_SHOWN]]))
    name_skipped(reader)
    say(f"written: {out} ({count(budget, 'image')} to label) and {sheet.name}")
    return [names[i] for i in chosen]


def _known(labeled: str, names: Sequence[str]) -> np.ndarray:
    """The numbers of the images that `labeled` lists. Raises UserError for one that is not among `names`."""
    if not labeled:
        return np.zeros(0, int)
    at = {name: i for i, name in enumerate(names)}
    _, listed = tables.read_paths(local(labeled, "--labeled"), "", "--labeled")
    strange = [name for name in listed if name not in at]
    if strange:
        raise UserError(
            f"--labeled={labeled}: {strange[0]!r} is not one of --images ({count(len(strange), 'such row')}); use the "
            "paths below --images, as in the file that this command writes"
        )
    return np.array([at[name] for name in listed], int)


def contact_sheet(pictures: Sequence[np.ndarray]) -> Image.Image:
    """Images (h w 3, uint8, any size) in reading order, each with its rank below it."""
    across, font = min(ACROSS, len(pictures)), ImageFont.load_default(size=12)
    down = -(-len(pictures) // across)
    sheet = Image.new("RGB", (across * (SIDE + 6) + 6, down * (SIDE + LINE + 6) + 6), "white")
    draw = ImageDraw.Draw(sheet)
    for i, pixels in enumerate(pictures):
        picture = Image.fromarray(pixels)
        picture.thumbnail((SIDE, SIDE))
        left, top = 6 + i % across * (SIDE + 6), 6 + i // across * (SIDE + LINE + 6)
        sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
        draw.text((left + SIDE // 2, top + SIDE + 2), str(i + 1), fill="black", font=font, anchor="ma")
    return sheet
