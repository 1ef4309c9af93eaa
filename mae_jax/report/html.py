"""What every report page shares: templates, figures as files and data URIs, facts of a run."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path

import jinja2

from mae_jax import files
from mae_jax.report import tables, words
from mae_jax.report.runs import clean, is_number, percent


def save(name: str, figure, numbers: list[dict], out: Path, paths: dict[str, Path], captions: dict[str, str]) -> dict:
    """Write PNG, SVG and CSV; returns what the page shows."""
    base = out / "figures" / name
    figure.get_layout_engine().execute(figure)  # lay out once, not for each file
    figure.set_layout_engine("none")
    for form, about in (("png", {"Software": None}), ("svg", {"Date": None, "Creator": None})):
        drawn = io.BytesIO()
        figure.savefig(drawn, format=form, metadata=about)
        files.write(base.with_suffix(f".{form}"), drawn.getvalue())
    tables.write_csv(base.with_suffix(".csv"), numbers)
    paths[name] = base.with_suffix(".svg")
    kind = next(kind for kind in captions if name.startswith(kind))
    svg = base.with_suffix(".svg").read_bytes()
    return {
        "name": name,
        "kind": kind,
        "caption": captions[kind],
        "uri": "data:image/svg+xml;base64," + base64.b64encode(svg).decode(),
    }


def run_facts(path: Path, info: dict) -> dict:
    """What run.json says of how a run was made, as text; None where it says nothing."""
    seconds, epochs = info.get("wall_seconds"), info.get("epochs")
    trained = info.get("steps") != 0  # else a head was solved for, and 0 epochs and steps tell nothing
    config = info.get("config")
    versions = info.get("versions")
    return {
        "seed": info.get("seed"),
        "subset_seed": info.get("subset_seed"),
        "n_train": info.get("n_train"),
        "epochs": f"{epochs:g}" if is_number(epochs) and trained else None,
        "steps": info.get("steps") if trained else None,
        "selected": info.get("selected_step") if trained else None,
        "minutes": f"{seconds / 60:.1f}" if is_number(seconds) else None,
        "devices": clean(info["devices"]) if isinstance(info.get("devices"), str) else None,
        "data": clean(info["data_name"]) if isinstance(info.get("data_name"), str) else None,
        "commit": clean(info["commit"])[:12] if info.get("commit") else None,
        "versions": ", ".join(f"{clean(k)} {clean(v)}" for k, v in versions.items())
        if isinstance(versions, dict)
        else None,
        "config": json.dumps(config, indent=1, sort_keys=True, default=str) if config else None,
        "path": clean(path),
    }


def hours(infos: Sequence[dict]) -> str | None:
    """What the runs took together, as `68 minutes` or `3.2 hours`; None where one of them does not say."""
    seconds = [info.get("wall_seconds") for info in infos]
    if not all(is_number(s, 0.0) for s in seconds):
        return None
    minutes = sum(seconds) / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def environment() -> jinja2.Environment:
    """Templates with every value escaped."""
    here = jinja2.FileSystemLoader(Path(__file__).parent)
    made = jinja2.Environment(loader=here, autoescape=True, undefined=jinja2.StrictUndefined)
    made.trim_blocks = made.lstrip_blocks = True
    made.filters |= {
        "level": lambda row: str(tables.level_of(row)),
        "percent": percent,
        "score": lambda v: "–" if v is None else f"{v:.3f}",
        "points": lambda v: words.signed(100 * v),
        "p": lambda v: "< 0.001" if v < 0.001 else f"{v:.3f}",
        "count": lambda v: "–" if v is None else f"{v:,}",
        "shown": lambda v: "–" if v is None else clean(v),
    }
    return made
