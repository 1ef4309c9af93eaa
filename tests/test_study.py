"""The grid: equal arms, one cell at a time, and a report of every cell."""

import csv
import os
import shutil
import signal

import pytest

from mae_jax import grid, rundir, state, study, train
from mae_jax.config import flatten, study_defaults
from mae_jax.errors import Stopped, UserError


@pytest.fixture
def config(tiny_config):
    made = study_defaults(tiny_config("pretrain"), tiny_config("finetune"))
    made.fractions = (0.1, 1.0)
    return made


def test_arms_differ_in_their_first_weights_and_in_nothing_else(config, tmp_path):
    config.seeds, config.subset_seeds = (0, 1), (5, 6)
    cells = {path.name: cell for path, cell in grid.cells(config, tmp_path)}
    assert len(cells) == 8
    for seed in (0, 1):
        scratch, mae = (flatten(cells[f"10pct-{init}-seed{seed}"]) for init in ("scratch", "mae"))
        assert {k for k in scratch if scratch[k] != mae[k]} == {"init", "init_from", "name"}
        assert (scratch["seed"], scratch["data.subset_seed"]) == (seed, seed + 5)
        assert scratch["data.val_seed"] == 0


def test_a_study_runs_resumes_and_reports(config, tmp_path, monkeypatch, capsys):
    config.pretrain.mae.mask_ratio, config.finetune.train.label_smoothing = 0.4, 0.04  # compiled by no other test
    before = state.train_step._cache_size()
    study.run(config, tmp_path)
    # Pre-training and fine-tuning are compiled once each: the cells share their step.
    assert state.train_step._cache_size() == before + 2
    said = capsys.readouterr().out
    assert "[5/5] finetune 100 % mae: test accuracy" in said and f"report: {tmp_path / 'report' / 'index.html'}" in said
    with open(tmp_path / "report" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(r["fraction"], r["init"]) for r in rows] == [
        ("0.1", "scratch"), ("0.1", "mae"), ("1", "scratch"), ("1", "mae")
    ]  # fmt: skip
    for row in rows:
        name = f"{float(row['fraction']) * 100:g}pct-{row['init']}-seed0"
        results = rundir.read_json(tmp_path / "cells" / name / rundir.RESULTS)
        for metric in ("accuracy", "precision", "recall", "f1"):
            assert float(row[metric]) == pytest.approx(results[metric], abs=1e-9)
        assert int(row["n_test"]) == 23
    assert (tmp_path / "report" / "table.md").exists()

    lost = tmp_path / "cells" / "10pct-mae-seed0"
    kept = (lost / rundir.PREDICTIONS).read_bytes()
    shutil.rmtree(lost)
    ran = []
    original = train.Loop.run
    monkeypatch.setattr(train.Loop, "run", lambda self: ran.append(self.label) or original(self))
    study.run(config, tmp_path)
    assert ran == ["finetune 10 % mae"]
    assert (lost / rundir.PREDICTIONS).read_bytes() == kept

    subsets = [rundir.read_json(p) for p in sorted(tmp_path.glob(f"cells/*/{rundir.SUBSET}"))]
    assert len({s["validation_sha256"] for s in subsets}) == 1
    assert len({s["subset_sha256"] for s in subsets}) == 2

    config.finetune.optim.base_lr = 0.5
    with pytest.raises(UserError, match=r"another config \(finetune.optim.base_lr: 0.01 -> 0.5\)"):
        study.run(config, tmp_path)


def test_a_signal_at_the_end_of_a_run_stops_the_study(config, tmp_path, monkeypatch):
    config.inits = ("scratch",)
    original = train.Loop.results

    def results(self, *rest):
        os.kill(os.getpid(), signal.SIGINT)
        return original(self, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(train.Loop, "results", results)
        with pytest.raises(Stopped, match="stopped by SIGINT; this run is finished"):
            study.run(config, tmp_path)
    assert len(list(tmp_path.glob(f"cells/*/{rundir.RESULTS}"))) == 1
    study.run(config, tmp_path)
    assert len(list(tmp_path.glob(f"cells/*/{rundir.RESULTS}"))) == 2


def test_mistakes_in_the_labelled_images_show_before_pretraining(config, tmp_path):
    config.finetune.data.update(source="folder", dir=str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="nothing"):
        study.run(config, tmp_path / "study")
    assert not (tmp_path / "study" / "pretrain").exists()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("seeds", (-1,), "seeds=(-1,): -1 is not allowed; use whole numbers of 0 and above"),
        ("seeds", ("a",), "'a' is not allowed"),
        ("fractions", (0.1, "a"), "'a' is not allowed; use numbers above 0"),
        ("fractions", (0.0,), "0.0 is not allowed"),
        ("fractions", (), "use at least one value"),
        ("subset_seeds", (1, 2), "must be empty or as many as seeds"),
    ],
)
def test_a_grid_that_cannot_work_is_refused(config, tmp_path, field, value, said):
    with config.ignore_type():
        config[field] = value
    with pytest.raises(UserError) as error:
        study.run(config, tmp_path / "study")
    assert said in str(error.value) and not (tmp_path / "study").exists()


def test_a_study_may_grow(config, tmp_path):
    config.inits, config.fractions = ("scratch",), (0.1,)
    study.run(config, tmp_path)
    config.fractions = (0.1, 0.5)
    study.run(config, tmp_path)
    assert len(list((tmp_path / "cells").iterdir())) == 2
