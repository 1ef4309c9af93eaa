"""Checkpoints with Orbax: parameters, optimizer state, data position and config, saved in the background.

A step is written to `N.saving`, gets the digests of its files, and is then renamed to `N`, so a directory whose name
is a number is complete. Incomplete ones are put aside and logged. Every step is checked before it is restored.
"""

import contextlib
import copy
import math
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from mae_jax.checkpoints import digests
from mae_jax.checkpoints.steps import (
    _ITEMS,
    _STEP,
    NO_OPTIMIZER,
    committed_steps,
    differing_leaf,
    examined,
    in_one_line,
    refuse_cleaned,
    unused,
)
from mae_jax.rundir import contents, metrics_rows
from mae_jax.runtime import files, peers, processes
from mae_jax.runtime.disk import disk_line, entries, exists, is_dir, is_file, naming, not_saved, os_error
from mae_jax.runtime.errors import StorageError, UserError
from mae_jax.step.state import TrainState


class Checkpoints:
    """The checkpoints of one run directory. Its context manager finishes a save in progress on exit."""

    def __init__(self, workdir: Path, keep: int, config: dict[str, Any], log: Callable[[str], None]):
        """`keep`: number of newest steps to keep. Incomplete steps are put aside and logged.

        Raises StorageError if the directory cannot be written, and UserError if it is missing from a run that had one.
        """
        self.directory = Path(workdir).absolute() / "checkpoints"
        self.keep, self.config, self.log = keep, config, log
        self._leader = jax.process_index() == 0
        self._marker = self.directory.parent / contents.SAVED  # exists once a step was saved, see `contents.SAVED`
        self._thread: threading.Thread | None = None
        self._failed: BaseException | None = None
        self._any_saved = False  # whether a step was saved or restored by this object
        self.proven = -1  # the newest step whose next update was finite; it is never rotated away
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())
        wrong = None
        try:
            if self._leader:
                self._tidy()
        except OSError as error:
            wrong = StorageError(disk_line(error))
        except UserError as error:
            wrong = error
        if processes.any_process(wrong is not None):
            raise wrong or StorageError(f"{self.directory} cannot be used; the first process says why")

    def _tidy(self) -> None:
        metrics = self.directory.parent / contents.METRICS
        if not exists(self.directory) and exists(metrics) and metrics.stat().st_size:
            raise UserError(
                f"{self.directory} is missing, but {metrics} has rows of earlier updates: restore it from a backup, "
                f"or remove {self.directory.parent} to start again"
            )
        self.directory.mkdir(parents=True, exist_ok=True)
        complete, incomplete = examined(self.directory, self.log)
        every_steps = self.config.get("config", {}).get("log", {}).get("every_steps", math.inf)
        if complete and not exists(metrics) and exists(self.directory.parent / contents.CONFIG):
            self.log(f"{metrics} is missing: its rows up to step {complete[0]} are lost, but the run continues")
        elif complete and complete[0] >= every_steps and is_file(metrics) and not metrics.stat().st_size:
            self.log(f"{metrics} is empty: its rows up to step {complete[0]} are lost, but the run continues")
        elif complete and (broken := metrics_rows.broken_rows(metrics)):
            self.log(f"{metrics} has {broken} (up to step {complete[0]}): their values are lost, but the run continues")
        for path in incomplete:
            if not is_dir(path):
                self.log(f"{path} is a file, not a checkpoint; put aside")
            self._put_aside(path)
        for path in entries(self.directory):
            if ".saving" in path.name:  # left by an interrupted save
                shutil.rmtree(path) if is_dir(path) else path.unlink()
        probe = self.directory / "writable.saving"
        with naming(probe), open(probe, "wb") as file:  # fail here rather than after compilation
            file.write(b"\0")
        os.remove(probe)

    def _put_aside(self, path: Path) -> None:
        if self._leader:
            ours = any(exists(path / name) for name in (*_ITEMS, digests.DIGESTS))
            path.rename(unused(path.with_name(f"{path.name}.{'damaged' if ours else 'stray'}")))

    def save(self, step: int, state: TrainState, position: dict[str, Any]) -> None:
        """Starts saving `state` as `step`; `position` is any JSON value.

        Raises StorageError if this or the previous save could not be written; earlier steps are kept.
        """
        self.wait()
        if self._leader and (removed := self._removed()):
            raise removed  # Orbax would create the directory again, without the other files of the run
        partial = self.directory / f"{step}.saving"
        try:
            self._orbax.save(
                partial,
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),
                    optimizer=ocp.args.StandardSave(state.opt_state),
                    position=ocp.args.JsonSave(copy.deepcopy(position)),  # written later, while the run continues
                    config=ocp.args.JsonSave(self.config),
                ),
            )
        except Exception as error:
            raise self._not_saved(partial, error) from error
        self._thread = threading.Thread(target=self._commit, args=(partial, step), name="commit")
        self._thread.start()

    def _commit(self, partial: Path, step: int) -> None:
        """Finishes a save in its own thread: writes digests, renames the step, and rotates older steps."""
        try:
            self._orbax.wait_until_finished()  # until all processes have written
            if self._leader:
                files.write(partial / _STEP, f"{step}\n")
                digests.write(partial)
                complete = self.directory / str(step)
                os.replace(partial, complete)
                digests.sync_directory(self.directory)
                self._marker.touch()
                self._any_saved = True
                self.rotate()
        except BaseException as error:
            self._failed = error

    def rotate(self) -> None:
        """Removes old steps, except the `keep` newest and the newest proven one."""
        steps = committed_steps(self.directory)
        proven = next((step for step in steps if step <= self.proven), None)
        for old in steps[self.keep :]:
            if old != proven and self._leader:
                self._remove(old)

    def _remove(self, step: int) -> None:
        """Renames the step first, so that an interrupted removal does not look like an incomplete step."""
        path = self.directory / str(step)
        aside = path.rename(path.with_name(f"{step}.saving-removed"))
        shutil.rmtree(aside)

    def steps(self) -> list[int]:
        """The saved steps, newest first."""
        return committed_steps(self.directory)

    def drop(self, first: int) -> None:
        """Removes step `first` and all later ones."""
        processes.any_process(False)  # wait for processes that still read
        if self._leader and all(step >= first for step in self.steps()):
            self._marker.unlink(missing_ok=True)  # the run may start again
            self._any_saved = False
        for step in self.steps() if self._leader else []:
            if step >= first:
                self._remove(step)
        processes.any_process(False)  # wait for the leader
        self.proven = min(self.proven, first - 1)

    def check(self) -> None:
        """Raises StorageError if the background save has failed."""
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise self._not_saved(self.directory, failed) from failed

    def _not_saved(self, path: Path, error: BaseException) -> BaseException:
        """Returns the error to raise, and removes the incomplete save to free its space."""
        fault = os_error(error)
        try:
            removed = self._removed()
        except OSError:  # the storage fails, which `error` already says
            removed = None
        shown = removed or (not_saved(path, fault) if fault else error)
        self._remove_partial()
        return shown

    def _removed(self) -> StorageError | None:
        """The error to raise if saved steps have disappeared; None if they have not."""
        if not self._any_saved or (exists(self._marker) and self.steps()):
            return None
        return StorageError(
            f"{self.directory} was removed or emptied during the run; restore it from a backup, or remove "
            f"{self.directory.parent} to start again"
        )

    def _remove_partial(self) -> None:
        """Removes a failed save, repeatedly, because threads of Orbax keep writing for a moment."""
        for _ in range(40 if self._leader else 0):
            for left in self._partial():
                shutil.rmtree(left, ignore_errors=True)
            time.sleep(0.05)
            if not self._partial():
                return

    def _partial(self) -> list[Path]:
        """What an unfinished save has left; nothing if that cannot be listed."""
        with contextlib.suppress(OSError):
            return [path for path in entries(self.directory) if ".saving" in path.name]
        return []

    def restore(self, like: TrainState, last: int = -1) -> tuple[TrainState, dict[str, Any]] | None:
        """The newest undamaged step as (state, position), or None if nothing was ever saved.

        `like` gives shapes, dtypes and shardings (`state.abstract_state`). A step without its optimizer state is used
        only if it is the step `last`, which no update follows; its optimizer state is zeros. Steps whose bytes differ
        from their digests are logged and put aside. Raises UserError, and changes nothing, if a step cannot be read,
        does not fit `like`, or if all steps are damaged.
        """
        damaged = []
        for step in committed_steps(self.directory):
            path = self.directory / str(step)
            if step != last:
                refuse_cleaned(path)
            wrong, refused = "", None
            try:
                wrong = digests.problem(path) if self._leader else ""
            except OSError as error:
                refused = error
            if processes.any_process(bool(wrong)):
                damaged.append(step)
                self.log(f"checkpoint {path} is damaged: {wrong or 'see the message of the first process'}")
                continue
            restored = None
            if not processes.any_process(refused is not None):
                restored, refused = self._read(path, like)
            if processes.any_process(restored is None):
                why = in_one_line(refused) if refused else "see the message of the other process"
                raise UserError(f"checkpoint {path} cannot be read: {why}. Nothing was changed")
            assert restored is not None  # else this process was refused above
            for bad in damaged:
                self._put_aside(self.directory / str(bad))
            self._any_saved = exists(self._marker)
            count = jax.device_put(np.int32(step), like.step.sharding)
            return TrainState(count, restored["params"], restored["optimizer"]), restored["position"]
        if damaged:
            raise UserError(
                f"none of the checkpoints {sorted(damaged)} in {self.directory} can be read; restore one from a "
                f"backup, or remove the directory to start again"
            )
        aside = [path.name for path in entries(self.directory) if ".damaged" in path.name]
        if aside:
            raise UserError(
                f"{self.directory} has no complete checkpoint, only {', '.join(aside)}; restore one from a backup, or "
                f"remove the directory to start again"
            )
        if exists(self._marker):
            raise UserError(
                f"{self.directory} has no complete checkpoint, but there was one: restore it from a backup, or remove "
                f"{self.directory.parent} to start again"
            )
        return None

    def _read(self, path: Path, like: TrainState) -> tuple[Any, BaseException | None]:
        """The content of an undamaged step, or None and the reason why it cannot be used."""
        try:
            cleaned = exists(path / NO_OPTIMIZER)
            trees = {"params": like.params} | ({} if cleaned else {"optimizer": like.opt_state})
            for name, tree in trees.items():
                if wrong := differing_leaf(path / name, tree):
                    return None, UserError(wrong)
            items = {name: ocp.args.StandardRestore(tree) for name, tree in trees.items()}
            restored = self._orbax.restore(path, args=ocp.args.Composite(**items, position=ocp.args.JsonRestore()))
            if cleaned:
                zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype, device=s.sharding), like.opt_state)
                return {"params": restored["params"], "optimizer": zeros, "position": restored["position"]}, None
            return restored, None
        except Exception as error:  # Orbax raises many types
            return None, os_error(error) or error

    def wait(self) -> None:
        """Blocks until every save is on disk. Raises StorageError if one could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            failed = processes.any_process(self._failed is not None)
            self.check()
            if failed:
                raise StorageError(f"another process could not save in {self.directory}; its message says why")

    def __enter__(self) -> "Checkpoints":
        self._hook, sys.unraisablehook = sys.unraisablehook, self._heard
        peers.last_step = lambda: next(iter(self.steps()), None)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: Any) -> None:
        """Finishes a save in progress; an exception that is already raised takes precedence."""
        try:
            if self._thread is not None:
                self._thread.join()
            if error is None:
                self.wait()
            self._orbax.close()
        except Exception as late:
            if error is None:
                raise
            self._failed = self._failed or late
        finally:
            if error is not None:
                self._remove_partial()
            sys.unraisablehook = self._hook
        if error is not None and self._failed is not None:
            self.log(f"the last checkpoint could not be saved: {in_one_line(os_error(self._failed) or self._failed)}")

    def _heard(self, what: Any) -> None:
        """Ignores what tensorstore threads raise after a failed save."""
        if str(what.exc_value) != "Event loop is closed":
            self._hook(what)
