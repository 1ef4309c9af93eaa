"""Sentences: each says what the numbers of a known study say, and nothing more."""

import dataclasses
import math
import re

import numpy as np
import pytest

from mae_jax.report import details, headlines, label_efficiency, phrases, tables, words
from mae_jax.report.runs import Level

ARM = "as many updates as 100 %"


def answer_of(study, target=0.0):
    """What the page says about a study."""
    rows, (paired, _) = tables.rows(study), tables.paired(study)
    worth = label_efficiency.worth(study, paired)
    return words.answer(study, rows, paired, worth, target) | {"worth": worth, "paired": paired, "rows": rows}


@pytest.fixture(scope="module")
def steady(make):
    """Three seeds that hardly differ: mae is ahead at 1 % and 10 %, level with scratch at 50 % and 100 %."""
    at = {0.01: (0.70, 0.78), 0.1: (0.80, 0.88), 0.5: (0.90, 0.903), 1.0: (0.93, 0.931)}
    near = (-0.005, 0.0, 0.005)
    cells = {
        ("", f, i): [score + d for d in near] for f, pair in at.items() for i, score in zip(INITS, pair, strict=True)
    }
    return make.in_memory(cells, labels=2000, choosing=50)


INITS = ("scratch", "mae")


@pytest.fixture(scope="module")
def real(make):
    """Accuracies like those of the real study in README, in the mean over three seeds."""
    return like_real(make, 0.943)


def like_real(make, at_all):
    """The same, with another accuracy of MAE with all labels."""
    seeds = (-0.02, 0.0, 0.02)

    def around(mean, deviation=1.0):
        return [mean + deviation * d for d in seeds]

    cells = {("", f, "scratch"): ["collapsed"] * 3 for f in (0.01, 0.1)}
    cells |= {("", 0.5, "scratch"): ["collapsed", "collapsed", 0.672], ("", 1.0, "scratch"): around(0.894, 0.7)}
    cells |= {("", f, "mae"): around(mean) for f, mean in ((0.01, 0.655), (0.1, 0.841))}
    cells |= {("", f, "mae"): around(mean, 0.5) for f, mean in ((0.5, 0.937), (1.0, at_all))}
    cells |= {(ARM, f, "scratch"): around(mean, -1.5) for f, mean in ((0.01, 0.849), (0.1, 0.899))}
    cells |= {(ARM, f, "mae"): around(mean) for f, mean in ((0.01, 0.879), (0.1, 0.927))}
    return make.in_memory(cells, images=560, labels=2012)


def test_the_headline_answers_how_many_labels_are_enough(steady):
    answer = answer_of(steady)
    first = answer["headlines"][0]
    row = {(r["fraction"], r["init"]): r for r in answer["rows"]}
    best = max(row[1.0, init]["f1"] for init in INITS)
    reached = {init: next(f for f in (0.01, 0.1, 0.5, 1.0) if row[f, init]["f1"] >= best - 0.02) for init in INITS}
    assert reached == {"scratch": 1.0, "mae": 1.0}
    assert first.startswith("With pre-training, 2,000 labeled images (+ 50 for choosing) reach macro F1 ")
    mae = row[1.0, "mae"]
    assert f"{mae['f1']:.2f} ({mae['f1_low']:.2f} to {mae['f1_high']:.2f})" in first
    assert "; from scratch, as many do." in first
    assert first.endswith(f" Enough is macro F1 {best - 0.02:.2f}, within 2 points of the best with all labels.")


def test_a_target_is_reached_with_fewer_labels_after_pretraining(steady, make):
    at = {0.01: (0.6, 0.62), 0.1: (0.75, 0.88), 0.5: (0.90, 0.903), 1.0: (0.93, 0.931)}
    near = (-0.005, 0.0, 0.005)
    cells = {("", f, i): [score + d for d in near] for f, p in at.items() for i, score in zip(INITS, p, strict=True)}
    study = make.in_memory(cells, labels=2000, choosing=50)
    rows = {(r["fraction"], r["init"]): r for r in tables.rows(study)}
    target = rows[0.1, "mae"]["f1"] - 0.001
    assert rows[0.1, "scratch"]["f1"] < target < rows[0.5, "scratch"]["f1"]
    first = answer_of(study, target)["headlines"][0]
    assert first.startswith("With pre-training, 200 labeled images (+ 50 for choosing) reach macro F1 ")
    assert "; from scratch, it takes 1,000 (+ 50 for choosing). Enough is macro F1" in first
    assert first.endswith(f"{target:.2f}, the target.")
    assert answer_of(steady, 0.3)["headlines"][0].endswith("Fewer were not tried.")


def test_a_target_that_no_number_reached(steady):
    first = answer_of(steady, 0.99)["headlines"][0]
    best = max(r["f1"] for r in tables.rows(steady))
    assert first.startswith(f"No number of labels reached macro F1 0.99, the target; the best is {best:.2f} (")


def test_a_side_that_never_reaches_the_target_is_reported_with_its_best(make):
    cells = {("", f, "scratch"): [score] * 3 for f, score in ((0.1, 0.7), (1.0, 0.8))}
    cells |= {("", f, "mae"): [score] * 3 for f, score in ((0.1, 0.95), (1.0, 0.95))}
    study = make.in_memory(cells, labels=1000)
    best = study.mean("f1", study.of(Level("", 1.0), "scratch"))
    first = answer_of(study)["headlines"][0]
    assert first.startswith("With pre-training, 100 labeled images reach macro F1 ")
    assert f"; from scratch, no number that was tried does (best: {best:.2f} with 1,000). Enough" in first
    assert first.endswith("Fewer were not tried.")


def test_without_counts_labels_are_shares(make):
    study = make.in_memory({("", f, "scratch"): [score] * 3 for f, score in ((0.1, 0.9), (1.0, 0.9))})
    assert answer_of(study)["headlines"][0].startswith("From scratch, 10 % of the labels reach macro F1 ")


def test_the_headline_claims_fewer_labels_only_where_the_difference_is_shown(make):
    """Both arms are equally good on a flat curve near the target: which one crosses it first is chance."""
    near = (-0.02, 0.0, 0.02)
    flat = {("scratch", 0.5): 0.79, ("mae", 0.5): 0.815, ("scratch", 1.0): 0.82, ("mae", 1.0): 0.82}
    study = make.in_memory({("", f, i): [m + d for d in near] for (i, f), m in flat.items()}, labels=1000)
    head = answer_of(study)["headlines"][0]
    assert head.startswith("With pre-training, 500 labeled images reach macro F1 ")
    assert "; from scratch, it takes 1,000, but with as many labels the difference from scratch is +" in head
    assert ": no difference shown. Enough is" in head
    flat["scratch", 0.5], flat["scratch", 1.0] = 0.6, 0.82
    study = make.in_memory({("", f, i): [m + d for d in near] for (i, f), m in flat.items()}, labels=1000)
    assert "; from scratch, it takes 1,000. Enough" in answer_of(study)["headlines"][0]


def test_a_difference_in_the_headline_is_from_scratch_whichever_comes_first(make):
    near = (-0.02, 0.0, 0.02)
    means = {("scratch", 0.5): 0.815, ("mae", 0.5): 0.79, ("scratch", 1.0): 0.82, ("mae", 1.0): 0.82}
    cells = {("", f, init): [mean + d for d in near] for (init, f), mean in means.items()}
    head = answer_of(make.in_memory(cells, labels=1000))["headlines"][0]
    assert head.startswith("From scratch, 500 labeled images reach macro F1 ")
    match = re.search("it takes 1,000, but with as many labels the difference from scratch is (.*) points .*interval "
                      "(.*) to (.*)\\): no difference shown", head)  # fmt: skip
    assert match, head
    value, low, high = (float(text.replace("−", "-")) for text in match.groups())
    assert low < value < 0 < high
    cells = {key: scores for key, scores in cells.items() if key[2] == "mae"}
    cells |= {("", f, "other"): scores for (_, f, _), scores in cells.items()}
    cells["", 0.5, "other"] = [0.815 + d for d in near]
    head = answer_of(make.in_memory(cells, labels=1000))["headlines"][0]
    assert "it takes 1,000, but with as many labels the first minus this is +" in head


def test_worth_comes_second_and_only_where_its_interval_is_above_one(steady):
    answer = answer_of(steady)
    second = answer["headlines"][1]
    ten = next(w for w in answer["worth"] if w["fraction"] == 0.1)
    # by hand: where the line in log labels from scratch at 10 % to 50 % meets mae at 10 %
    times = 5 ** ((0.88 - 0.80) / (0.90 - 0.80))
    assert ten["times"] == pytest.approx(times) and 1 < ten["low"] < times < ten["high"]
    assert f"{times:.1f} times the labels at 10 %" in second
    assert second.endswith("no difference in accuracy is shown at 50 % and 100 %.")
    assert second.startswith("Pre-training is worth ")
    unsure = [row | {"low": 0.4} for row in answer["worth"]]
    after = words.answer(steady, answer["rows"], answer["paired"], unsure)["headlines"][1]
    assert "times the labels" not in after and "8.0 points of accuracy at 10 %" in after


def test_the_real_study_does_not_claim_many_times_the_labels(real):
    answer = answer_of(real)
    headlines = " ".join(answer["headlines"])
    assert "times the labels" not in headlines
    assert all(row["times"] is None for row in answer["worth"])
    notes = [label_efficiency.AT_EQUAL_UPDATES] * 2 + [label_efficiency.UNDETERMINED] * 2
    assert [row["note"] for row in answer["worth"]] == notes
    first, second, third = answer["headlines"]
    assert "labeled images" in first and "macro F1" in first
    assert second == (
        "With as many updates as 100 %, pre-training is worth 4.9 points of accuracy at 100 %; no difference in "
        "accuracy is shown at 1 % and 10 %."
    )
    assert third.startswith("Trained for equally many epochs, ")
    assert "10 %" not in third and "100 %" not in third  # equal updates are compared there
    assert "points of accuracy at 50 % (2 of 6 models collapsed)" in third
    assert "22.9" not in headlines  # the gain over a model that learned nothing
    care = " ".join(answer["warnings"])
    assert "Only some seeds collapsed: scratch at 50 %." in care
    assert "scratch at 1 % (3 of 3 seeds); scratch at 10 % (3 of 3 seeds)" in care


def test_that_equal_updates_show_nothing_comes_before_all_else(make):
    answer = answer_of(like_real(make, 0.89))
    first, second, third = answer["headlines"]
    assert first.startswith(
        "Trained for equally many updates, pre-trained models show no difference from those from scratch: in accuracy "
        "−0.4 to +3.0 points at 1 %, 10 % and 100 % (95 % intervals within −"
    )
    rows = [row for row in answer["paired"] if row["metric"] == "f1" and (row["arm"] or row["fraction"] == 1)]
    values = [phrases.signed(100 * end(row["difference"] for row in rows)) for end in (min, max)]
    ends = [phrases.signed(100 * end) for end in (min(row["low"] for row in rows), max(row["high"] for row in rows))]
    assert first.endswith(
        f"; in macro F1 {values[0]} to {values[1]} points at 1 %, 10 % and 100 % (95 % intervals within {ends[0]} to "
        f"{ends[1]})."
    )
    assert "labeled images" in second and "macro F1" in second
    assert third.startswith("Trained for equally many epochs, ") and "50 %" in third and "100 %" not in third
    assert {row["note"] for row in answer["worth"]} == {label_efficiency.AT_EQUAL_UPDATES}


def test_a_gain_at_equal_updates_is_worth_labels(make):
    near = (-0.004, 0.0, 0.004)
    at = {("", 0.1): ("collapsed", 0.80), ("", 1.0): (0.90, 0.905), (ARM, 0.1): (0.70, 0.85)}
    cells = {
        (arm, f, i): [score if score == "collapsed" else score + d for d in near]
        for (arm, f), pair in at.items()
        for i, score in zip(INITS, pair, strict=True)
    }
    answer = answer_of(make.in_memory(cells, labels=1000))
    (ten,) = [row for row in answer["worth"] if row["fraction"] == 0.1]
    # from scratch: 0.70 with 100 labels, the strongest there, and 0.90 with 1,000
    assert ten["times"] == pytest.approx(10 ** ((0.85 - 0.70) / 0.20)) and ten["arm"] == ARM
    assert not any("equally many updates" in line for line in answer["headlines"])
    assert any(
        line.startswith("With as many updates as 100 %, pre-training is worth 5.6 times the labels at 10 %")
        for line in answer["headlines"]
    )
    # With all labels, the usual training is one of equal updates.
    assert answer["headlines"][1].endswith("; no difference in accuracy is shown at 100 %.")
    assert len(answer["headlines"]) == 2


def test_worth_is_not_determined_where_its_interval_covers_everything(make):
    """Both curves are flat and seeds spread widely: any number of labels from scratch may reach the score."""
    near = (-0.1, 0.0, 0.1)
    cells = {("", f, i): [0.7 + d for d in near] for f in (0.1, 0.5, 1.0) for i in ("scratch", "mae")}
    answer = answer_of(make.in_memory(cells))
    assert {row["note"] for row in answer["worth"]} == {label_efficiency.UNDETERMINED}
    assert all(row["times"] is row["low"] is row["high"] is None for row in answer["worth"])
    assert "times the labels" not in " ".join([*answer["headlines"], *answer["lines"]])


def test_worth_is_not_given_where_scratch_collapsed(make):
    cells = {("", f, "scratch"): [score] * 3 for f, score in ((0.1, "collapsed"), (0.5, 0.7), (1.0, 0.8))}
    cells |= {("", f, "mae"): [0.85] * 3 for f in (0.1, 0.5, 1.0)}
    worth = {row["fraction"]: row for row in answer_of(make.in_memory(cells))["worth"]}
    assert worth[0.1]["times"] is None and worth[0.1]["note"] == "not given: scratch collapsed"
    assert worth[0.5]["times"] == math.inf


@pytest.mark.parametrize(("seeds", "how"), [(1, "once"), (2, "twice")])
def test_one_or_two_seeds_describe_only_these_models(make, seeds, how):
    cells = {("", f, "scratch"): [score] * seeds for f, score in ((0.1, 0.6), (1.0, 0.8))}
    cells |= {("", f, "mae"): [score] * seeds for f, score in ((0.1, 0.75), (1.0, 0.801))}
    answer = answer_of(make.in_memory(cells))
    second = answer["headlines"][1]
    models = (
        "This pre-trained model is better than that" if seeds == 1 else "These pre-trained models are better than those"
    )
    assert second == (
        f"{models} from scratch, each trained {how}, by 15.0 points of accuracy at 10 %; no difference in accuracy is "
        "shown at 100 %."
    )
    assert "worth" not in " ".join(answer["headlines"])
    assert answer["headlines"][0].startswith(f"Of these models, each trained {how}: with pre-training, 100 % of the ")
    assert "; from scratch, as many did. Enough" in answer["headlines"][0]
    assert f"accuracy is higher, each trained {how}" in answer["lines"][0]
    (care,) = [line for line in answer["warnings"] if line.startswith("One seed" if seeds == 1 else "Two seeds")]
    assert "would differ: train 3 or more, preferably 5." in care
    (ten,) = [row for row in answer["worth"] if row["fraction"] == 0.1]
    assert ten["times"] > 1 and ten["low"] is ten["high"] is None
    assert details.worth_lines(answer["worth"], answer["paired"])[0]["interval"] == "–"


def test_three_seeds_need_no_caution(steady):
    assert not [line for line in answer_of(steady)["warnings"] if "seed" in line]


def test_worse_is_a_cost(make):
    cells = {("", f, "scratch"): [0.9] * 3 for f in (0.1, 1.0)} | {("", f, "mae"): [0.7] * 3 for f in (0.1, 1.0)}
    assert answer_of(make.in_memory(cells))["headlines"][1] == (
        "Pre-training costs 20.0 points of accuracy at 10 % and 20.0 points of accuracy at 100 %."
    )


def test_the_headline_says_what_holm_does_not_confirm(steady):
    answer = answer_of(steady)
    unsure = {"holm_p": 0.07, "verdict": "higher, not confirmed by Holm's correction"}
    paired = [row | (unsure if row["fraction"] == 0.1 else {}) for row in answer["paired"]]
    second = words.answer(steady, answer["rows"], paired, answer["worth"])["headlines"][1]
    assert (
        "a difference of +8.0 points of accuracy at 10 % is not confirmed by Holm's correction; no difference" in second
    )
    assert second.count("not confirmed") == 1 and "times the labels at 1 %" in second
    lines = words.answer(steady, answer["rows"], paired, answer["worth"])["lines"]
    doubtful = [line for line in lines if "not confirmed" in line]
    assert [line.partition(",")[0] for line in doubtful] == ["10 % of the labels (200 images + 50 for choosing)"]
    assert "higher, not confirmed by Holm's correction, +8.0 points" in doubtful[0]
    assert "(p = 0.07)" in doubtful[0]  # the uncorrected p is far below 0.05


def test_collapse_on_both_sides_is_nothing_to_compare(make):
    cells = {("", 0.1, i): ["collapsed"] * 3 for i in INITS} | {("", 1.0, i): [0.8] * 3 for i in INITS}
    answer = answer_of(make.in_memory(cells))
    assert answer["headlines"][1] == (
        "Pre-training shows no difference in accuracy at 100 %; there is nothing to compare at 10 %, where models "
        "collapsed."
    )
    assert "collapsed: nothing to compare at 10 %" in answer["calibration"][0]
    assert answer["lines"][0] == "10 % of the labels, mae against scratch: collapsed: nothing to compare."


def test_when_everything_collapsed_nothing_is_enough(make):
    cells = {("", f, i): ["collapsed"] * 3 for f in (0.1, 1.0) for i in INITS}
    answer = answer_of(make.in_memory(cells))
    assert answer["headlines"] == [
        "How many labels are enough cannot be determined: the models with all labels collapsed.",
        "Pre-training cannot be judged at 10 % and 100 %, where models collapsed.",
    ]
    assert "scratch: collapsed with any number of labels, so the gain from more labels is not known." in answer["lines"]


def test_a_better_score_on_a_falling_curve_is_given_in_points_not_in_labels(make):
    cells = {("", 0.1, "scratch"): [0.75], ("", 1.0, "scratch"): [0.5]}
    cells |= {("", 0.1, "mae"): [0.75], ("", 1.0, "mae"): [0.72]}
    answer = answer_of(make.in_memory(cells))
    assert answer["worth"][1]["times"] < 1  # the curve from scratch was there with fewer labels
    assert "by 22.0 points of accuracy at 100 %" in answer["headlines"][1]
    assert not any("worth" in line for line in answer["lines"])
    lines = details.worth_lines(answer["worth"], answer["paired"])
    assert lines[1]["words"] == "better, but the curve from scratch is flat or falls here"
    assert (lines[0]["words"], lines[0]["interval"]) == (label_efficiency.WITHOUT_DIFFERENCE, "–")


def test_calibration_in_words(steady):
    answer = answer_of(steady)
    rows = {row["fraction"]: row for row in answer["paired"] if row["metric"] == "ece"}
    for row in rows.values():
        mae, scratch = (steady.of(Level("", row["fraction"]), init) for init in ("mae", "scratch"))
        draws = steady.difference_draws("ece", mae, scratch)
        low, high = np.quantile(draws, [0.025, 0.975])
        assert row["low"] == pytest.approx(min(2 * row["difference"] - high, row["difference"]))
        assert row["high"] == pytest.approx(max(2 * row["difference"] - low, row["difference"]))
    (line,) = answer["calibration"]
    assert line.startswith("Calibration error (ECE) of mae against scratch: ")
    for verdict in {row["verdict"] for row in rows.values()}:
        assert verdict in line


def test_arms_are_compared_within_themselves_and_with_the_usual_one(make):
    cells = {("", f, i): [score] * 3 for f, pair in {0.1: (0.6, 0.7), 1.0: (0.85, 0.86)}.items()
             for i, score in zip(INITS, pair, strict=True)}  # fmt: skip
    cells |= {(ARM, 0.1, "scratch"): [0.7] * 3, (ARM, 0.1, "mae"): [0.85] * 3}
    answer = answer_of(make.in_memory(cells))
    assert any(
        line.startswith("As many updates as 100 %, mae against scratch: at 10 % higher, +15.0 points (95 % interval +")
        for line in answer["lines"]
    )
    (line,) = [line for line in answer["lines"] if "against the usual training" in line]
    assert line.startswith(
        "As many updates as 100 %, against the usual training, scratch at 10 %: higher, +10.0 points ("
    )
    assert "; mae at 10 %: higher, +15.0 points (" in line
    assert answer["arms"] == [
        "As many updates as 100 %: trained for as many steps as with that many labels, so that fewer labels do not "
        "also mean less training."
    ]


def test_images_that_chose_the_epoch_are_counted_as_labels(steady):
    (line,) = [line for line in answer_of(steady)["lines"] if line.startswith("Validation images")]
    assert "Besides its training images, each run used 50 of them to set the epoch." in line


def equal_rows(paired, **changes):
    """The rows of paired.csv at equal updates, and with all labels, changed."""
    return [row | changes if row["arm"] or row["fraction"] == 1 else row for row in paired]


def test_no_difference_is_not_said_beside_an_interval_without_0(real):
    answer = answer_of(real)
    unsure = {"low": 0.01, "high": 0.054, "holm_p": 0.2, "verdict": "higher, not confirmed by Holm's correction"}
    line = headlines.equal_updates_line(real, equal_rows(answer["paired"], **unsure), "mae")
    assert line.startswith(
        "Trained for equally many updates, pre-trained models are not shown to be better than those from scratch: in "
        "accuracy +"
    )
    assert line.count("not confirmed by Holm's correction") == 6  # three numbers of labels in two metrics
    assert "no difference" not in line
    nothing = {"low": -0.01, "holm_p": 1.0, "verdict": "no difference shown", "init": "MAE-Big", "seeds": 2}
    line = headlines.equal_updates_line(real, equal_rows(answer["paired"], **nothing), "MAE-Big")
    assert line.startswith(
        "Trained for equally many updates, models from MAE-Big, each trained twice, show no difference from those from "
        "scratch: in accuracy +"
    )
    some = [row | {"collapsed": 2} if row["arm"] else row for row in equal_rows(answer["paired"], **nothing)]
    assert headlines.equal_updates_line(real, some, "MAE-Big").count("2 of 4 models collapsed, so the interval") == 4


def test_a_gain_in_macro_f1_alone_is_a_gain_at_equal_updates(real):
    answer = answer_of(real)
    nothing = {"low": -0.01, "holm_p": 1.0, "verdict": "no difference shown"}
    higher = {"difference": 0.06, "low": 0.018, "high": 0.106, "holm_p": 0.01, "verdict": "higher"}
    paired = [
        row | higher if (row["metric"], row["arm"], row["fraction"]) == ("f1", ARM, 0.1) else row
        for row in equal_rows(answer["paired"], **nothing)
    ]
    headlines = words.answer(real, answer["rows"], paired, answer["worth"])["headlines"]
    assert not any("show no difference from" in line for line in headlines)
    (line,) = [line for line in headlines if line.startswith("With as many updates")]
    assert line == (
        "With as many updates as 100 %, pre-training shows no difference in accuracy at 1 %, 10 % and 100 %; macro F1 "
        "differs by +6.0 points (95 % interval +1.8 to +10.6) at 10 %."
    )
    (details,) = [line for line in words.answer(real, answer["rows"], paired, [])["lines"] if line.startswith("As many")
                  and "mae against scratch" in line]  # fmt: skip
    assert "(macro F1: higher, +6.0 points (95 % interval +1.8 to +10.6))" in details


def test_others_that_never_reached_the_target_are_said_to_have_not_even_if_no_difference_is_shown(make):
    near = (-0.06, 0.0, 0.06)
    means = {("scratch", 0.5): 0.79, ("mae", 0.5): 0.80, ("scratch", 1.0): 0.795, ("mae", 1.0): 0.85}
    study = make.in_memory({("", f, i): [m + d for d in near] for (i, f), m in means.items()}, labels=1000)
    best = max(row["f1"] for row in tables.rows(study) if row["init"] == "scratch")
    head = answer_of(study)["headlines"][0]
    assert f"; from scratch, no number that was tried does (best: {best:.2f} with " in head
    assert ", but with as many labels the difference from scratch is +" in head
    assert ": no difference shown. Enough is" in head or ": not confirmed by Holm's correction. Enough is" in head


def test_statements_about_models_and_about_pre_training_are_apart(make):
    """Three seeds at 10 %, two at 100 %."""
    near = (-0.004, 0.0, 0.004)
    cells = {("", 0.1, i): [m + d for d in near] for i, m in (("scratch", 0.6), ("mae", 0.8))}
    cells |= {("", 1.0, i): [m + d for d in near[:2]] for i, m in (("scratch", 0.7), ("mae", 0.85))}
    answer = answer_of(make.in_memory(cells, labels=1000))
    assert answer["headlines"][1] == (
        "Pre-training is worth 20.0 points of accuracy at 10 %. These pre-trained models are better than those from "
        "scratch, each trained twice, by 15.0 points of accuracy at 100 %."
    )


def test_an_arm_and_one_of_several_trainings_from_scratch_are_named_in_one_place(make):
    near = (-0.004, 0.0, 0.004)
    means = {("", 0.1, "scratch"): 0.5, ("", 1.0, "scratch"): 0.7, ("", 0.1, "tuned"): 0.55, ("", 1.0, "tuned"): 0.8}
    means |= {("", 0.1, "mae"): 0.7, ("", 1.0, "mae"): 0.85, (ARM, 0.1, "mae"): 0.848, (ARM, 0.1, "tuned"): 0.6}
    study = make.in_memory({cell: [m + d for d in near] for cell, m in means.items()}, labels=1000)
    tuned = {"config": {"init": "scratch"}}
    runs = [dataclasses.replace(r, info=r.info | tuned) if r.init == "tuned" else r for r in study.runs]
    study = dataclasses.replace(study, runs=runs)
    assert study.baselines == ["scratch", "tuned"]
    head = next(line for line in answer_of(study)["headlines"] if "Enough is" in line)
    assert head.startswith("With pre-training (trained for as many updates as 100 %), 100 labeled images reach macro")
    assert "; from scratch (tuned), no number that was tried does (best: " in head


def test_a_target_that_the_most_common_class_reaches_answers_nothing(make):
    """Models with all labels that are worse than no model, as on images from elsewhere, and a target set too low."""
    poor = make.in_memory({("", f, i): [s] * 3 for f, s in ((0.1, 0.15), (1.0, 0.2)) for i in INITS}, labels=1000)
    share = 244 / 400
    common = 2 * share / (1 + share) / 5  # recall 1 and precision `share` of one class of five
    best = max(row["f1"] for row in tables.rows(poor) if row["fraction"] == 1)
    assert best - 0.02 < common
    assert answer_of(poor)["headlines"][0] == (
        f"How many labels are enough cannot be determined: the best macro F1 with all labels is {best:.2f}, and always "
        f"predicting the most common class reaches {common:.2f}."
    )
    good = make.in_memory({("", 1.0, i): [0.9] * 3 for i in INITS})
    assert answer_of(good, target=0.15)["headlines"][0] == (
        "How many labels are enough cannot be determined: the target is macro F1 0.15, and always predicting the most "
        "common class reaches 0.15."
    )
    assert "Enough is macro F1 0.16, the target." in answer_of(good, target=0.16)["headlines"][0]


def test_fewer_seeds_with_all_labels_are_not_called_collapsed(make):
    cells = {("", 0.1, i): [0.7, 0.71, 0.72] for i in INITS} | {("", 1.0, "mae"): [0.9]}
    first = answer_of(make.in_memory(cells | {("", 1.0, "scratch"): ["collapsed"] * 3}))["headlines"][0]
    assert first.endswith("cannot be determined: the models with all labels were trained once, and others more often.")


def test_one_of_several_kinds_of_pre_training_is_named(make):
    cells = {("", 1.0, "mae"): [0.8] * 3, ("", 1.0, "mae:mask_ratio=0.5"): [0.9] * 3}
    first = answer_of(make.in_memory(cells))["headlines"][0]
    assert "; with pre-training (mae), no number that was tried does" in first


def test_no_row_is_worth_labels_without_a_difference(make):
    """Seeds that differ in parallel tell nothing about other images; the images alone leave a doubt at all labels."""
    near = (-0.01, 0.0, 0.01)
    at = {0.1: (0.7, 0.85), 0.5: (0.85, 0.9), 1.0: (0.9, 0.92)}
    cells = {("", f, i): [s + d for d in near] for f, pair in at.items() for i, s in zip(INITS, pair, strict=True)}
    study = make.in_memory(cells, labels=1000)
    answer = answer_of(study)
    verdicts = {row["fraction"]: row["verdict"] for row in answer["paired"] if row["metric"] == "accuracy"}
    worth = {row["fraction"]: row for row in answer["worth"]}
    assert verdicts == {0.1: "higher", 0.5: "higher", 1.0: "no difference shown"}
    assert worth[1.0]["times"] is None and worth[1.0]["note"] == label_efficiency.WITHOUT_DIFFERENCE
    for fraction in (0.1, 0.5):
        assert 1 < worth[fraction]["low"] <= worth[fraction]["times"] <= worth[fraction]["high"]
    draws = study.image_draws("accuracy", study.of(Level("", 0.5), "mae"))
    scratch = study.image_draws("accuracy", study.of(Level("", 1.0), "scratch"))
    assert 0.3 < (draws > scratch).mean() < 0.7 and worth[0.5]["high"] == math.inf  # equally good, by these images
    unsure = [row | {"low": 0.01, "high": 0.04, "holm_p": 0.1} for row in answer["paired"]]
    notes = {row["note"] for row in label_efficiency.worth(study, unsure)}
    assert notes == {label_efficiency.UNSURE_DIFFERENCE}


def test_worth_says_what_equal_updates_show(make):
    cells = {("", f, i): [s] * 3 for f, s in ((0.1, 0.7), (1.0, 0.9)) for i in INITS}
    study = make.in_memory(cells | {(ARM, 0.1, i): [0.8] * 3 for i in INITS}, labels=1000)
    given = {"init": "mae", "metric": "accuracy", "arm": ARM, "fraction": 0.1}
    for low, high, p, note in (
        (-0.1, 0.1, 1.0, label_efficiency.AT_EQUAL_UPDATES),
        (0.1, 0.2, 0.3, label_efficiency.UNSURE_AT_EQUAL_UPDATES),
        (-0.2, -0.1, 0.01, label_efficiency.LOWER_AT_EQUAL_UPDATES),
    ):
        row = given | {"low": low, "high": high, "holm_p": p, "verdict": ""}
        (ten, _) = label_efficiency.worth(study, [row])
        assert ten["note"] == note


def differing(answer, study, changes):
    """The second headline if the rows of accuracy in paired.csv are changed at some fractions."""
    paired = [
        row | (changes.get(row["fraction"], {}) if row["metric"] == "accuracy" else {}) for row in answer["paired"]
    ]
    return words.answer(study, answer["rows"], paired, [])["headlines"][1]


@pytest.mark.parametrize(
    ("seeds", "start"),
    [
        (
            1,
            "This pre-trained model is not shown to be more or less accurate than that from scratch, each trained "
            "once: ",
        ),
        (
            2,
            "These pre-trained models are not shown to be more or less accurate than those from scratch, each trained "
            "twice: ",
        ),
        (3, "Pre-training is not shown to change accuracy: "),
    ],
)
def test_a_sentence_of_doubts_alone_says_what_it_is_about(make, seeds, start):
    study = make.in_memory({("", f, i): [0.8] * seeds for f in (0.1, 1.0) for i in INITS}, labels=1000)
    unsure = {"difference": 0.045, "low": 0.003, "high": 0.087, "holm_p": 0.11}
    unsure |= {"verdict": "higher, not confirmed by Holm's correction"}
    assert differing(answer_of(study), study, {0.1: unsure}) == (
        f"{start}a difference of +4.5 points of accuracy at 10 % is not confirmed by Holm's correction; no difference "
        "in accuracy is shown at 100 %."
    )


def test_models_trained_once_and_twice_have_a_sentence_each(make):
    cells = {("", 0.1, i): [score] * 2 for i, score in zip(INITS, (0.6, 0.8), strict=True)}
    cells |= {("", 1.0, i): [score] for i, score in zip(INITS, (0.7, 0.85), strict=True)}
    assert answer_of(make.in_memory(cells, labels=1000))["headlines"][1] == (
        "These pre-trained models are better than those from scratch, each trained twice, by 20.0 points of accuracy "
        "at 10 %. This pre-trained model is better than that from scratch, each trained once, by 15.0 points of "
        "accuracy at 100 %."
    )


def test_every_pre_training_of_several_is_named_in_its_gain(make):
    means = {"scratch": (0.6, 0.8), "mae": (0.7, 0.802), "mae90": (0.75, 0.801)}
    cells = {("", f, init): [m] * 5 for init, pair in means.items() for f, m in zip((0.1, 1.0), pair, strict=True)}
    study = make.in_memory(cells, labels=1000)
    runs = [
        dataclasses.replace(r, info=r.info | {"config": {"init": "mae"}}) if r.init == "mae90" else r
        for r in study.runs
    ]
    answer = answer_of(dataclasses.replace(study, runs=runs))
    assert answer["headlines"][0].count("with pre-training (mae") == 1  # all three reach it with all labels
    gains = [line for line in answer["headlines"] if " is worth " in line]
    assert [line.partition(" is worth ")[0] for line in gains] == ["Pre-training (mae)", "Pre-training (mae90)"]
    once = {("", f, init): [m] for init, pair in means.items() for f, m in zip((0.1, 1.0), pair, strict=True)}
    second = answer_of(make.in_memory(once, labels=1000))["headlines"][1]
    assert second == (
        "This pre-trained model (mae) is better than that from scratch, each trained once, by 10.0 points of accuracy "
        "at 10 %; no difference in accuracy is shown at 100 %."
    )


def test_trainings_from_scratch_alone_are_not_called_a_start_from_something(make):
    means = {"scratch": (0.7, 0.9), "resnet": (0.82, 0.88)}
    cells = {("", f, init): [m] * 3 for init, pair in means.items() for f, m in zip((0.1, 1.0), pair, strict=True)}
    study = make.in_memory(cells, labels=1000)
    runs = [
        dataclasses.replace(r, info=r.info | {"config": {"init": "scratch"}}) if r.init == "resnet" else r
        for r in study.runs
    ]
    answer = answer_of(dataclasses.replace(study, runs=runs))
    assert "; from scratch (resnet), " in answer["headlines"][0]
    assert answer["headlines"][1].startswith("Training from scratch (resnet) is worth ")


@pytest.mark.parametrize(
    ("collapsed", "others", "text"),
    [
        ("scratch", "mae", "; from scratch, all models collapsed. Enough is macro F1 "),
        ("mae", "scratch", "; with pre-training, all models collapsed. Enough is macro F1 "),
    ],
)
def test_a_side_whose_models_all_collapsed_is_in_the_first_sentence(make, collapsed, others, text):
    cells = {("", f, collapsed): ["collapsed"] * 3 for f in (0.1, 1.0)}
    cells |= {("", f, others): [score] * 3 for f, score in ((0.1, 0.8), (1.0, 0.9))}
    assert text in answer_of(make.in_memory(cells, labels=1000))["headlines"][0]


def test_a_score_below_the_most_common_class_is_worth_no_labels(make):
    """61 % of the images are of one class."""
    cells = {("", f, "scratch"): [score] * 5 for f, score in ((0.1, 0.5), (1.0, 0.58))}
    cells |= {("", f, "mae"): [score] * 5 for f, score in ((0.1, 0.56), (1.0, 0.65))}
    answer = answer_of(make.in_memory(cells, labels=1000))
    worth = {row["fraction"]: row for row in answer["worth"]}
    assert worth[0.1]["times"] is None and worth[0.1]["note"] == label_efficiency.LEARNED_LITTLE
    assert worth[1.0]["times"] == math.inf
    assert answer["headlines"][1] == (
        "Pre-training is worth 6.0 points of accuracy at 10 % and more than all the labels from scratch at 100 %."
    )


def test_the_largest_number_of_labels_is_called_all_only_if_it_is_all(make):
    def first(cells, **options):
        return answer_of(make.in_memory(cells, labels=2000), **options)["headlines"][0]

    learned = {("", f, i): [0.8] * 3 for f in (0.01, 0.1) for i in INITS}
    assert first(learned).endswith(", within 2 points of the best with 10 % of the labels. Fewer were not tried.")
    assert first({("", 0.1, i): ["collapsed"] * 3 for i in INITS}) == (
        "How many labels are enough cannot be determined: the models with 10 % of the labels collapsed."
    )
    poor = first({("", 0.1, i): [0.15] * 3 for i in INITS})
    assert "cannot be determined: the best macro F1 with 10 % of the labels is 0." in poor


def test_doubts_at_equal_updates_are_told_one_by_one_and_the_others_together(real):
    answer = answer_of(real)
    nothing = {"difference": 0.01, "low": -0.01, "high": 0.03, "holm_p": 1.0, "verdict": "no difference shown"}
    unsure = {"difference": 0.03, "low": 0.01, "high": 0.05, "holm_p": 0.2}
    unsure |= {"verdict": "higher, not confirmed by Holm's correction"}
    paired = [
        row | unsure if (row["metric"], row["fraction"]) == ("accuracy", 0.1) and row["arm"] else row
        for row in equal_rows(answer["paired"], **nothing)
    ]
    assert headlines.equal_updates_line(real, paired, "mae") == (
        "Trained for equally many updates, pre-trained models are not shown to be better than those from scratch: in "
        "accuracy +1.0 points at 1 % and 100 % (95 % intervals within −1.0 to +3.0) and +3.0 points (95 % interval "
        "+1.0 to +5.0) at 10 % (not confirmed by Holm's correction); in macro F1 +1.0 points at 1 %, 10 % and 100 % "
        "(95 % intervals within −1.0 to +3.0)."
    )


def test_collapsed_seeds_are_told_where_no_difference_is_shown(make):
    cells = {("", f, i): [0.8, 0.81, 0.79] for f in (0.1, 1.0) for i in INITS}
    cells["", 0.1, "mae"] = ["collapsed", "collapsed", 0.8]
    assert answer_of(make.in_memory(cells, labels=1000))["headlines"][1] == (
        "Pre-training shows no difference in accuracy at 10 % (2 of 6 models collapsed) and 100 %."
    )
