"""The sweep of mask ratios and visible weights: its runs, a small complete sweep, and resuming it."""

import csv
import dataclasses
import shutil

import pytest
from PIL import Image

from mae_jax import main
from mae_jax.__main__ import main as entry_point
from mae_jax.config.fields import sweep_defaults
from mae_jax.config.loading import flatten
from mae_jax.data import splits
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.step import sharding
from mae_jax.study import mask_sweep, plan
from mae_jax.study.validation import validate_sweep
from mae_jax.train import build, loop


@pytest.fixture
def config(tiny_config):
    study = sweep_defaults(tiny_config("pretrain"), tiny_config("finetune"))
    study.finetune.data.fraction = 0.5
    study.mask_ratios = study.pretrain.eval.mask_ratios = (0.75,)
    study.visible_weights = (0.0, 1.0)
    return study


def test_networks_and_classifiers_differ_in_one_field(config, tmp_path):
    config.mask_ratios, config.seeds, config.subset_seeds = (0.25, 0.75), (0, 1), (4, 5)
    networks = mask_sweep.pretrainings(validate_sweep(config), tmp_path)
    assert [d.name for d, _ in networks] == ["mask25-visible0", "mask75-visible0", "mask25-visible1", "mask75-visible1"]
    one, two, three = (flatten(run) for _, run in networks[:3])
    assert {k for k in one if one[k] != two[k]} == {"mae.mask_ratio", "name"}
    assert {k for k in one if one[k] != three[k]} == {"mae.visible_weight", "name"}
    cells = {d.name: flatten(run) for d, run in mask_sweep.classifiers(validate_sweep(config), tmp_path, networks)}
    assert len(cells) == 2 * 5
    scratch, mae = cells["50pct-scratch-seed1"], cells["50pct-mask75-visible1-seed1"]
    assert {k for k in scratch if scratch[k] != mae[k]} == {"init", "init_from", "name"}
    assert (mae["seed"], mae["data.subset_seed"]) == (1, 5) and mae["init_from"].endswith("mask75-visible1")
    config.seeds, config.subset_seeds = (3, 4), ()  # the labels of subset seed 0 for every seed
    cells = [run for _, run in mask_sweep.classifiers(validate_sweep(config), tmp_path, networks)]
    assert {run.seed for run in cells} == {3, 4} and {run.data.subset_seed for run in cells} == {0}


def test_networks_with_fewer_images_see_as_many(config, tmp_path):
    config.visible_weights, config.unlabeled_counts = (0.0,), (0, 10)
    networks = mask_sweep.pretrainings(validate_sweep(config), tmp_path)
    assert [d.name for d, _ in networks] == ["mask75-visible0", "mask75-visible0-10images"]
    full, few = (build.build(run, sharding.make_mesh(1)) for _, run in networks)
    assert len(few.indices[0]) == few.resolved.n_train == 10 < full.resolved.n_train
    assert set(few.indices[0]) < set(full.indices[0])
    assert (few.resolved.steps, few.resolved.eval_every) == (full.resolved.steps, full.resolved.eval_every)
    planned = plan.make(networks, splits.DataCache(), timed=False)
    assert [each.resolved for each in planned] == [
        dataclasses.replace(one.resolved, devices=5, rows=20) for one in (full, few)
    ]
    differ = {k for k, v in flatten(networks[0][1]).items() if v != flatten(networks[1][1])[k]}
    assert differ == {"data.unlabeled_count", "name"}


@pytest.mark.slow
def test_a_sweep_runs_reports_and_resumes(config, tmp_path, monkeypatch, capsys):
    config.visible_weights = (0.0,)  # what other tests have compiled
    main.run(config, tmp_path)
    printed = capsys.readouterr().out
    assert "[3/3] finetune 50 % from mask75-visible0, seed 0: test accuracy" in printed and "report:" in printed
    with open(tmp_path / "report" / "sweep.csv") as file:
        (row,) = csv.DictReader(file)
    (mean,) = contents.read_json(tmp_path / "pretrain" / "mask75-visible0" / "reconstructions.json")["means"]
    for column in ("removed_normalised", "visible_pixel", "spam"):
        assert float(row[column]) == pytest.approx(mean[column], rel=1e-5)
    with open(tmp_path / "report" / "classifiers.csv") as file:
        scores = {r["init"]: float(r["accuracy"]) for r in csv.DictReader(file)}
    results = contents.read_json(tmp_path / "cells" / "50pct-mask75-visible0-seed0" / contents.RESULTS)
    assert scores["75 %, weight 0"] == pytest.approx(results["accuracy"], abs=1e-9) and len(scores) == 2
    with Image.open(tmp_path / "reconstructions.png") as sheet:
        assert sheet.width >= 3 * 128  # original, masked, one network
    assert "data:image/png" in (tmp_path / "report" / "index.html").read_text()

    page = (tmp_path / "report" / "index.html").read_bytes()
    shutil.rmtree(tmp_path / "report")
    with pytest.raises(SystemExit) as end:
        entry_point(["report", str(tmp_path)])
    assert not end.value.code and (tmp_path / "report" / "index.html").read_bytes() == page
    shutil.rmtree(tmp_path / "cells" / "50pct-scratch-seed0")
    ran = []
    original = loop.Loop.run
    monkeypatch.setattr(loop.Loop, "run", lambda self: ran.append(self.label) or original(self))
    mask_sweep.run(config, tmp_path)
    assert ran == ["finetune 50 % from scratch, seed 0"]
    config.pretrain.optim.base_lr = 0.5
    with pytest.raises(UserError, match=r"another config \(pretrain.optim.base_lr: 0.01 -> 0.5\)"):
        mask_sweep.run(config, tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mask_ratios", (), "mask_ratios=() is not allowed; use at least one value"),
        ("mask_ratios", (0.5, 1.0), "mask_ratios=(0.5, 1.0): 1.0 is not allowed; use numbers above 0 and below 1"),
        ("mask_ratios", (0.5, 0.9), "mask_ratios=(0.5, 0.9): 0.9 leaves 0 of 4 patches visible"),
        ("visible_weights", (-1.0,), "visible_weights=(-1.0,): -1.0 is not allowed; use numbers of 0 and above"),
        ("visible_weights", (0.0, 0.0), "each once"),
        ("subset_seeds", (1, 2), "must be empty or as long as seeds"),
        ("mask_ratio", 0.5, "mask_ratio is not a field of a sweep; did you mean mask_ratios?"),
    ],
)
def test_an_invalid_sweep_is_refused(config, tmp_path, field, value, message):
    with config.ignore_type(), config.unlocked():
        config[field] = value
    with pytest.raises(UserError) as error:
        mask_sweep.run(config, tmp_path / "sweep")
    assert message in str(error.value) and not (tmp_path / "sweep").exists()


def test_a_sweep_needs_held_out_images(config, tmp_path):
    config.pretrain.data.val_fraction = 0.0
    with pytest.raises(UserError, match="pretrain.data.val_fraction must be above 0"):
        mask_sweep.run(config, tmp_path / "sweep")
