"""Writes the report: tables, figures and one page that opens offline, from run directories."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mae_jax.report import (
    autoencoder_pictures,
    between_arms,
    cautions,
    cell_types,
    certainty,
    details,
    external_tests,
    figures,
    frozen_encoders,
    html,
    label_draws,
    label_efficiency,
    learning_speed,
    mistakes,
    panels,
    prediction_sets,
    starts,
    tables,
    without_leaked,
    words,
)
from mae_jax.report.analysis import Study
from mae_jax.report.drawing import CAPTIONS, Drawing, draw
from mae_jax.report.findings import Findings, find
from mae_jax.report.runs import Level, Run, distinct, slug
from mae_jax.rundir.contents import fine_tunes
from mae_jax.runtime import files


@dataclass(frozen=True)
class Report:
    """What was written: the rows of table.csv and paired.csv, the files, and what was left out.

    `paths` has the entries page, table_md, table, paired, confidence and one per figure.
    """

    rows: list[dict]
    paired: list[dict]
    paths: dict[str, Path]
    notes: list[str]
    frozen: str = ""  # the table of frozen features in Markdown
    answer: Sequence[str] = ()  # the answer in sentences

    @property
    def answer_text(self) -> str:
        """The answer for the console."""
        return "answer: " + "\n        ".join(self.answer)


def write_report(
    run_dirs: Sequence[Path],
    out: Path,
    *,
    title: str | None = None,
    notes: Sequence[str] = (),
    target: float = 0.0,
    fraction: float | None = None,
    png: bool = False,
    pictures: bool = True,
    contrasts: Sequence[str] = (),
) -> Report:
    """Writes the report of run directories to `out`: index.html, table.md, tables as CSV, figures/ as SVG and CSV.

    `notes` are lines to show on the page. `target` is the macro F1 at which labels are enough, above 0 and at most 1; 0
    means within 2 points of the best with the most labels. `fraction` chooses that of the second confusion matrix,
    without it the one nearest to 10 %; with `png` each figure is written as PNG too; without `pictures` the page shows
    no image of the data but reconstructions. `contrasts` are pairs of arms "A:B" to compare, A minus B. The result
    depends on the files alone: the seed of the bootstrap is fixed. Raises UserError for run directories that break the
    contract (see `runs`).
    """
    out = Path(out)
    findings = find(
        run_dirs,
        title=title,
        notes=notes,
        target=target,
        fraction=fraction,
        pictures=pictures,
        contrasts=contrasts,
    )
    with panels.style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        drawings = draw(findings)
        shown = [
            html.save(d.name, d.figure, d.numbers, out, CAPTIONS[d.kind], png=png)
            | {"kind": d.kind, "arm": d.arm, "part": d.part}
            for d in drawings
        ]
    sheets = _save_sheets(findings, out)
    paths = _write_tables(findings, drawings, out)
    paths |= {d.name: out / "figures" / f"{d.name}.svg" for d in drawings}
    paths |= {sheet["file"]: out / "figures" / f"{sheet['file']}.svg" for sheet in sheets if sheet["uri"]}
    paths["page"] = files.write(out / "index.html", render(findings, shown, sheets))
    paths["table_md"] = files.write(out / "table.md", _markdown(findings))
    frozen, answer = frozen_encoders.text(findings.probes), tuple(findings.answer["headlines"])
    return Report(findings.rows, findings.paired, paths, findings.left_out, frozen, answer)


def _write_tables(f: Findings, drawings: Sequence[Drawing], out: Path) -> dict[str, Path]:
    """Writes every table as CSV. Returns their paths by name."""
    boxes = [row for d in drawings if d.kind == "confidence" for row in d.numbers]
    parts: dict[str, tuple[str, Sequence[dict], Sequence[str]]] = {
        "table": ("table.csv", f.rows, ()),
        "paired": ("paired.csv", f.paired, tables.PAIRED),
        "efficiency": ("efficiency.csv", f.worth, label_efficiency.COLUMNS),
        "mistakes": ("mistakes.csv", f.mistakes, mistakes.COLUMNS),
        "confidence": ("confidence.csv", boxes, ()),
        "certainty": ("certainty.csv", f.certainty, certainty.COLUMNS),
        "sure_and_wrong": ("sure_and_wrong.csv", f.sure_and_wrong, certainty.BY_CLASS),
        "classes": ("classes.csv", f.cell_types.rows, cell_types.COLUMNS),
        "confusion": ("confusion.csv", f.cell_types.confusion_rows(f.study.runs[0].classes), cell_types.CONFUSION),
        "prediction_sets": ("prediction_sets.csv", f.sets.rows, prediction_sets.COLUMNS),
        "learning_speed": ("learning_speed.csv", f.speed, learning_speed.COLUMNS),
    }
    if f.contrasts:
        parts["contrasts"] = ("contrasts.csv", f.contrasts, ())
    if f.label_draws:
        parts["label_draws"] = ("label_draws.csv", f.label_draws, label_draws.COLUMNS)
    if f.without_leaked:
        parts["without_leaked"] = ("without_leaked.csv", f.without_leaked, without_leaked.COLUMNS)
    if f.probes:
        parts["frozen"] = ("frozen.csv", [row for each in f.probes for row in each.rows], ())
    for other in f.others:
        place = f"external/{other.slug}"
        parts[f"table_{other.slug}"] = (f"{place}/table.csv", other.rows, ())
        parts[f"paired_{other.slug}"] = (f"{place}/paired.csv", other.paired, tables.PAIRED)
    return {name: tables.write_csv(out / file, rows, columns) for name, (file, rows, columns) in parts.items()}


def _save_sheets(f: Findings, out: Path) -> list[dict]:
    """Writes the sheets of reconstructions. Returns each with the name of its files."""
    names = distinct(f"{autoencoder_pictures.FILE}{slug(sheet['init'])}" for sheet in f.autoencoders)
    for name, sheet in zip(names, f.autoencoders, strict=True):
        autoencoder_pictures.save(out / "figures" / name, sheet)
    return [sheet | {"file": name} for name, sheet in zip(names, f.autoencoders, strict=True)]


def render(f: Findings, pictures: Sequence[dict], sheets: Sequence[dict]) -> str:
    """The page as HTML. `pictures` are its figures (see `html.save`), `sheets` the reconstructions."""
    runs = [*f.study.runs, *f.probe_runs]
    return (
        html.environment()
        .get_template("page.html.j2")
        .render(
            title=f.title,
            f=f,
            figures=pictures,
            autoencoders=sheets,
            question=starts.question(f.study),
            baseline=f.study.baseline_name,
            worth=details.worth_lines([w for w in f.worth if w["metric"] == "accuracy"], f.paired),
            reference=tables.reference_text(f.rows),
            published_caption=tables.PUBLISHED_CAPTION,
            draw_words=label_draws.lines(f.label_draws),
            contrasts=between_arms.shown(f.contrasts),
            frozen_words=frozen_encoders.words(f.probes),
            others=[_other_test_set(other, f.rows) for other in f.others],
            pretrainings=[html.run_facts(p.path, p.info) | {"init": p.init} for p in f.pretrainings],
            runs=[_run_facts(run) for run in runs],
            hours=html.hours([*(p.info for p in f.pretrainings), *(run.info for run in runs)]),
            types=_types(f),
            sets=_sets(f),
            colors={i: figures.color(s, i) for s in (*(p.study for p in f.probes), f.study) for i in s.inits},
        )
    )


def _types(f: Findings) -> dict:
    """Cell types for the page: sentences, confusion matrices by level, or the most frequent confusions."""
    types, classes = f.cell_types, f.study.runs[0].classes
    shows_all = len(classes) <= cell_types.MOST
    matrices = [_matrix(f.study, m, classes) for m in cell_types.shown_matrices(f.study, types)] if shows_all else []

    def table(level: Level) -> list[dict]:
        rows = [row for row in types.rows if Level.of_row(row) == level and row["class"] in types.shown]
        return sorted(rows, key=lambda row: types.shown.index(row["class"]))

    return {
        "rarest": cell_types.rarest(f.study, types),
        "best": cell_types.best_in_words(f.study, types.largest),
        "lines": cell_types.lines(f.study, types),
        "classes": classes,
        "matrices": matrices,
        "trained_on": cell_types.trained_on(f.study, types) if shows_all else [],
        "confusions": [] if shows_all else cell_types.confusions(f.study, types),
        "hidden": len(types.names) > len(types.shown),
        "table": table,
        "sure": _sure(f),
    }


def _sure(f: Findings) -> list[dict]:
    """The rows of sure_and_wrong.csv at the largest share of labels, for all images and each shown class."""
    order = [certainty.ALL, *f.cell_types.shown]
    rows = [row for row in f.sure_and_wrong if Level.of_row(row) == f.cell_types.largest and row["class"] in order]
    return sorted(rows, key=lambda row: order.index(row["class"]))


def _matrix(study: Study, m: cell_types.Matrix, classes: Sequence[str]) -> dict:
    """A confusion matrix for the page; `share` is the share of the row."""
    totals = m.counts.sum(1)
    rows = [
        (name, [{"count": n, "share": n / totals[i], "right": i == j} for j, n in enumerate(m.counts[i].tolist())])
        for i, name in enumerate(classes)
        if totals[i]
    ]
    collapsed = study.collapsed_cell(m.level, m.init)
    return {"init": m.init, "level": m.level.labels_and_arm, "seeds": m.seeds, "rows": rows, "collapsed": collapsed}


def _sets(f: Findings) -> dict | None:
    """Prediction sets at the levels of the cell types' tables; `folded` has the classes of other test sets."""
    shown = [level for level in (f.cell_types.largest, f.cell_types.chosen) if level]
    rows = [row for row in f.sets.rows if Level.of_row(row) in shown]
    rows.sort(key=lambda row: (shown.index(Level.of_row(row)), f.study.inits.index(row["init"])))
    elsewhere = [row for row in rows if row["test_set"]]
    rows = [row for row in rows if not row["test_set"] or row["class"] == prediction_sets.ALL]
    folded = [row for row in elsewhere if row["class"] != prediction_sets.ALL]
    parts = {"rows": rows, "folded": folded, "target": prediction_sets.TARGET, "all": prediction_sets.ALL}
    return parts if rows else None


def _other_test_set(other: external_tests.External, rows: Sequence[dict]) -> dict:
    """An external test set for the page: its rows, with the main test set's row and the difference from scratch."""

    def same(row: dict, of: dict) -> bool:
        return (Level.of_row(row), row["init"]) == (Level.of_row(of), of["init"])

    parts = []
    for row in other.rows:
        main = next(r for r in rows if same(r, row))
        accuracy = [p for p in other.paired if p["metric"] == "accuracy" and same(p, row)]
        parts.append(row | {"main": main["accuracy"], "paired": accuracy[0] if accuracy else None})
    headlines = words.answer(other.study, other.rows, other.paired, [])["headlines"]
    all_classes = other.study.runs[0].classes
    lacks = (
        ""
        if len(other.classes) == len(all_classes)
        else f"; of the {len(all_classes)} classes it holds {', '.join(other.classes)}"
    )
    reference = tables.reference_text(other.rows)
    care = cautions.worse_than_common_lines(other.rows) + cautions.flawless_lines(other.rows) + other.study.warnings
    shown = {"name": other.name, "slug": other.slug, "headlines": headlines, "rows": parts, "care": care}
    return shown | {"lacks": lacks, "reference": reference}


def _run_facts(run: Run) -> dict:
    """The run's cell, and what run.json says about how it was trained."""
    arm = ", ".join(
        filter(None, ("" if fine_tunes(run.evaluation) else frozen_encoders.name_of(run.evaluation), run.arm))
    )
    cell = {**run.level.columns, "arm": arm, "init": run.init, "n_train": run.n_train}
    return html.run_facts(run.path, run.info) | cell


def _markdown(f: Findings) -> str:
    """table.md: the table, every metric with its interval, the published table, the notes."""
    rows, answer, probes = f.rows, f.answer, frozen_encoders.text(f.probes)
    detail = [["labels", "init", "seeds", "n_train", *(f"{m} (95 %)" for m in tables.SHOWN), "ECE"]]
    for row in rows:
        line = [
            str(Level.of_row(row)),
            row["init"],
            str(row["seeds"]),
            str(row["n_train"] or "–"),
        ]
        line += [f"{row[m]:.4f} ({row[f'{m}_low']:.4f}–{row[f'{m}_high']:.4f})" for m in tables.SHOWN]
        detail.append([*line, f"{row['ece']:.4f} {tables.collapse(row)}".rstrip()])

    def plain(lines):
        return map(tables.in_markdown, lines)

    parts = [*plain([f"# {f.title}", *answer["headlines"]]), tables.table_text(rows), tables.reference_text(rows)]
    parts.append(tables.markdown(detail))
    parts.append(
        f"95 % intervals {' and '.join(dict.fromkeys(row['interval'] for row in rows))}. Precision,"
        " recall and F1 are means over the classes. The most common class makes up"
        f" {100 * rows[0]['majority_rate']:.2f} % of the {rows[0]['n_test']:,} test images."
    )
    if f.contrasts:
        parts += ["Chosen arms, compared with each other:", tables.markdown(between_arms.lines(f.contrasts))]
    if f.published:
        parts += [
            tables.PUBLISHED_CAPTION,
            tables.table_text(f.published),
        ]
    if probes:
        parts += ["The encoder frozen, and a classifier on its features (95 % intervals):", probes]
    lines = [f"- {line}" for line in plain([*answer["warnings"], *answer["lines"], *f.left_out, *f.notes])]
    return "\n\n".join([*parts, "\n".join(lines)]) + "\n"
