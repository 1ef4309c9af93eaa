"""The label-efficiency study: pre-training, evaluations over fractions x inits x seeds, and the report.

Each cell of the grid has its own run directory. Finished cells are skipped, so the same command resumes a study after
any interruption.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mae_jax.checkpoints import cleaning
from mae_jax.config.fields import RunConfig, StudyConfig, SweepConfig, changed
from mae_jax.config.loading import as_json
from mae_jax.config.validation import validate
from mae_jax.data.splits import DataCache
from mae_jax.rundir import contents, identity, lock
from mae_jax.rundir.trackers import refuse_missing as refuse_missing_trackers
from mae_jax.runtime import machine, processes, signals
from mae_jax.runtime.disk import OF_ONE_PATH, disk_line
from mae_jax.runtime.errors import Stopped, StorageError, UserError
from mae_jax.runtime.progress import Progress, duration
from mae_jax.runtime.text import count
from mae_jax.study import cells, plan
from mae_jax.study.cells import Run
from mae_jax.study.results import summary
from mae_jax.study.validation import validate_study
from mae_jax.train import loop
from mae_jax.weights import initial_weights, reader


def run(config: ConfigDict | StudyConfig, workdir: Path, *, cache: DataCache | None = None) -> dict[str, Any]:
    """Runs all unfinished cells of the study, then writes its report. Returns {"rows": table, "report": directory}.

    `cache` keeps the images for further calls. Raises UserError for a mistake of the user, and, after everything else
    is finished and reported, if runs are missing. Raises `errors.Stopped` after a signal, once the state is saved.
    """
    config = validate_study(config)
    leader = jax.process_index() == 0
    with signals.collect_signals() as signals_received, lock.held(workdir, leader):
        keep_study(config, workdir, leader)
        runs = configured(cells.runs(config, workdir))
        progress = Progress(config.finetune.log.progress_seconds, quiet=not leader)
        missing = run_all(runs, progress, signals_received, cache)
        finished = [place for place, cell in runs if cell.traits.labeled and place not in missing]
        written = {}
        if leader and finished:
            with signals.interruptible("all runs are finished"):
                written = report(config, workdir, finished, progress, without(missing))
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
    for cell in {cell.init_from: cell for _, cell in runs if cell.init_from not in directories}.values():
        initial_weights.first_weights(cell)
    return runs


def run_all(
    runs: Sequence[Run], progress: Progress, signals_received: list[int], cache: DataCache | None = None
) -> dict[Path, RunConfig]:
    """Runs the unfinished ones of `runs` in order. Returns those that are still missing at the end.

    A run is missing if its config is refused, it diverges, another process uses it, or its directory cannot be
    written. The reason is printed, and the other runs continue, except those that need its weights. All images are
    opened before the first run starts; `cache` keeps them for further calls. `signals_received` is the list of
    `collect_signals`. Raises UserError for images or a config that cannot be used, StorageError if nothing can be
    written, and `errors.Stopped` after a signal.
    """
    refuse_missing_trackers(sorted({name for _, run in runs for name in run.log.trackers}))
    for line in machine.devices():
        progress.say(line)
    cache = cache or DataCache()
    with processes.at_once(f"nothing was changed; {finished_of(runs)}"):
        planned = plan.make(runs, cache, loop.checking(progress))
    for line in plan.describe(planned):
        progress.say(line)
    progress.costs = [run.seconds for run in planned]
    missing: dict[Path, RunConfig] = {}
    for number, (directory, cell) in enumerate(runs, 1):
        if signals_received:
            raise signals.stopped(signals_received, finished_of(runs))
        progress.say(f"[{number}/{len(runs)}] {cell.name}")
        progress.run = number - 2
        try:
            before = [each for place, each in missing.items() if str(place.resolve()) == cell.init_from]
            if before:
                raise UserError(f"it needs the weights of {before[0].name}, which is missing")
            new = not (directory / contents.RESULTS).exists()
            outcome = summary(loop.run(cell, directory, progress, cache))
            if new and plan.cleaned_when_finished(cell) and jax.process_index() == 0:
                _keep_weights(directory, progress)
        except StorageError:
            raise
        except Stopped as stop:
            raise Stopped(f"{stop} ({finished_of(runs)})") from None
        except (UserError, OSError) as error:
            if isinstance(error, OSError) and (error.errno not in OF_ONE_PATH or jax.process_count() > 1):
                raise
            missing[directory] = cell
            outcome = f"missing: {disk_line(error) if isinstance(error, OSError) else error}"
        if progress.run < number - 1:  # it was already finished, or never started
            progress.skip()
        progress.say(f"[{number}/{len(runs)}] {cell.name}: {outcome}")
    return missing


def _keep_weights(directory: Path, progress: Progress) -> None:
    """Removes the optimizer state of a finished classifier. If that fails, prints the reason."""
    try:
        cleaning.keep_weights(directory)
    except (UserError, OSError) as error:
        why = disk_line(error) if isinstance(error, OSError) else error
        progress.say(f"note: {directory} keeps its optimizer state: {why}")


def finished_of(runs: Sequence[Run]) -> str:
    """Text such as "3 of 12 runs are finished", according to the results in their directories."""
    finished = sum((directory / contents.RESULTS).exists() for directory, _ in runs)
    return f"{finished} of {count(len(runs), 'run')} {'is' if finished == 1 else 'are'} finished"


def trained_seconds(directories: Sequence[Path]) -> float:
    """The total training time in seconds, according to each run.json."""
    times = [contents.read_object(directory / contents.RUN).get("wall_seconds") for directory in directories]
    return sum(seconds for seconds in times if isinstance(seconds, int | float))


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
    if (workdir / contents.CONFIG).exists():
        raise UserError(f"{workdir} holds one run ({contents.CONFIG}); choose another --workdir for a study or sweep")
    if path.exists():
        identity.refuse_difference(workdir, path, config)
    if leader:
        contents.write_json(path, contents.stamped({"config": as_json(config)}))


def report(
    config: StudyConfig, workdir: Path, directories: list[Path], progress: Progress, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Writes the report from the files of the runs, with `notes`, and prints its table and its path.

    Returns {"rows": table, "report": directory}.
    """
    from mae_jax.report.page import write_report
    from mae_jax.report.tables import reference_text, table_text

    out = workdir / "report"
    written = write_report(
        directories, out, title=config.title, notes=notes, target=config.target, pictures=config.pictures
    )
    progress.say(f"\n{table_text(written.rows)}\n\n{reference_text(written.rows)}\n")
    if written.frozen:
        progress.say(f"{written.frozen}\n")
    total = trained_seconds(directories)
    progress.say(
        f"{count(len(directories), 'classifier')}, {duration(total)} of training; report: {out / 'index.html'}"
    )
    return {"rows": written.rows, "report": str(out)}
