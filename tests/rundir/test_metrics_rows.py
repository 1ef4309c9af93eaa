"""The rows of metrics.jsonl: read, damaged ones counted, and those that a resumed run writes again dropped."""

import json

import pytest

from mae_jax.rundir import contents, metrics_rows
from mae_jax.runtime.errors import UserError


def write(path, rows) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_short_log_is_read_whole_and_other_lines_are_counted(tmp_path):
    path = tmp_path / contents.METRICS
    assert metrics_rows.read_thinned(path) == ((), 0)
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "val/loss": 1.0}, {"step": 2, "loss": 1.5}]
    write(path, rows)
    with path.open("ab") as file:
        file.write(b'[1]\n\n\xff{\n{"step": 3, "loss": 1.0}\n{"ste')
    assert metrics_rows.read_thinned(path) == ((*rows, {"step": 3, "loss": 1.0}), 3)


@pytest.mark.parametrize("n", [metrics_rows.MOST_ROWS, metrics_rows.MOST_ROWS + 1, 5 * metrics_rows.MOST_ROWS + 7])
def test_of_a_long_log_evenly_spaced_rows_the_last_and_every_rare_row_are_kept(tmp_path, n):
    path = tmp_path / contents.METRICS
    write(path, [{"step": i} | ({"val/loss": 1.0} if i % 1000 == 7 else {}) for i in range(n)])
    rows, broken = metrics_rows.read_thinned(path)
    steps = [row["step"] for row in rows if "val/loss" not in row]
    assert broken == 0 and [row["step"] for row in rows] == sorted(row["step"] for row in rows)
    assert steps[0] == 0 and steps[-1] == n - 1
    assert metrics_rows.MOST_ROWS / 2 <= len(steps) <= metrics_rows.MOST_ROWS + 1
    assert [row["step"] for row in rows if "val/loss" in row] == list(range(7, n, 1000))


@pytest.mark.parametrize("evaluated", [True, False])
def test_rows_that_a_resumed_run_writes_again_are_dropped(tmp_path, evaluated):
    """Of the step of its checkpoint: the reduction of the rate, and the evaluation if it is still due."""
    rows = [
        {"step": 5, "rate_factor": 0.5},
        {"step": 8, "train/loss": 2.0, "learning_rate": 0.1},
        {"step": 8, "val/loss": 1.0},
        {"step": 8, "rate_factor": 0.25},
        {"step": 9, "train/loss": 1.0, "learning_rate": 0.1},
    ]
    file = tmp_path / contents.METRICS
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics_rows.truncate(file, 8, evaluated)
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert kept == rows[: 3 if evaluated else 2]


@pytest.mark.parametrize("damage", [b"\xb3", b"\0", b"[" * 100_000], ids=["flipped", "zeros", "deep"])
def test_only_the_damaged_row_of_metrics_is_dropped(tmp_path, damage):
    path = tmp_path / contents.METRICS
    rows = [b'{"step": %d}\n' % step for step in (1, 2, 3, 4)]
    path.write_bytes(rows[0] + damage + rows[1] + b"".join(rows[2:]))
    metrics_rows.truncate(path, 3)
    assert path.read_bytes() == rows[0] + rows[2]


def test_damaged_rows_are_counted_but_not_the_last_one(tmp_path):
    path = tmp_path / contents.METRICS
    assert metrics_rows.broken_rows(path) == ""
    path.write_bytes(b'{"step": 1}\n{"st\n{"epoch": 1}\n{"step": "2"}\n[1]\n{"step": 3}\n{"ste')
    assert metrics_rows.broken_rows(path) == "4 rows that cannot be read"
    path.write_bytes(b'{"step": 1}\n{"step": 2')
    assert metrics_rows.broken_rows(path) == ""
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="is not a regular file; restore it, or remove it"):
        metrics_rows.truncate(path, 1)
