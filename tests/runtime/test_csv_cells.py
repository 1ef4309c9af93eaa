import csv
import io

import numpy as np
import pytest

from mae_jax.rundir import predictions
from mae_jax.rundir.predictions import read_predictions
from mae_jax.runtime import csv_cells

NAMES = [
    "=cmd|' /C calc'!A0",
    "+1",
    "-1",
    "@SUM(A1)",
    "\tx",
    "'=q",
    "''=q",
    "'plain'",
    "plain",
    "",
    "＝1+1",
    "a=b",
    "é",
]


@pytest.mark.parametrize("name", NAMES)
def test_cells_are_not_formulas_and_read_back_unchanged(name):
    written = csv_cells.cell(name)
    assert not str(written).startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝"))
    stream = io.StringIO()
    csv.writer(stream).writerow([written])
    assert csv_cells.text(next(csv.reader(io.StringIO(stream.getvalue())), [""])[0]) == name
    assert csv_cells.cell(-1.5) == -1.5  # numbers are not escaped


def test_predictions_read_back_unchanged(tmp_path):
    classes = [name for name in NAMES if name.strip()]
    probabilities = np.eye(len(classes), dtype=np.float32)
    labels = np.arange(len(classes))
    predictions.write_predictions(tmp_path / "p.csv", classes, classes, labels, probabilities, classes)
    result, _ = read_predictions(tmp_path / "p.csv", classes)
    assert (result.labels == result.predictions).all() and sorted(result.labels.tolist()) == labels.tolist()
    rows = csv.reader(io.StringIO((tmp_path / "p.csv").read_text(encoding="utf-8")))
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "-", "@", "\t"))]
