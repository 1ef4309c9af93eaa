"""The files of a run directory: what one start leaves for the next, and for the report."""

import contextlib
import csv
import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from mae_jax import files
from mae_jax.config import difference, flatten, with_defaults
from mae_jax.errors import UserError
from mae_jax.spreadsheets import cell

CONFIG, RUN, SUBSET = "config.json", "run.json", "subset.json"
RESULTS, PREDICTIONS, METRICS = "results.json", "predictions.csv", "metrics.jsonl"
VALIDATION = "predictions_val.csv"
STUDY = "study.json"  # in the directory of a study or sweep, whose runs lie below it
LOWERED = "lowered.json"  # where the learning rate was lowered, see `divergence`
SAVED = ".saved"  # there was a checkpoint: without one there is no new start
EXTERNAL = "external"  # a directory for each further test set, with its predictions.csv
RECONSTRUCTIONS = "reconstructions.csv"
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow", "clu")


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole or not at all."""
    with files.replacing(path) as file:
        json.dump(value, file, indent=2, ensure_ascii=False, allow_nan=False)
        file.write("\n")


def read_json(path: Path) -> Any:
    """Reads a JSON file. Raises UserError where it is damaged."""
    if path.exists() and not path.is_file() and not path.is_dir():
        raise UserError(f"{path} is a pipe or a device, and should be a file; restore it or remove the run directory")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); restore it or remove the run directory") from None
    except FileNotFoundError:
        raise UserError(f"{path} is gone; restore it from a backup, or remove the run directory") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder, and should be a file; restore it or remove the run directory") from None


def read_object(path: Path) -> dict[str, Any]:
    """Reads a JSON object, such as run.json. Raises UserError where it is damaged or something else."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object, but a {type(found).__name__}; restore it")
    return found


def read_config(path: Path) -> dict[str, Any]:
    """Reads a config.json or study.json. Raises UserError where it is not one of ours."""
    saved = read_json(path)
    if not isinstance(saved, dict) or not isinstance(saved.get("config"), dict):
        raise UserError(f"{path} is not the config of a run (no field 'config'); choose another directory")
    if not isinstance(saved.get("resolved", {}), dict):
        raise UserError(f"{path} is not the config of a run ('resolved' is no object); restore it")
    return saved


@contextlib.contextmanager
def held(workdir: Path, leader: bool = True) -> Iterator[None]:
    """Makes the run directory and keeps other starts out of it. Only the `leader` of several processes does.

    Raises UserError where it cannot be written, or where another process holds it.
    """
    if not leader:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / ".lock", "a+")
    except OSError as error:
        raise _unwritable(workdir, error) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"workdir {workdir} is in use by process {_holder(file)}; wait for it, stop it, or choose another "
                f"--workdir"
            ) from None
        except OSError:
            pass  # a file system without locks
        try:  # past the buffer, which would write again when it is closed
            file.truncate(0)
            os.write(file.fileno(), f"{os.getpid()} on {os.uname().nodename}".encode())
        except OSError as error:
            raise _unwritable(workdir, error) from None
        yield
        with contextlib.suppress(OSError):
            file.truncate(0)


def _unwritable(workdir: Path, error: OSError) -> UserError:
    advice = (
        "choose another" if isinstance(error, FileExistsError | NotADirectoryError) else "make room, or choose another"
    )
    free = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        place = next(p for p in (workdir, *workdir.parents) if p.exists())
        free = f" ({shutil.disk_usage(place).free} bytes free on its disk)"
    return UserError(f"workdir {workdir} cannot be written: {error.strerror}{free}; {advice}")


def _holder(file: TextIO) -> str:
    """Which process holds a lock. One that has just taken it gets a moment to write so over one that was killed."""
    said = ""
    for _ in range(20):
        file.seek(0)
        said = file.read().strip()
        process, _, machine = said.partition(" on ")
        if said and (machine != os.uname().nodename or _lives(process)):
            break
        time.sleep(0.1)
    return said or "unknown"


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ValueError, ProcessLookupError):
        return False
    except PermissionError:  # another user's
        return True
    return True


def keep_config(workdir: Path, config: ConfigDict, resolved: dict[str, Any], leader: bool = True) -> None:
    """Writes config.json (the `leader` does), or checks that the one already there is the same.

    Raises UserError that lists the fields which differ.
    """
    path = workdir / CONFIG
    if (workdir / STUDY).exists():
        raise UserError(f"{workdir} holds a study of several runs ({STUDY}); choose another --workdir for this run")
    if path.exists():
        refuse_difference(workdir, path, config, resolved)
    elif (workdir / SAVED).exists():
        raise UserError(
            f"{path} is gone, and {workdir / 'checkpoints'} holds the run that it tells of: restore it from a backup, "
            f"or remove {workdir} to start again"
        )
    if leader:
        here = _from(workdir, config.init_from)
        write_json(path, {"config": json.loads(config.to_json()), "resolved": resolved, "init_from_here": here})


def _from(workdir: Path, place: str) -> str:
    """`place` as seen from the run directory, which stays the same when both are moved; "" stays."""
    return os.path.relpath(Path(place).resolve(), workdir.resolve()) if place else ""


def refuse_difference(workdir: Path, path: Path, config: ConfigDict, resolved: dict[str, Any] | None = None) -> None:
    """Raises UserError where the config saved in `path` is another; `resolved` None: not compared."""
    saved = read_config(path)
    ours, theirs = flatten(json.loads(config.to_json())), flatten(with_defaults(saved["config"]))
    if saved.get("init_from_here") and saved["init_from_here"] == _from(workdir, ours["init_from"]):
        theirs["init_from"] = ours["init_from"]  # both were moved
    if resolved is not None:
        ours |= flatten({"resolved": resolved})
        told = resolved | saved.get("resolved", {})  # what an older run does not tell is the same
        theirs |= flatten({"resolved": told})
    differing = difference(ours, theirs)
    if differing:
        raise UserError(
            f"{workdir} holds a run with another config ({'; '.join(differing)}); use the same config to go "
            f"on with it, or another --workdir"
        )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def commit() -> str:
    """The commit of this code, with "+" where files differ from it; "" outside a checkout."""
    try:
        run = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10}
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], check=True, **run).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], check=True, **run).stdout
        return head + ("+" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def write_predictions(
    path: Path,
    images: Sequence[str],
    groups: Sequence[str],
    labels: Int[np.ndarray, " n"],
    probabilities: Float[np.ndarray, "n classes"],
    classes: Sequence[str],
) -> None:
    """One row an image: names of label and prediction, confidence, each class's probability. See `spreadsheets`."""
    predictions = probabilities.argmax(1)
    with files.replacing(path) as file:
        rows = csv.writer(file)
        rows.writerow(["image", "group", "label", "prediction", "confidence", *(f"p_{c}" for c in classes)])
        for i, image in enumerate(images):
            p = [f"{v:.9g}" for v in probabilities[i]]
            best = predictions[i]
            texts = image, groups[i], classes[labels[i]], classes[best]
            rows.writerow([*map(cell, texts), p[best], *p])


def cut_predictions(workdir: Path, results: dict[str, Any]) -> str:
    """Which predictions do not have as many rows as the results tell of, in words; "" where all have."""
    external = results.get("external")
    files = {PREDICTIONS: results.get("n"), VALIDATION: results.get("n_validation")}  # a pre-training has none
    if isinstance(external, dict):
        files |= {f"{EXTERNAL}/{k}/{PREDICTIONS}": v.get("n") for k, v in external.items() if isinstance(v, dict)}
    for name, wanted in files.items():
        path = workdir / name
        if not wanted:
            continue
        if not path.is_file():
            return f"{path} is gone"
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            whole = [line for line in file.read().split("\n")[:-1] if line.count(",") >= 5]  # no name holds a line end
        if len(whole) - 1 != wanted:
            return f"{path} has {max(0, len(whole) - 1)} of {wanted} rows"
    return ""


def broken_rows(path: Path) -> str:
    """What is damaged of metrics.jsonl, in words; "" where nothing is. The last row of a killed run may be cut."""
    if not path.is_file():
        return ""
    broken = 0
    for text in path.read_bytes().split(b"\n")[:-1]:
        try:
            broken += not isinstance(json.loads(text)["step"], int)
        except (ValueError, KeyError, TypeError, RecursionError):
            broken += 1
    return f"{broken} rows that cannot be read" if broken else ""


def truncate_metrics(path: Path, step: int, evaluated: bool = True) -> None:
    """Drops the rows after `step`: a resumed run writes them again, and so it does those that tell at `step` of a
    lowered rate. Not `evaluated`: also its evaluation's row."""
    if not path.exists():
        return
    if not path.is_file():
        raise UserError(f"{path} is no regular file; restore it, or remove it: the run goes on without its rows")
    kept = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(text)
            again = "rate_factor" in row or not (evaluated or "learning_rate" in row)
            if row["step"] < step or (row["step"] == step and not again):
                kept.append(text + "\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # the last row of a killed run may be cut
    with files.replacing(path) as file:
        file.writelines(kept)
