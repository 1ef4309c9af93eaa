"""Contrasts: chosen arms against each other, on each test set."""

import csv

import pytest

from mae_jax.report import between_arms
from mae_jax.report.between_arms import Scored
from mae_jax.report.page import write_report
from mae_jax.report.runs import read_runs


@pytest.fixture
def tested(make):
    """Three arms at two levels, three seeds each; `stain` is clearly better than `mae` at 1 %, and equal at 10 %."""
    scores = {"scratch": (0.62, 0.7), "mae": (0.66, 0.9), "stain": (0.85, 0.9)}
    cells = {
        ("", fraction, init): [pair[i] + 0.002 * seed for seed in range(3)]
        for init, pair in scores.items()
        for i, fraction in enumerate((0.01, 0.1))
    }
    return [Scored("finetune", "", make.in_memory(cells)), Scored("finetune", "TestB", make.in_memory(cells, seed=5))]


def test_the_first_arm_minus_the_second_on_each_test_set(tested):
    rows, notes = between_arms.rows(["stain:mae"], tested)
    accuracies = [row for row in rows if row["metric"] == "accuracy"]
    assert notes == [] and [(row["test_set"], row["fraction"]) for row in accuracies] == [
        ("", 0.01), ("", 0.1), ("TestB", 0.01), ("TestB", 0.1)
    ]  # fmt: skip
    first = accuracies[0]
    assert (first["first"], first["second"], first["seeds"]) == ("stain", "mae", 3)
    study = tested[0].study
    means = [study.mean("accuracy", study.of(study.levels[0], init)) for init in ("stain", "mae")]
    assert first["difference"] == pytest.approx(means[0] - means[1]) and first["low"] > 0
    assert [row["verdict"] for row in accuracies] == ["higher", "no difference shown"] * 2
    (back,) = [r for r in between_arms.rows(["mae:stain"], tested[:1])[0] if r["metric"] == "accuracy"][:1]
    assert back["difference"] == pytest.approx(-first["difference"]) and back["verdict"] == "lower"


def test_the_correction_is_for_all_contrasts_and_test_sets(tested):
    alone = between_arms.rows(["stain:mae"], tested[:1])[0]
    several = between_arms.rows(["stain:mae", "mae:scratch", "stain:scratch"], tested)[0]
    p, corrected = (
        alone[0]["p"],
        [next(r for r in rows if r["p"] == alone[0]["p"])["holm_p"] for rows in (alone, several)],
    )
    assert p <= corrected[0] < corrected[1]


def test_a_sentence_for_each_contrast(tested):
    rows, _ = between_arms.rows(["stain:mae", "mae:scratch"], tested)
    lines = between_arms.headlines(rows)
    assert len(lines) == 2 and lines[0].startswith("stain against mae, macro F1: at 1 % higher, +")
    assert "; on TestB at 1 % higher, +" in lines[0] and "; at 10 % no difference shown, " in lines[0]
    assert between_arms.headlines([]) == []


def test_an_arm_without_runs_is_named(tested):
    rows, notes = between_arms.rows(["stain:gone"], tested)
    assert rows == []
    assert notes == ["stain and gone: not compared, because no seed has both at the same number of labels"]


def test_collapsed_models_are_not_compared(make):
    study = make.in_memory({("", 0.1, "a"): ["collapsed"], ("", 0.1, "b"): [0.9]})
    rows, _ = between_arms.rows(["b:a"], [Scored("finetune", "", study)])
    assert {row["difference"] for row in rows} == {None}
    assert between_arms.headlines(rows) == ["b against a, macro F1: at 10 % collapsed: nothing to compare."]


def test_the_page_begins_with_the_contrasts_and_has_their_table(make, tmp_path):
    dirs = [
        make.run(tmp_path / f"{init}{f}", init, f, rows=60, knows=knows)
        for init, knows in (("scratch", 0.1), ("mae", 0.5), ("<b>stain", 0.9))
        for f in (0.01, 0.1)
    ]
    for run in dirs:
        make.external(run, "TestB", make.classes)
    report = write_report(dirs, tmp_path / "out", contrasts=["<b>stain:mae"])
    page = report.paths["page"].read_text()
    assert page.index("&lt;b&gt;stain against mae, macro F1: at 1 %") < page.index('id="curves"')
    assert "Arm against arm" in page and "<b>stain" not in page
    assert "Each pair of arms differs in one thing." in page and "The question: how well" not in page
    with report.paths["contrasts"].open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["test_set"] for row in rows} == {"", "TestB"} and {row["first"] for row in rows} == {"<b>stain"}
    assert "| &lt;b>stain | mae" in report.paths["table_md"].read_text()
    plain = write_report(dirs, tmp_path / "plain").paths["page"].read_text()
    assert "Arm against arm" not in plain and "The question: how well" in plain
    runs, _ = read_runs(dirs)
    assert len(runs) == 6
