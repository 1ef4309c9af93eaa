"""The return value of `mae_jax.main.run`: a dict of results with a readable repr."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae_jax.config.tasks import OF_SEVERAL_RUNS, in_words
from mae_jax.rundir import contents
from mae_jax.runtime.disk import is_file
from mae_jax.runtime.text import count

FILES = (contents.PREDICTIONS, contents.RECONSTRUCTIONS, "reconstructions.png", contents.METRICS, contents.RUN)


class Results(dict[str, Any]):
    """The content of results.json for one run, or {"rows": table, "report": directory} for a study or sweep."""

    def __init__(self, values: Mapping[str, Any], directory: Path, task: str, name: str = ""):
        """`values` are the results, `directory` has the files, `task` and `name` are those of the config."""
        super().__init__(values)
        self.directory, self.task, self.name = directory, task, name

    @property
    def is_single(self) -> bool:
        """Whether these are the results of one run, not of a study or sweep."""
        return self.task not in OF_SEVERAL_RUNS

    def __repr__(self) -> str:
        what = in_words(self.task)
        return "\n".join([f"{self.name or what} ({what})" if self.name else what, *self._scores(), *self._files()])

    __str__ = __repr__

    def _scores(self) -> list[str]:
        if not self.is_single:
            rows = self.get("rows", [])
            scores = [row["accuracy"] for row in rows if isinstance(row.get("accuracy"), float)]
            score_range = f"; test accuracy from {min(scores):.3f} to {max(scores):.3f}" if scores else ""
            return [f"  {count(len(rows), 'row')} in the table{score_range}"]
        lines = [f"  {summary(self)}"]
        if "majority_rate" in self:
            lines.append(f"  always predicting the most common class scores {self['majority_rate']:.3f}")
        return lines

    def _files(self) -> list[str]:
        if not self.is_single:
            return [f"  report: {Path(self['report']) / 'index.html'}"] if "report" in self else []
        files = [name for name in FILES if is_file(self.directory / name)]
        return [f"  files in {self.directory}: {', '.join(files)}"]


def summary(results: Mapping[str, Any]) -> str:
    """One line with the scores of a run, and whether it collapsed.

    A collapsed classifier predicts one class for all test images.
    """
    if "accuracy" not in results:
        if "val/loss" not in results:
            return "held-out error not known (no images were held out)"
        if "val/visible_loss" not in results:
            return f"held-out loss {results['val/loss']:.4f}"
        error, visible, spam = (results[f"val/{name}"] for name in ("loss", "visible_loss", "spam"))
        return (
            f"held-out error on removed patches {error:.4f}, on visible ones {visible:.4f}, patch repetition {spam:.2f}"
        )
    note = ", collapsed: one class predicted for all test images" if results["collapsed"] else ""
    return f"test accuracy {results['accuracy']:.3f}, macro F1 {results['f1']:.3f}{note}"
