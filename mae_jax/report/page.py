"""The report: from run directories to tables, figures and one page that opens without a network."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mae_jax import files
from mae_jax.report import (
    analysis,
    autoencoder_pictures,
    confidence,
    external_tests,
    figures,
    frozen_encoders,
    html,
    label_efficiency,
    mistakes,
    tables,
    words,
)
from mae_jax.report.analysis import BASELINE, Study
from mae_jax.report.runs import USUAL, Run, clean, distinct, read_runs, slug

# How each figure is named, headed and read.
CAPTIONS = {
    "curves": "Score against the number of labels. Bars are 95 % intervals; the points of one"
    " fraction are set apart sideways so that both can be seen.",
    "differences": "Difference to scratch on the same test images, with 95 % intervals. Right of the"
    " line is better than scratch; an open mark says that the interval holds 0.",
    "power_law": "Errors against labels, both on logarithmic axes, with a fitted power law (dashed)."
    " R² says how well the line fits; with so few points it is a description, not a forecast.",
    "confidence": "Confidence by true class. Filled boxes:"
    " right predictions; open boxes: wrong ones; n: predictions, of all seeds together. Box:"
    " quartiles, line: median, whiskers: last value within 1.5 times the box's height.",
    "frozen": "Accuracy on frozen features against the number of labels, with 95 % intervals.",
    "reliability": "Reliability: share right against confidence in 15 bins of equal width, and the"
    " number of predictions in each bin below (logarithmic). On the dotted line, confidence can be"
    " taken at its word; below it the model is too sure of itself. Open marks: fewer than 10"
    " predictions.",
    "risk_coverage": "What is left wrong when only the most confident predictions are kept and the"
    " others are handed to a person; at 100 all are kept. A curve that is low on the left says that"
    " confidence finds the mistakes, a flat one that it does not.",
    "training": "Loss and accuracy during training, a line for each seed: dashed on the training batches, drawn through"
    " on the validation images. Where the dashed line runs away from the other, the model learns its training images"
    " by heart.",
}


@dataclass(frozen=True)
class Report:
    """What was written: the rows of table.csv and paired.csv, the files, and what was left out.

    `paths` holds page, table_md, table, paired, confidence and one entry per figure.
    """

    rows: list[dict]
    paired: list[dict]
    paths: dict[str, Path]
    notes: list[str]
    frozen: str = ""  # the table of frozen features in Markdown


def write_report(run_dirs: Sequence[Path], out: Path, *, title: str | None = None, notes: Sequence[str] = ()) -> Report:
    """Read the run directories and write table.md, table.csv, paired.csv, confidence.csv,
    index.html and figures/ (PNG, SVG and CSV each) into `out`.

    `notes` are lines to show on the page. The result depends on the files alone: the bootstrap's
    seed is fixed. Raises UserError for run directories that break the contract (see `runs`).
    """
    every, missing = read_runs(run_dirs)
    runs, probed = frozen_encoders.separate(every)
    reference = frozen_encoders.random_probes({runs[0].evaluation: runs} | probed)
    study = analysis.analyze(runs, reference)
    probes = frozen_encoders.analyze(probed)
    rows = tables.rows(study)
    paired, unpaired = tables.paired(study)
    worth = label_efficiency.worth(study) + label_efficiency.worth(study, "f1")
    others, unknown = external_tests.read(runs, reference)
    unpaired += [f"{each.name}: {line}" for each in probes for line in each.notes]
    left_out = words.merge(missing) + unpaired + unknown + words.not_there(study)
    told = [run.info.get(key) for key in ("data_name", "data") for run in runs]
    images = next((clean(name) for name in told if isinstance(name, str)), "")
    title = title or " ".join(["How many labels are enough?", images]).strip()

    out = Path(out)
    paths = {
        "table": tables.write_csv(out / "table.csv", rows),
        "paired": tables.write_csv(out / "paired.csv", paired, tables.PAIRED),
        "efficiency": tables.write_csv(out / "efficiency.csv", worth, label_efficiency.COLUMNS),
        "mistakes": tables.write_csv(out / "mistakes.csv", mistakes.mistakes(runs), mistakes.COLUMNS),
    }
    if probes:
        paths["frozen"] = tables.write_csv(out / "frozen.csv", [row for each in probes for row in each.rows])
    for other in others:
        for name, found, columns in (("table", other.rows, ()), ("paired", other.paired, tables.PAIRED)):
            file = out / "external" / other.slug / f"{name}.csv"
            paths[f"{name}_{other.slug}"] = tables.write_csv(file, found, columns)
    with figures.style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        made = list(_draw(study, rows, paired))
        made += [(f"frozen{slug(p.evaluation)}", p.name, frozen_encoders.curve(p)) for p in probes]
        names = distinct(name for name, _, _ in made)
        drawn = [
            html.save(n, *made_of, out, paths, CAPTIONS) | {"arm": arm}
            for n, (_, arm, made_of) in zip(names, made, strict=True)
        ]
    boxes = [row for name, _, (_, found) in made if name.startswith("confidence_") for row in found]
    paths["confidence"] = tables.write_csv(out / "confidence.csv", boxes)

    pretrained, sheets = autoencoder_pictures.pretrainings(runs), autoencoder_pictures.found(runs)
    for name, sheet in zip(
        distinct(f"{autoencoder_pictures.FILE}{slug(s['init'])}" for s in sheets), sheets, strict=True
    ):
        autoencoder_pictures.save(out / "figures" / name, sheet)
        sheet["file"] = name
        paths |= {name: out / "figures" / f"{name}.svg"} if sheet["uri"] else {}
    said = words.answer(study, rows, paired, worth)
    if (evaluation := runs[0].evaluation) != USUAL:
        said["arms"].insert(0, f"All models here: {frozen_encoders.name_of(evaluation)}; the encoder was not trained.")
        said["headlines"] = [
            f"{frozen_encoders.title(evaluation)}: {head[0].lower()}{head[1:]}" for head in said["headlines"]
        ]
    notes = [*notes, *words.one_pretraining(runs)]
    published = tables.PUBLISHED if any(r.info.get("data") == "raabin_wbc" for r in runs) else []
    page = (
        html.environment()
        .get_template("page.html.j2")
        .render(
            title=title,
            answer=said,
            rows=rows,
            paired=paired,
            worth=words.worth_lines([w for w in worth if w["metric"] == "accuracy"], paired),
            published=published,
            reference=tables.reference_text(rows),
            images=images,
            arms=study.arms,
            frozen=probes,
            frozen_words=frozen_encoders.words(probes),
            others=[_beside(other, rows) for other in others],
            figures=drawn,
            mistakes=mistakes.gallery(runs),
            autoencoders=sheets,
            pretrainings=[html.run_facts(place, info) | {"init": init} for init, place, info in pretrained],
            runs=[_run_facts(run) for run in (*runs, *(run for own in probed.values() for run in own))],
            hours=html.hours([*(info for _, _, info in pretrained), *(run.info for run in every)]),
            certainty=confidence.medians(study),
            classes=_class_counts(study),
            units=study.units,
            seeds=max(row["seeds"] for row in rows),
            left_out=left_out,
            notes=notes,
            inits=study.inits,
            baseline=BASELINE,
            colours={init: figures.colour(s, init) for s in (*(p.study for p in probes), study) for init in s.inits},
            probabilities=any(row["nll"] is not None for row in rows),
            temperature=any(row["temperature"] is not None for row in rows),
        )
    )
    paths["page"] = out / "index.html"
    files.write(paths["page"], page)
    text = _markdown(title, said, rows, published, [*left_out, *notes], frozen_encoders.text(probes))
    paths["table_md"] = out / "table.md"
    files.write(paths["table_md"], text)
    return Report(rows, paired, paths, left_out, frozen_encoders.text(probes))


def _draw(study: Study, rows: list[dict], paired: list[dict]):
    """Every figure that the runs allow: (name, arm, (figure, numbers)).

    The first arm, the usual one, has the main figures. One at only some of its fractions stands beside it in the
    curves, any other has curves of its own.
    """
    usual = study.arms[0]
    fractions = {arm: {level.fraction for level in study.in_arms([arm])} for arm in study.arms}
    beside = [arm for arm in study.arms if arm == usual or fractions[arm] < fractions[usual]]
    for arms in (beside, *([arm] for arm in study.arms if arm not in beside)):
        yield f"curves_accuracy{slug(arms[0])}", arms[0], figures.curve(study, rows, "accuracy", arms)
        yield f"curves_f1{slug(arms[0])}", arms[0], figures.curve(study, rows, "f1", arms)
    if paired:
        yield "differences", usual, figures.differences(study, paired)
    if (fitted := figures.fitted(study, rows)) is not None:
        yield "power_law", usual, fitted
    for level in study.levels:
        yield f"confidence_{level.slug}", level.arm, confidence.boxes(study, level)
    for arm in study.arms:
        yield f"reliability{slug(arm)}", arm, confidence.reliability(study, [arm])
        yield f"risk_coverage{slug(arm)}", arm, confidence.risk_coverage(study, [arm])
        if (trained := figures.training(study, [arm])) is not None:
            yield f"training{slug(arm)}", arm, trained


# --- what the page shows besides


def _beside(other: external_tests.External, rows: Sequence[dict]) -> dict:
    """A further test set for the page: its rows, each with the main test set's and the difference to scratch."""

    def same(row: dict, of: dict) -> bool:
        return (tables.level_of(row), row["init"]) == (tables.level_of(of), of["init"])

    found = []
    for row in other.rows:
        main = next(r for r in rows if same(r, row))
        accuracy = [p for p in other.paired if p["metric"] == "accuracy" and same(p, row)]
        found.append(row | {"main": main["accuracy"], "paired": accuracy[0] if accuracy else None})
    said = words.answer(other.study, other.rows, other.paired, [])["headlines"]
    every = other.study.runs[0].classes
    lacks = (
        "" if len(other.classes) == len(every) else f"; of the {len(every)} classes it holds {', '.join(other.classes)}"
    )
    reference = tables.reference_text(other.rows)
    care = [*words.flawless_lines(other.rows), *other.study.warnings]
    shown = {"name": other.name, "slug": other.slug, "said": said, "rows": found, "care": care}
    return shown | {"lacks": lacks, "reference": reference}


def _run_facts(run: Run) -> dict:
    """The run's cell, and what run.json says of how it was made."""
    arm = ", ".join(filter(None, (frozen_encoders.name_of(run.evaluation) if run.evaluation != USUAL else "", run.arm)))
    cell = {"fraction": run.fraction, "arm": arm, "init": run.init, "n_train": run.n_train}
    return html.run_facts(run.path, run.info) | cell


def _class_counts(study: Study) -> list[tuple[str, int]]:
    first = study.runs[0]
    counts = np.bincount(first.test.labels, minlength=len(first.classes))
    return list(zip(first.classes, counts.tolist(), strict=True))


def _markdown(title, said, rows, published, notes, probes) -> str:
    """table.md: the table, every metric with its interval, the published table, the notes."""
    detail = [["labels", "init", "seeds", "n_train", *(f"{m} (95 %)" for m in tables.SHOWN), "ECE"]]
    for row in rows:
        line = [
            str(tables.level_of(row)),
            row["init"],
            str(row["seeds"]),
            str(row["n_train"] or "–"),
        ]
        line += [f"{row[m]:.4f} ({row[f'{m}_low']:.4f}–{row[f'{m}_high']:.4f})" for m in tables.SHOWN]
        detail.append([*line, f"{row['ece']:.4f} {tables.collapse(row)}".rstrip()])

    def plain(lines):
        return map(tables.in_markdown, lines)

    parts = [*plain([f"# {title}", *said["headlines"]]), tables.table_text(rows), tables.reference_text(rows)]
    parts.append(tables.markdown(detail))
    parts.append(
        f"95 % intervals {' and '.join(dict.fromkeys(row['interval'] for row in rows))}. Precision,"
        " recall and F1 are means over the classes. The commonest class makes up"
        f" {100 * rows[0]['majority_rate']:.2f} % of the {rows[0]['n_test']:,} test images."
    )
    if published:
        parts += [
            "The published table of the original study (theirs, not ours; 1,728 test images):",
            tables.table_text(published),
        ]
    if probes:
        parts += ["The encoder frozen, and a classifier on its features (95 % intervals):", probes]
    lines = [f"- {line}" for line in plain([*said["warnings"], *said["lines"], *notes])]
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"
