"""The label-efficiency study: pre-training, evaluations over fractions x inits x seeds, and the report.

Each cell of the grid has its own run directory. Finished cells are skipped, so the same command resumes a study after
any interruption.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mae_jax.config.fields import RunConfig, StudyConfig, SweepConfig, changed
from mae_jax.config.loading import as_json
from mae_jax.config.validation import validate
from mae_jax.data.splits import DataCache
from mae_jax.rundir import contents, identity, lock
from mae_jax.runtime import clock, processes, signals
from mae_jax.runtime.disk import exists
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.progress import Progress, duration
from mae_jax.runtime.text import count
from mae_jax.study import cells, images_seen, side_by_side, tuning
from mae_jax.study.cells import Run
from mae_jax.study.execution import run_all
from mae_jax.study.validation import validate_study
from mae_jax.train import loop
from mae_jax.weights import initial_weights, reader


def run(config: ConfigDict | StudyConfig, workdir: Path, *, cache: DataCache | None = None) -> dict[str, Any]:
    """Runs all unfinished cells of the study, then writes its report. Returns {"rows": table, "report": directory}.

    `cache` keeps the images for further calls. Raises UserError for a mistake of the user, and, after everything else
    is finished and reported, if runs are missing. Raises `errors.Stopped` after a signal, once the state is saved.
    """
    config = validate_study(config)
    gpus = side_by_side.gpus(config)
    leader = jax.process_index() == 0
    with signals.collect_signals() as signals_received, lock.held(workdir, leader):
        keep_study(config, workdir, leader)
        progress = Progress(config.finetune.log.progress_seconds, quiet=not leader)
        cache = cache or DataCache()
        with processes.at_once("nothing was changed"):
            pretrainings = images_seen.equal(
                config, workdir, [*cells.pretrainings(config, workdir)], cache, loop.checking(progress)
            )
        tuned = tuning.chosen(workdir) if config.tune else {}
        if any(True for _ in cells.untuned(config, workdir, tuned)):
            tried = [run for _, _, run in cells.tuning(config, workdir)]
            first = configured([*pretrainings, *tried])
            missing = run_all(config, first, progress, signals_received, cache, gpus)
            processes.any_process(False)  # all wait until the last run is written
            tuned = tuning.choose(config, workdir, missing, leader)
            for line in tuning.describe(tuned) if leader else ():
                progress.say(line)
        without_choice = dict(cells.untuned(config, workdir, tuned))
        wanted = [run for run in cells.cells(config, workdir, tuned) if run[0] not in without_choice]
        runs = configured([*pretrainings, *wanted])
        missing = without_choice | run_all(config, runs, progress, signals_received, cache, gpus)
        runs += without_choice.items()
        finished = [place for place, cell in runs if cell.traits.labeled and place not in missing]
        written = {}
        if leader and finished:
            began = time.monotonic()
            with signals.interruptible("all runs are finished"):
                written = report(config, workdir, finished, progress, without(missing))
            progress.say(time_line([directory for directory, _ in runs], time.monotonic() - began))
        refuse_missing(runs, missing)
        return written


def configured(runs: list[Run]) -> list[Run]:
    """The runs, with network and normalization taken from the weight files for encoders from other code.

    Raises UserError if weights that exist before the study do not fit.
    """
    files = {cell.init_from for _, cell in runs if cell.init == "weights"}
    known = {path: reader.read(path, "inits") for path in files}
    runs = [
        (place, validate(changed(cell, known[cell.init_from].fields())) if cell.init == "weights" else cell)
        for place, cell in runs
    ]
    directories = {str(directory.resolve()) for directory, _ in runs}
    earlier = {cell.init_from: cell for _, cell in runs if cell.has_network and cell.init_from not in directories}
    for cell in earlier.values():
        initial_weights.first_weights(cell)
    return runs


def trained_seconds(directories: Sequence[Path]) -> float:
    """The total training time in seconds, according to each run.json."""
    times = [contents.read_object(directory / contents.RUN).get("wall_seconds") for directory in directories]
    return sum(seconds for seconds in times if isinstance(seconds, int | float))


def time_line(directories: Sequence[Path], report_seconds: float) -> str:
    """Where the time of a study went, over all its runs, according to each run.json."""
    spent = clock.Clock()
    spent.add({"report": report_seconds})
    for directory in directories:
        parts = contents.peek_object(directory / contents.RUN).get("seconds")
        spent.add({k: v for k, v in parts.items() if isinstance(v, int | float)} if isinstance(parts, dict) else {})
    return f"where the time went, over all runs: {clock.in_words(spent.seconds)}"


def without(missing: dict[Path, RunConfig]) -> list[str]:
    """A note for the report if runs are missing."""
    names = ", ".join(cell.name for cell in missing.values())
    return [f"not finished, so not in this report: {names}"] if missing else []


def refuse_missing(runs: Sequence[Run], missing: dict[Path, RunConfig]) -> None:
    """Raises UserError that names the missing runs, if any."""
    if missing:
        names = ", ".join(f"{cell.name} ({directory})" for directory, cell in missing.items())
        raise UserError(
            f"{len(missing)} of {count(len(runs), 'run')} {'is' if len(missing) == 1 else 'are'} missing: {names}; the "
            f"others are finished. The reasons are printed above; rerun the same command to run only the missing ones"
        )


def keep_study(config: StudyConfig | SweepConfig, workdir: Path, leader: bool) -> None:
    """Checks that an existing study.json matches the config, then writes it; only the `leader` process writes.

    Raises UserError.
    """
    path = workdir / contents.STUDY
    if exists(workdir / contents.CONFIG):
        raise UserError(f"{workdir} holds one run ({contents.CONFIG}); choose another --workdir for a study or sweep")
    if exists(path):
        identity.refuse_difference(workdir, path, config)
    if leader:
        contents.write_json(path, contents.stamped({"config": as_json(config)}))


def report(
    config: StudyConfig, workdir: Path, directories: list[Path], progress: Progress, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Writes the report from the files of the runs, with `notes`, and prints its table and its path.

    A report that was made from the same files is kept. Returns {"rows": table, "report": directory}.
    """
    from mae_jax.report import unchanged

    out = workdir / "report"
    settings = {"title": config.title, "notes": list(notes), "target": config.target, "pictures": config.pictures}
    settings["contrasts"] = list(config.contrasts)
    inputs = unchanged.fingerprint(directories, settings)
    content = unchanged.kept(out, inputs)
    if content is None:
        from mae_jax.report.page import write_report
        from mae_jax.report.tables import reference_text, table_text

        written = write_report(directories, out, **settings)
        text = [f"\n{table_text(written.rows)}\n\n{reference_text(written.rows)}\n"]
        text += [f"{written.frozen}\n"] if written.frozen else []
        text += [written.answer_text] if written.answer else []
        content = {"rows": written.rows, "text": text}
        unchanged.keep(out, inputs, list(written.paths.values()), content)
    for part in content["text"]:
        progress.say(part)
    total = trained_seconds(directories)
    progress.say(
        f"{count(len(directories), 'classifier')}, {duration(total)} of training; report: {out / 'index.html'}"
    )
    return {"rows": content["rows"], "report": str(out)}
