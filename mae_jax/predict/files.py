"""Writes predictions and embeddings of images to a file. Commands: `mae-jax predict` and `mae-jax embed`."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from mae_jax.data.splits import DataCache
from mae_jax.predict import images as reading
from mae_jax.predict import kinds, loading, writers
from mae_jax.predict.model import Batch, Model
from mae_jax.report import stats
from mae_jax.runtime.command import out_file, say
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import local
from mae_jax.runtime.progress import counting
from mae_jax.runtime.text import count

SHOWN = 5  # number of skipped images that are named


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of `mae-jax predict`."""

    columns: str = ""  # the path column of a table, as in "path=file"
    bad_images: str = reading.STOP
    embeddings: bool = False
    calibrated: bool = False  # also the calibrated probability of every class
    every_run: bool = False  # use all runs of a study; adds a column `run`
    directory: str = ""  # the folder that the paths of a table are below; "": the table's own


def models_of(place: str, every_run: bool = False) -> Iterator[tuple[str, Model]]:
    """Yields ("", model) of a run, bundle or weights, or with `every_run` (name, model) for each run of a study.

    Raises UserError if `place` is a study and `every_run` is not set, or the reverse.
    """
    path = local(place, "RUN")
    runs = kinds.runs_of(path, every_run)
    if not runs:
        yield "", loading.load(path, "RUN")
    cache = DataCache()
    for run in runs:
        yield str(run.relative_to(path)), loading.load(run, "RUN", cache)


def predict(place: str, images: str, out: Path, options: Options = Options()) -> dict[str, int]:
    """Writes a row for each image: image, prediction, confidence, p_<class>, and the columns that `options` add.

    If the temperature is known, calibrated_confidence is the confidence after temperature scaling.
    `options.calibrated` adds calibrated_<class>. Returns the numbers of rows "written" and of images "skipped". Raises
    UserError for wrong arguments and, with `bad_images="stop"`, for the first image that cannot be read.
    """
    out = out_file(local(out, "--out"), "--out")
    writers.kind_of(out, (".csv", ".parquet"))
    source = reading.named(images, options.columns, directory=options.directory, bad_images=options.bad_images)
    loaded = models_of(place, options.every_run)
    name, model = next(loaded)
    classes = model.classes
    known = model.temperature is not None
    if options.calibrated and not known:
        raise UserError(
            f"--calibrated: the temperature of {place} is not known, because it has no validation predictions; omit "
            "--calibrated"
        )
    texts = (*(["run"] if options.every_run else []), "image", "prediction")
    header = [*texts, "confidence", *([] if not known and not options.every_run else ["calibrated_confidence"])]
    header += [f"p_{c}" for c in classes] + ([f"calibrated_{c}" for c in classes] if options.calibrated else [])
    widths = {"embedding": model.width()} if options.embeddings else {}
    counts = {"written": 0, "skipped": 0}
    with writers.table(out, [*header, *widths], texts, widths) as write:
        while True:
            if model.classes != classes or (options.embeddings and model.width() != widths["embedding"]):
                raise UserError(
                    f"{name} differs from the first run in classes or width; predict with one run at a time"
                )
            reader = reading.Reader(source, options.bad_images)
            batches = model.batches(reader, embed=options.embeddings)
            for batch in with_progress(batches, len(source), name or model.origin):
                write(_columns(model, batch, reader, [name] if options.every_run else [], header, options))
                counts["written"] += len(batch.indices)
            counts["skipped"] = len(reader.bad)
            if not name or (following := next(loaded, None)) is None:
                break
            name, model = following
    if not known:
        say("temperature: not known, because the run has no validation predictions; probabilities are not calibrated")
    _report(reader, counts, out)
    return counts


def _columns(
    model: Model, batch: Batch, reader: reading.Reader, run: list[str], header: list[str], options: Options
) -> list:
    """The columns of a batch, in the header's order."""
    assert batch.probabilities is not None
    p, names = batch.probabilities, reader.source.names
    best = p.argmax(1) if len(p) else np.zeros(0, int)
    confidence = p[np.arange(len(p)), best]
    columns: list = [[r] * len(p) for r in run]
    columns += [[names[int(i)] for i in batch.indices], [model.classes[i] for i in best], confidence]
    unknown = np.full(p.shape, np.nan)
    scaled = unknown if model.temperature is None else stats.scale(p.astype(np.float64), model.temperature)
    if "calibrated_confidence" in header:
        columns.append(scaled[np.arange(len(p)), best])
    columns += list(p.T)
    if options.calibrated:
        columns += list(scaled.T)
    return columns + ([batch.embeddings] if options.embeddings else [])


def embed(
    place: str,
    images: str,
    out: Path,
    *,
    pool: str = "",
    columns: str = "",
    bad_images: str = reading.STOP,
    directory: str = "",
) -> dict[str, int]:
    """Writes the embeddings of images to an .npz, .h5 or .parquet file; see `writers.vectors`.

    `columns` and `directory` are those of `Options`. Returns the numbers of rows "written" and of images "skipped".
    Raises UserError as `predict` does.
    """
    out = out_file(local(out, "--out"), "--out")
    writers.kind_of(out, (".npz", ".h5", ".parquet"))
    source = reading.named(images, columns, directory=directory, bad_images=bad_images)
    model = loading.load(local(place, "RUN_OR_WEIGHTS"), "RUN_OR_WEIGHTS")
    for line in model.notes:
        say(f"note: {line}")
    reader, names = reading.Reader(source, bad_images), []
    with writers.vectors(out, model.width(pool)) as write:
        batches = model.batches(reader, classify=False, embed=True, pool=pool)
        for batch in with_progress(batches, len(source), model.origin):
            assert batch.embeddings is not None
            new = [source.names[int(i)] for i in batch.indices]
            write(new, batch.embeddings)
            names += new
    counts = {"written": len(names), "skipped": len(reader.bad)}
    if out.suffix.lower() == ".h5":
        slides = writers.slides(names)
        if not slides:
            say("coords: not written, because not all image names contain a tile's position such as x000512_y001024")
        elif len(slides) > 1:
            say(
                f"note: the file holds the tiles of {len(slides)} slides, which `names` tells apart; TRIDENT and CLAM "
                "expect one file for each slide"
            )
    _report(reader, counts, out)
    return counts


def with_progress(batches: Iterable[Batch], total: int, label: str) -> Iterator[Batch]:
    """Yields the batches and shows progress: a bar on a terminal, otherwise an occasional line."""
    report, done = counting(label, say), 0
    for batch in batches:
        yield batch
        done = int(batch.indices[-1]) + 1 if len(batch.indices) else done
        report(done, total)
    report(total, total)


def name_skipped(reader: reading.Reader, log: Callable[[str], None] = say) -> None:
    """Prints the first images that were skipped, each with its reason, and the number of the others."""
    for _, reason in sorted(reader.bad.items())[:SHOWN]:
        log(f"skipped: {reason}")
    if len(reader.bad) > SHOWN:
        log(f"skipped: {len(reader.bad) - SHOWN} more")


def _report(reader: reading.Reader, counts: dict[str, int], out: Path, log: Callable[[str], None] = say) -> None:
    """Prints the skipped images and what was written."""
    name_skipped(reader, log)
    log(f"written: {out} ({count(counts['written'], 'row')}, {count(counts['skipped'], 'image')} skipped)")
