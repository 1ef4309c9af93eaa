"""Figures: what a legend shows is what is drawn, panels share an axis, text is large enough, nothing overlaps."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.lines import Line2D
from matplotlib.text import Text

from mae_jax.report import analysis, drawing, figures, findings, label_efficiency, panels, tables
from mae_jax.report.runs import read_runs

NINE_POINTS = 9.0  # 12 CSS pixels


@pytest.fixture(scope="module")
def drawn(make, tmp_path_factory):
    root = tmp_path_factory.mktemp("figures")
    dirs = make.study(root, rows=400)
    dirs += [make.run(root / f"arm-{i}", i, 0.1, rows=400, arm="as many updates as 100 %") for i in ("scratch", "mae")]
    dirs += [make.run(root / f"knn-{i}", i, 0.1, rows=400, knows=0.5, evaluation="knn") for i in ("scratch", "mae")]
    with panels.style():
        return {d.name: d for d in drawing.draw(findings.find(dirs))}


def look(line):
    """What distinguishes two lines: color, dashes, marker and its fill."""
    mark = line.get_marker()
    filled = to_hex(line.get_markerfacecolor()) if mark not in ("", "None", None, "x") else ""
    return to_hex(line.get_color()), line.get_linestyle(), mark, filled


def legend_lines(figure):
    (legend,) = figure.legends
    return [handle for handle in legend.legend_handles if isinstance(handle, Line2D)]


@pytest.mark.parametrize("name", ["curves", "frozen_curves", "sensitivity", "differences", "power_law", "reliability"])
def test_the_marks_of_a_legend_are_drawn(drawn, name):
    figure = drawn[name].figure
    shown = [line for ax in figure.axes for line in ax.get_lines()]
    drawn_marks = {(to_hex(line.get_color()), line.get_marker()) for line in shown if line.get_marker() != "None"}
    marks = {(to_hex(h.get_color()), h.get_marker()) for h in legend_lines(figure) if h.get_marker() != "None"}
    assert marks <= drawn_marks, marks - drawn_marks


def test_the_curve_of_an_arm_is_in_the_legend_as_it_is_drawn(drawn):
    figure = drawn["curves"].figure
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names[:4] == ["scratch", "scratch, as many updates as 100 %", "mae", "mae, as many updates as 100 %"]
    shown = {look(line) for line in figure.axes[0].get_lines()}
    for handle in legend_lines(figure)[:4]:
        assert look(handle) in shown


def test_open_marks_of_the_forest_are_named_only_where_they_occur(drawn):
    texts = [text.get_text() for text in drawn["differences"].figure.legends[0].get_texts()]
    rows = drawn["differences"].numbers
    unsure = any("not confirmed" in row["verdict"] for row in rows)
    open_marks = unsure or any(row["verdict"] == "no difference shown" for row in rows)
    assert [text for text in texts if text.startswith("no difference")] == (
        ["no difference shown" + (", or not confirmed" if unsure else "")] if open_marks else []
    )


def test_a_row_of_panels_has_one_y_axis(drawn):
    for name, each in drawn.items():
        figure = each.figure
        by_row = {}
        for ax in figure.axes:
            if ax.axison:
                by_row.setdefault(round(ax.get_position().y0, 3), []).append(ax)
        for row in by_row.values():
            assert len({ax.get_ylim() for ax in row}) == 1, name
            assert sum(bool(ax.get_ylabel()) for ax in row) <= 1, name


def test_no_text_is_below_twelve_pixels_and_none_leaves_the_figure(drawn):
    with panels.style():
        for name, each in drawn.items():
            figure = each.figure
            FigureCanvasAgg(figure).draw()
            texts = [text for text in shown_texts(figure) if text.get_text().strip()]
            assert len(texts) > 5
            for text in texts:
                assert text.get_fontsize() >= NINE_POINTS, (name, text)
                box = text.get_window_extent()
                assert -1 <= box.x0 and box.x1 <= figure.bbox.x1 + 1, (name, text, box)
                assert -1 <= box.y0 and box.y1 <= figure.bbox.y1 + 1, (name, text, box)


def shown_texts(figure):
    """Titles, axis labels, tick labels within the limits, annotations and the legend."""
    for legend in figure.legends:
        yield from legend.get_texts()
    for ax in figure.axes:
        if not ax.axison:
            continue
        yield from ax.texts
        yield ax.xaxis.label
        yield ax.yaxis.label
        yield from (title for title in ax.findobj(Text) if title.get_text() == ax.get_title("left") != "")
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            for tick in axis.get_major_ticks():
                if min(limits) <= tick.get_loc() <= max(limits) and tick.label1.get_visible():
                    yield tick.label1


def test_scores_are_drawn_in_percent(drawn):
    rows = {(r["fraction"], r["init"], r["arm"]): r for r in drawn["curves"].numbers if r["metric"] == "accuracy"}
    line = next(line for line in drawn["curves"].figure.axes[0].get_lines() if line.get_marker() == "s")
    expected = [100 * rows[f, "mae", ""]["score"] for f in (0.01, 0.1, 0.5, 1.0)]
    assert line.get_ydata() == pytest.approx(np.array(expected))


def test_exponents_are_typeset():
    assert figures.raised(-0.364) == "⁻⁰·³⁶" and figures.raised(1.2) == "¹·²⁰"


def test_labels_of_an_axis_do_not_run_together(make, tmp_path):
    fractions = (0.01, 0.1, 0.3, 0.33, 0.36, 1.0)
    dirs = [make.run(tmp_path / f"{f}", "scratch", f, rows=60, knows=0.5 + f / 3) for f in fractions]
    study = analysis.analyze(read_runs(dirs)[0])
    figure, _ = figures.curves([figures.Curve("Accuracy", study, tables.rows(study), "accuracy", [""])])
    texts = [label.get_text().partition("\n")[2] for label in figure.axes[0].get_xticklabels()]
    assert texts == ["1 %", "10 %", "", "", "36 %", "100 %"] and len(figure.axes[0].get_xticks()) == 6


def test_each_fraction_of_the_study_has_a_label(make, tmp_path):
    """There is room for "5,088" next to "10,175", the numbers of the study."""
    counts = {0.01: 102, 0.1: 1018, 0.5: 5088, 1.0: 10175}
    dirs = [make.run(tmp_path / f"{f}", "scratch", f, rows=60, knows=0.5, n_train=n) for f, n in counts.items()]
    study = analysis.analyze(read_runs(dirs)[0])
    figure, _ = figures.curves([figures.Curve("Accuracy", study, tables.rows(study), "accuracy", [""])])
    texts = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert texts == ["102\n1 %", "1,018\n10 %", "5,088\n50 %", "10,175\n100 %"]


def test_many_initializations_have_colors_and_marks_of_their_own(make, tmp_path):
    dirs = [make.run(tmp_path / f"{i}", f"init {i}", 0.1, rows=60, knows=0.5) for i in range(10)]
    study = analysis.analyze(read_runs([*dirs, make.run(tmp_path / "s", "scratch", 0.1, rows=60)])[0])
    for looks in (figures.color, figures.marker):
        assert len({looks(study, init) for init in study.inits}) == 11


def test_a_power_law_and_a_plateau_leave_out_collapsed_models(make):
    """One of three models collapsed at 10 %: its cell keeps the other two."""
    cells = {("", f, "scratch"): [a, a, a] for f, a in ((0.1, 0.7), (0.5, 0.8), (1.0, 0.9))}
    unbroken = make.in_memory(cells)
    cells[("", 0.1, "scratch")] = [0.7, 0.7, "collapsed"]
    study = make.in_memory(cells)
    (level, *_) = study.levels
    assert study.learned(level, "scratch") == study.of(level, "scratch")[:2]
    for each in (unbroken, study):
        (first, *_) = figures.fitted(each, tables.rows(each))[1]
        assert first["wrong"] == pytest.approx(0.3)
    assert label_efficiency.plateau(study, "scratch") == label_efficiency.plateau(unbroken, "scratch")
    change = label_efficiency._changes(study, "scratch", "accuracy")[1][0, 1]
    assert change.value == pytest.approx(0.1)
