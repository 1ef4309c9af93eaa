"""Checkpoints with Orbax: parameters, optimiser state, data position. Saved in the background.

A step counts only when Orbax has committed it. Orbax's `latest_step` also names directories that are
not whole, so the newest step that restores is looked for here.
"""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mae_jax import rundir
from mae_jax.config import defaults
from mae_jax.errors import UserError
from mae_jax.models import Params
from mae_jax.state import TrainState

_ITEMS = ("params", "optimizer", "position", "config")


class Checkpoints:
    """The checkpoints of one run directory."""

    def __init__(self, workdir: Path, keep: int, config: dict[str, Any], report: Callable[[str], None]):
        """`keep`: how many of the newest steps stay. What is no whole step is put aside and reported."""
        self.directory = Path(workdir).absolute() / "checkpoints"
        self.config, self.report = config, report
        # Orbax takes any directory with a number for a step, and saves none below the highest.
        whole = committed_steps(self.directory, report)
        for path in self.directory.glob("*"):
            if path.is_dir() and path.name.isdigit() and int(path.name) not in whole:
                self._put_aside(path)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def _put_aside(self, path: Path) -> None:
        if jax.process_index() == 0:
            path.rename(unused(path.with_name(f"{path.name}.damaged")))

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Starts saving `state` as `step`; `position` is any JSON value."""
        saved = self._manager.save(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                optimizer=ocp.args.StandardSave(state.opt_state),
                position=ocp.args.JsonSave(position),
                config=ocp.args.JsonSave(self.config),
            ),
        )
        if not saved:
            raise RuntimeError(f"Orbax did not save step {step} in {self.directory}")

    def restore(self, like: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest step that can be read, or None where nothing was ever saved.

        `like` gives shapes, types and placements (`state.abstract_state`). Damaged steps are reported and
        put aside. Raises UserError where steps exist and none can be read; then none is touched.
        """
        damaged = []
        for step in committed_steps(self.directory):
            try:
                found = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        params=ocp.args.StandardRestore(like.params),
                        optimizer=ocp.args.StandardRestore(like.opt_state),
                        position=ocp.args.JsonRestore(),
                    ),
                )
            except Exception as error:  # Orbax raises many kinds for a damaged step
                damaged.append(step)
                self.report(f"checkpoint {self.directory / str(step)} cannot be read: {_first_line(error)}")
                continue
            for bad in damaged:
                self._put_aside(self.directory / str(bad))
            self._manager.reload()
            count = jax.device_put(np.int32(step), like.step.sharding)
            return TrainState(count, found["params"], found["optimizer"]), found["position"]
        if damaged:
            raise UserError(
                f"none of the checkpoints {sorted(damaged)} in {self.directory} can be read; restore one from a "
                f"backup, or remove the directory to start again"
            )
        return None

    def wait(self) -> None:
        """Blocks until every save is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Finishes what is being saved."""
        self._manager.close()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def unused(path: Path) -> Path:
    """`path`, or the first of path.1, path.2, ... that does not exist."""
    candidates = (path.with_name(f"{path.name}.{i}") for i in itertools.count(1))
    return path if not path.exists() else next(p for p in candidates if not p.exists())


def committed_steps(directory: Path, report: Callable[[str], None] = lambda line: None) -> list[int]:
    """Steps with all their parts, newest first; others are named through `report`."""
    steps = []
    for path in directory.glob("*"):
        if path.is_dir() and path.name.isdigit():
            missing = [n for n in (*_ITEMS, "_CHECKPOINT_METADATA") if not (path / n).exists()]
            if missing:
                report(f"{path} is not a whole checkpoint ({', '.join(missing)} missing); passed over")
            else:
                steps.append(int(path.name))
    return sorted(steps, reverse=True)


def load_params(workdir: Path, like: Params, field: str) -> tuple[Params, int]:
    """The parameters of a run's newest checkpoint, and its step.

    `like` is the tree of `jax.ShapeDtypeStruct` with shardings. Raises UserError that names `field`.
    """
    directory = Path(workdir).absolute() / "checkpoints"
    steps = committed_steps(directory)
    if not steps:
        raise UserError(f"{field}={workdir} has no checkpoint; name the run directory of a finished pre-training")
    checkpointer = ocp.StandardCheckpointer()
    try:
        return checkpointer.restore(directory / str(steps[0]) / "params", like), steps[0]
    except Exception as error:
        raise UserError(
            f"{field}: checkpoint {directory / str(steps[0])} cannot be read: {_first_line(error)}"
        ) from None
    finally:
        checkpointer.close()


def saved_config(workdir: Path, field: str) -> dict[str, Any]:
    """The config of a run directory. Raises UserError that names `field`."""
    path = Path(workdir) / rundir.CONFIG
    if not path.is_file():
        raise UserError(
            f"{field}={workdir} is not a run directory (no {rundir.CONFIG}); pre-train first, for example with "
            f"python -m mae_jax.main --config=configs/pretrain.py:exp=2 --workdir={workdir}"
        )
    saved = rundir.read_config(path)["config"]
    if saved.get("task") in ("pretrain", "finetune"):  # a field added since: the run did what its default says
        for name, value in defaults(saved["task"]).to_dict().items():
            saved[name] = {**value, **saved.get(name, {})} if isinstance(value, dict) else saved.get(name, value)
    return saved
