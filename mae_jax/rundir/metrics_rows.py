"""The rows of metrics.jsonl: reads them, counts damaged ones, and drops those that a resumed run writes again.

`metrics_log` appends rows. Nothing here needs JAX, so that the report can read them.
"""

import json
from pathlib import Path

from mae_jax.runtime.disk import exists, is_file, naming, read_bytes, read_text
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.files import replacing
from mae_jax.runtime.text import count

MOST_ROWS = 2_000  # maximum number of rows with the same fields that `read_thinned` keeps


def read_thinned(file: Path) -> tuple[tuple[dict, ...], int]:
    """The rows of metrics.jsonl that are JSON objects, thinned, and the number of lines that are not.

    Of the rows with the same fields, 1,000 to 2,000 evenly spaced ones and the last are kept, so that even a long log
    takes little memory.
    """
    if not is_file(file):
        return (), 0
    kinds: dict[frozenset[str], _Thinned] = {}
    broken = 0
    with naming(file), file.open(encoding="utf-8", errors="replace") as stream:
        for number, text in enumerate(stream):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                line = None
            if isinstance(line, dict):
                kinds.setdefault(frozenset(line), _Thinned()).add(number, line)
            elif text.strip():
                broken += 1
    kept = sorted((pair for kind in kinds.values() for pair in kind.kept()), key=lambda pair: pair[0])
    return tuple(line for _, line in kept), broken


class _Thinned:
    """Evenly spaced items of a stream: every `stride`-th item and the last. `stride` doubles if there are too many."""

    def __init__(self) -> None:
        self.stride, self.count = 1, 0
        self.pairs: list[tuple[int, dict]] = []
        self.last: tuple[int, dict] | None = None

    def add(self, number: int, line: dict) -> None:
        self.last = (number, line)
        if self.count % self.stride == 0:
            self.pairs.append(self.last)
            if len(self.pairs) > MOST_ROWS:
                self.pairs, self.stride = self.pairs[::2], 2 * self.stride
        self.count += 1

    def kept(self) -> list[tuple[int, dict]]:
        ends = [self.last] if self.last and (not self.pairs or self.pairs[-1][0] != self.last[0]) else []
        return [*self.pairs, *ends]


def broken_rows(path: Path) -> str:
    """How many rows of metrics.jsonl are damaged, in words, or "". The last row is ignored: a kill may cut it off."""
    if not is_file(path):
        return ""
    broken = 0
    for text in read_bytes(path).split(b"\n")[:-1]:
        try:
            broken += not isinstance(json.loads(text)["step"], int)
        except (ValueError, KeyError, TypeError, RecursionError):
            broken += 1
    return f"{count(broken, 'row')} that cannot be read" if broken else ""


def truncate(path: Path, step: int, evaluated: bool = True) -> None:
    """Drops the rows that a resumed run writes again: those after `step`, and reductions of the rate at `step`.

    Unless `evaluated`, also drops the evaluation row of `step`. Raises UserError and OSError.
    """
    if not exists(path):
        return
    if not is_file(path):
        raise UserError(f"{path} is not a regular file; restore it, or remove it: the run continues without its rows")
    kept = []
    for text in read_text(path, errors="replace").splitlines():
        try:
            row = json.loads(text)
            again = "rate_factor" in row or not (evaluated or "learning_rate" in row)
            if row["step"] < step or (row["step"] == step and not again):
                kept.append(text + "\n")
        except (ValueError, KeyError, TypeError, RecursionError):
            continue  # a kill may cut off the last row
    with replacing(path) as file:
        file.writelines(kept)
