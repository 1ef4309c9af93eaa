"""How many labels are enough, what pre-training is worth in labels, and where a curve is flat."""

import dataclasses
import math

import pytest

from mae_jax.report import details, label_efficiency, tables
from mae_jax.report.runs import Level

ARM = "as many updates as 100 %"


def test_enough_is_measured_against_all_labels_not_against_a_better_score_with_fewer(make):
    study = make.in_memory({("", f, "scratch"): [s] for f, s in ((0.1, 0.6), (0.5, 0.95), (1.0, 0.8))})
    at_all = study.mean("f1", study.of(Level("", 1.0), "scratch"))
    result = label_efficiency.enough(study)
    assert result.target == pytest.approx(at_all - 0.02) and result.reached["scratch"][0].fraction == 0.5
    assert result.best["scratch"][0].fraction == 0.5


def test_one_sure_gain_at_equal_updates_is_a_gain():
    row = {"init": "mae", "metric": "accuracy", "arm": ARM, "fraction": 0.1, "low": 0.01, "holm_p": 0.01}
    none, unsure = row | {"low": -0.01}, row | {"holm_p": 0.2}
    assert not label_efficiency.shows_nothing_at_equal_updates([row, none], "mae")
    assert label_efficiency.shows_nothing_at_equal_updates([unsure, none], "mae")
    assert not label_efficiency.shows_nothing_at_equal_updates([none | {"arm": ""}], "mae")  # nothing was compared


def test_a_plateau_is_led_by_the_gain_that_is_not_ruled_out(make):
    same = {("", f, "scratch"): [0.97, 0.971, 0.972] for f in (0.5, 1.0)}
    study = make.in_memory({("", 0.1, "scratch"): [0.6, 0.6, 0.61]} | same, images=2000)
    level, gain = label_efficiency.plateau(study, "scratch")
    assert level.fraction == 0.5 and 0 < gain < 0.02
    assert details.plateau_lines(study) == [
        f"scratch: a gain of more than {100 * gain:.1f} points of accuracy by more labels than 50 % is ruled out (95 % "
        "interval); none is shown."
    ]
    few = make.in_memory({("", 0.1, "scratch"): [0.6, 0.6, 0.61]} | same, images=100)
    assert label_efficiency.plateau(few, "scratch")[1] > 0.02
    assert details.plateau_lines(few) == []  # so wide an interval is no plateau


def test_collapsed_cells_make_no_plateau(make):
    cells = {("", f, "scratch"): ["collapsed"] * 3 for f in (0.01, 0.1)} | {("", 1.0, "scratch"): [0.8] * 3}
    study = make.in_memory(cells)
    assert label_efficiency.plateau(study, "scratch") is None and details.plateau_lines(study) == []


def test_a_curve_that_dips_and_rises_has_no_plateau_before_the_dip(make):
    # neither 282 nor 318 of 400 differs measurably from 300, but 318 does from 282: more labels do change something
    cells = {("", f, "scratch"): [n / 400] for f, n in ((0.1, 300), (0.5, 282), (1.0, 318))}
    study = make.in_memory(cells)
    assert label_efficiency.plateau(study, "scratch") is None
    line = "scratch: accuracy still changes up to 100 % of the labels, for these models (one seed)."
    assert details.plateau_lines(study) == [line]


def test_the_gain_that_is_not_ruled_out_is_that_over_the_smallest_level(make):
    """From 50 % on, 100 % gains more than from 10 % on; but the plateau begins at 10 %."""
    cells = {("", f, "scratch"): [n / 400] for f, n in ((0.1, 300), (0.5, 291), (1.0, 303))}
    study = make.in_memory(cells)
    level, gain = label_efficiency.plateau(study, "scratch")
    small, middle, large = (study.of(Level("", f), "scratch") for f in (0.1, 0.5, 1.0))
    ends = [study.difference("accuracy", more, small).high for more in (middle, large)]
    assert level.fraction == 0.1 and gain == pytest.approx(max(ends))
    assert study.difference("accuracy", large, middle).high > gain + 0.005


def test_a_curve_that_falls_has_no_plateau(make):
    study = make.in_memory({("", f, "scratch"): [s] for f, s in ((0.1, 0.6), (0.5, 0.9), (1.0, 0.7))})
    assert label_efficiency.plateau(study, "scratch") is None
    line = "scratch: accuracy still changes up to 100 % of the labels, for these models (one seed)."
    assert details.plateau_lines(study) == [line]
    level = make.in_memory({("", f, "scratch"): [s] for f, s in ((0.1, 0.6), (0.5, 0.9), (1.0, 0.9))})
    assert label_efficiency.plateau(level, "scratch")[0].fraction == 0.5


def test_worth_is_read_off_the_curve_from_scratch_by_the_logarithm_of_labels(make):
    near = (-0.002, 0.0, 0.002)
    at = {(0.1, "scratch"): 0.6, (1.0, "scratch"): 0.8, (0.1, "mae"): 0.7, (1.0, "mae"): 0.9}
    study = make.in_memory({("", f, i): [m + d for d in near] for (f, i), m in at.items()}, labels=1000)
    ten, all_labels = label_efficiency.worth(study, tables.paired(study)[0])
    assert tuple(ten) == ("fraction", "init", "metric", *label_efficiency.COLUMNS[3:])
    assert ten["times"] == pytest.approx(10**0.5) and ten["low"] < 10**0.5 < ten["high"]  # half of the way to 10 times
    assert (ten["least"], ten["most"]) == (1, 10) and ten["note"] == ""
    assert all_labels["times"] == math.inf and (all_labels["least"], all_labels["most"]) == (0.1, 1)
    one = make.in_memory({("", f, i): [m] for (f, i), m in at.items()}, labels=1000, images=100)
    row = label_efficiency.worth(one, [])[0]
    assert row["times"] == pytest.approx(10**0.5) and row["low"] is row["high"] is None
    assert row["note"] == "no interval: fewer than three seeds"
    assert label_efficiency.worth(make.in_memory({("", 1.0, "scratch"): [0.5], ("", 1.0, "mae"): [0.9]}), []) == []


def test_label_counts_are_fractions_where_a_number_is_unknown_or_does_not_rise(make):
    cells = {("", f, "scratch"): [0.5] for f in (0.1, 1.0)} | {("", 0.5, "mae"): [0.5]}
    assert label_efficiency.label_counts(make.in_memory(cells, labels=1000, images=100)) == {0.1: 100, 1.0: 1000}
    assert label_efficiency.label_counts(make.in_memory(cells, images=100)) == {0.1: 0.1, 1.0: 1.0}
    study = make.in_memory(cells, labels=1000, images=100)
    equal = dataclasses.replace(study, runs=[dataclasses.replace(run, n_train=100) for run in study.runs])
    assert label_efficiency.label_counts(equal) == {0.1: 0.1, 1.0: 1.0}


def test_each_contestant_with_a_score_is_compared_at_the_same_labels(make):
    cells = {("", 1.0, "mae"): [0.9], ("", 1.0, "scratch"): [0.6], ("", 1.0, "alike"): [0.9], ("", 1.0, "x"): [0.99]}
    cells |= {("", 1.0, "dead"): ["collapsed"]}
    study = make.in_memory(cells)
    compared = label_efficiency.against(study, "mae", 1.0)
    assert {name: entry["verdict"] for name, (_, entry) in compared.items()} == {
        "scratch": "higher, each trained once", "alike": "no difference shown", "x": "lower, each trained once",
    }  # fmt: skip
    scores = [study.mean("f1", study.of(Level("", 1.0), init)) for init in ("mae", "scratch")]
    assert compared["scratch"][0].value == pytest.approx(scores[0] - scores[1])
    assert label_efficiency.against(study, "mae", 0.5) == {}


def test_two_seeds_do_not_decide_where_others_have_three(make):
    """A run is lost: what the rest of the study shows must not become another answer."""
    cells = {("", f, i): [0.8, 0.8, 0.8] for f in (0.5, 1.0) for i in ("scratch", "mae")}
    complete = label_efficiency.enough(make.in_memory(cells))
    assert {cell[0].fraction for cell in complete.reached.values()} == {0.5}
    part = label_efficiency.enough(make.in_memory(cells | {("", 0.5, "mae"): [0.8, 0.8]}))
    assert {init: cell[0].fraction for init, cell in part.reached.items()} == {"scratch": 0.5, "mae": 1.0}


def test_with_all_labels_the_usual_training_is_one_of_equal_updates():
    usual = {"init": "mae", "metric": "accuracy", "arm": "", "fraction": 1.0, "low": 0.02, "holm_p": 0.01}
    equal = usual | {"arm": ARM, "fraction": 0.1, "low": -0.01, "holm_p": 1.0}
    tenth = usual | {"fraction": 0.1}
    assert label_efficiency.equal_updates([usual, equal, tenth], "mae") == [equal, usual]
    assert not label_efficiency.shows_nothing_at_equal_updates([usual, equal, tenth], "mae")
    assert label_efficiency.equal_updates([usual, tenth], "mae") == []  # nothing was trained for equal updates
    f1 = equal | {"metric": "f1", "low": 0.02, "holm_p": 0.01}
    assert label_efficiency.shows_nothing_at_equal_updates([equal], "mae")
    assert not label_efficiency.shows_nothing_at_equal_updates([equal, f1], "mae")


def test_a_set_target_counts_and_without_scores_nothing_is_enough(make):
    study = make.in_memory({("", 0.1, "scratch"): [0.8], ("", 1.0, "scratch"): ["collapsed"]}, images=100)
    assert label_efficiency.enough(study) is None  # there is no score with all labels
    result = label_efficiency.enough(study, 0.5)
    assert result.given and result.target == 0.5 and result.reached == {"scratch": (Level("", 0.1), "scratch")}
    assert label_efficiency.enough(study, 0.99).reached == {"scratch": None}
    assert label_efficiency.enough(make.in_memory({("", 1.0, "scratch"): ["collapsed"]}, images=100), 0.5) is None


def test_worth_has_a_row_where_pretrained_models_collapsed(make):
    cells = {("", f, "scratch"): [a] * 3 for f, a in ((0.1, 0.6), (0.5, 0.7), (1.0, 0.8))}
    cells |= {("", 0.1, "mae"): ["collapsed"] * 3, ("", 0.5, "mae"): [0.75] * 3}
    study = make.in_memory(cells)
    rows = label_efficiency.worth(study, tables.paired(study)[0])
    assert [(row["fraction"], row["note"], row["times"] is None) for row in rows] == [
        (0.1, "not given: mae collapsed", True), (0.5, "", False)
    ]  # fmt: skip
