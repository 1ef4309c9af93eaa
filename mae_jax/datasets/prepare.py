"""Builds a data set, reads it back, and moves it to its final folder once complete. Command: `mae-jax prepare`."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import importlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import PIL.Image

from mae_jax.data import groups as grouping
from mae_jax.data import prepared
from mae_jax.data.decode import decode
from mae_jax.datasets import archives
from mae_jax.datasets.builder import ImageBuilder
from mae_jax.datasets.stain_normalization import Normalization, Target
from mae_jax.datasets.tiles import slides
from mae_jax.rundir import contents
from mae_jax.runtime import command, disk, limits, signals
from mae_jax.runtime.errors import Stopped, UserError, end_scripts_in_one_line, printable
from mae_jax.runtime.files import write
from mae_jax.runtime.places import local
from mae_jax.runtime.progress import duration
from mae_jax.runtime.text import count

DISK = {os.strerror(number): number for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)}
TARGET = "stain_target.png"  # the image whose stain all others have
SHOWN = 5  # number of file names to show for each reason


def prepare(
    name: str,
    source: str | os.PathLike,
    directory: str | os.PathLike = "",
    say: Callable = command.say,
    cutting: slides.Cutting | None = None,
    stain: str = "",
    stain_target: str | os.PathLike = "",
) -> Path:
    """Builds `name` from the files in `source`; returns its folder. `cutting` has the options of tiles:NAME.

    `stain`: one of `stain_normalization.METHODS`, or "" for none; `stain_target`: its target image, or "" for a typical
    training image.

    It is built in a temporary folder and moved at the end, so an interrupted build never looks finished. Raises
    UserError if it cannot be built, and `errors.Stopped` after a signal.
    """
    limits.leave_imported_script()
    end_scripts_in_one_line()
    if existing := prepared.versions(name, directory):
        _refuse_other_stain(name, existing[-1], stain, stain_target)
        other = ", with other options" if cutting and _cut_otherwise(existing[-1], cutting) else ""
        say(f"{name} is already prepared{other}; remove {existing[-1]} to prepare it again")
        return existing[-1]
    if not disk.is_dir(Path(source)):
        raise UserError(f"--source {source} is not a folder; name the one with the files of {name}")
    if not disk.entries(Path(source)):  # TFDS would raise an AssertionError
        raise UserError(f"--source {source} is empty; name the folder with the files of {name}")
    kept = "finished slides are kept" if name.startswith("tiles:") else "nothing was changed"
    normalization = Normalization(stain, _given(stain_target) if stain_target else None) if stain else None
    with signals.collect_signals(), signals.interruptible(kept), _staging(name, directory) as staging:
        builder = make_builder(name, staging)
        builder.progress = _progress(say)
        builder.stain = normalization
        files, more = _files(builder, Path(source), staging, cutting or slides.Cutting(), say)
        say(f"building {name} from {source}")
        _build(builder, files, staging)
        about = _index(name, builder, staging, Path(source)) | more
        if normalization is not None:
            about["stain"] = normalization.about()
            assert normalization.target is not None
            PIL.Image.fromarray(normalization.target.pixels).save(Path(builder.data_dir) / TARGET)
        write(Path(builder.data_dir) / prepared.ABOUT, json.dumps(about, indent=2) + "\n")
        built = Path(builder.data_dir)
        place = prepared.root(directory) / built.relative_to(staging)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(built, place)
        if more:
            shutil.rmtree(files, ignore_errors=True)
    for line in summary(name, place, about):
        say(line)
    return place


def _cut_otherwise(place: Path, cutting: slides.Cutting) -> bool:
    """Whether the tiles in `place` were cut with other options."""
    try:
        saved = dict(contents.peek_object(place / prepared.ABOUT)["cutting"])
    except (ValueError, KeyError, TypeError):  # an earlier version did not keep the options
        return False
    return saved | {"workers": 0} != dataclasses.asdict(cutting) | {"workers": 0}


def _refuse_other_stain(name: str, place: Path, stain: str, target: str | os.PathLike) -> None:
    """Raises UserError if the data set in `place` was prepared with another stain normalization."""
    saved = prepared.stain_of(place)
    same = saved.get("method", "") == stain
    if same and target:
        same = saved.get("target_sha256") == _given(target).digest
    elif same and stain:
        same = bool(saved.get("target_drawn_from"))
    if not same:
        text = prepared.stain_in_words(saved) or "without stain normalization"
        raise UserError(
            f"{name} is already prepared {text}, in {place}; use another --data_dir, or remove that folder to prepare "
            f"it again"
        )


def _given(path: str | os.PathLike) -> Target:
    """The target image of a file. Raises UserError if it cannot be read."""
    place = local(path, "--stain_target")
    try:
        return Target(str(path), decode(disk.read_bytes(place), str(path)).pixels)
    except OSError as error:
        raise UserError(f"--stain_target {path}: {disk.reason(error, place)}") from None
    except UserError as error:
        raise UserError(f"--stain_target {error}") from None


def make_builder(name: str, directory: Path) -> ImageBuilder:
    """The builder of `name`, a key of `prepared.WHERE`. Raises UserError for an unknown configuration."""
    dataset, _, config = prepared.tfds_name(name).partition("/")
    module = importlib.import_module(f"mae_jax.datasets.{dataset}.{dataset}_dataset_builder")
    if config and config not in module.Builder.builder_configs:
        config = module.config_of(config)
    return module.Builder(data_dir=directory, config=config or None)


def _files(
    builder: ImageBuilder, source: Path, staging: Path, cutting: slides.Cutting, say: Callable
) -> tuple[Path, dict]:
    """The folder that the builder reads, with archives unpacked or slides cut, and facts for `prepared.json`."""
    if builder.name != "tiles":
        return archives.gather(source, staging / "files", say), {}
    cut = staging.with_name(f"{staging.name}-slides")  # kept if this command is interrupted
    zip_files, left_out = slides.cut_folder(source, cut, cutting, say)
    builder.left_out |= left_out
    facts = [slides.about(path) for path in zip_files]
    builder.assumed.update(phrase for fact in facts for phrase in fact["assumed"])
    blank = sum(fact["blank"] for fact in facts)
    return cut, {"tiles_without_tissue": blank, "cutting": dataclasses.asdict(cutting)}


@contextlib.contextmanager
def _staging(name: str, directory: str | os.PathLike) -> Iterator[Path]:
    """An empty temporary folder below that of the data sets. It is removed afterwards, as are leftovers."""
    top = prepared.root(directory) / ".preparing"
    key = prepared.tfds_name(name).replace("/", "-")
    try:
        top.mkdir(parents=True, exist_ok=True)
        lock = open(top / f"{key}.lock", "w")
    except OSError as error:
        raise _failed(f"--data_dir {prepared.root(directory)} cannot be written", error, top.parent) from None
    staging = top / key
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{name} is being prepared in {top.parent} by another process; wait for it") from None
        except OSError:
            pass  # the file system has no locks
        shutil.rmtree(staging, ignore_errors=True)
        try:
            staging.mkdir()
            yield staging
        except OSError as error:
            raise _failed(name, error, top.parent) from None
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def _failed(what: str, error: OSError, data_dir: Path) -> UserError:
    """The error to raise if a file cannot be read or written. Only files in `data_dir` are written."""
    path = disk.path_of(error) or (data_dir if disk.is_of_storage(error) else None)
    why = disk.reason(error, path)
    if path is not None and (path.is_relative_to(data_dir) or data_dir.is_relative_to(path)):
        other = why.replace("choose another place", "name another --data_dir")
        why = other if other != why else f"{why}, or name another --data_dir"
    return UserError(f"{what}: {path or 'the system refuses a request'}: {why}")


def _build(builder: ImageBuilder, source: Path, staging: Path) -> None:
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(manual_dir=source, try_download_gcs=False)
    with contextlib.redirect_stdout(None):  # TFDS prints the temporary folder, which would confuse
        try:
            builder.download_and_prepare(download_config=config, download_dir=staging / "downloads")
        except UserError:
            raise
        except Exception as error:  # TFDS wraps exceptions of its generators
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, UserError | OSError | Stopped):
                cause = cause.__cause__ or cause.__context__
            # ArrayRecord's writer reports a full disk only in words.
            words = next((words for words in DISK if words in str(error)), "") if cause is None else ""
            raise OSError(DISK[words], words) if words else cause or error from None


def _index(name: str, builder: ImageBuilder, staging: Path, source: Path) -> dict:
    """Reads every record back and writes the index of each split; returns the facts for `prepared.json`."""
    counts, groups = {}, {}
    features: Any = builder.info.features
    for split in builder.info.splits:
        examples: Any = prepared.open_split(name, split, staging)
        index = prepared.make_index(examples)
        index.save(prepared.index_path(Path(builder.data_dir), split))
        names = features["label"].names if "label" in features else None
        label_counts = Counter(index.label.tolist())
        counts[split] = {c: label_counts[i] for i, c in enumerate(names)} if names else {"images": len(index.label)}
        groups[split] = len(set(prepared.groups_of(name, index.names, index.groups).groups) - {""})
    return {
        "source": str(source.resolve()),
        "counts": counts,
        "groups": groups,
        "published": builder.PUBLISHED,
        "left_out": {
            reason: {"files": len(names) + builder.unnamed[reason], "names": names}
            for reason, names in builder.left_out.items()
        },
        "assumed": dict(builder.assumed),
    }


def summary(name: str, place: Path, about: dict) -> list[str]:
    """Lines with counts per split and class, files left out and why, and differences from the published counts."""
    splits = list(about["counts"])
    columns = list(dict.fromkeys(c for counts in about["counts"].values() for c in counts))
    rows = [["split", *columns, *(["images"] if columns != ["images"] else []), "groups"]]
    for split in splits:
        counts = about["counts"][split]
        total = [sum(counts.values())] if columns != ["images"] else []
        rows.append([split, *(counts.get(c, 0) for c in columns), *total, about["groups"][split] or "not known"])
    widths = [max(len(str(row[i])) for row in rows) for i in range(len(rows[0]))]
    lines = [f"{name} is prepared in {place}"]
    lines += ["  " + "  ".join(str(v).rjust(w) for v, w in zip(row, widths, strict=True)) for row in rows]
    for reason, left in about["left_out"].items():
        lines.append(f"  left out, {reason}: {left['files']} ({_shown(left['names'])})")
    lines += [f"  assumed: {phrase}: {count(n, 'image')}" for phrase, n in about["assumed"].items()]
    lines += _stain_lines(about.get("stain", {}), place)
    if about.get("tiles_without_tissue"):
        lines.append(f"  left out, without tissue: {count(about['tiles_without_tissue'], 'tile')}")
    elif not about["left_out"]:
        lines.append("  left out: nothing")
    differ = [
        f"{split} {c} {about['counts'][split].get(c, 0)} (published {n})"
        for split, counts in about["published"].items()
        for c, n in counts.items()
        if split in about["counts"] and about["counts"][split].get(c, 0) != n
    ]
    missing = [split for split in about["published"] if split not in about["counts"]]
    if missing:
        lines.append(f"  not prepared, because its folder is missing: {', '.join(missing)}")
    if differ:
        lines.append(f"  warning: counts differ from the published ones: {', '.join(differ)}")
    elif about["published"]:
        lines.append("  the counts match the published ones")
    if not all(about["groups"].values()):
        lines.append(f"  groups: {grouping.UNKNOWN}")
    return lines


def _stain_lines(stain: dict, place: Path) -> list[str]:
    """The target of the stain normalization, and the images that it left unchanged."""
    if not stain:
        return []
    lines = [f"  stain: {prepared.stain_in_words(stain)}; the target is kept as {place / TARGET}"]
    for reason, left in stain["unchanged"].items():
        lines.append(f"  not normalized, because {reason}: {count(left['images'], 'image')} ({_shown(left['names'])})")
    return lines


def _shown(names: Sequence[str]) -> str:
    return ", ".join(printable(name, keep="") for name in names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _progress(say: Callable) -> Callable[[int, int], None]:
    began = shown = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal shown
        now = time.monotonic()
        if now - shown > 5:
            shown = now
            say(f"{done}/{count(total, 'file')} · {duration((now - began) / done * (total - done))} left")

    return report
