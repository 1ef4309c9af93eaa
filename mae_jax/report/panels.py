"""Figures with a fixed layout: panels of one size with room for labels, and one legend below.

The room is computed from the size of the text, which is always 9 points, or 12 pixels on the page. A layout engine
would draw each figure several times to find it.
"""

import dataclasses
import textwrap
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # otherwise matplotlib measures all labels of a panel to place the title
    "axes.titlepad": 5,
    "axes.labelsize": 9,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "none",
    "figure.dpi": 100,
    "savefig.dpi": 150,
    "svg.hashsalt": "mae_jax",
    "svg.fonttype": "path",
    "text.parse_math": False,
    "axes.unicode_minus": True,
}
LINE = 0.17  # height of a line of text with its gap, in inches
LETTER = 0.079  # average width of a letter, in inches
Handle = Artist | tuple[Artist, ...]
Numbers = tuple[Figure, list[dict]]


@dataclasses.dataclass(frozen=True)
class Panels:
    """A figure and its panels, `axes[line][column]`; `below` is the height of the legend in inches."""

    figure: Figure
    axes: list[list[Axes]]

    @property
    def all_axes(self) -> list[Axes]:
        """All panels, line by line."""
        return [ax for line in self.axes for ax in line]


def grid(
    lines: int,
    columns: int,
    *,
    panel: tuple[float, float] = (2.9, 2.3),
    handles: Sequence[Handle] = (),
    labels: Sequence[str] = (),
    title: int = 0,
    ticks: int = 1,
    left: float = 0.62,
    own_y: bool = False,
    own_x: bool = True,
    heights: Sequence[float] = (),
    legend_columns: int = 0,
) -> Panels:
    """A figure of `lines` x `columns` panels, each of `panel` inches, and its legend.

    Panels in a line share a y axis unless `own_y`; panels in a column share an x axis unless `own_x`. `title` and
    `ticks` are the numbers of text lines of a panel's title and of its tick labels; `left` is the room for the y axis
    in inches. `heights` replaces the height of each line of panels. `labels` name the `handles` of the legend, which
    has `legend_columns` columns, or as many as fit.
    """
    high = list(heights) or [panel[1]] * lines
    above = LINE * title + 0.08
    under = LINE * (ticks + 1) + 0.12  # tick labels and the axis label
    gap = left if own_y else 0.28
    width = left + columns * panel[0] + (columns - 1) * gap + 0.12
    names = [str(label) for label in labels]
    width = max(width, 0.6 + LETTER * max(map(len, names), default=0))  # room for the longest entry of the legend
    count = legend_columns or _fitting(names, width)
    below = LINE * 1.15 * -(-len(names) // count) + 0.08 if names else 0.0
    between = above + (under if own_x else 0.1)
    height = above + sum(high) + (lines - 1) * between + under + below
    figure = Figure(figsize=(width, height))
    axes: list[list[Axes]] = []
    top = height - above
    for line in range(lines):
        row: list[Axes] = []
        for column in range(columns):
            x = left + column * (panel[0] + gap)
            place = (x / width, (top - high[line]) / height, panel[0] / width, high[line] / height)
            share_y = row[0] if row and not own_y else None
            share_x = axes[0][column] if axes and not own_x else None
            ax = figure.add_axes(place, sharex=share_x, sharey=share_y)
            if share_y is not None:
                ax.tick_params(labelleft=False)
            if not own_x and line < lines - 1:
                ax.tick_params(labelbottom=False)
            row.append(ax)
        axes.append(row)
        top -= high[line] + between
    if names:
        _add_legend(figure, handles, names, count)
    return Panels(figure, axes)


def _add_legend(figure: Figure, handles: Sequence[Handle], names: Sequence[str], columns: int) -> None:
    """Draws the legend below the panels, at the left."""
    figure.legend(
        cast(Sequence[Artist], handles),  # a tuple is one entry of several marks, see HandlerTuple
        names,
        loc="lower left",
        bbox_to_anchor=(0.02 / figure.get_figwidth(), 0.0),
        borderpad=0.1,
        borderaxespad=0.1,
        columnspacing=1.2,
        handlelength=2.2,
        handletextpad=0.5,
        labelspacing=0.25,
        ncols=columns,
        handler_map={tuple: HandlerTuple(ndivide=None, pad=0.3)},
    )


def _fitting(names: Sequence[str], width: float) -> int:
    """The number of legend columns that fit into `width` inches."""

    def inches(n: int) -> float:
        by_column = np.array_split([len(name) for name in names], n)
        return sum(0.55 + LETTER * max(part) for part in by_column)

    return next((n for n in (4, 3, 2) if n <= len(names) and inches(n) < width), 1)


def wrapped(text: str, inches: float) -> list[str]:
    """The lines of a title that is `inches` wide."""
    return textwrap.wrap(text, max(8, int(inches / LETTER))) or [""]


def short(name: str, most: int = 24) -> str:
    """A name cut to `most` letters."""
    return name if len(name) <= most else name[: most - 1] + "…"


def style() -> AbstractContextManager:
    """A context with the settings for drawing and saving every figure."""
    return matplotlib.rc_context(STYLE)
