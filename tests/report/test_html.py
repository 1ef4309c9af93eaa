"""Parts shared by the report pages: files of a figure, facts about a run, and what templates write."""

import base64
import csv

import jinja2
import pytest
from matplotlib.figure import Figure

from mae_jax.report import html, panels


def test_a_figure_is_saved_with_its_numbers_and_equal_figures_are_equal_files(tmp_path):
    def drawn():
        figure = Figure(figsize=(3, 2))
        figure.add_subplot().plot([0, 1], [1, 0])
        return figure

    numbers = [{"x": 0, "y": 1.0}, {"x": 1, "y": None}]
    with panels.style():
        shown = html.save("line", drawn(), numbers, tmp_path, "A line.", png=True)
        html.save("again", drawn(), numbers, tmp_path, "A line.")
    figures = tmp_path / "figures"
    assert {file.name for file in figures.iterdir()} == {
        *("line.svg", "line.png", "line.csv", "again.svg", "again.csv"),
    }
    assert (figures / "line.svg").read_bytes() == (figures / "again.svg").read_bytes()
    assert (
        base64.b64decode(shown["uri"].removeprefix("data:image/svg+xml;base64,")) == (figures / "line.svg").read_bytes()
    )
    assert (shown["width"], shown["height"]) == (288, 192)  # 96 CSS pixels for an inch
    assert (shown["name"], shown["caption"]) == ("line", "A line.")
    with (figures / "line.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [["x", "y"], ["0", "1"], ["1", ""]]


def test_facts_of_a_run_are_text_and_unknown_ones_are_none(tmp_path):
    info = {"seed": 3, "steps": 40, "selected_step": 30, "epochs": 20.0, "wall_seconds": 90, "n_train": 80}
    info |= {"commit": "0123456789abcdef", "versions": {"jax": "0.7", "b\x1b": 1}, "devices": "1 x cpu"}
    info |= {"config": {"data": {"dir": "/home/someone/images"}}}
    facts = html.run_facts(tmp_path / "run", info)
    assert (facts["epochs"], facts["steps"], facts["selected"], facts["minutes"]) == ("20", 40, 30, "1.5")
    assert facts["commit"] == "0123456789ab" and facts["versions"] == "jax 0.7, b 1" and facts["devices"] == "1 x cpu"
    assert facts["path"] == ".../run" and "someone" not in facts["config"] and '"dir": ".../images"' in facts["config"]
    solved = html.run_facts(tmp_path, info | {"steps": 0, "epochs": 0})
    assert (solved["epochs"], solved["steps"], solved["selected"]) == (None, None, None)
    odd = {
        "epochs": "many",
        "wall_seconds": float("nan"),
        "versions": "x",
        "devices": 3,
        "data_name": [],
        "commit": "",
    }
    unknown = html.run_facts(tmp_path, odd)
    assert {name for name, value in unknown.items() if value is not None} == {"path"}


def test_numbers_of_run_json_are_finite_and_at_least_the_bound():
    assert html.finite({"a": 3}, "a") == 3.0 and html.finite({"a": -1.5}, "a") == -1.5
    for value in (None, "3", True, float("inf"), float("nan"), [1]):
        assert html.finite({"a": value}, "a") is None
    assert html.finite({}, "a") is None and html.finite({"a": -1}, "a", 0.0) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        ([60, 180], "4 minutes"),
        ([119 * 60], "119 minutes"),
        ([120 * 60], "2.0 hours"),
        ([3600, 9000], "3.5 hours"),
        ([60, None], None),
        ([60, -1], None),
        ([], "0 minutes"),
    ],
)
def test_the_total_time_is_known_where_that_of_every_run_is(seconds, text):
    assert html.hours([{"wall_seconds": each} for each in seconds]) == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("level", {"fraction": 0.1, "arm": "longer"}, "10 %, longer"),
        ("amount", {"fraction": 0.1, "arm": "longer", "label_count": 1200}, "1,200 labels"),
        *[("share", value, text) for value, text in ((0.90124, "90.1"), (None, "–"), (0.0, "0.0"))],
        *[("decimal", value, text) for value, text in ((0.12345, "0.123"), (None, "–"))],
        *[("points", value, text) for value, text in ((-0.031, "−3.1"), (None, "–"))],
        *[("p", value, text) for value, text in ((0.0009, "&lt; 0.001"), (0.001, "0.001"), (None, "–"))],
        *[("count", value, text) for value, text in ((1234.01, "1,234"), (12.5, "12.5"), (None, "–"), (0, "0"))],
        *[("grouped", n, text) for n, text in ((1260, "1,260"), (39.375, "39.375"), (None, "–"), ("many", "many"))],
        *[("shown", value, text) for value, text in ((None, "–"), ("a\x1bb", "ab"))],
        *[("sentence", value, text) for value, text in (("a b", "A b"), ("", ""))],
        ("short", "x" * 30, "x" * 23 + "…"),
        ("percent", 0.125, "12.5 %"),
    ],
)
def test_filters_of_the_templates(name, value, text):
    template = html.environment().from_string("{{ value | " + name + " }}")
    assert template.render(value=value) == text


def test_templates_escape_count_and_refuse_what_is_not_defined():
    result = html.environment()
    text = "{{ number('Table') }}, {{ number('Figure') }}, {{ number('Table') }}: {{ name }}"
    assert result.from_string(text).render(name="<b>") == "Table 1, Figure 1, Table 2: &lt;b&gt;"
    assert html.environment().from_string("{{ number('Table') }}").render() == "Table 1"  # a page counts by itself
    with pytest.raises(jinja2.UndefinedError):
        result.from_string("{{ nothing }}").render()
