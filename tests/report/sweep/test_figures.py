"""The figures of a sweep and their numbers."""

import pytest

from mae_jax.report import panels
from mae_jax.report.sweep import figures, tables


def test_curves_of_pretraining_are_drawn(written, table):
    rows = table(written, "figures/training.csv")
    assert len(rows) == 4 * 3 * 3
    assert {(r["metric"], r["epoch"], r["value"]) for r in rows} >= {("visible_loss", "4", "0.5"), ("spam", "1", "0.1")}


@pytest.fixture(scope="module")
def rows(sweep):
    return tables.error_rows(sweep)


def test_a_point_of_the_tradeoff_is_a_network_at_one_ratio(sweep, rows):
    with panels.style():
        figure, result = figures.tradeoff(sweep, rows, "normalised")
    assert [ax.get_title("left") for ax in figure.axes] == ["50 % removed in evaluation", "75 % removed in evaluation"]
    assert len(result) == 8
    for point in result:
        key = ("evaluated_at", "visible_weight", "mask_ratio")
        (row,) = [row for row in rows if all(row[k] == point[k] for k in key)]
        assert (point["removed"], point["visible"]) == (row["removed_normalised"], row["visible_normalised"])
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert texts == {"25", "75"}
    _, pixels = figures.tradeoff(sweep, rows, "pixel")
    (row,) = [r for r in rows if (r["evaluated_at"], r["visible_weight"], r["mask_ratio"]) == (0.5, 0, 0.25)]
    (point,) = [p for p in pixels if (p["evaluated_at"], p["visible_weight"], p["mask_ratio"]) == (0.5, 0, 0.25)]
    assert point["removed"] == pytest.approx(255 * row["removed_pixel"] ** 0.5)  # gray levels


def test_errors_and_spam_are_those_at_the_reference_ratio(sweep, rows):
    _, result = figures.errors(sweep, rows)
    assert len(result) == 4 * 4
    by = {(p["column"], p["mask_ratio"], p["visible_weight"]): p for p in result}
    (row,) = [r for r in rows if (r["evaluated_at"], r["visible_weight"], r["mask_ratio"]) == (0.75, 1, 0.25)]
    point = by["removed_normalised", 0.25, 1]
    assert [point[k] for k in ("low", "value", "high")] == pytest.approx(
        [row[f"removed_normalised{end}"] for end in ("_low", "", "_high")]
    )
    figure, spam = figures.spam(sweep, rows)
    assert sorted({round(p["value"], 6) for p in spam}) == [0.2, 0.3] and figure.axes[0].get_ylim() == (0, 1)


def test_accuracies_are_in_percent_next_to_scratch(sweep):
    classifiers = tables.classifier_rows(sweep)
    figure, result = figures.accuracies(sweep, classifiers)
    assert len(result) == 5 and result[-1]["mask_ratio"] is None
    assert result[-1]["value"] == pytest.approx(100 * classifiers[0]["accuracy"])
    values = {(p["mask_ratio"], p["visible_weight"]): p["value"] for p in result}
    for row in classifiers[1:]:
        assert values[row["mask_ratio"], row["visible_weight"]] == pytest.approx(100 * row["accuracy"])
    lines = [line.get_ydata()[0] for line in figure.axes[0].get_lines() if line.get_linestyle() == ":"]
    assert lines == [pytest.approx(100 * classifiers[0]["majority_rate"])]
    assert "from scratch" in [text.get_text() for text in figure.legends[0].get_texts()]
    _, alone = figures.accuracies(sweep, classifiers[1:])
    assert len(alone) == 4


def test_every_figure_has_a_kind_and_weights_have_looks_of_their_own(sweep, rows):
    names = ["tradeoff_normalised", "tradeoff_pixel", "errors", "spam", "training", "classifiers"]
    assert [figures.kind(name) for name in names] == ["tradeoff", "tradeoff", *names[2:]]
    assert len({figures._look(sweep, line)["color"] for line in sweep.lines}) == 2
    assert [name for name, _ in figures.draw(sweep, rows, [])] == names[:-1]
