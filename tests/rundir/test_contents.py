"""Names and rows of a run directory's files: the ratio of headlines, and the rows that a resumed run writes again."""

import json

import pytest

from mae_jax.rundir import contents
from mae_jax.rundir.metrics_log import truncate_metrics


@pytest.mark.parametrize(
    ("ratios", "chosen"), [((0.25, 0.5, 0.75, 0.9), 0.75), ((0.5, 0.9), 0.9), ((0.25, 0.4), 0.4), ((0.95,), 0.95)]
)
def test_headlines_are_at_the_ratio_nearest_to_three_quarters(ratios, chosen):
    assert contents.reference_ratio(ratios) == contents.reference_ratio(ratios[::-1]) == chosen


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
    truncate_metrics(file, 8, evaluated)
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert kept == rows[: 3 if evaluated else 2]
