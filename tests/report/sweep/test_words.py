"""What a sweep shows, in words."""

import dataclasses

import numpy as np
import pytest

from mae_jax.report.sweep import tables, words
from mae_jax.report.sweep.page import write_sweep


def test_one_network_is_not_counted(tmp_path, write_network):
    write_sweep([write_network(tmp_path / "one", 0.75, 0)], tmp_path / "out")
    text = (tmp_path / "out" / "sweep.md").read_text()
    assert "In pixels, the network reconstructs removed patches with less error than no network, which" in text


@pytest.mark.parametrize(("collapsed", "message"), [(0, ""), (1, ", collapsed: 1 of 3"), (3, ", collapsed")])
def test_a_classifier_is_collapsed_where_every_seed_is(collapsed, message):
    row = {"accuracy": 0.5, "collapsed": collapsed, "seeds": 3, "difference": None}
    assert words._score(row) == [f"0.500{message}", "–"]
    assert words._accuracy(row) == f"0.500{message}" + ("," if message else "")


def effect(mask_ratio, error, change, low, high):
    row = {"mask_ratio": mask_ratio, "visible_weight": 1, "unlabeled": 0, "evaluated_at": 0.75}
    row |= {"error": f"{error}_normalised"}
    return row | {"change": change, "low": low, "high": high, "holm_p": 0.9 if low <= 0 <= high else 0.01}


@pytest.mark.parametrize(
    ("visible", "removed", "end"),
    [
        ((-0.6, -0.5), (-0.01, 0.05), "improves visible patches, with no cost on removed ones shown."),
        ((-0.6, -0.5), (0.01, 0.05), "improves visible patches, and makes removed ones worse at 25 %."),
        ((-0.6, 0.1), (0.01, 0.05), "does not improve visible patches at every mask ratio."),
    ],
)
def test_what_a_weight_changes_is_said_by_its_intervals(sweep, visible, removed, end):
    effects = [effect(0.25, "visible", -0.55, *visible), effect(0.25, "removed", 0.03, *removed)]
    effects += [effect(0.75, "visible", -0.3, -0.4, -0.2), effect(0.75, "removed", 0.0, -0.1, 0.1)]
    text = words._effect(sweep, effects, 1, "75 % removed in evaluation")
    assert text.startswith(
        "A weight of 1 on visible patches changes their error by −55.0 % to −30.0 %, and the error on removed patches "
        "by +0.0 % to +3.0 % (over the mask ratios; 75 % removed in evaluation)"
    )
    assert text.endswith(end)
    other = [row | {"evaluated_at": 0.5} for row in effects]
    assert words._effect(sweep, other, 1, "") == ""  # another ratio of evaluation


def test_the_best_network_is_named_with_the_next_one(sweep):
    text = words._best(sweep, "removed", "75 % removed in evaluation")
    errors = [f"{sweep.mean(i, 0.75, 'removed_normalised'):.3f}" for i in (1, 0)]
    assert text == (
        "Without a weight on visible patches, removed patches are reconstructed best by the network trained with 75 % "
        f"removed: its normalized error is {errors[0]}; the next best, 25 %, has {errors[1]} "
        "(75 % removed in evaluation)."
    )
    visible = words._best(sweep, "visible", "")
    assert "trained with 25 % removed" in visible
    alike = {column: np.stack([draws[0]] * 4) for column, draws in sweep.draws[0.75].items()}
    equal = dataclasses.replace(sweep, draws=sweep.draws | {0.75: alike})
    assert words._best(equal, "removed", "").endswith("; no difference shown between the two.")


def test_the_table_has_a_line_for_no_network_and_one_for_each_network(sweep):
    rows, classifiers = tables.error_rows(sweep), tables.classifier_rows(sweep)
    header, none, *networks = words.table(sweep, rows, classifiers)
    assert len(header) == 9 and header[-2] == "accuracy at 10 %" and {len(line) for line in (none, *networks)} == {9}
    # the mean color has a squared error of 0.01, so 25.5 gray levels
    assert none[:7] == ["no network", "–", "–", "–", "25.5", "–", "–"]
    assert none[7] == f"{classifiers[0]['accuracy']:.3f}" and none[8] == "–"
    assert [line[:2] for line in networks] == [["25 %", "0"], ["75 %", "0"], ["25 %", "1"], ["75 %", "1"]]
    (row,) = [r for r in rows if (r["mask_ratio"], r["visible_weight"], r["evaluated_at"]) == (0.75, 1, 0.75)]
    assert networks[3][2] == f"{row['removed_normalised']:.3f}" and networks[3][6] == "0.30"
    gain = classifiers[4]["difference"]
    assert networks[3][8].startswith(f"{gain:+.3f} (")
    assert len(words.table(sweep, rows, [])[0]) == 7


def test_the_legend_says_how_removed_patches_got_their_contrast(sweep):
    assert "mean and contrast are estimated from the visible patches around them" in words.legend(sweep)
    pixels = [dataclasses.replace(network, normalized=False) for network in sweep.networks]
    assert "they are those of the network's predictions" in words.legend(dataclasses.replace(sweep, networks=pixels))


def test_networks_are_better_only_where_holm_confirms_it():
    base = {"init": "scratch", "accuracy": 0.7, "collapsed": 0, "seeds": 3, "fraction": 0.1, "arm": ""}
    base |= {"difference_low": None, "holm_p": None}
    best = base | {"init": "75 %, weight 0", "accuracy": 0.9, "difference_low": 0.1, "holm_p": 0.01}
    worst = base | {"init": "25 %, weight 0", "accuracy": 0.8, "difference_low": 0.01, "holm_p": 0.2}
    assert words._classifiers([base, best, worst]) == (
        "Fine-tuned on 10 % of the labels, accuracy is 0.900 from the best network (75 %, weight 0) and 0.800 from the "
        "worst (25 %, weight 0); 0.700 from scratch: 1 of 2 networks are shown to be better, after Holm’s correction "
        "for their number."
    )
    once = [row | {"seeds": 1} for row in (base, worst)]
    assert words._classifiers(once).endswith("the network is not shown to be better, by classifiers each trained once.")
    assert words._classifiers([best]).endswith("from the best network (75 %, weight 0).")
    assert words._classifiers([base]) == ""
