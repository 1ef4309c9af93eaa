"""Lines of detail below the headlines."""

import dataclasses

from mae_jax.report import analysis, details, tables

ARM = "as many updates as 100 %"


def test_arms_that_share_some_seeds_are_compared_on_these(make):
    study = make.in_memory({("", 0.1, "scratch"): [0.6, 0.7], (ARM, 0.1, "scratch"): [0.8, 0.75]})
    runs = [dataclasses.replace(r, seed=r.seed + 1) if r.arm else r for r in study.runs]
    study = dataclasses.replace(study, runs=runs)
    (line,) = details.arm_lines(study)
    assert "scratch at 10 %: higher, each trained once, +10.0 points" in line  # 0.8 against 0.7, both of seed 1
    apart = dataclasses.replace(study, runs=[dataclasses.replace(r, seed=9) if r.arm else r for r in study.runs])
    assert "scratch at 10 %: not compared, since no seed has both" in details.arm_lines(apart)[0]


def test_entries_with_commas_are_separated_by_semicolons(make):
    cells = {(arm, f, i): [0.8] for arm in ("", ARM) for f in (0.1, 1.0) for i in ("mae", "scratch")}
    study = make.in_memory(cells)
    runs = [*study.runs]
    for run in study.runs:
        if run.init == "scratch":
            config = {"init": "scratch"}
            runs.append(dataclasses.replace(run, init="tuned", info=run.info | {"config": config}))
    (line,) = details.baseline_lines(analysis.analyze(sorted(runs, key=lambda run: study.arms.index(run.arm))))
    assert "at 10 %; 100 %; 10 %, as many updates as 100 %; 100 %, as many updates as 100 %" in line


def test_settings_that_rows_share_are_told_once(make):
    cells = {("", f, i): [0.8] for f in (0.1, 1.0) for i in ("scratch", "mae")}
    study = make.in_memory(cells, labels=1000)
    how = {"scratch": "optim.base_lr=4e-3", "mae": "optim.base_lr=1e-3"}
    runs = [dataclasses.replace(r, info=r.info | {"config": {"tuned": how[r.init]}}) for r in study.runs]
    assert details.tuned_lines(tables.rows(dataclasses.replace(study, runs=runs))) == [
        "Tuned: scratch at 10 % and scratch at 100 % use optim.base_lr=4e-3.",
        "Tuned: mae at 10 % and mae at 100 % use optim.base_lr=1e-3.",
    ]
    assert details.tuned_lines(tables.rows(dataclasses.replace(study, runs=runs[:1])))[0].endswith(
        "scratch at 10 % uses optim.base_lr=4e-3."
    )
