"""Every metric of the runs of a report: collapse, intervals, calibration, and the strongest training from scratch."""

import dataclasses
import json
import math
import shutil

import numpy as np
import pytest

from mae_jax.report import analysis, cell_types, certainty, comparisons, label_efficiency, tables, words
from mae_jax.report.runs import Level, read_runs
from mae_jax.rundir.predictions import Predictions

TUNED = "tuned"
TEST = {("scratch", 0.1): 0.70, (TUNED, 0.1): 0.78, ("scratch", 1.0): 0.86, (TUNED, 1.0): 0.84}
VALIDATION = TEST | {("scratch", 1.0): 0.80}  # at 100 %, validation prefers the one that is worse on the test images


def test_nearly_one_class_is_a_collapse_where_that_class_is_not_nearly_all(make):
    study = make.in_memory({("", 0.1, "scratch"): ["collapsed", "collapsed", 0.8]})
    run = study.runs[0]
    predictions = run.test.predictions.copy()
    predictions[:4] = 0  # 396 of 400
    nearly = dataclasses.replace(run, test=dataclasses.replace(run.test, predictions=predictions))
    assert study.has_collapsed(run) and study.has_collapsed(nearly) and not study.has_collapsed(study.runs[2])
    predictions[:8] = 0
    assert not study.has_collapsed(nearly)
    labels = np.where(np.arange(400) < 4, 0, 4)  # a class of 99 % may rightly be predicted so often
    common = dataclasses.replace(run, test=dataclasses.replace(run.test, predictions=labels, labels=labels))
    assert not study.has_collapsed(common)
    assert tables.rows(study)[0]["collapsed"] == 2


def test_interval_and_p_of_a_calibration_error_are_both_of_mirrored_draws(make):
    """Resampling raises the difference of 0.03 to 0.07 on average. Corrected, it is one standard deviation below 0."""
    study = make.in_memory({("", 0.1, "scratch"): [0.5], ("", 0.1, "mae"): [0.7]})
    lifted = 0.07 + 0.01 * np.random.default_rng(0).standard_normal(10_000)
    ece = {"ece": np.array([0.02, 0.05])}, {"ece": np.stack([np.zeros(10_000), lifted])}
    study = dataclasses.replace(study, estimates=study.estimates | ece[0], draws=study.draws | ece[1])
    (row,) = [row for row in tables.paired(study)[0] if row["metric"] == "ece"]
    assert row["difference"] == pytest.approx(0.03) and row["verdict"] == comparisons.NOTHING
    assert (row["low"], row["high"]) == (pytest.approx(-0.03, abs=1e-3), pytest.approx(0.03, abs=1e-9))
    assert row["p"] == pytest.approx(0.317, abs=0.02)  # of a normal variable beyond one standard deviation


def test_intervals_over_groups_redraw_groups(make, tmp_path):
    """30 slides of 10 images that are all right or all wrong: the interval is that of 30 draws, not of 300."""
    names = tuple(f"{i:03}" for i in range(300))
    rights = {"scratch": np.arange(30) % 3 > 0, "mae": np.arange(30) % 5 > 0}
    runs = []
    for run in make.in_memory({("", 1.0, i): [0.5] for i in rights}, images=300).runs:
        right = rights[run.init].repeat(10)
        test = dataclasses.replace(
            run.test, images=names, labels=np.arange(300) % 2, predictions=np.where(right, np.arange(300) % 2, 2),
            confidence=np.full(300, 0.9), groups=tuple(f"slide {i // 10}" for i in range(300)),
        )  # fmt: skip
        runs.append(dataclasses.replace(run, test=test))
    study = analysis.analyze(runs)
    assert study.units == "30 groups of test images"
    rows = {row["init"]: row for row in tables.rows(study)}
    for init, groups in rights.items():
        half = 2.045 * groups.std(ddof=1) / math.sqrt(30)  # Student's t with 29 degrees of freedom
        assert rows[init]["accuracy"] == pytest.approx(groups.mean())
        assert rows[init]["accuracy_high"] - rows[init]["accuracy_low"] == pytest.approx(2 * half, rel=0.15)
    (row,) = [row for row in tables.paired(study)[0] if row["metric"] == "accuracy"]
    gains = rights["mae"].astype(float) - rights["scratch"]
    half = 2.045 * gains.std(ddof=1) / math.sqrt(30)
    assert row["high"] - row["low"] == pytest.approx(2 * half, rel=0.15)


def test_the_temperature_is_fitted_on_validation_images(make):
    """Validation images call for a temperature of 3, test images for 1; that of the validation images is used."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(5), 3000)
    labels = np.array([rng.choice(5, p=row) for row in p])  # calibrated as they are
    sharp = p**3 / (p**3).sum(1, keepdims=True)
    (run,) = make.in_memory({("", 1.0, "scratch"): [0.5]}).runs
    names = tuple(f"{i:04}" for i in range(3000))

    def predictions(p, start):
        return Predictions(tuple(start + n for n in names), labels, p.argmax(1), p.max(1), None, p)

    result = analysis.calibration(
        dataclasses.replace(run, test=predictions(p, "t"), validation=predictions(sharp, "v"))
    )
    assert result["temperature"] == pytest.approx(3, rel=0.05)
    flat = p ** (1 / result["temperature"])
    flat /= flat.sum(1, keepdims=True)
    nll = -np.log(flat[np.arange(3000), labels]).mean()
    assert result["nll_scaled"] == pytest.approx(nll, rel=1e-6)
    bins = np.ceil(flat.max(1) * 15).astype(int)
    gaps = [(bins == b).mean() * abs((p.argmax(1) == labels)[bins == b].mean() - flat.max(1)[bins == b].mean())
            for b in np.unique(bins)]  # fmt: skip
    assert result["ece_scaled"] == pytest.approx(sum(gaps), rel=1e-6)
    missing = analysis.calibration(dataclasses.replace(run, test=predictions(p, "t"), validation=None))
    assert math.isnan(missing["temperature"])


def test_what_seeds_and_images_add_to_an_interval(make, tmp_path):
    """Seeds that agree leave the spread of the images; seeds that do not widen it at least as Student's t does."""
    alike = [make.run(tmp_path / f"{i}{s}", i, 0.1, seed=s, rows=200) for i in ("scratch", "mae") for s in (0,)]
    for run, seed in [(run, seed) for run in alike for seed in (1, 2)]:
        copy = tmp_path / f"{run.name}copy{seed}"
        shutil.copytree(run, copy)
        info = json.loads((copy / "run.json").read_text()) | {"seed": seed}
        (copy / "run.json").write_text(json.dumps(info))
        alike = [*alike, copy]

    def interval(dirs):
        rows, _ = tables.paired(analysis.analyze(read_runs(dirs)[0]))
        row = next(row for row in rows if row["metric"] == "accuracy")
        return row["difference"], row["high"] - row["low"]

    (one, width), (two, same) = interval(alike[:2]), interval(alike)
    assert two == pytest.approx(one) and same == pytest.approx(width)
    different = [
        make.run(tmp_path / f"d{i}{s}", i, 0.1, seed=s, rows=200) for i in ("scratch", "mae") for s in (2, 3, 4)
    ]
    result = analysis.analyze(read_runs(different)[0])
    gains = result.estimates["accuracy"][3:] - result.estimates["accuracy"][:3]
    student = 4.30265 * gains.std(ddof=1) / math.sqrt(3)
    assert interval(different)[1] > 0.95 * 2 * student > 0


def test_what_the_bootstrap_resamples():
    units, words, warnings = analysis.redrawn(["b", "a", "b", "c"] * 10, 40)
    assert units.tolist() == [1, 0, 1, 2] * 10 and words == "3 groups of test images"
    assert len(warnings) == 1 and "only 3 groups" in warnings[0]
    assert analysis.redrawn([f"{i}" for i in range(20)], 20)[1:] == ("20 groups of test images", [])  # no longer few
    units, words, warnings = analysis.redrawn(["a"] * 3, 3, "held-out images")
    assert units.tolist() == [0, 1, 2] and words == "3 held-out images" and "all come from one group" in warnings[0]
    assert analysis.redrawn(None, 1200)[1:] == ("1,200 test images", [])


def test_the_strongest_arm_of_each_fraction_is_that_with_the_best_mean_and_never_a_collapsed_one(make):
    cells = {("", 1.0, "mae"): [0.9, 0.5], ("long", 1.0, "mae"): [0.8, 0.8], ("", 0.1, "mae"): ["collapsed"] * 2}
    cells |= {("long", 0.1, "mae"): ["collapsed", 0.3], ("", 0.1, "scratch"): [0.99]}
    study = make.in_memory(cells, images=100)
    # one seed of "long" at 10 % learned, so that the cell has not collapsed
    assert study.strongest(["mae"]) == {0.1: (Level("long", 0.1), "mae"), 1.0: (Level("long", 1.0), "mae")}
    assert list(study.strongest(["mae"])) == [0.1, 1.0]
    assert study.strongest(["scratch"]) == {0.1: (Level("", 0.1), "scratch")} and study.strongest(["other"]) == {}


def test_pairs_are_in_the_order_of_the_seeds_and_training_images_are_counted_only_where_all_are_known(make):
    cells = {("", 0.1, "scratch"): [0.5] * 3, ("", 0.1, "mae"): [0.5] * 3}
    study = make.in_memory(cells, labels=1000, images=100)
    assert [(r.init, r.seed) for r in study.runs] == [(i, s) for i in ("scratch", "mae") for s in range(3)]
    base, ours = (study.of(Level("", 0.1), init) for init in ("scratch", "mae"))
    assert study.shared_seeds(ours[1:], base[:2]) == ([4], [1])
    assert study.n_train(Level("", 0.1), "mae") == 100
    counts = (100, 101, 103)
    runs = [dataclasses.replace(run, n_train=counts[run.seed]) for run in study.runs]
    assert dataclasses.replace(study, runs=runs).n_train(Level("", 0.1), "mae") == 101  # 101.3
    runs[-1] = dataclasses.replace(runs[-1], n_train=None)
    study = dataclasses.replace(study, runs=runs)
    assert study.n_train(Level("", 0.1), "mae") is None and study.n_train(Level("", 0.1), "scratch") == 101


def test_an_interval_stays_within_the_bounds_of_its_metric(make):
    study = make.in_memory({("", 0.1, "scratch"): [0.5]})
    wide = np.stack([np.linspace(-1, 4, 10_000)])
    study = dataclasses.replace(study, draws=study.draws | dict.fromkeys(("accuracy", "nll", "brier"), wide))
    assert study.interval("accuracy", [0]) == (0, 1) and study.interval("brier", [0]) == (0, 2)
    low, high = study.interval("nll", [0])
    assert low == 0 and high == pytest.approx(4 - 0.025 * 5, abs=0.01)  # no largest value
    both = dataclasses.replace(
        study,
        runs=study.runs * 2,
        estimates={name: np.repeat(values, 2) for name, values in study.estimates.items()},
        draws={name: np.concatenate([wide, 0 * wide]) for name in study.draws},
    )
    assert both.difference("accuracy", [0], [1]).high == 1 and both.difference("brier", [0], [1]).high == 2


def test_the_usual_arm_comes_first_and_a_random_probe_is_the_mean_of_its_seeds(make):
    probes = make.in_memory({("", 0.1, "scratch"): [0.4, 0.6]}, images=100).runs
    runs = make.in_memory({("longer", 0.1, "mae"): [0.9], ("", 0.1, "mae"): [0.9]}, images=100).runs
    study = analysis.analyze(runs, probes)
    assert study.arms == ["", "longer"] and study.levels_of("mae") == [Level("", 0.1)]
    assert study.levels_of("mae", "longer") == study.in_arms(["longer"]) == [Level("longer", 0.1)]
    assert study.random_probe[0.1]["accuracy"] == pytest.approx(0.5)
    assert analysis.top_share(runs[0]) == np.bincount(runs[0].test.predictions).max() / 100
    assert analysis.known(math.nan) is None and analysis.known(0.0) == 0.0


@pytest.fixture(scope="module")
def arms(make):
    """Two trainings from scratch, of which another one is the strongest at each share of the labels, and mae."""
    near = (-0.005, 0.0, 0.005)
    at = TEST | {("mae", 0.1): 0.85, ("mae", 1.0): 0.87}
    test = make.in_memory({("", f, i): [score + d for d in near] for (i, f), score in at.items()}, labels=1000)
    other = make.in_memory({("", f, i): [VALIDATION.get((i, f), s)] * 3 for (i, f), s in at.items()}, seed=1)
    chosen = {(run.init, run.fraction, run.seed): run.test for run in other.runs}
    runs = []
    for run in test.runs:
        validation = chosen[run.init, run.fraction, run.seed]
        validation = dataclasses.replace(validation, images=tuple(f"v{name}" for name in validation.images))
        info = run.info | {"config": {"init": "mae" if run.init == "mae" else "scratch", "init_name": run.init}}
        runs.append(dataclasses.replace(run, info=info, validation=validation))
    return analysis.analyze(runs)


def test_the_baseline_is_the_strongest_on_validation_images(arms):
    assert arms.baselines == ["scratch", TUNED] and arms.compared == ["mae"]
    small, large = Level("", 0.1), Level("", 1.0)
    assert (arms.baseline(small), arms.baseline(large)) == (TUNED, TUNED)
    assert arms.mean("f1", arms.of(large, "scratch")) > arms.mean("f1", arms.of(large, TUNED))
    without = dataclasses.replace(arms, runs=[dataclasses.replace(run, validation=None) for run in arms.runs])
    assert (without.baseline(small), without.baseline(large)) == (TUNED, "scratch")
    assert without.chosen_on_test([(large, "scratch")]) and not arms.chosen_on_test([(large, "scratch")])


def test_a_collapsed_training_is_no_baseline_unless_all_collapsed(arms):
    runs = [
        dataclasses.replace(run, test=dataclasses.replace(run.test, predictions=np.full(len(run.test.labels), 4)))
        if run.init == TUNED or (run.init == "scratch" and run.fraction == 1.0)
        else run
        for run in arms.runs
    ]
    fallen = analysis.analyze(runs)
    assert (fallen.baseline(Level("", 0.1)), fallen.baseline(Level("", 1.0))) == ("scratch", "scratch")
    assert list(fallen.strongest(fallen.baselines)) == [0.1]
    rows = {row["fraction"]: row for row in tables.paired(fallen)[0] if row["metric"] == "accuracy"}
    assert rows[1.0]["verdict"] == "collapsed: nothing to compare" and rows[0.1]["verdict"] == "higher"


def test_every_comparison_is_with_the_baseline(arms):
    paired, notes = tables.paired(arms)
    assert notes == [] and {(row["init"], row["baseline"]) for row in paired} == {("mae", TUNED)}
    (row,) = [row for row in paired if (row["fraction"], row["metric"]) == (0.1, "accuracy")]
    assert row["difference"] == pytest.approx(0.85 - 0.78, abs=1e-3)  # not 0.15, the gain over scratch
    for rows in (cell_types.analyze(arms).rows, certainty.analyze(arms), certainty.by_class(arms)):
        assert {(row["init"], row["baseline"]) for row in rows} == {("scratch", ""), (TUNED, ""), ("mae", TUNED)}
        assert all((row["verdict"] is None) == (row["init"] != "mae") for row in rows)
    result = {row["fraction"]: row for row in label_efficiency.worth(arms, paired)}
    # by hand, on the curve of the tuned training: 0.78 with 100 labels and 0.84 with 1,000
    assert result[0.1]["times"] == np.inf and {row["init"] for row in result.values()} == {"mae"}


def test_the_page_names_the_baseline(arms):
    rows, (paired, _) = tables.rows(arms), tables.paired(arms)
    answer = words.answer(arms, rows, paired, label_efficiency.worth(arms, paired))
    assert answer["lines"][0] == (
        "2 kinds of training start from scratch (scratch and tuned). The strongest at each number of labels is the "
        "baseline, by macro F1 on the validation images: tuned at 10 % and 100 %."
    )
    assert answer["lines"][1].startswith("10 % of the labels (100 images), mae against tuned: accuracy is higher")
    head = " ".join(answer["headlines"])
    assert "; from scratch (tuned), no number that was tried does (best: " in head
    table = tables.table_text(rows)
    assert "10 %, against tuned" in table and "scratch" in table.splitlines()[-1] + table.splitlines()[-2]


def test_trainings_from_scratch_alone_are_compared_with_scratch(make):
    study = make.in_memory({("", 0.1, i): [0.7] * 3 for i in ("scratch", TUNED)})
    config = {"config": {"init": "scratch"}}
    study = dataclasses.replace(study, runs=[dataclasses.replace(run, info=config) for run in study.runs])
    assert (study.baselines, study.compared) == (["scratch"], [TUNED])
    assert {(row["init"], row["baseline"]) for row in tables.paired(study)[0]} == {(TUNED, "scratch")}
