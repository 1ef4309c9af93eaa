"""A study that was configured with numbers of labels is reported in numbers of labels, everywhere."""

import re

import pytest
from matplotlib import pyplot

from mae_jax.report import figures, frozen_encoders, panels, phrases
from mae_jax.report.findings import Findings, find
from mae_jax.report.page import _markdown, render
from mae_jax.report.runs import Level, read_runs

COUNTS = (20, 63, 2012)
SHARE = re.compile(r"\b(0\.994|3\.131) %")


def write_counted(make, root, evaluation="finetune"):
    return [
        make.run(
            root / f"{evaluation}{init}{n}", init, n / 2012, rows=60, knows=knows, n_train=n, label_count=n,
            evaluation=evaluation,
        )
        for n in COUNTS
        for init, knows in (("scratch", 0.5), ("mae", 0.9))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def findings(make, tmp_path_factory) -> Findings:
    root = tmp_path_factory.mktemp("counted")
    return find([*write_counted(make, root), *write_counted(make, root, "lbfgs")])


def test_every_sentence_and_table_names_numbers(findings):
    result = findings.answer
    sentences = [*result["headlines"], *result["lines"], *result["warnings"], *result["calibration"], *result["arms"]]
    sentences += frozen_encoders.words(findings.probes)
    page = re.sub(r"<style>.*?</style>", "", render(findings, [], []), flags=re.DOTALL)
    texts = [*sentences, _markdown(findings), frozen_encoders.text(findings.probes), page]
    for text in texts:
        assert not SHARE.search(text), text
    assert all("20 labels" in text for text in texts[-3:])
    assert "<td>2,012 labels</td>" in page and "A linear probe on random weights scores" in page
    assert re.search(r"random weights scores \d+\.\d % with 20 labels, \d+\.\d % with 63 labels", page)
    assert any(line.startswith("63 labels, mae against scratch: ") for line in result["lines"])


def test_figures_name_numbers(findings):
    with panels.style():
        study = findings.study
        curve = figures.Curve("Accuracy", study, findings.rows, "accuracy", study.arms)
        drawn = {
            "curves": figures.curves([curve]),
            "sensitivity": figures.sensitivities(study, findings.cell_types),
            "differences": figures.differences(study, findings.paired),
            "power_law": figures.fitted(study, findings.rows),
            "training": figures.training(study, study.arms),
        }
    texts = {}
    for name, (figure, numbers) in drawn.items():
        axes = [ax for ax in figure.axes if ax.axison]
        texts[name] = [t.get_text() for ax in axes for t in (*ax.get_xticklabels(), *ax.get_yticklabels())]
        texts[name] += [ax.get_title(loc) for ax in axes for loc in ("left", "center")]
        texts[name] += [ax.get_xlabel() for ax in axes]
        assert not any("%" in text for text in texts[name]), texts[name]
        assert name == "power_law" or {row["label_count"] for row in numbers} == set(COUNTS)
        pyplot.close(figure)
    assert {"20", "63", "2,012", "labeled training images"} <= set(texts["curves"])
    assert {"20", "2,012", "labels"} <= set(texts["sensitivity"])
    assert "63 labels" in texts["differences"] and "63 labels" in texts["training"]


def test_a_count_is_read_from_the_config_of_an_older_run_and_shares_win_where_both_occur(make, tmp_path):
    old = make.run(tmp_path / "old", "scratch", 0.1, config={"data": {"label_count": 800}})
    assert read_runs([old])[0][0].level == Level("", 0.1, 800)
    share = make.run(tmp_path / "share", "mae", 0.1)
    assert {run.level for run in read_runs([old, share])[0]} == {Level("", 0.1)}


def test_levels_in_words():
    counted, share = Level("the head trained", 0.01, 2012), Level("", 0.1)
    assert (str(counted), counted.labels) == ("2,012 labels, the head trained", "2,012 labels")
    assert (str(share), share.labels, share.amount) == ("10 %", "10 % of the labels", "10 %")
    assert Level.of_row(counted.columns) == counted
    assert phrases.amounts(["20 labels", "63 labels"]) == "20 and 63 labels"
