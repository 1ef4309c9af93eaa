"""What a study would do: its runs, their time and the space they take."""

import dataclasses

import pytest

from mae_jax import main
from mae_jax.config import fields, schedule, validation
from mae_jax.data.splits import DataCache
from mae_jax.study import plan


@pytest.mark.parametrize(("steps", "keep", "kept"), [(10, 5, 3), (10, 2, 2), (4, 5, 1), (3, 5, 1)])
def test_a_plan_counts_the_checkpoints_of_a_run(tiny_config, tmp_path, steps, keep, kept):
    """One is saved every 4 steps and at the end; of the best epoch there is one copy of the weights."""
    for select, best in (("last", 0), ("accuracy", 100)):
        run = validation.validate(tiny_config(**{"checkpoint.keep": keep, "train.select": select}))
        resolved = dataclasses.replace(schedule.resolve(run, 60, 1), steps=steps, save_every=4)
        planned = plan.Planned(tmp_path, run, resolved, 1, 1, False, weights=100, optimizer=200)
        assert planned.running_bytes == planned.final_bytes == kept * 300 + best
        planned.cleaned = True
        assert planned.final_bytes == 100 + best


@pytest.mark.parametrize("timed", [True, False])
def test_a_plan_trains_nothing(tiny_config, tmp_path, timed):
    lines = main.plan(tiny_config(), tmp_path / "run", timed)
    assert lines[:2] == [f"fine-tuning in {tmp_path / 'run'}", "plan: 1 run"]
    assert any("measured now" in line for line in lines) == timed
    assert not (tmp_path / "run").exists()


def test_a_plan_of_a_study_lists_its_runs(tiny_config, tmp_path):
    config = fields.study_defaults(tiny_config("pretrain"), tiny_config())
    config.fractions = (0.5, 1.0)
    lines = main.plan(config, tmp_path / "study", timed=False)
    assert lines[:2] == [f"study in {tmp_path / 'study'}", "plan: 5 runs"] and not (tmp_path / "study").exists()
    assert sum("of the labels: 2 runs (scratch, mae; seeds 0)" in line for line in lines) == 2


def test_a_plan_without_steps_to_measure_has_only_the_time(tiny_config, tmp_path):
    run = validation.validate(tiny_config("knn"))
    planned = plan.Planned(tmp_path, run, schedule.resolve(run, 60, 1), 1, 1, False, seconds=90.0)
    assert "  about 90 seconds to finish" in plan.describe([planned])


def test_a_plan_counts_the_models_of_a_cross_validation(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "time_step", lambda config, cache, timings: plan.Timing(0.5, 0.0))
    fields = {"data.val_of": "fraction", "train.select": "loss"}
    runs = [
        (
            tmp_path / str(folds),
            validation.validate(tiny_config(**fields, **{"data.val_folds": folds, "train.steps": 8})),
        )
        for folds in (0, 4)
    ]
    once, folded = planned = plan.make(runs, DataCache())
    assert folded.seconds - 5 * (plan.RUN_SECONDS + 8 * 0.5) == pytest.approx(  # without evaluations, each image once
        (60 * (8 // folded.resolved.eval_every + 1) + 23) * 0.5 / 16 / 3
    )
    assert once.validation == 8 and folded.validation == 0 and folded.resolved.n_train == 60
    lines = plan.describe(planned)
    assert lines[2].endswith("8 updates of 16, after 4 without one fold each") and lines[1].endswith("updates of 16")
    assert (
        "  validation images are among the labels; 23 test images; the epoch with the best validation loss is"
        in lines[3]
    )


def test_the_first_run_with_a_step_counts_its_compilation(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setattr(
        plan, "time_step", lambda config, cache, timings: timings.setdefault(config.data.flips, plan.Timing(0.5, 7.0))
    )
    runs = [
        (tmp_path / str(seed), validation.validate(tiny_config(seed=seed, **{"data.flips": seed < 2})))
        for seed in range(4)
    ]
    seconds = [run.seconds for run in plan.make(runs, DataCache())]
    assert seconds[0] == seconds[2] == seconds[1] + 7.0 * plan.COMPILED and seconds[1] == seconds[3]
