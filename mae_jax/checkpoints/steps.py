"""The saved steps of a run directory: finding the complete ones, and reading parameters and config."""

import itertools
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mae_jax.checkpoints import digests
from mae_jax.models import Params
from mae_jax.rundir import contents
from mae_jax.runtime.disk import disk_line, entries, exists, first_line, is_dir, os_error, read_text
from mae_jax.runtime.errors import UserError, printable

_ITEMS = ("params", "optimizer", "position", "config")
NO_OPTIMIZER = digests.NO_OPTIMIZER
_STEP = "step.txt"  # identifies a copy under another number


def unused(path: Path) -> Path:
    """`path`, or the first of path.1, path.2, ... that does not exist."""
    candidates = (path.with_name(f"{path.name}.{i}") for i in itertools.count(1))
    return path if not exists(path) else next(p for p in candidates if not exists(p))


def committed_steps(directory: Path, log: Callable[[str], None] = lambda line: None) -> list[int]:
    """The complete steps, newest first; incomplete ones are logged.

    Raises OSError if the storage fails, because an unreadable step is not an incomplete one.
    """
    return examined(directory, log)[0]


def examined(directory: Path, log: Callable[[str], None]) -> tuple[list[int], list[Path]]:
    """The complete steps, newest first, and the other paths with a number for a name; incomplete steps are logged.

    Raises OSError.
    """
    steps, others = [], []
    for path in filter(_numbered, entries(directory)):
        if not is_dir(path):
            others.append(path)
        else:
            needed = [n for n in (*_ITEMS, digests.DIGESTS) if n != "optimizer" or not exists(path / NO_OPTIMIZER)]
            missing = [n for n in needed if not exists(path / n)]
            written = _step_inside(path)
            if missing or path.name != str(int(path.name)) or written not in ("", path.name):
                others.append(path)
                why = f"{', '.join(missing)} missing" if missing else "its name is not a plain number"
                why = f"it holds step {written}" if not missing and written not in ("", path.name) else why
                log(f"{path} is not a complete checkpoint ({why}); skipped")
            else:
                steps.append(int(path.name))
    return sorted(steps, reverse=True), others


def refuse_cleaned(step: Path) -> None:
    """Raises UserError for a checkpoint whose optimizer state was deleted, because it cannot be trained further."""
    run = step.parent.parent
    if exists(step / NO_OPTIMIZER):
        raise UserError(
            f"{run} cannot be resumed, because `mae-jax runs --clean` or a study (checkpoint.keep_optimizer=False) "
            f"deleted its optimizer state; reports, exports and predictions still work. To train further, start a new "
            f"run with init=mae and init_from={run}"
        )


def _numbered(path: Path) -> bool:
    return path.name.isascii() and path.name.isdecimal()


def _step_inside(path: Path) -> str:
    """The step recorded inside a checkpoint, whatever its name; "" if none is recorded."""
    try:
        if not stat.S_ISREG((path / _STEP).stat().st_mode):  # opening a FIFO would block
            return f"unknown ({_STEP} is not a regular file)"
        return printable(read_text(path / _STEP, errors="replace").strip()[:20]) or "unknown"
    except FileNotFoundError:
        return ""


def load_params(workdir: Path, like: Params, field: str) -> tuple[Params, int]:
    """The parameters and the step of a run's newest checkpoint.

    `like` is a tree of `jax.ShapeDtypeStruct` with shardings. Raises UserError that names `field`, and OSError if the
    storage fails.
    """
    directory = Path(workdir).absolute() / "checkpoints"
    steps = committed_steps(directory)
    if not steps:
        done = exists(Path(workdir) / contents.RESULTS)
        why = f"has {contents.RESULTS}, but its checkpoints are missing" if done else ""
        raise UserError(
            f"{field}={workdir} {why or 'has no checkpoint'}; name the run directory of a finished pre-training"
        )
    path = directory / str(steps[0])
    # A Checkpointer would look for the metadata of a whole checkpoint in `params`, and warn that there is none.
    handler = ocp.StandardCheckpointHandler()
    try:
        wrong = digests.problem(path)
        if wrong:
            raise UserError(f"{field}: checkpoint {path} is damaged: {wrong}; restore it from a backup")
        wrong = differing_leaf(path / "params", like)
        if wrong:
            raise UserError(f"{field}: checkpoint {path} does not fit its config.json: {wrong}")
        params = path / "params"  # Orbax's stub wants the Path of etils, which has the same methods
        restored = handler.restore(params, args=ocp.args.StandardRestore(like))  # pyright: ignore[reportArgumentType]
        return restored, steps[0]
    except UserError:
        raise
    except Exception as error:  # Orbax raises many types
        fault = os_error(error)
        raise UserError(f"{field}: checkpoint {path} cannot be read: {in_one_line(fault or error)}") from None
    finally:
        handler.close()


def in_one_line(error: BaseException) -> str:
    """An error as one line; a storage error with its path and advice."""
    return disk_line(error) if isinstance(error, OSError) and error.errno else first_line(error)


def differing_leaf(directory: Path, like: Any) -> str:
    """Describes the first leaf in `directory` whose name, shape or dtype differs from `like`; "" if none does.

    `like` is a tree of `jax.ShapeDtypeStruct`. This check is needed because Orbax silently casts other dtypes. Raises
    the exceptions of Orbax.
    """
    handler = ocp.StandardCheckpointHandler()
    try:
        saved = handler.metadata(directory)  # pyright: ignore[reportArgumentType]  # see load_params
    finally:
        handler.close()
    stored = {leaf.name: leaf for leaf in jax.tree.leaves(getattr(saved, "tree", saved)) if hasattr(leaf, "dtype")}
    wanted = {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_flatten_with_path(like)[0]
    }
    return difference(stored, wanted, directory.name)


def difference(stored: Mapping[str, Any], wanted: Mapping[str, Any], where: str) -> str:
    """Describes the first leaf in `stored` whose name, shape or dtype is not that in `wanted`; "" if none differs.

    Both hold arrays, or what has their shape and dtype, by name. `where` is what holds `stored`, in words.
    """
    for name in sorted(wanted.keys() | stored.keys()):
        if name not in stored:
            return f"{where} has no {name}"
        if name not in wanted:
            return f"{where} has {name}, which the network does not have"
        theirs, ours = stored[name], wanted[name]
        if tuple(theirs.shape) != tuple(ours.shape):
            return f"{where}: {name} has the shape {tuple(theirs.shape)} instead of {tuple(ours.shape)}"
        if theirs.dtype != ours.dtype:
            return f"{where}: {name} is {theirs.dtype} instead of {ours.dtype}"
    return ""
