"""Keeps the parameters of the epoch with the best validation score in `best/<step>.npz`.

Each checkpoint records which epoch is the best so far. An interrupted and resumed run therefore selects among the same
epochs as an uninterrupted one.
"""

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mae_jax.checkpoints import digests
from mae_jax.checkpoints.steps import difference
from mae_jax.models import Params
from mae_jax.models.params import map_paths
from mae_jax.runtime import disk, files, processes
from mae_jax.runtime.errors import UserError
from mae_jax.step import sharding

# The scores that `train.select` compares, with their signs. With few validation images, accuracies and F1 scores are
# often equal; then the lower loss decides.
SCORES = {
    "accuracy": (("val/accuracy", 1.0), ("val/loss", -1.0)),
    "macro_f1": (("val/f1", 1.0), ("val/loss", -1.0)),
    "loss": (("val/loss", -1.0),),
}
SCORES["best"] = SCORES["accuracy"]


def read(path: Path, like: Params) -> Params:
    """The parameters in `path` as host arrays; their names, shapes and dtypes must be those of `like`.

    The file is checked against its digest, which those of earlier versions do not have. Raises ValueError that says in
    one line what is damaged or different, and OSError if the storage fails.
    """
    if problem := digests.problem_of_file(path):
        raise ValueError(problem)
    saved = files.load_arrays(path)
    wanted: dict[str, Any] = {}
    map_paths(lambda name, leaf: wanted.setdefault(name, leaf), like)
    if wrong := difference(saved, wanted, "the file"):
        raise ValueError(wrong)
    if bad := next((name for name, array in saved.items() if not np.isfinite(array).all()), None):
        raise ValueError(f"{bad} has values that are not finite")
    return map_paths(lambda name, leaf: saved[name], like)


class BestEpoch:
    """Keeps the parameters of the best epoch so far of one run."""

    def __init__(self, workdir: Path, keep: int, select: str = "accuracy"):
        """`keep`: the number of checkpoints to keep; the epoch that was best at each of them is kept, too.

        `select`: a key of SCORES.
        """
        self.directory, self.keep, self.scores = workdir / "best", keep, SCORES[select]
        self.step, self.score = 0, [-math.inf] * len(self.scores)
        self.saved: list[int] = []  # the best epoch at each of the last checkpoints

    def offer(self, step: int, values: dict[str, float], params: Params) -> None:
        """Keeps `params` if this is the best finite validation score so far. Raises OSError."""
        score = [sign * values.get(name, math.nan) for name, sign in self.scores]
        if not all(map(math.isfinite, score)) or score <= self.score:
            return
        flat: dict[str, np.ndarray] = {}
        map_paths(lambda path, leaf: flat.setdefault(path, sharding.to_host(leaf)), params)
        if jax.process_index() == 0:
            self.directory.mkdir(exist_ok=True)
            digests.path_of_file(self._file(step)).unlink(missing_ok=True)  # that of a file which is replaced
            files.save_arrays(self._file(step), flat)
            digests.write_file(self._file(step))
        self.step, self.score = step, score
        self._forget({step, *self.saved})

    def position(self) -> dict[str, Any] | None:
        """The best epoch so far, for the checkpoint that is about to be written; None if there is none yet."""
        self.saved = [*self.saved, self.step][-self.keep - 2 :]
        return {"step": self.step, "score": self.score} if self.step else None

    def resume(self, saved: dict[str, Any] | None) -> None:
        """Resumes from a `position` and removes later epochs. Raises UserError if the file is missing."""
        if saved is not None:
            self.step, self.score = saved["step"], saved["score"]
            if not disk.is_file(self._file(self.step)):
                raise UserError(
                    f"{self._file(self.step)} is missing: it holds the best epoch so far; restore it, or remove "
                    f"{self.directory.parent} to start again"
                )
        # Earlier epochs may be the best ones of earlier checkpoints.
        self.saved = sorted(step for step in self._steps() if step <= self.step)
        self._forget({self.step, *self.saved})

    def load(self, like: Params) -> Params:
        """The parameters of the best epoch, sharded like `like`. Raises UserError for a damaged file, and OSError."""
        self._forget({self.step})
        processes.any_process(False)  # wait for the process that writes
        path = self._file(self.step)
        try:
            saved = read(path, like)
        except ValueError as error:
            raise UserError(
                f"{path} cannot be read ({error}); restore it from a backup, or remove {self.directory.parent} "
                f"to start again"
            ) from None
        return jax.tree.map(lambda array, leaf: jax.device_put(array, leaf.sharding), saved, like)

    def _file(self, step: int) -> Path:
        return self.directory / f"{step}.npz"

    def _steps(self) -> list[int]:
        stems = [path.stem for path in disk.entries(self.directory) if path.suffix == ".npz"]
        return [int(stem) for stem in stems if stem.isascii() and stem.isdecimal()]

    def _forget(self, but: set[int]) -> None:
        if jax.process_index() == 0:
            for step in set(self._steps()) - but:
                self._file(step).unlink(missing_ok=True)
                digests.path_of_file(self._file(step)).unlink(missing_ok=True)
