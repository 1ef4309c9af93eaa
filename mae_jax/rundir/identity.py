"""The identity of a run: its saved config, which a resumed run must match, and the versions of the code."""

import contextlib
import math
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mae_jax.config.fields import AnyConfig, RunConfig
from mae_jax.config.loading import as_json, difference, flatten, with_defaults
from mae_jax.config.schedule import images_per_update
from mae_jax.config.unused import why_unused, why_unused_in_part
from mae_jax.rundir.contents import CONFIG, RESULTS, SAVED, STUDY, read_config, stamped, write_json
from mae_jax.runtime.disk import exists
from mae_jax.runtime.errors import UserError

LENGTH = ("train.epochs", "train.steps", "resolved.steps")  # fields that may differ when a run is extended
BATCH = ("train.batch_size", "train.batch_per_device", "train.accumulation")  # may differ if the batch does not
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow", "clu")


def keep_config(workdir: Path, config: RunConfig, resolved: dict[str, Any], leader: bool = True) -> None:
    """Checks that an existing config.json matches `config`, then writes it; only the `leader` process writes.

    `resolved` keeps the number of devices on which the run began. Raises UserError that lists the fields that differ.
    """
    path = workdir / CONFIG
    extended = False
    if exists(workdir / STUDY):
        raise UserError(f"{workdir} holds a study of several runs ({STUDY}); choose another --workdir for this run")
    if exists(path):
        extended = refuse_difference(workdir, path, config, resolved)
        began = read_config(path).get("resolved", {})
        resolved = resolved | {key: value for key, value in began.items() if key == "devices"}
    elif exists(workdir / SAVED):
        raise UserError(
            f"{path} is missing, but {workdir / 'checkpoints'} has checkpoints of its run: restore it from a backup, "
            f"or remove {workdir} to start again"
        )
    if leader and extended:
        (workdir / RESULTS).unlink(missing_ok=True)  # first, so that a run killed here counts as unfinished
    if leader:
        here = _from(workdir, config.init_from)
        write_json(path, stamped({"config": as_json(config), "resolved": resolved, "init_from_here": here}))


def _from(workdir: Path, place: str) -> str:
    """`place` relative to the run directory, which stays valid if both are moved. "" stays ""."""
    return os.path.relpath(Path(place).resolve(), workdir.resolve()) if place else ""


def refuse_difference(workdir: Path, path: Path, config: AnyConfig, resolved: dict[str, Any] | None = None) -> bool:
    """Raises UserError if `config` differs from the one saved in `path`. `resolved` is compared unless it is None.

    Returns whether this extends the run: only its length differs and is larger now, and the learning-rate schedule
    does not depend on the length. The fields of BATCH may differ if they give the saved batch on the devices on which
    the run began.
    """
    saved = read_config(path)
    ours, theirs = flatten(as_json(config)), flatten(with_defaults(saved["config"]))
    if saved.get("init_from_here") and saved["init_from_here"] == _from(workdir, ours["init_from"]):
        theirs["init_from"] = ours["init_from"]  # both were moved
    began = saved.get("resolved", {})
    if isinstance(config, RunConfig) and type(began.get("devices")) is int:
        if images_per_update(config, began["devices"]) == began.get("batch_size"):
            theirs |= {name: ours[name] for name in BATCH}
    if resolved is not None:
        ours |= flatten({"resolved": resolved})
        # Values that an older run did not record count as equal.
        theirs |= flatten({"resolved": resolved | saved.get("resolved", {})})
    theirs |= _unused(config, ours)  # what no run reads cannot make it another run or study
    differing = difference(ours, theirs)
    why = ""
    if {line.partition(":")[0] for line in differing} & {"train.epochs", "train.steps"}:
        why = _cannot_grow(ours, theirs, began)
        others = [line for line in differing if line.partition(":")[0] not in LENGTH]
        if not why and not others:
            return True
    if differing:
        raise UserError(
            f"{workdir} holds a run with another config ({'; '.join(differing)}){why}; use the same config to resume "
            f"it, or another --workdir"
        )
    return False


def _unused(config: AnyConfig, flat: dict[str, Any]) -> dict[str, Any]:
    """The fields in `flat`, the flattened `config`, that neither the run nor a run of the study reads."""
    if isinstance(config, RunConfig):
        return {key: value for key, value in flat.items() if why_unused(key, config)}
    unread: dict[str, Any] = {}
    for part in ("pretrain", "finetune"):
        fields = {key.partition(".")[2]: value for key, value in flat.items() if key.startswith(f"{part}.")}
        run = getattr(config, part)
        unread |= {f"{part}.{key}": value for key, value in fields.items() if why_unused_in_part(key, run)}
    return unread


def _cannot_grow(ours: dict[str, Any], theirs: dict[str, Any], began: dict[str, Any]) -> str:
    """Why a run cannot be extended to its new length, as the end of a sentence; "" if it can.

    `began` are the steps that were derived for it.
    """
    schedule = ours.get("optim.schedule")
    if schedule != "constant":
        return (
            f"; its length cannot change, because the learning rates of the {schedule} schedule depend on it "
            f"(a run with optim.schedule=constant can be extended)"
        )
    name = "train.steps" if ours["train.steps"] and theirs["train.steps"] else "train.epochs"
    if bool(ours["train.steps"]) != bool(theirs["train.steps"]) or ours[name] <= theirs[name]:
        return f"; a run can only get longer: set a larger {name}"
    warmup, per_epoch = theirs["optim.warmup_epochs"], began.get("steps_per_epoch")
    epochs = theirs["train.epochs"] if not theirs["train.steps"] else theirs["train.steps"] / (per_epoch or math.inf)
    if warmup > epochs and per_epoch and began.get("warmup_steps") == began.get("steps"):
        return (
            f"; its length cannot change, because its warm-up (optim.warmup_epochs={warmup:g}) lasted as long as the "
            f"run and would be longer now, so the learning rates of the finished updates would differ"
        )
    return ""


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect results."""
    installed = {"python": ".".join(map(str, sys.version_info[:3]))}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def commit() -> str:
    """The git commit of this code, with "+" if tracked files were changed; "" outside a checkout."""
    try:
        run = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "timeout": 10}
        head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], check=True, **run).stdout.strip()
        dirty = subprocess.run(["git", "status", "--porcelain", "-uno"], check=True, **run).stdout
        return head + ("+" if dirty else "")
    except (OSError, subprocess.SubprocessError):
        return ""
