"""Learning speed: curves whose numbers are known."""

import json

import pytest

from mae_jax.report import analysis, learning_speed
from mae_jax.report.page import write_report
from mae_jax.report.runs import read_runs


def log(run, accuracies):
    """Replaces the log of a run: the validation accuracy after each epoch."""
    lines = [{"step": 10 * e, "epoch": e, "val/accuracy": a} for e, a in enumerate(accuracies)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def analyzed(dirs):
    return learning_speed.analyze(analysis.analyze(read_runs(dirs)[0]))


def test_the_epoch_at_90_percent_and_the_area(make, tmp_path):
    run = log(make.run(tmp_path / "a", "scratch", 0.1, rows=60), [0.0, 0.6, 0.8, 0.8, 0.8])
    (row,) = analyzed([run])
    assert tuple(row) == learning_speed.COLUMNS
    assert row["final"] == 0.8 and row["axis"] == "epoch"
    assert row["reached"] == pytest.approx(1 + 0.12 / 0.2)  # 0.72, between the first epoch and the second
    assert row["area"] == pytest.approx((0.3 + 0.7 + 0.8 + 0.8) / 4)
    assert row["reached_low"] is row["area_low"] is row["verdict"] is None  # one seed


def test_three_seeds_have_intervals_and_a_paired_difference(make, tmp_path):
    dirs = []
    for seed in range(3):
        for init, gain in (("scratch", 0.0), ("mae", 0.1 + 0.001 * seed)):
            run = make.run(tmp_path / f"{init}{seed}", init, 0.1, seed=seed, rows=60)
            dirs.append(log(run, [0.1 * seed + gain + a for a in (0.2, 0.4, 0.5)]))
    scratch, mae = analyzed(dirs)
    assert mae["difference"] == pytest.approx(0.101) and mae["verdict"] == "higher"
    assert mae["difference_low"] == pytest.approx(0.101 - 4.302653 * 0.001 / 3**0.5, abs=1e-6)
    assert scratch["area_low"] < scratch["area"] < scratch["area_high"] and scratch["difference"] is None


def test_collapsed_runs_and_runs_without_curves_have_none(make, tmp_path):
    collapsed = make.run(tmp_path / "a", "scratch", 0.1, rows=60, knows=0.0)
    silent = make.run(tmp_path / "b", "mae", 0.1, rows=60)
    (silent / "metrics.jsonl").write_text('{"step": 1, "epoch": 1, "val/accuracy": 0.5}\n')
    assert analyzed([collapsed, silent]) == []


def test_a_goal_reached_at_the_first_evaluation_may_have_been_reached_before(make, tmp_path):
    dirs = []
    for seed in range(3):
        run = log(make.run(tmp_path / f"{seed}", "scratch", 0.1, seed=seed, rows=60), [0.0, 0.8, 0.8, 0.8])
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(lines[1:]))  # not evaluated before training
        dirs.append(run)
    (row,) = analyzed(dirs)
    assert (row["reached"], row["at_first"], row["reached_low"], row["reached_high"]) == (1.0, 3, None, None)
    assert "<td>by epoch 1.0</td>" in write_report(dirs, tmp_path / "out").paths["page"].read_text()


def test_a_goal_reached_before_training_is_reached_at_epoch_0(make, tmp_path):
    dirs = [
        log(make.run(tmp_path / f"{seed}", "scratch", 0.1, seed=seed, rows=60), [0.8, 0.8 + 0.01 * seed, 0.8])
        for seed in range(3)
    ]
    (row,) = analyzed(dirs)
    assert (row["reached"], row["at_first"], row["reached_low"], row["reached_high"]) == (0.0, 0, None, None)


def test_seeds_that_agree_give_no_interval_and_no_verdict(make, tmp_path):
    """Few validation images allow few values. Student's interval would have no width, and its p value would be 0."""
    dirs = []
    for seed in range(3):
        for init, gain in (("scratch", 0.0), ("mae", 0.01)):
            run = make.run(tmp_path / f"{init}{seed}", init, 0.1, seed=seed, rows=60)
            dirs.append(log(run, [gain + a for a in (0.2, 0.4, 0.5)]))
    for row in analyzed(dirs):
        assert row["reached_low"] is row["reached_high"] is row["area_low"] is row["area_high"] is None
        assert row["difference_low"] is row["difference_high"] is row["p"] is row["holm_p"] is None
    assert analyzed(dirs)[1]["difference"] == pytest.approx(0.01)
    assert analyzed(dirs)[1]["verdict"] == "seeds agree: not tested"
    text = write_report(dirs, tmp_path / "out").paths["page"].read_text()
    assert "seeds agree: not tested" in text
