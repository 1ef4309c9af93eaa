"""What makes a run the same run: its config, and the versions of the code."""

import contextlib
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from mae_jax.config.fields import AnyConfig, RunConfig
from mae_jax.config.loading import as_json, difference, flatten, with_defaults
from mae_jax.rundir.contents import CONFIG, FORMAT, RESULTS, SAVED, STUDY, read_config, write_json
from mae_jax.runtime.errors import UserError

LENGTH = ("train.epochs", "train.steps", "resolved.steps")  # fields that differ where a run grows
PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "grain", "numpy", "pillow", "clu")


def keep_config(workdir: Path, config: RunConfig, resolved: dict[str, Any], leader: bool = True) -> None:
    """Writes config.json (the `leader` does), or checks that the one already there is the same.

    Raises UserError that lists the fields which differ.
    """
    path = workdir / CONFIG
    grows = False
    if (workdir / STUDY).exists():
        raise UserError(f"{workdir} holds a study of several runs ({STUDY}); choose another --workdir for this run")
    if path.exists():
        grows = refuse_difference(workdir, path, config, resolved)
    elif (workdir / SAVED).exists():
        raise UserError(
            f"{path} is gone, and {workdir / 'checkpoints'} holds the run that it tells of: restore it from a backup, "
            f"or remove {workdir} to start again"
        )
    if leader and grows:
        (workdir / RESULTS).unlink(missing_ok=True)  # first: killed here, the run counts as unfinished
    if leader:
        here = _from(workdir, config.init_from)
        saved = {"format": FORMAT, "config": as_json(config), "resolved": resolved, "init_from_here": here}
        write_json(path, saved)


def _from(workdir: Path, place: str) -> str:
    """`place` as seen from the run directory, which stays the same when both are moved; "" stays."""
    return os.path.relpath(Path(place).resolve(), workdir.resolve()) if place else ""


def refuse_difference(workdir: Path, path: Path, config: AnyConfig, resolved: dict[str, Any] | None = None) -> bool:
    """Raises UserError where the config saved in `path` is another; `resolved` None: not compared.

    Returns whether the run grows: it differs in its length alone, which is larger now, and the schedule of its learning
    rate does not depend on it.
    """
    saved = read_config(path)
    ours, theirs = flatten(as_json(config)), flatten(with_defaults(saved["config"]))
    if saved.get("init_from_here") and saved["init_from_here"] == _from(workdir, ours["init_from"]):
        theirs["init_from"] = ours["init_from"]  # both were moved
    if resolved is not None:
        ours |= flatten({"resolved": resolved})
        told = resolved | saved.get("resolved", {})  # what an older run does not tell is the same
        theirs |= flatten({"resolved": told})
    differing = difference(ours, theirs)
    why = ""
    if {line.partition(":")[0] for line in differing} & {"train.epochs", "train.steps"}:
        why = _cannot_grow(ours, theirs)
        others = [line for line in differing if line.partition(":")[0] not in LENGTH]
        if not why and not others:
            return True
    if differing:
        raise UserError(
            f"{workdir} holds a run with another config ({'; '.join(differing)}){why}; use the same config to resume "
            f"it, or another --workdir"
        )
    return False


def _cannot_grow(ours: dict[str, Any], theirs: dict[str, Any]) -> str:
    """Why a run cannot be trained on to another length, as the end of a sentence; "" where it can."""
    schedule = ours.get("optim.schedule")
    if schedule != "constant":
        return (
            f"; its length cannot change, since the {schedule} schedule gives each update a learning rate that depends "
            f"on the number of updates (a run with optim.schedule=constant can grow)"
        )
    name = "train.steps" if ours["train.steps"] and theirs["train.steps"] else "train.epochs"
    if bool(ours["train.steps"]) != bool(theirs["train.steps"]) or ours[name] <= theirs[name]:
        return f"; a run can only grow: set a larger {name}"
    return ""


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
