"""The saved steps of a run directory: which are complete, and reading parameters and config from one."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from mae_jax.checkpoints import digests
from mae_jax.config.fields import TASKS
from mae_jax.config.loading import with_defaults
from mae_jax.config.validation import validate
from mae_jax.models import Params
from mae_jax.rundir import contents
from mae_jax.runtime.disk import _first_line
from mae_jax.runtime.errors import UserError, printable

_ITEMS = ("params", "optimizer", "position", "config")
_STEP = "step.txt"  # so that a copy under another number is known for what it is


def unused(path: Path) -> Path:
    """`path`, or the first of path.1, path.2, ... that does not exist."""
    candidates = (path.with_name(f"{path.name}.{i}") for i in itertools.count(1))
    return path if not path.exists() else next(p for p in candidates if not p.exists())


def committed_steps(directory: Path, report: Callable[[str], None] = lambda line: None) -> list[int]:
    """Steps with all their parts, newest first; others are named through `report`."""
    steps = []
    for path in directory.glob("*"):
        if path.is_dir() and _numbered(path):
            missing = [n for n in (*_ITEMS, digests.DIGESTS) if not (path / n).exists()]
            written = _step_inside(path)
            if missing or path.name != str(int(path.name)) or written not in ("", path.name):
                why = f"{', '.join(missing)} missing" if missing else "not a number as we write it"
                why = f"it holds step {written}" if not missing and written not in ("", path.name) else why
                report(f"{path} is not a whole checkpoint ({why}); passed over")
            else:
                steps.append(int(path.name))
    return sorted(steps, reverse=True)


def _numbered(path: Path) -> bool:
    return path.name.isascii() and path.name.isdecimal()


def _step_inside(path: Path) -> str:
    """The step that a checkpoint says to be, whatever its name; "" where it does not say."""
    if (path / _STEP).exists() and not (path / _STEP).is_file():  # a pipe would be waited for
        return f"unknown ({_STEP} is no regular file)"
    try:
        return printable((path / _STEP).read_text(encoding="utf-8", errors="replace").strip()[:20]) or "unknown"
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"unknown ({error.strerror})"


def load_params(workdir: Path, like: Params, field: str) -> tuple[Params, int]:
    """The parameters of a run's newest checkpoint, and its step.

    `like` is the tree of `jax.ShapeDtypeStruct` with shardings. Raises UserError that names `field`.
    """
    directory = Path(workdir).absolute() / "checkpoints"
    steps = committed_steps(directory)
    if not steps:
        done = (Path(workdir) / contents.RESULTS).exists()
        why = f"says in {contents.RESULTS} that it is finished, but its checkpoints are gone" if done else ""
        raise UserError(
            f"{field}={workdir} {why or 'has no checkpoint'}; name the run directory of a finished pre-training"
        )
    path = directory / str(steps[0])
    wrong = digests.problem(path)
    if wrong:
        raise UserError(f"{field}: checkpoint {path} cannot be read: {wrong}; restore it from a backup")
    checkpointer = ocp.StandardCheckpointer()
    try:
        return checkpointer.restore(path / "params", like), steps[0]
    except Exception as error:
        raise UserError(f"{field}: checkpoint {path} cannot be read: {_first_line(error)}") from None
    finally:
        checkpointer.close()


def saved_config(workdir: Path, field: str) -> dict[str, Any]:
    """The config of a run directory. Raises UserError that names `field`."""
    path = Path(workdir) / contents.CONFIG
    if not path.is_file():
        raise UserError(
            f"{field}={workdir} is not a run directory (no {contents.CONFIG}); pre-train first, for example with "
            f"python -m mae_jax.main --config=configs/pretrain.py:exp=2 --workdir={workdir}"
        )
    saved = with_defaults(contents.read_config(path)["config"])
    if saved.get("task") in TASKS:  # a run of others may say anything there
        validate(ConfigDict(saved), f"{field}: {path}: ")
    return saved
