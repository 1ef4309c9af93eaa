"""The fixed layout of figures: sizes in inches, shared axes, the legend's columns, and titles in lines."""

import matplotlib
import pytest
from matplotlib.lines import Line2D

from mae_jax.report import panels


def box(figure, ax):
    """Left, bottom, width and height of a panel in inches."""
    width, height = figure.get_size_inches()
    x, y, w, h = ax.get_position().bounds
    return [pytest.approx(value, abs=1e-6) for value in (x * width, y * height, w * width, h * height)]


def test_panels_have_their_size_and_do_not_overlap():
    layout = panels.grid(2, 3, panel=(2.0, 1.5), left=0.5)
    assert [len(line) for line in layout.axes] == [3, 3]
    assert layout.all_axes == [*layout.axes[0], *layout.axes[1]]
    width, height = layout.figure.get_size_inches()
    assert width == pytest.approx(0.5 + 3 * 2.0 + 2 * 0.28 + 0.12)
    under, above = 2 * panels.LINE + 0.12, 0.08  # the tick labels and the axis label; no title
    assert height == pytest.approx(2 * (above + 1.5 + under))
    for line in range(2):
        for column in range(3):
            top = height - above - line * (1.5 + under + above)
            assert [0.5 + column * (2.0 + 0.28), top - 1.5, 2.0, 1.5] == box(layout.figure, layout.axes[line][column])


def test_each_line_may_have_a_height_of_its_own():
    layout = panels.grid(2, 1, heights=(1.0, 3.0))
    heights = [ax.get_position().height * layout.figure.get_size_inches()[1] for ax in layout.all_axes]
    assert heights == pytest.approx([1.0, 3.0])


def test_panels_share_the_y_axis_of_a_line_and_where_wanted_the_x_axis_of_a_column():
    layout = panels.grid(2, 2, own_x=False)
    (a, b), (c, d) = layout.axes
    a.set_ylim(0, 7)
    c.set_xlim(0, 5)
    assert b.get_ylim() == (0, 7) and c.get_ylim() != (0, 7)
    assert a.get_xlim() == (0, 5) and d.get_xlim() != (0, 5)
    assert not b.yaxis.get_tick_params()["labelleft"] and a.yaxis.get_tick_params().get("labelleft", True)
    assert not a.xaxis.get_tick_params()["labelbottom"] and c.xaxis.get_tick_params().get("labelbottom", True)
    apart = panels.grid(2, 1)
    apart.all_axes[0].set_xlim(0, 5)
    assert apart.all_axes[1].get_xlim() != (0, 5)
    two_scales = panels.grid(1, 2, own_y=True)
    two_scales.all_axes[0].set_ylim(0, 7)
    assert two_scales.all_axes[1].get_ylim() != (0, 7)
    gap = (
        box(two_scales.figure, two_scales.all_axes[1])[0].expected
        - box(two_scales.figure, two_scales.all_axes[0])[0].expected
        - 2.9
    )
    assert gap == pytest.approx(0.62)  # room for the labels of its own y axis


@pytest.mark.parametrize(
    ("names", "width", "columns"),
    [
        (["a"] * 8, 6.0, 4),
        (["a", "b"], 6.0, 2),  # no more columns than names
        (["a"], 6.0, 1),
        (["x" * 20] * 4, 6.0, 2),  # 4 x (0.55 + 1.58) and 3 x are wider than 6 inches
        (["x" * 90] * 4, 6.0, 1),
    ],
)
def test_the_legend_has_as_many_columns_as_fit(names, width, columns):
    assert panels._fitting(names, width) == columns


def test_a_legend_adds_its_lines_below_the_panels():
    plain = panels.grid(1, 1)
    handles = [Line2D([], []) for _ in range(3)]
    layout = panels.grid(1, 1, handles=handles, labels=["a", "b", "c"], legend_columns=1)
    higher = layout.figure.get_size_inches()[1] - plain.figure.get_size_inches()[1]
    assert higher == pytest.approx(3 * 1.15 * panels.LINE + 0.08)
    (legend,) = layout.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "b", "c"] and not plain.figure.legends


def test_titles_are_wrapped_to_their_width_and_names_are_cut():
    lines = panels.wrapped("one two three four five", 10 * panels.LETTER)
    assert lines == ["one two", "three four", "five"] and panels.wrapped("", 1.0) == [""]
    assert panels.wrapped("abcdefgh ij", 0.01) == ["abcdefgh", "ij"]  # never narrower than 8 letters
    assert panels.short("x" * 24) == "x" * 24 and panels.short("x" * 25) == "x" * 23 + "…"
    assert panels.short("abcdef", 4) == "abc…"


def test_the_style_holds_within_its_block_alone():
    before = matplotlib.rcParams["font.size"], matplotlib.rcParams["svg.hashsalt"]
    with panels.style():
        assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["svg.hashsalt"]) == (9, "mae_jax")
    assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["svg.hashsalt"]) == before
