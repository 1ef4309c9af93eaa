"""What the autoencoders that a study's classifiers began with make of held-out images, from their own files."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mae_jax.errors import UserError
from mae_jax.report.predictions import clean, regular
from mae_jax.report.runs import Run, is_number, read_info
from mae_jax.report.sweep_words import grey

FILE = "reconstructions"  # .json and .png in the run directory of a pre-training
ERRORS = ("removed_normalised", "visible_normalised", "removed_pixel", "removed_pixel_no_network", "spam")
WIDEST = 1600  # pixels of the sheet on the page


def found(runs: Sequence[Run]) -> list[dict]:
    """A dict for each autoencoder: `init`, `rows` (the mean errors at each mask ratio), `statistics` (where pixel
    values come from), `uri` (the sheet of pictures). What has no such files, or broken ones, is left out.
    """
    shown, seen = [], set()
    for run in runs:
        for place in places(run) if run.init not in seen else ():
            rows, statistics = _means(place / f"{FILE}.json")
            if rows:
                seen.add(run.init)
                uri = _sheet(place / f"{FILE}.png")
                shown.append({"init": run.init, "rows": rows, "statistics": statistics, "uri": uri})
                break
    return shown


def places(run: Run) -> list[Path]:
    """Where the pre-training that a run began with may be: a study that was moved has it beside its cells."""
    origin = run.info.get("init_from")
    if not isinstance(origin, str) or not origin:
        return []
    return [Path(origin), run.path.resolve().parent.parent / Path(origin).name]


def pretrainings(runs: Sequence[Run]) -> list[tuple[str, Path, dict]]:
    """(init, directory, run.json) of every pre-training that runs began with and that is still there."""
    found = {}
    for run in runs:
        for place in places(run):
            try:
                info = read_info(place)
            except UserError:
                continue
            if info.get("task") == "pretrain":
                found.setdefault(place.resolve(), (run.init, place, info))
                break
    return list(found.values())


def _means(file: Path) -> tuple[list[dict], str]:
    try:
        about = json.loads(regular(file).read_text(encoding="utf-8"))
        rows = [{key: row[key] for key in ("mask_ratio", *ERRORS)} for row in about["means"]]
        statistics = clean(about["statistics"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return [], ""
    if not all(is_number(value, 0.0) for row in rows for value in row.values()):
        return [], ""
    for row in rows:
        row |= {f"{key}_grey": grey(row[key]) for key in ("removed_pixel", "removed_pixel_no_network")}
    return rows, statistics


def _sheet(file: Path) -> str:
    try:
        with Image.open(regular(file), formats=("PNG",)) as opened:
            sheet = opened.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""
    if sheet.width > WIDEST:
        sheet = sheet.resize((WIDEST, round(sheet.height * WIDEST / sheet.width)))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=88)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()
