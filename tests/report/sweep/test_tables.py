"""The tables of a sweep: errors, effects of a visible weight, scores of classifiers."""

import csv

import numpy as np
import pytest

from mae_jax.report.sweep import tables
from mae_jax.report.sweep.page import write_sweep


def test_errors_are_means_over_the_images(written, directories, table):
    rows = table(written, "sweep.csv")
    assert len(rows) == 4 * 2
    row = next(r for r in rows if (r["mask_ratio"], r["visible_weight"], r["evaluated_at"]) == ("0.25", "1", "0.75"))
    expected = np.random.default_rng(3).uniform(0.5, 1.5, 40).mean()
    assert float(row["removed_normalised"]) == pytest.approx(expected * 1.5 * 1.05 * 0.75, rel=1e-6)
    assert float(row["visible_normalised"]) == pytest.approx(expected * 0.75 * 0.3, rel=1e-6)
    assert (
        float(row["removed_normalised_low"]) < float(row["removed_normalised"]) < float(row["removed_normalised_high"])
    )


def test_the_effect_of_the_weight_is_paired(written, table):
    rows = table(written, "effects.csv")
    assert len(rows) == 2 * 2 * 4 and tuple(rows[0]) == tables.EFFECTS
    for row in rows:
        seen = row["error"].startswith("visible")
        expected = -0.7 if seen else 0.05
        # The same images on both sides: an exact factor has an interval without width.
        for key in ("change", "low", "high"):
            assert float(row[key]) == pytest.approx(expected, abs=1e-5)
        assert row["verdict"] == ("lower" if seen else "higher")


def test_classifiers_are_listed_under_their_network(written, table):
    rows = table(written, "classifiers.csv")
    assert [r["init"] for r in rows] == [
        "scratch", "25 %, weight 0", "75 %, weight 0", "25 %, weight 1", "75 %, weight 1"
    ]  # fmt: skip
    assert all(r["seeds"] == "2" for r in rows) and rows[0]["difference"] == ""
    for row in rows[1:]:
        gain = float(row["accuracy"]) - float(rows[0]["accuracy"])
        assert float(row["difference"]) == pytest.approx(gain, abs=1e-9)
        assert float(row["holm_p"]) >= float(row["p"])


def test_a_zero_where_a_share_would_be_taken_of_it(tmp_path, write_network):
    networks = [write_network(tmp_path / f"w{weight}", 0.5, weight) for weight in (0, 1)]
    for network in networks:
        lines = (network / "reconstructions.csv").read_text().splitlines()
        at = lines[0].split(",").index("visible_pixel")
        cells = [line.split(",") for line in lines[1:]]
        text = [",".join([*row[:at], "0", *row[at + 1 :]]) for row in cells]
        (network / "reconstructions.csv").write_text("\n".join([lines[0], *text]) + "\n")
    write_sweep(networks, tmp_path / "out")
    with open(tmp_path / "out" / "effects.csv", newline="") as file:
        assert "visible_pixel" not in {row["error"] for row in csv.DictReader(file)}
