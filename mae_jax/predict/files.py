"""Predictions and embeddings of many images into a file: `mae-jax predict` and `mae-jax embed`."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from mae_jax.predict import images as reading
from mae_jax.predict import loading, writers
from mae_jax.predict.model import Batch, Model
from mae_jax.report import stats
from mae_jax.runtime.command import out_file, say
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import local
from mae_jax.runtime.progress import counting

SHOWN = 5  # skipped images that are named


@dataclasses.dataclass(frozen=True)
class Options:
    """Of `mae-jax predict`."""

    columns: str = ""  # the path's column of a table, as "path=file"
    bad_images: str = reading.STOP
    embeddings: bool = False
    calibrated: bool = False  # also the calibrated probability of every class
    every_run: bool = False  # of a study: all its runs, with a column `run`


def models_of(place: str, every_run: bool = False) -> Iterator[tuple[str, Model]]:
    """The model of a run, a bundle or weights, or those of all runs of a study, each with its name in the study."""
    path = local(place, "RUN")
    single = loading.bundle.is_bundle(path) or loading.is_run(path) or not path.is_dir()
    runs = [] if single else loading.runs_of(path)
    if every_run and not runs:
        raise UserError(f"--all is for a study, and {place} is not the directory of one")
    if not every_run and runs:
        listed = "\n  ".join(str(run) for run in runs)
        say(f"{place} is a study with {len(runs)} finished runs that classify:\n  {listed}")
        raise UserError(f"{place} is a study; name one of its runs above, or use --all for a table of all of them")
    if not runs:
        yield "", loading.load(path, "RUN")
    for run in runs:
        yield str(run.relative_to(path)), loading.load(run, "RUN")


def predict(place: str, images: str, out: Path, options: Options = Options()) -> dict[str, int]:
    """Writes a row for each image: image, prediction, confidence, p_<class>, and more as `options` ask for.

    Where the temperature is known, calibrated_confidence is the confidence after temperature scaling; `calibrated`
    adds calibrated_<class>. Returns how many images were written and how many skipped. Raises UserError, with
    `bad_images` "stop" also for the first image that cannot be read.
    """
    out = out_file(local(out, "--out"), "--out")
    writers.kind_of(out, (".csv", ".parquet"))
    source = reading.named(images, options.columns)
    found = models_of(place, options.every_run)
    name, model = next(found)
    classes = model.classes
    known = model.temperature is not None
    if options.calibrated and not known:
        raise UserError(f"--calibrated: the temperature of {place} is not known; it has no validation predictions")
    texts = (*(["run"] if options.every_run else []), "image", "prediction")
    header = [*texts, "confidence", *([] if not known and not options.every_run else ["calibrated_confidence"])]
    header += [f"p_{c}" for c in classes] + ([f"calibrated_{c}" for c in classes] if options.calibrated else [])
    widths = {"embedding": model.width()} if options.embeddings else {}
    counts = {"written": 0, "skipped": 0}
    with writers.table(out, [*header, *widths], texts, widths) as write:
        while True:
            if model.classes != classes or (options.embeddings and model.width() != widths["embedding"]):
                raise UserError(f"{name} has other classes or another width than the first run; name runs one by one")
            reader = reading.Reader(source, options.bad_images)
            batches = model.batches(reader, embed=options.embeddings)
            for batch in _shown(batches, len(source), name or model.origin):
                write(_columns(model, batch, reader, [name] if options.every_run else [], header, options))
                counts["written"] += len(batch.indices)
            counts["skipped"] = len(reader.bad)
            if not name or (following := next(found, None)) is None:
                break
            name, model = following
    if not known:
        say("temperature: not known, since the run has no validation predictions; probabilities are not calibrated")
    _told(reader, counts, out)
    return counts


def _columns(
    model: Model, batch: Batch, reader: reading.Reader, run: list[str], header: list[str], options: Options
) -> list:
    """The columns of a batch, in the order of the header."""
    assert batch.probabilities is not None
    p, names = batch.probabilities, reader.source.names
    best = p.argmax(1) if len(p) else np.zeros(0, int)
    confidence = p[np.arange(len(p)), best]
    columns: list = [[r] * len(p) for r in run]
    columns += [[names[i] for i in batch.indices.tolist()], [model.classes[i] for i in best], confidence]
    unknown = np.full(p.shape, np.nan)
    scaled = unknown if model.temperature is None else stats.scale(p.astype(np.float64), model.temperature)
    if "calibrated_confidence" in header:
        columns.append(scaled[np.arange(len(p)), best])
    columns += list(p.T)
    if options.calibrated:
        columns += list(scaled.T)
    return columns + ([batch.embeddings] if options.embeddings else [])


def embed(
    place: str, images: str, out: Path, *, pool: str = "", columns: str = "", bad_images: str = reading.STOP
) -> dict[str, int]:
    """Writes the embeddings of images to an .npz, .h5 or .parquet file; see `writers.vectors`.

    Returns how many images were written and how many skipped. Raises UserError.
    """
    out = out_file(local(out, "--out"), "--out")
    writers.kind_of(out, (".npz", ".h5", ".parquet"))
    source = reading.named(images, columns)
    _, model = next(models_of(place))
    for line in model.notes:
        say(f"note: {line}")
    reader, counts = reading.Reader(source, bad_images), {"written": 0, "skipped": 0}
    with writers.vectors(out, model.width(pool)) as write:
        batches = model.batches(reader, classify=False, embed=True, pool=pool)
        for batch in _shown(batches, len(source), model.origin):
            assert batch.embeddings is not None
            write([source.names[i] for i in batch.indices.tolist()], batch.embeddings)
            counts["written"] += len(batch.indices)
    counts["skipped"] = len(reader.bad)
    if out.suffix.lower() == ".h5" and writers.coordinates(source.names[:1]) is None:
        say("coords: not known, since the names do not hold the place of a tile (x000512_y001024)")
    _told(reader, counts, out)
    return counts


def _shown(batches: Iterable[Batch], total: int, label: str) -> Iterator[Batch]:
    """The batches, with a bar on a terminal, else a line now and then."""
    report, done = counting(label, say), 0
    for batch in batches:
        yield batch
        done = int(batch.indices[-1]) + 1 if len(batch.indices) else done
        report(done, total)
    report(total, total)


def _told(reader: reading.Reader, counts: dict[str, int], out: Path, tell: Callable[[str], None] = say) -> None:
    """Names the images that were skipped, and says what was written."""
    for _, reason in sorted(reader.bad.items())[:SHOWN]:
        tell(f"skipped: {reason}")
    if len(reader.bad) > SHOWN:
        tell(f"skipped: {len(reader.bad) - SHOWN} more")
    tell(f"written: {out} ({counts['written']} rows, {counts['skipped']} images skipped)")
