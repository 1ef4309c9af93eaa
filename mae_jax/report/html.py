"""Parts shared by all report pages: templates, figures as files and data URIs, facts about a run."""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from mae_jax.report import panels, phrases, tables
from mae_jax.report.runs import Level, is_number, percent, rounded
from mae_jax.rundir.predictions import clean
from mae_jax.runtime import files
from mae_jax.runtime.places import shareable


def save(name: str, figure: Figure, numbers: list[dict], out: Path, caption: str, *, png: bool = False) -> dict:
    """Writes figures/NAME.svg, .csv and, with `png`, .png. Returns what the page needs.

    `uri` contains the SVG; `width` and `height` are its size in CSS pixels, at which text is 12 pixels high.
    """
    base = out / "figures" / name
    forms = {"svg": {"Date": None, "Creator": None}} | ({"png": {"Software": None}} if png else {})
    drawn = {form: io.BytesIO() for form in forms}
    for form, about in forms.items():
        figure.savefig(drawn[form], format=form, metadata=about)
        files.write(base.with_suffix(f".{form}"), drawn[form].getvalue())
    tables.write_csv(base.with_suffix(".csv"), numbers)
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    uri = "data:image/svg+xml;base64," + base64.b64encode(drawn["svg"].getvalue()).decode()
    return {"name": name, "caption": caption, "uri": uri, "width": width, "height": height}


def run_facts(path: Path, info: dict) -> dict:
    """What run.json says about how a run was trained, as text; None for unknown values."""
    seconds, epochs = finite(info, "wall_seconds"), finite(info, "epochs")
    trained = info.get("steps") != 0  # otherwise the head was solved for, so 0 epochs and steps say nothing
    config = info.get("config")
    versions = info.get("versions")
    return {
        "seed": info.get("seed"),
        "subset_seed": info.get("subset_seed"),
        "n_train": info.get("n_train"),
        "epochs": f"{epochs:g}" if epochs is not None and trained else None,
        "steps": info.get("steps") if trained else None,
        "selected": info.get("selected_step") if trained else None,
        "minutes": f"{seconds / 60:.1f}" if seconds is not None else None,
        "devices": clean(info["devices"]) if isinstance(info.get("devices"), str) else None,
        "data": clean(info["data_name"]) if isinstance(info.get("data_name"), str) else None,
        "commit": clean(info["commit"])[:12] if info.get("commit") else None,
        "versions": ", ".join(f"{clean(k)} {clean(v)}" for k, v in versions.items())
        if isinstance(versions, dict)
        else None,
        "config": json.dumps(shareable(config), indent=1, sort_keys=True, default=str) if config else None,
        "path": clean(shareable(path)),
    }


def finite(info: dict, name: str, low: float = -1e300) -> float | None:
    """A finite number of run.json that is at least `low`; None if it is anything else."""
    value = info.get(name)
    return float(value) if is_number(value, low) else None


def hours(infos: Sequence[dict]) -> str | None:
    """The total time of the runs, as `68 minutes` or `3.2 hours`; None if it is unknown for one of them."""
    times = [finite(info, "wall_seconds", 0.0) for info in infos]
    seconds = [value for value in times if value is not None]
    if len(seconds) < len(times):
        return None
    minutes = sum(seconds) / 60
    return f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.1f} hours"


def shown(value: object) -> str:
    """A value of run.json, which may be anything, without invisible characters; "–" if there is none."""
    return "–" if value is None else clean(value)


def grouped(value: object) -> str:
    """As `shown`, and numbers have commas between groups of three digits, such as "1,260"."""
    return f"{value:,}" if is_number(value) else shown(value)


def environment() -> jinja2.Environment:
    """Templates in which every value is escaped. `number("Table")` and `number("Figure")` count those of a page."""
    here = jinja2.FileSystemLoader(Path(__file__).parent)
    templates = jinja2.Environment(loader=here, autoescape=True, undefined=jinja2.StrictUndefined)
    templates.trim_blocks = templates.lstrip_blocks = True
    templates.filters |= {
        "level": lambda row: str(Level.of_row(row)),
        "amount": lambda row: Level.of_row(row).amount,
        "percent": percent,
        "share": share,
        "decimal": lambda v: "–" if v is None else f"{v:.3f}",
        "points": lambda v: "–" if v is None else phrases.signed(100 * v),
        "p": lambda v: "–" if v is None else "< 0.001" if v < 0.001 else f"{v:.3f}",
        "count": lambda v: "–" if v is None else f"{v:,.0f}" if abs(v - round(v)) < 0.05 else f"{v:,.1f}",
        "validation_labels": tables.validation_labels,
        "shown": shown,
        "grouped": grouped,
        "sentence": lambda text: text[:1].upper() + text[1:],
        "short": panels.short,
    }
    counts: dict[str, int] = {}

    def number(kind: str) -> str:
        counts[kind] = counts.get(kind, 0) + 1
        return f"{kind} {counts[kind]}"

    templates.globals["number"] = number
    return templates


def share(value: float | None) -> str:
    """A share in percent, without the percent sign, see `runs.rounded`."""
    return "–" if value is None else rounded(value)
