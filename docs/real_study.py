"""The study of real blood cells in docs/results.md: packs its runs, and prints its tables in Markdown.

    python docs/real_study.py pack STUDY     keep what the report reads of a finished study in docs/data/
    python docs/real_study.py unpack DIR     the kept run directories, for `mae-jax report DIR`
    python docs/real_study.py tables         the tables of docs/results.md

The archive has no images, weights or paths of a machine.
"""

import csv
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path

from mae_jax.runtime.places import shareable

DATA = Path(__file__).resolve().parent / "data"
ARCHIVE = DATA / "real_study.tar.xz"
TABLES = {"table": "real_study.csv", "paired": "real_study_paired.csv", "frozen": "real_study_frozen.csv"}
KEPT = ("study.json", "run.json", "results.json", "subset.json", "metrics.jsonl", "predictions.csv")
KEPT += ("predictions_val.csv", "reconstructions.csv", "reconstructions.json")
METRICS = ("accuracy", "f1")


def pack(study: Path) -> None:
    """Writes the archive and the tables of the report in `study`."""
    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for file in sorted(study.rglob("*")):
            inside = file.relative_to(study)
            if file.name not in KEPT or {"report", "checkpoints"} & set(inside.parts):
                continue
            content = file.read_bytes()
            if file.suffix == ".json":
                content = (json.dumps(shareable(json.loads(content)), indent=1) + "\n").encode()
            entry = tarfile.TarInfo(f"real_study/{inside}")
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    for name, kept in TABLES.items():
        shutil.copyfile(study / "report" / f"{name}.csv", DATA / kept)


def unpack(directory: Path) -> Path:
    """Extracts the study below `directory`, and returns its directory."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(directory, filter="data")
    return directory / "real_study"


def rows(name: str) -> list[dict[str, str]]:
    """The rows of a kept table; `name` is one of TABLES."""
    with open(DATA / TABLES[name], newline="") as file:
        return list(csv.DictReader(file))


def percent(value: str) -> str:
    """A share in percent with one digit, such as 0.8515 -> "85.2"."""
    return f"{100 * float(value):.1f}"


def signed(value: str) -> str:
    """A difference in points, such as "+4.1" or "−0.3"."""
    return f"{100 * float(value):+.1f}".replace("-", "−")


def gain(pair: dict[str, str] | None) -> str:
    """A difference with its interval in points, bold if it is shown; "collapsed" if there is none."""
    if pair is None or not pair["difference"]:
        return "collapsed"
    low, high = signed(pair["low"]), signed(pair["high"])
    value = signed(pair["difference"])
    shown = pair["verdict"] in ("higher", "lower")  # else no difference, or not confirmed by Holm's correction
    return f"{f'**{value}**' if shown else value} ({low} to {high})"


def score(row: dict[str, str], metric: str) -> str:
    """A score in percent, with a note if models collapsed."""
    fallen = int(float(row["collapsed"]))
    note = f", {fallen} of {row['seeds']} collapsed" if fallen else ""
    return percent(row[metric]) + note


def tables() -> str:
    """Scores in percent and gains in points, with 95 % intervals: fine-tuning, then probes of frozen encoders."""
    found, pairs = rows("table"), rows("paired")
    lines = [
        "| labels | accuracy: scratch | MAE | gain | macro F1: scratch | MAE | gain |",
        "|---|---|---|---|---|---|---|",
    ]
    for arm in dict.fromkeys(row["arm"] for row in found):
        own = [row for row in found if row["arm"] == arm]
        for fraction in dict.fromkeys(row["fraction"] for row in own):
            scratch, mae = (
                next(r for r in own if (r["fraction"], r["init"]) == (fraction, init)) for init in ("scratch", "mae")
            )
            cells = [f"{percent(fraction).removesuffix('.0')} % ({int(scratch['n_train']):,} images)"]
            cells[0] += ", equal updates" if arm else ""
            for metric in METRICS:
                key = (fraction, arm, metric)
                pair = next((p for p in pairs if (p["fraction"], p["arm"], p["metric"]) == key), None)
                cells += [score(scratch, metric), score(mae, metric), gain(pair)]
            lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| frozen encoder | labels | accuracy: scratch | MAE | gain |", "|---|---|---|---|---|"]
    frozen = rows("frozen")
    for evaluation in dict.fromkeys(row["evaluation"] for row in frozen):
        own = [row for row in frozen if row["evaluation"] == evaluation]
        for fraction in dict.fromkeys(row["fraction"] for row in own):
            scratch, mae = (
                next(r for r in own if (r["fraction"], r["init"]) == (fraction, init)) for init in ("scratch", "mae")
            )
            name = {"lbfgs": "linear probe", "knn": "nearest neighbors"}[evaluation]
            cells = [name, f"{percent(fraction).removesuffix('.0')} %"]
            cells += [score(scratch, "accuracy"), score(mae, "accuracy"), gain(mae)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    verb, *rest = sys.argv[1:] or ["tables"]
    if verb == "tables":
        print(tables())
    elif verb in ("pack", "unpack") and len(rest) == 1:
        {"pack": pack, "unpack": unpack}[verb](Path(rest[0]))
    else:
        sys.exit(__doc__)
