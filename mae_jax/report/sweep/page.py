"""Writes the report of a sweep: tables, figures and one HTML page."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mae_jax.report import html, panels, tables
from mae_jax.report.sweep import figures as sweep_figures
from mae_jax.report.sweep import words
from mae_jax.report.sweep.networks import read_sweep
from mae_jax.report.sweep.tables import EFFECTS, classifier_rows, effect_rows, error_rows
from mae_jax.runtime import files
from mae_jax.runtime.disk import is_file, read_bytes


@dataclass(frozen=True)
class Written:
    """What was written: the rows of sweep.csv, the table as text, and the page."""

    rows: list[dict]
    text: str
    page: Path


def write_sweep(
    run_dirs: Sequence[Path],
    out: Path,
    *,
    title: str | None = None,
    pictures: Path | None = None,
    notes: Sequence[str] = (),
    png: bool = False,
) -> Written:
    """Writes sweep.csv, effects.csv, classifiers.csv, sweep.md, figures/ and index.html into `out`.

    `pictures` is a sheet of reconstructions for the page, and `notes` are more lines for it. With `png`, each figure is
    also written as PNG. Raises UserError for files that are not valid or do not fit together.
    """
    sweep, left_out = read_sweep(run_dirs)
    notes = [*left_out, *notes]
    title = title or "What the autoencoder learned"
    rows, effects, classifiers = error_rows(sweep), effect_rows(sweep), classifier_rows(sweep)
    tables.write_csv(out / "sweep.csv", rows)
    tables.write_csv(out / "effects.csv", effects, EFFECTS)
    if classifiers:
        tables.write_csv(out / "classifiers.csv", classifiers)
    with panels.style():
        drawn = [
            html.save(name, figure, numbers, out, sweep_figures.CAPTIONS[kind], png=png)
            | {"kind": kind, "part": sweep_figures.PARTS.get(name, "")}
            for name, (figure, numbers) in sweep_figures.draw(sweep, rows, classifiers)
            for kind in [sweep_figures.kind(name)]
        ]
    answer = words.answer(sweep, rows, effects, classifiers)
    lines = words.table(sweep, rows, classifiers)
    text = tables.markdown(lines)
    sheet = read_bytes(pictures) if pictures and is_file(pictures) else b""
    rendered = (
        html.environment()
        .get_template("sweep/page.html.j2")
        .render(
            title=title,
            answer=answer,
            header=lines[0],
            body=lines[1:],
            figures=drawn,
            sheet="data:image/png;base64," + base64.b64encode(sheet).decode() if sheet else "",
            reference=sweep.reference,
            units=sweep.units,
            legend=words.legend(sweep),
            networks=[
                html.run_facts(network.path, network.info) | {"name": network.name} for network in sweep.networks
            ],
            runs=[html.run_facts(r.path, r.info) | {"name": r.init} for r in (sweep.study.runs if sweep.study else [])],
            notes=notes,
        )
    )
    files.write(out / "index.html", rendered)
    plain = tables.in_markdown
    parts = [*map(plain, [f"# {title}", *answer["headlines"]]), text, words.legend(sweep)]
    parts.append("\n".join(f"- {plain(line)}" for line in [*answer["lines"], *notes]))
    files.write(out / "sweep.md", "\n\n".join(parts) + "\n")
    return Written(rows, text, out / "index.html")
