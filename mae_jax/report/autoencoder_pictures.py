"""Pre-training runs of a study: their logs, reconstruction errors and pictures, read from their run directories."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from mae_jax.report.runs import Run, is_number, read_info
from mae_jax.report.stats import gray
from mae_jax.report.tables import write_csv
from mae_jax.rundir import contents, metrics_rows
from mae_jax.rundir.predictions import clean
from mae_jax.runtime import disk, files
from mae_jax.runtime.errors import UserError

FILE = Path(contents.RECONSTRUCTIONS).stem
SHOWN = tuple(name for name in contents.ERRORS if name not in ("visible_pixel", "removed_pixel_borrowed"))
HIGHEST = 1.15  # maximum height of the sheet on the page, in widths
WHITE = 250  # minimum gray level of the background between rows of pictures
WIDEST = 1600  # maximum width of the sheet on the page, in pixels


def sheets(runs: Sequence[Run]) -> list[dict]:
    """A dict for each autoencoder: `init`, the first that starts from it, `rows`, `statistics` and `uri`.

    `rows` has the mean errors at each mask ratio, `statistics` says where pixel values come from, and `uri` is the
    sheet of pictures. Runs without these files, or with damaged ones, are left out.
    """
    shown: list[dict] = []
    seen: set[str | Path] = set()
    for run in runs:
        for place in places(run) if run.init not in seen else ():
            rows, statistics = _means(place / f"{FILE}.json")
            if rows and place.resolve() in seen:  # shared by several arms
                seen.add(run.init)
                break
            if rows:
                seen |= {run.init, place.resolve()}
                picture = _sheet(place / f"{FILE}.png")
                shown.append({"init": run.init, "rows": rows, "statistics": statistics} | picture)
                break
    return shown


def places(run: Run) -> list[Path]:
    """Possible directories of the pre-training that a run started from. In a moved study, it is next to the cells."""
    origin = run.info.get("init_from")
    if not isinstance(origin, str) or not origin:
        return []
    return [Path(origin), run.path.resolve().parent.parent / Path(origin).name]


class Pretraining(NamedTuple):
    """A pre-training from which classifiers started: their initialization, its directory, run.json and log."""

    init: str
    path: Path
    info: dict
    log: tuple[dict, ...]


def pretrainings(runs: Sequence[Run]) -> list[Pretraining]:
    """Every pre-training from which runs started and whose directory still exists."""
    by_path: dict[Path, Pretraining] = {}
    for run in runs:
        for place in places(run):
            try:
                info = read_info(place)
            except UserError:
                continue
            if contents.is_pretraining(info):
                by_path.setdefault(place.resolve(), Pretraining(run.init, place, info, ()))
                break
    return [each._replace(log=metrics_rows.read_thinned(each.path / contents.METRICS)[0]) for each in by_path.values()]


def _means(file: Path) -> tuple[list[dict], str]:
    try:
        about = contents.peek_object(file)
        rows = [{key: row[key] for key in ("mask_ratio", *SHOWN)} for row in about["means"]]
        statistics = clean(about["statistics"])
    except (KeyError, TypeError):  # there is none, or it is damaged
        return [], ""
    if not all(is_number(value, 0.0) for row in rows for value in row.values()):
        return [], ""
    for row in rows:
        row |= {f"{key}_grey": gray(row[key]) for key in ("removed_pixel", "removed_pixel_no_network")}
    return rows, statistics


def save(base: Path, sheet: dict) -> None:
    """Writes the sheet as PNG and SVG (which contains that PNG), and the mean errors as CSV."""
    if sheet["uri"]:
        files.write(base.with_name(f"{base.name}.png"), sheet["png"])
        size = f'width="{sheet["size"][0]}" height="{sheet["size"][1]}"'
        data = base64.b64encode(sheet["png"]).decode()
        image = f'<image {size} href="data:image/png;base64,{data}"/>'
        files.write(
            base.with_name(f"{base.name}.svg"), f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{image}</svg>\n'
        )
    write_csv(base.with_name(f"{base.name}.csv"), sheet["rows"])


def _sheet(file: Path) -> dict:
    """The sheet of pictures: `uri` is a smaller copy for the page ("" if none), `png` and `size` are the original.

    `shortened` says whether the page has only its first rows of pictures.
    """
    nothing = {"uri": "", "png": b"", "size": (0, 0), "shortened": False}
    if not disk.is_file(file):
        return nothing
    data = disk.read_bytes(file)
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as opened:
            sheet = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # it is damaged
        return nothing
    original, size = io.BytesIO(), sheet.size
    sheet.save(original, "PNG")
    sheet = _first_rows(sheet)
    shortened = sheet.size != size
    if sheet.width > WIDEST:
        sheet = sheet.resize((WIDEST, round(sheet.height * WIDEST / sheet.width)))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=88)
    uri = "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
    return {"uri": uri, "png": original.getvalue(), "size": size, "shortened": shortened}


def _first_rows(sheet: Image.Image) -> Image.Image:
    """The sheet down to the last white gap between rows of pictures at which it is about as high as wide."""
    white = np.asarray(sheet.convert("L")).min(1) >= WHITE
    gaps = np.flatnonzero(white[1:] & ~white[:-1]) + 1  # where a gap begins
    fitting = gaps[gaps <= HIGHEST * sheet.width]
    if sheet.height <= HIGHEST * sheet.width or not len(fitting):
        return sheet
    return sheet.crop((0, 0, sheet.width, int(fitting[-1])))
