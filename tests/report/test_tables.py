"""Tables and sentences: what a study of known outcome must say."""

import csv
import json
import math
import shutil

import numpy as np
import pytest

from mae_jax.report import analysis, figures, label_efficiency, tables, words
from mae_jax.report.runs import Level, percent, read_runs


@pytest.fixture(scope="module")
def study(make, tmp_path_factory):
    """Scratch collapses at 1 %; mae is far ahead at 10 % and level above."""
    runs, _ = read_runs(make.study(tmp_path_factory.mktemp("study"), rows=600))
    return analysis.analyze(runs)


@pytest.fixture(scope="module")
def seeds(make, tmp_path_factory):
    runs, _ = read_runs(make.study(tmp_path_factory.mktemp("seeds"), rows=300, seeds=3))
    return analysis.analyze(runs)


def test_rows_hold_every_metric_between_its_bounds(study):
    rows = tables.rows(study)
    assert [(row["fraction"], row["init"]) for row in rows[:3]] == [
        (0.01, "scratch"),
        (0.01, "mae"),
        (0.1, "scratch"),
    ]
    assert list(rows[0])[:9] == [
        *("fraction", "init", "seeds", "n_train", "n_test"),
        *("accuracy", "precision", "recall", "f1"),
    ]
    for row in rows:
        for m in ("accuracy", "precision", "recall", "f1", "balanced_accuracy", "nll", "brier"):
            assert row[f"{m}_low"] <= row[m] <= row[f"{m}_high"], (row["fraction"], m)
        assert 0 <= row["ece_low"] <= row["ece"] <= row["ece_high"] <= 1
        assert row["temperature"] > 0 and row["nll_scaled"] > 0
    assert rows[0]["interval"] == "over 40 groups of test images"
    first = study.runs[0].test
    assert rows[0]["accuracy"] == pytest.approx(first.right.mean())
    assert rows[0]["majority_rate"] == pytest.approx((first.labels == 4).mean())
    assert rows[0]["n_train"] == 80 and rows[0]["n_test"] == 600


def test_collapse_is_named(study):
    rows = tables.rows(study)
    assert [row["collapsed"] for row in rows] == [1, 0, 0, 0, 0, 0, 0, 0]
    assert rows[0]["accuracy"] == rows[0]["majority_rate"]
    (line,) = words.collapse_lines(study)
    assert line.startswith("Collapsed: Neutrophil is predicted for 100 % of the images (the commonest class makes up ")
    assert line.endswith(" %): scratch at 1 %.")


def test_paired_rows(study):
    rows, notes = tables.paired(study)
    assert notes == []
    accuracy = {row["fraction"]: row for row in rows if row["metric"] == "accuracy"}
    assert list(rows[0])[:6] == ["fraction", "metric", "difference", "low", "high", "mcnemar_p"]
    assert accuracy[0.1]["verdict"] == "higher" and accuracy[0.1]["holm_p"] < 1e-6
    for fraction in (0.5, 1.0):
        assert accuracy[fraction]["low"] < 0 < accuracy[fraction]["high"]
        assert accuracy[fraction]["verdict"] == "no difference shown"
    p = [accuracy[f]["mcnemar_p"] for f in sorted(accuracy)]
    holm = [accuracy[f]["holm_p"] for f in sorted(accuracy)]
    assert all(a <= b for a, b in zip(p, holm, strict=True))
    assert all(row["mcnemar_p"] is None for row in rows if row["metric"] != "accuracy")


def test_pairing_narrows_the_interval(study):
    rows, _ = tables.paired(study)
    paired = next(r for r in rows if (r["fraction"], r["metric"]) == (1.0, "accuracy"))
    a, b = (study.draws["accuracy"][i] for i in (6, 7))
    unpaired = np.quantile(b - np.roll(a, 1), [0.025, 0.975])
    assert paired["high"] - paired["low"] < unpaired[1] - unpaired[0]


def test_several_seeds(seeds):
    rows = tables.rows(seeds)
    values = seeds.estimates["accuracy"][seeds.of(Level("", 0.1), "mae")]
    row = rows[3]
    assert (row["seeds"], row["interval"]) == (3, "over 3 seeds")
    assert row["accuracy"] == pytest.approx(values.mean())
    half = 4.30265 * values.std(ddof=1) / math.sqrt(3)
    assert row["accuracy_high"] == pytest.approx(values.mean() + half, rel=1e-5)
    paired, _ = tables.paired(seeds)
    assert {row["seeds"] for row in paired} == {3}


ARM = "as many updates as 100 %"


def test_an_arm_is_compared_within_itself(make, tmp_path):
    dirs = make.study(tmp_path / "usual", rows=200)
    for init, knows in (("scratch", 0.6), ("mae", 0.9)):
        dirs.append(make.run(tmp_path / f"matched_{init}", init, 0.1, rows=200, knows=knows, arm=ARM))
    study = analysis.analyze(read_runs(dirs)[0])
    rows = tables.rows(study)
    assert len(rows) == 10 and [row["arm"] for row in rows[8:]] == [ARM, ARM]
    paired, _ = tables.paired(study)
    accuracy = [row for row in paired if row["metric"] == "accuracy"]
    assert [(row["fraction"], row["arm"]) for row in accuracy] == [
        (0.01, ""),
        (0.1, ""),
        (0.5, ""),
        (1, ""),
        (0.1, ARM),
    ]
    assert accuracy[-1]["difference"] == pytest.approx(rows[9]["accuracy"] - rows[8]["accuracy"])
    assert accuracy[-1]["holm_p"] == accuracy[-1]["mcnemar_p"]  # one fraction in this arm
    assert accuracy[1]["holm_p"] > accuracy[1]["mcnemar_p"]
    assert len(label_efficiency.worth(study)) == 4  # the curve is that of the usual arm
    said = words.answer(study, rows, paired, label_efficiency.worth(study))
    assert said["headlines"][0].startswith("Pre-training is worth ") and ARM not in said["headlines"][0]
    points = 100 * accuracy[-1]["difference"]
    assert (
        said["headlines"][1]
        == f"As many updates as 100 %: pre-training is worth {points:.1f} points of accuracy at 10 %."
    )
    said_of_arm = (
        f"As many updates as 100 %, mae against scratch: higher at 10 %, +{points:.1f} points (95 % interval +"
    )
    assert any(line.startswith(said_of_arm) for line in said["lines"])
    draws = study.draws["accuracy"]
    usual, longer = (study.of(Level(arm, 0.1), "scratch")[0] for arm in ("", ARM))
    low, high = (words.signed(100 * v) for v in np.quantile(draws[longer] - draws[usual], [0.025, 0.975]))
    (line,) = [
        line for line in said["lines"] if line.startswith(f"A{ARM[1:]}, against the usual training, scratch at 10 %: ")
    ]
    assert f"(95 % interval {low} to {high})" in line and "mae at 10 %: " in line
    assert said["arms"] == [
        "As many updates as 100 %: trained for as many steps as on that share of the labels, so that fewer labels do "
        "not also mean less training."
    ]
    assert f"10 %, {ARM}" in tables.table_text(rows)


def test_without_the_usual_arm_the_one_at_most_fractions_is_the_usual_one(make, tmp_path):
    dirs = make.study(tmp_path / "three", rows=200, arm="10 blocks trained")
    for name, fraction in (("3 blocks trained", 0.1), ("the head trained", 0.5)):
        for init, knows in (("scratch", 0.6), ("mae", 0.9)):
            dirs.append(make.run(tmp_path / f"{name}_{init}", init, fraction, rows=200, knows=knows, arm=name))
    study = analysis.analyze(read_runs(dirs)[0])
    assert study.arms == ["10 blocks trained", "3 blocks trained", "the head trained"]
    rows, (paired, _) = tables.rows(study), tables.paired(study)
    worth = label_efficiency.worth(study)
    assert [(row["fraction"], row["arm"]) for row in worth] == [(f, study.arms[0]) for f in (0.01, 0.1, 0.5, 1.0)]
    assert all(set(row) == set(label_efficiency.COLUMNS) for row in worth)
    said = words.answer(study, rows, paired, worth)
    assert "times the labels at 10 %" in said["headlines"][0]
    assert sum("more labels change" in line or "still changes" in line for line in said["lines"]) == 2
    assert figures.fitted(study, rows) is not None
    _, drawn = figures.differences(study, paired)
    assert drawn


def test_the_usual_arm_is_the_usual_one_also_at_fewer_fractions(make, tmp_path):
    dirs = make.study(tmp_path / "three", rows=200, arm="3 blocks trained")
    dirs += make.study(tmp_path / "usual", rows=200)[2:6]
    study = analysis.analyze(read_runs(dirs)[0])
    assert study.arms == ["", "3 blocks trained"]
    rows, (paired, _) = tables.rows(study), tables.paired(study)
    said = words.answer(study, rows, paired, label_efficiency.worth(study))
    assert said["headlines"][0].startswith("Pre-training ") and said["headlines"][1].startswith("3 blocks trained: ")


def test_labels_of_an_axis_do_not_run_together(make, tmp_path):
    fractions = (0.01, 0.1, 0.3, 0.33, 0.36, 1.0)
    dirs = [make.run(tmp_path / f"{f}", "scratch", f, rows=60, knows=0.5 + f / 3) for f in fractions]
    study = analysis.analyze(read_runs(dirs)[0])
    figure, _ = figures.curves([figures.Curve("Accuracy", study, tables.rows(study), "accuracy", [""])])
    texts = [label.get_text().partition("\n")[2] for label in figure.axes[0].get_xticklabels()]
    assert texts == ["1 %", "10 %", "", "", "36 %", "100 %"] and len(figure.axes[0].get_xticks()) == 6


def test_many_initialisations_have_colours_and_marks_of_their_own(make, tmp_path):
    dirs = [make.run(tmp_path / f"{i}", f"init {i}", 0.1, rows=60, knows=0.5) for i in range(10)]
    study = analysis.analyze(read_runs([*dirs, make.run(tmp_path / "s", "scratch", 0.1, rows=60)])[0])
    for looks in (figures.color, figures.marker):
        assert len({looks(study, init) for init in study.inits}) == 11


def test_worth_stands_in_the_headline_only_where_its_interval_is_above_one(study):
    rows, (paired, _) = tables.rows(study), tables.paired(study)
    worth = label_efficiency.worth(study)
    before = words.answer(study, rows, paired, worth)["headlines"][0]
    assert "times the labels at 10 %" in before
    unsure = [row | {"low": 0.4} for row in worth]
    after = words.answer(study, rows, paired, unsure)["headlines"][0]
    assert "times the labels" not in after and "points of accuracy at 10 %" in after


def test_a_small_number_is_not_shown_as_none():
    assert [words.signed(v) for v in (-0.03, 0.04, 0.0, 0.001, 1.25)] == ["−0.03", "+0.04", "0.0", "0.0", "+1.2"]


def test_arms_that_share_some_seeds_are_compared_on_these(make, tmp_path):
    dirs = make.study(tmp_path / "usual", rows=100, seeds=2)
    for init in ("scratch", "mae"):
        for seed in (1, 2):
            dirs.append(make.run(tmp_path / f"{init}{seed}", init, 0.1, seed=seed, rows=100, knows=0.9, arm=ARM))
        dirs.append(make.run(tmp_path / f"{init}5", init, 0.5, seed=5, rows=100, knows=0.9, arm=ARM))
    study = analysis.analyze(read_runs(dirs)[0])
    (line,) = words.arm_lines(study)
    for init in ("scratch", "mae"):
        ours, base = (next(i for i in study.of(Level(arm, 0.1), init) if study.runs[i].seed == 1) for arm in (ARM, ""))
        points = words.signed(100 * (study.estimates["accuracy"][ours] - study.estimates["accuracy"][base]))
        assert f"{init} at 10 %: " in line and f"{points} points" in line
        assert f"{init} at 50 %: not compared, since no seed has both" in line


def test_without_scratch_one_line_says_so(make, tmp_path):
    dirs = make.study(tmp_path, rows=60, inits=("mae",))
    for f in (0.1, 0.5):
        dirs.append(make.run(tmp_path / f"other{f}", "imported", f, rows=60, knows=0.5))
    paired, notes = tables.paired(analysis.analyze(read_runs(dirs)[0]))
    assert (paired, notes) == ([], ["no run from scratch: nothing is compared with it"])


def test_fractions_are_not_shown_to_six_digits():
    assert [percent(f) for f in (1 / 3, 0.005, 0.0001, 1.0, 0.125)] == ["33.33 %", "0.5 %", "0.01 %", "100 %", "12.5 %"]


def test_seeds_without_a_partner_are_left_out(make, tmp_path):
    dirs = make.study(tmp_path, rows=60, seeds=2)
    runs, _ = read_runs([d for d in dirs if d.name != "mae_0.1_1"])
    paired, notes = tables.paired(analysis.analyze(runs))
    assert len(notes) == 1 and "mae at 10 %" in notes[0]
    assert {r["seeds"] for r in paired if r["fraction"] == 0.1} == {1}


def test_efficiency_and_plateau(study):
    worth = {row["fraction"]: row for row in label_efficiency.worth(study)}
    ten = worth[0.1]
    assert 1.5 < ten["low"] < ten["times"] < ten["high"] < 5
    assert (ten["least"], ten["most"]) == (0.1, 10)
    # by hand: where the straight line (in log labels) from scratch at 10 % to 50 % meets mae at 10 %
    at = [study.mean("accuracy", study.of(Level("", f), "scratch")) for f in (0.1, 0.5)]
    share = (study.mean("accuracy", study.of(Level("", 0.1), "mae")) - at[0]) / (at[1] - at[0])
    assert ten["times"] == pytest.approx(5**share)
    fraction, gain = label_efficiency.plateau(study, "scratch")
    draws = study.draws["accuracy"]
    at_50, at_100 = (study.of(Level("", f), "scratch")[0] for f in (0.5, 1.0))
    assert (fraction, gain) == (0.5, pytest.approx(np.quantile(draws[at_100] - draws[at_50], 0.975)))
    said = next(line for line in words.plateau_lines(study) if line.startswith("scratch"))
    assert said.endswith(f"nothing measurable; a gain of up to {100 * gain:.1f} points is not ruled out.")


def test_words_follow_from_the_numbers(study):
    rows, (paired, _) = tables.rows(study), tables.paired(study)
    said = words.answer(study, rows, paired, label_efficiency.worth(study))
    (headline,) = said["headlines"]
    assert headline.startswith("Pre-training is worth ") and "times the labels at 10 %" in headline
    assert headline.endswith("no difference shown at 50 % and 100 %.")
    level = next(line for line in said["lines"] if line.startswith("50 %"))
    assert "no difference shown" in level and "worth" not in level


def by_hand(tmp_path, name, init, fraction, right, **extra):
    """A run of two classes whose answers on 40 images are given; True is right."""
    run = tmp_path / name
    run.mkdir()
    info = {"init": init, "fraction": fraction, "seed": 0, "classes": ["a", "b"], "n_train": round(1000 * fraction)}
    (run / "run.json").write_text(json.dumps(info))
    lines = ["image,group,label,prediction,confidence"]
    for i, ok in enumerate(right):
        label = "ab"[i % 2]
        said = label if ok else "ba"[i % 2]
        lines.append(f"{i:03},{extra.get('group', lambda i: '')(i)},{label},{said},0.9")
    (run / "predictions.csv").write_text("\n".join(lines) + "\n")
    return run


def share(n, of=40):
    return [i < n for i in range(of)]


def test_a_better_score_on_a_falling_curve_is_told_in_points_not_in_labels(tmp_path):
    cells = [("scratch", 0.1, 30), ("scratch", 1.0, 20), ("mae", 0.1, 30), ("mae", 1.0, 29)]
    runs, _ = read_runs([by_hand(tmp_path, f"{i}{f}", i, f, share(n)) for i, f, n in cells])
    study = analysis.analyze(runs)
    paired, worth = tables.paired(study)[0], label_efficiency.worth(study)
    assert worth[1]["times"] < 1  # the curve from scratch was there with fewer labels
    said = words.answer(study, tables.rows(study), paired, worth)
    assert said["headlines"] == ["Pre-training is worth 22.5 points of accuracy at 100 %; no difference shown at 10 %."]
    assert not any("worth" in line for line in said["lines"])
    assert words.worth_lines(worth, paired)[1]["words"] == "better, but the curve from scratch is flat or falls here"


def test_a_curve_that_dips_and_rises_has_no_plateau_before_the_dip(tmp_path):
    # neither 27 nor 33 differs measurably from 30, but 33 does from 27: more labels do change something
    cells = [(0.1, 30), (0.5, 27), (1.0, 33)]
    runs, _ = read_runs([by_hand(tmp_path, f"{f}", "scratch", f, share(n)) for f, n in cells])
    study = analysis.analyze(runs)
    assert label_efficiency.plateau(study, "scratch") is None
    assert words.plateau_lines(study) == ["scratch: accuracy still changes up to 100 % of the labels."]


def test_what_holm_does_not_confirm_is_said_in_the_headline(tmp_path):
    # 6 images against 0: p = 2 / 2^6 = 0.03, doubled for two fractions
    cells = [("scratch", 0.1, 20), ("scratch", 1.0, 20), ("mae", 0.1, 26), ("mae", 1.0, 20)]
    runs, _ = read_runs([by_hand(tmp_path, f"{i}{f}", i, f, share(n)) for i, f, n in cells])
    study = analysis.analyze(runs)
    paired, worth = tables.paired(study)[0], label_efficiency.worth(study)
    (first,) = [row for row in paired if row["metric"] == "accuracy" and row["fraction"] == 0.1]
    assert (first["mcnemar_p"], first["holm_p"]) == (2 / 64, 4 / 64) and first["low"] > 0
    (headline,) = words.answer(study, tables.rows(study), paired, worth)["headlines"]
    assert "at 10 % (not sure after Holm's correction); no difference shown at 100 %" in headline


def test_collapse_on_both_sides_is_said_in_the_headline(tmp_path):
    one_class = [i % 2 == 0 for i in range(40)]  # always "a"
    cells = [("scratch", 0.1, one_class), ("scratch", 1.0, one_class), ("mae", 0.1, one_class), ("mae", 1.0, share(20))]
    runs, _ = read_runs([by_hand(tmp_path, f"{i}{f}", i, f, right) for i, f, right in cells])
    study = analysis.analyze(runs)
    paired, worth = tables.paired(study)[0], label_efficiency.worth(study)
    said = words.answer(study, tables.rows(study), paired, worth)
    assert said["headlines"] == ["Pre-training: no difference shown at 10 % (both collapsed) and 100 %."]
    other = by_hand(tmp_path, "collapsed too", "mae", 1.0, one_class)
    study = analysis.analyze(read_runs([run.path for run in runs[:3]] + [other])[0])
    worth = words.worth_lines(label_efficiency.worth(study), tables.paired(study)[0])
    assert [w["interval"] for w in worth] == ["1.0", "–"]  # a flat curve has this accuracy with any number of labels


def test_images_of_one_class_show_no_collapse(tmp_path):
    runs = [by_hand(tmp_path, f"{i}{f}", i, f, share(40)) for i in ("scratch", "mae") for f in (0.1, 1.0)]
    for run in runs:
        file = run / "predictions.csv"
        file.write_text(file.read_text().replace(",b,b,", ",a,a,"))
    study = analysis.analyze(read_runs(runs)[0])
    rows = tables.rows(study)
    assert [row["collapsed"] for row in rows] == [0] * 4 and rows[0]["top_class_share"] == 1
    said = words.answer(study, rows, tables.paired(study)[0], label_efficiency.worth(study))
    assert "ollapsed" not in str(said)


@pytest.mark.parametrize(("groups", "units"), [(1, "40 test images"), (4, "4 groups of test images")])
def test_few_groups_are_warned_of_and_one_is_not_redrawn(tmp_path, groups, units):
    group = lambda i: f"slide {i * groups // 40}"  # noqa: E731
    cells = (("scratch", 20), ("mae", 28))
    runs, _ = read_runs([by_hand(tmp_path, i, i, 0.1, share(n), group=group) for i, n in cells])
    study = analysis.analyze(runs)
    (row,) = [row for row in tables.paired(study)[0] if row["metric"] == "accuracy"]
    assert study.units == units and row["low"] < row["difference"] < row["high"]
    (said,) = study.warnings
    assert ("all of one group" if groups == 1 else "only 4 groups") in said
    assert said in words.answer(study, tables.rows(study), tables.paired(study)[0], [])["warnings"]


def test_models_without_a_mistake_are_no_proof(tmp_path):
    runs, _ = read_runs([by_hand(tmp_path, i, i, 0.1, share(n)) for i, n in (("scratch", 20), ("mae", 40))])
    rows = tables.rows(analysis.analyze(runs))
    assert words.flawless_lines(rows[:1]) == []
    (said,) = words.flawless_lines(rows)
    assert said.startswith("No mistake among 40 test images: mae at 10 %.") and "about 3 in 40" in said


def test_identical_predictions_show_no_difference(tmp_path):
    runs, _ = read_runs([by_hand(tmp_path, i, i, 0.1, share(25)) for i in ("scratch", "mae")])
    for row in tables.paired(analysis.analyze(runs))[0]:
        assert (row["difference"], row["low"], row["high"], row["verdict"]) == (0, 0, 0, tables.NOTHING)
        assert row["mcnemar_p"] == (1 if row["metric"] == "accuracy" else None)


def test_calibration_in_words(study):
    paired, _ = tables.paired(study)
    rows = {row["fraction"]: row for row in paired if row["metric"] == "ece"}
    for row in rows.values():
        draws = study.draws["ece"]
        mae, scratch = (study.of(Level("", row["fraction"]), init)[0] for init in ("mae", "scratch"))
        low, high = np.quantile(draws[mae] - draws[scratch], [0.025, 0.975])
        assert row["low"] == pytest.approx(min(2 * row["difference"] - high, row["difference"]))
        assert row["high"] == pytest.approx(max(2 * row["difference"] - low, row["difference"]))
    (line,) = words.calibration_lines(paired)
    assert line.startswith("Calibration error (ECE) of mae against scratch: ")
    for verdict in {row["verdict"] for row in rows.values()}:
        assert verdict in line


def test_what_two_seeds_and_the_images_add_to_an_interval(make, tmp_path):
    """Seeds that agree leave the spread of the images; seeds that do not widen it as Student's t would."""
    alike = [make.run(tmp_path / f"{i}{s}", i, 0.1, seed=s, rows=200) for i in ("scratch", "mae") for s in (0,)]
    for run in list(alike):
        copy = tmp_path / f"{run.name}copy"
        shutil.copytree(run, copy)
        info = json.loads((copy / "run.json").read_text()) | {"seed": 1}
        (copy / "run.json").write_text(json.dumps(info))
        alike.append(copy)

    def interval(dirs):
        rows, _ = tables.paired(analysis.analyze(read_runs(dirs)[0]))
        row = next(row for row in rows if row["metric"] == "accuracy")
        return row["difference"], row["high"] - row["low"]

    (one, width), (two, same) = interval(alike[:2]), interval(alike)
    assert two == pytest.approx(one) and same == pytest.approx(width)
    different = [make.run(tmp_path / f"d{i}{s}", i, 0.1, seed=s, rows=200) for i in ("scratch", "mae") for s in (2, 3)]
    found = analysis.analyze(read_runs(different)[0])
    gains = found.estimates["accuracy"][2:] - found.estimates["accuracy"][:2]
    student = 12.706 * gains.std(ddof=1) / math.sqrt(2)
    assert interval(different)[1] > 2 * student > 0


@pytest.mark.parametrize(
    ("times", "low", "high", "text", "interval"),
    [
        (3.21, 2.5, 4.04, "3.2 times the labels", "2.5 to 4.0"),
        (math.inf, 4.0, math.inf, "more than 10 times the labels", "4.0 to more than 10"),
        (math.inf, math.inf, math.inf, "more than 10 times the labels", "more than 10"),
        (0.0, 0.0, 0.5, "less than 0.1 times the labels", "less than 0.1 to 0.50"),
    ],
    ids=["inside", "over", "all over", "under"],
)
def test_worth_in_words(times, low, high, text, interval):
    row = {"times": times, "low": low, "high": high, "least": 0.1, "most": 10.0}
    assert words.times(row) == text
    assert words.times_interval(row) == interval


def test_verdicts():
    assert tables.verdict(0.0, 0.0) == "no difference shown"
    assert tables.verdict(-0.1, 0.2) == "no difference shown"
    assert tables.verdict(0.01, 0.2) == "higher"
    assert tables.verdict(-0.2, -0.01) == "lower"


def test_table_for_a_terminal(study):
    lines = tables.table_text(tables.rows(study)).splitlines()
    assert len(lines) == 6 and len({len(line) for line in lines}) == 1
    ten = [cell.strip() for cell in lines[3].split("|")[1:-1]]
    assert ten[0] == "10 %"
    assert float(ten[2]) - float(ten[1]) == pytest.approx(float(ten[3]), abs=1.1e-4)
    published = tables.table_text(tables.PUBLISHED)
    assert "0.7315" in published and "+0.1696" in published


def test_csv_cells_are_no_formulas(tmp_path):
    rows = [{"name": "=1+1", "value": -0.5}, {"name": "@x", "value": None}]
    with tables.write_csv(tmp_path / "t.csv", rows).open(newline="") as stream:
        assert list(csv.reader(stream)) == [["name", "value"], ["'=1+1", "-0.5"], ["'@x", ""]]
