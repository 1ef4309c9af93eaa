"""The grid of a study: equal arms, all cells, resuming, and the report."""

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import mae_jax
from mae_jax import main
from mae_jax.__main__ import dispatch
from mae_jax.checkpoints.steps import committed_steps
from mae_jax.config import validation
from mae_jax.config.fields import study_defaults
from mae_jax.config.loading import flatten, load
from mae_jax.data import splits
from mae_jax.evaluation import per_image
from mae_jax.models.vit import ViTConfig
from mae_jax.predict import files
from mae_jax.report import page
from mae_jax.rundir import contents, saved_runs
from mae_jax.rundir.predictions import read_predictions
from mae_jax.runtime.disk import readable
from mae_jax.runtime.errors import Stopped, UserError
from mae_jax.step.train_step import train_step
from mae_jax.study import cells as grid
from mae_jax.study import label_study, plan
from mae_jax.study.inits import OF_THE_ENCODER
from mae_jax.study.validation import validate_study
from mae_jax.train import loop
from mae_jax.weights import reader

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tiny_config):
    study = study_defaults(tiny_config("pretrain"), tiny_config("finetune"))
    study.fractions = (0.1, 1.0)
    return study


def test_evaluations_of_the_same_encoders_on_the_same_labels(config, tmp_path):
    config.evaluations, config.seeds, config.subset_seeds = ("finetune", "linear_probe", "lbfgs", "knn"), (0, 1), (5, 6)
    config.step_matched, config.finetune.train.select = 0.1, "best"
    config.finetune.data.randaugment, config.finetune.model.drop_path = 5.0, 0.1
    config.finetune.probe.folds, config.finetune.probe.l2 = 3, (0.5,)
    cells = {path.name: cell for path, cell in grid.cells(validate_study(config), tmp_path)}
    assert len(cells) == (3 + 3 * 2) * 4
    tuned, trained, near = (cells[f"{name}10pct-mae-seed1"] for name in ("", "linear_probe-", "knn-"))
    assert tuned.init_from == trained.init_from == near.init_from == str(tmp_path / "pretrain")
    for cell in (trained, near):
        validation.validate(cell)
        assert (cell.data.subset_seed, cell.data.fraction, cell.seed, cell.init) == (6, 0.1, 1, "mae")
        assert (cell.probe.folds, cell.probe.l2) == (3, (0.5,))
        assert cell.model.width == 16 and not cell.data.randaugment and not cell.model.drop_path
    assert (trained.optim.name, trained.train.select, near.train.select) == ("lars", "best", "last")
    assert (near.task, near.name) == ("knn", "nearest neighbors 10 % mae seed 1")
    config.evaluations = ("finetune", "knm")
    with pytest.raises(UserError, match="evaluations: each=knm is not allowed; use one of finetune, linear_probe"):
        label_study.run(config, tmp_path / "study")
    config.finetune.probe.folds, config.finetune.probe.l2 = 0, (0.5, 1.0)
    config.evaluations, config.finetune.data.val_fraction, config.finetune.train.select = ("lbfgs",), 0.0, "last"
    with pytest.raises(UserError, match="lbfgs: probe.l2=.* is selected on validation images"):
        label_study.run(config, tmp_path / "study")


def test_every_study_can_have_a_probe_of_random_weights(config, tmp_path):
    config.random_probe = True
    names = [path.name for path, _ in grid.cells(validate_study(config), tmp_path)]
    assert names[4:] == ["lbfgs-10pct-scratch-seed0", "lbfgs-100pct-scratch-seed0"]
    config.inits, config.evaluations = ("mae",), ("finetune", "lbfgs")
    names = [path.name for path, _ in grid.cells(validate_study(config), tmp_path)]
    assert sorted(name for name in names if "lbfgs" in name) == [
        *("lbfgs-100pct-mae-seed0", "lbfgs-100pct-scratch-seed0"),
        *("lbfgs-10pct-mae-seed0", "lbfgs-10pct-scratch-seed0"),
    ]
    config.inits, config.evaluations = ("scratch", "mae"), ("finetune", "linear_probe")
    assert not [path for path, _ in grid.cells(validate_study(config), tmp_path) if path.name.startswith("lbfgs")]
    paper = load(ROOT / "configs" / "study.py", "data=synthetic,protocol=paper,scale=laptop")
    tasks_of = [cell.task for _, cell in grid.cells(validate_study(paper), tmp_path)]
    assert tasks_of == ["finetune"] * 8 + ["lbfgs"] * 4


@pytest.mark.slow
def test_a_study_older_than_evaluations_can_add_them(config, tmp_path, monkeypatch, capsys):
    """Only missing runs are computed, and features only once per encoder and image."""
    config.fractions, config.seeds = (0.5, 1.0), (0,)
    label_study.run(config, tmp_path)
    for path in (tmp_path / "study.json", *tmp_path.glob(f"cells/*/{contents.CONFIG}")):
        saved = contents.read_json(path)
        for part in (saved["config"], *(saved["config"].get(name, {}) for name in ("pretrain", "finetune"))):
            part.pop("evaluations", None)
            part.pop("probe", None)
        contents.write_json(path, saved)
    ran, asked = [], []
    original, evaluate = loop.Loop.run, per_image.per_image
    monkeypatch.setattr(loop.Loop, "run", lambda self: ran.append(self.label) or original(self))
    monkeypatch.setattr(per_image, "per_image", lambda *rest, **more: asked.append(1) or evaluate(*rest, **more))
    config.evaluations = ("finetune", "lbfgs", "knn")
    capsys.readouterr()
    label_study.run(config, tmp_path)
    assert ran == [
        f"{probe} {f} % {init}"
        for probe in ("logistic regression", "nearest neighbors")
        for f in (50, 100)
        for init in ("scratch", "mae")
    ]
    assert len(asked) == 2 * 4  # for each encoder: half of the training images, validation, test, the other half
    printed = capsys.readouterr().out
    assert "  50 % of the labels, nearest neighbors: 2 runs (scratch, mae; seeds 0): " in printed
    assert "| logistic regression | 50 % " in printed
    assert re.search(r"A linear probe on random weights scores \d+\.\d % with 50 % of the labels, ", printed)
    with open(tmp_path / "report" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 and all(row["random_probe_accuracy"] for row in rows)
    with open(tmp_path / "report" / "frozen.csv") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        name = f"{row['evaluation']}-{float(row['fraction']) * 100:g}pct-{row['init']}-seed0"
        results = contents.read_json(tmp_path / "cells" / name / contents.RESULTS)
        assert float(row["accuracy"]) == pytest.approx(results["accuracy"], abs=1e-9)
        assert float(row["f1"]) == pytest.approx(results["f1"], abs=1e-9)
    assert len(rows) == 8


def test_several_inits_in_one_study(config, tmp_path):
    other = tmp_path / "elsewhere"
    other.mkdir()
    config.experiments.exp3 = {"mae": {"mask_ratio": 0.25}, "data": {"mean": (0.4, 0.5, 0.6)}}
    config.inits = ("scratch", "mae", "mae:mask_ratio=0.5", "mae:exp=3", str(other), f"ours={other}")
    config.seeds, config.pretrain_seeds, config.fractions = (0, 1), (7, 8), (1.0,)
    pretrainings = {path.name: cell for path, cell in grid.pretrainings(validate_study(config), tmp_path)}
    assert list(pretrainings) == [
        *("pretrain-seed7", "pretrain-seed8", "pretrain-mask_ratio=0.5-seed7", "pretrain-mask_ratio=0.5-seed8"),
        *("pretrain-exp=3-seed7", "pretrain-exp=3-seed8"),
    ]
    assert [cell.mae.mask_ratio for cell in pretrainings.values()] == [0.75, 0.75, 0.5, 0.5, 0.25, 0.25]
    assert pretrainings["pretrain-exp=3-seed8"].seed == 8
    cells = {path.name: cell for path, cell in grid.cells(validate_study(config), tmp_path)}
    from_half, from_three = cells["100pct-mae_mask_ratio=0.5-seed1"], cells["100pct-mae_exp=3-seed1"]
    assert from_half.init_from == str(tmp_path / "pretrain-mask_ratio=0.5-seed8")
    assert (from_half.init, from_half.init_name) == ("mae", "mae mask_ratio=0.5")
    assert from_three.data.mean == (0.4, 0.5, 0.6) != from_half.data.mean  # the encoder's own scale
    assert cells["100pct-elsewhere-seed0"].init_from == cells["100pct-ours-seed1"].init_from == str(other)


CHANGES = {  # what `inits` says, and the fields of the pre-training and of the classifier that it changes
    "mae:model.decoder_depth=3,optim.weight_decay=0.02": ({"model.decoder_depth": 3, "optim.weight_decay": 0.02}, {}),
    "mae:model.width=24": ({"model.width": 24}, {"model.width": 24}),
    "mae:data.mean=0.1;0.2;0.3": ({"data.mean": (0.1, 0.2, 0.3)}, {"data.mean": (0.1, 0.2, 0.3)}),
    "mae:norm_pix_loss=false": ({"mae.norm_pix_loss": False}, {}),
    "mae:data.dir=a;b": ({"data.dir": "a,b"}, {}),
    "mae:finetune.optim.layer_decay=0.75": (None, {"optim.layer_decay": 0.75}),  # the pre-training is that of mae
    "scratch:model.dropout=0.2": (None, {"model.dropout": 0.2}),
}


@pytest.mark.parametrize("given", ["", "mine="])
@pytest.mark.parametrize("text", CHANGES)
def test_an_arm_differs_in_exactly_the_fields_that_it_names(config, tmp_path, text, given):
    config.inits, config.evaluations, config.fractions = ("scratch", "mae", given + text), ("finetune", "knn"), (1.0,)
    config.pretrain.mae.norm_pix_loss = True
    study = validate_study(config)
    before, after = CHANGES[text]

    def differing(run, other):
        theirs = flatten(other)
        return {key: value for key, value in flatten(run).items() if value != theirs[key] and key != "name"}

    pretrained = dict(grid.pretrainings(study, tmp_path))
    plain = pretrained.pop(tmp_path / "pretrain")
    assert [differing(run, plain) for run in pretrained.values()] == ([] if before is None else [before])
    kind, slug = text[: text.index(":")], "mine" if given else grid.inits(study)[2].slug
    cells = {path.name: cell for path, cell in grid.cells(study, tmp_path)}
    named = {"init_name": "mine" if given else text.replace(":", " ", 1)}
    named |= {"init_from": str(*pretrained)} if pretrained else {}
    assert differing(cells[f"100pct-{slug}-seed0"], cells[f"100pct-{kind}-seed0"]) == after | named
    encoder = {key: value for key, value in after.items() if key in OF_THE_ENCODER}
    assert differing(cells[f"knn-100pct-{slug}-seed0"], cells[f"knn-100pct-{kind}-seed0"]) == encoder | named


def test_the_time_of_all_runs_is_added_up_by_part(tmp_path):
    parts = [
        {"training": 50.0, "compiling": 4.5},
        {"training": 25.0, "start": 2.0},
        "damaged",
        {"training": None},
        None,
    ]
    directories = [tmp_path / str(number) for number in range(len(parts) + 1)]  # the last run does not exist
    for directory, each in zip(directories, parts, strict=False):
        directory.mkdir()
        contents.write_json(directory / contents.RUN, {"seconds": each} if each else {})
    line = label_study.time_line(directories, 3.0)
    assert line == "where the time went, over all runs: training 1:15, compiling 0:04, report 0:03, start 0:02"


def test_a_pretraining_can_continue_from_an_encoder(config, tmp_path):
    config.inits, config.fractions = ("scratch", f"mae:init={tmp_path / 'encoder'}"), (1.0,)
    (tmp_path / "encoder" / "checkpoints").mkdir(parents=True)
    ((_, run),) = grid.pretrainings(validate_study(config), tmp_path)
    assert (run.init, run.init_from) == ("mae", str(tmp_path / "encoder"))


def test_cells_from_weights_of_other_code_have_their_network(config, tmp_path, monkeypatch):
    (tmp_path / "vit.npz").write_bytes(b"")
    config.inits, config.fractions = ("scratch", f"theirs={tmp_path / 'vit.npz'}"), (1.0,)
    shape = ViTConfig(image_size=16, patch_size=4, width=192, depth=12, heads=3, registers=4)
    weights = reader.Weights({}, shape, "vit", "vit.npz", mean=(0.5, 0.5, 0.5))
    monkeypatch.setattr(reader, "read", lambda path, field: weights)
    scratch, theirs = (cell for _, cell in label_study.configured(grid.runs(validate_study(config), tmp_path)))
    assert (theirs.init, theirs.init_name) == ("weights", "theirs")
    assert (theirs.model.size, theirs.model.width, theirs.model.patch_size, theirs.model.registers) == ("tiny", 0, 4, 4)
    assert theirs.data.mean == (0.5, 0.5, 0.5) and scratch.model.width == 16
    validation.validate(theirs)


def test_an_encoder_of_another_network_is_refused_before_anything_runs(config, tmp_path):
    other = config.pretrain.copy_and_resolve_references()
    other.model.depth = 7
    (tmp_path / "other").mkdir()
    contents.write_json(tmp_path / "other" / contents.CONFIG, {"config": json.loads(other.to_json())})
    config.inits = ("scratch", "mae", str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"other holds another network: depth is 2 in the config and 7 in the weights"):
        label_study.run(config, tmp_path / "study")
    assert not (tmp_path / "study" / "pretrain").exists()


def test_the_three_experiments_differ_as_their_configs_do():
    config = load(ROOT / "configs/study.py", "data=synthetic,exp=2")
    assert flatten(config.experiments.exp2) == {}
    assert flatten(config.experiments.exp3)["mae.mask_ratio"] == 0.25
    assert flatten(config.experiments.exp1)["optim.base_lr"] == 1.5e-4


@pytest.mark.slow
def test_a_study_runs_resumes_and_reports(config, tmp_path, monkeypatch, capsys):
    config.pretrain.mae.mask_ratio, config.finetune.train.label_smoothing = 0.4, 0.04  # compiled by no other test
    before = train_step._cache_size()
    label_study.run(config, tmp_path)
    # Pre-training and fine-tuning are compiled once each: the cells share their step.
    assert train_step._cache_size() == before + 2
    printed = capsys.readouterr().out
    assert "plan: 5 runs\n  pre-training: 36 images, 2 epochs, 6 updates of 16\n  10 % of the labels: 2 runs" in printed
    assert re.search(r"about [\d.]+ \w+ to finish, at [\d.]+ s per update \(pre-training\), ", printed)
    assert (
        "[5/5] finetune 100 % mae: test accuracy" in printed
        and f"report: {tmp_path / 'report' / 'index.html'}" in printed
    )
    with open(tmp_path / "report" / "table.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(r["fraction"], r["init"]) for r in rows] == [
        ("0.1", "scratch"), ("0.1", "mae"), ("1", "scratch"), ("1", "mae")
    ]  # fmt: skip
    for row in rows:
        name = f"{float(row['fraction']) * 100:g}pct-{row['init']}-seed0"
        results = contents.read_json(tmp_path / "cells" / name / contents.RESULTS)
        for metric in ("accuracy", "precision", "recall", "f1"):
            assert float(row[metric]) == pytest.approx(results[metric], abs=1e-9)
        assert int(row["n_test"]) == 23
    assert (tmp_path / "report" / "table.md").exists()
    with pytest.raises(UserError, match="RUN_DIR=.* is the directory of 5 runs; name one: pretrain, cells/100pct-"):
        saved_runs.config_of(tmp_path, "RUN_DIR")  # as inspect, convert export and reconstruct open it
    # Finished classifiers keep their weights alone, a pre-training can still grow; the plan says how much that is.
    planned = plan.make(grid.runs(validate_study(config), tmp_path), splits.DataCache(), timed=False)
    for run in planned:
        kept = run.directory / "checkpoints"
        steps, optimizer = len(committed_steps(kept)), list(kept.glob("*/optimizer"))
        assert (steps, len(optimizer)) == ((2, 2) if run.config.task == "pretrain" else (1, 0))
        assert run.final_bytes == steps * run.weights + len(optimizer) * run.optimizer
        assert run.optimizer == pytest.approx(2 * run.weights, rel=0.01)  # AdamW's two moments
    total = readable(sum(run.final_bytes for run in planned))
    assert f"checkpoints will take about {total} in the end (" in printed and "only weights are kept" in printed
    shape = mae_jax.load(tmp_path / "cells" / "100pct-mae-seed0").params
    assert planned[-1].weights == sum(leaf.nbytes for leaf in jax.tree.leaves(shape))

    lost = tmp_path / "cells" / "10pct-mae-seed0"
    kept = (lost / contents.PREDICTIONS).read_bytes()
    shutil.rmtree(lost)
    ran = []
    original = loop.Loop.run
    monkeypatch.setattr(loop.Loop, "run", lambda self: ran.append(self.label) or original(self))
    label_study.run(config, tmp_path)
    assert ran == ["finetune 10 % mae"]
    assert (lost / contents.PREDICTIONS).read_bytes() == kept

    subsets = [contents.read_json(p) for p in sorted(tmp_path.glob(f"cells/*/{contents.SUBSET}"))]
    assert len({s["validation_sha256"] for s in subsets}) == 1
    assert len({s["subset_sha256"] for s in subsets}) == 2

    config.finetune.optim.base_lr = 0.5
    with pytest.raises(UserError, match=r"another config \(finetune.optim.base_lr: 0.01 -> 0.5\)"):
        label_study.run(config, tmp_path)


@pytest.mark.slow
def test_a_signal_at_the_end_of_a_run_stops_the_study(config, tmp_path, monkeypatch):
    config.inits = ("scratch",)
    original = loop.Loop.results

    def results(self, *rest):
        result = original(self, *rest)
        os.kill(os.getpid(), signal.SIGINT)
        return result

    with monkeypatch.context() as patched:
        patched.setattr(loop.Loop, "results", results)
        with pytest.raises(
            Stopped, match=r"stopped by SIGINT; finetune 10 % scratch is finished; .*\(1 of 2 runs is finished\)"
        ):
            label_study.run(config, tmp_path)
    assert len(list(tmp_path.glob(f"cells/*/{contents.RESULTS}"))) == 1
    label_study.run(config, tmp_path)
    assert len(list(tmp_path.glob(f"cells/*/{contents.RESULTS}"))) == 2


def test_mistakes_in_the_labeled_images_are_found_before_pretraining(config, tmp_path):
    config.finetune.data.update(source="folder", dir=str(tmp_path / "nothing"))
    with pytest.raises(UserError, match="nothing"):
        label_study.run(config, tmp_path / "study")
    assert not (tmp_path / "study" / "pretrain").exists()


@pytest.mark.slow
def test_a_study_can_add_cells(config, tmp_path):
    config.inits, config.fractions = ("scratch",), (0.1,)
    label_study.run(config, tmp_path)
    config.fractions = (0.1, 0.5)
    label_study.run(config, tmp_path)
    assert len(list((tmp_path / "cells").iterdir())) == 2


@pytest.mark.slow
def test_the_report_of_an_unchanged_study_is_kept(config, tmp_path, monkeypatch, capsys):
    config.fractions, config.inits = (1.0,), ("scratch",)
    first = label_study.run(config, tmp_path)
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    written = []
    original = page.write_report
    monkeypatch.setattr(page, "write_report", lambda *args, **more: written.append(1) or original(*args, **more))
    again = label_study.run(config, tmp_path)
    assert not written and again == json.loads(json.dumps(first))
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")] == table
    (tmp_path / "cells" / "100pct-scratch-seed0" / "metrics.jsonl").touch()
    label_study.run(config, tmp_path)
    config.title = "Another title"
    label_study.run(config, tmp_path)
    assert len(written) == 2 and "Another title" in (tmp_path / "report" / "index.html").read_text()


@pytest.fixture
def cells_folder(tmp_path):
    """A folder of 3 classes of 24 images, which differ in brightness."""
    for number in range(72):
        path = tmp_path / "raabin" / "ABC"[number % 3] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 150, (16, 16, 3)) + 30 * (number % 3)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "raabin"


@pytest.mark.slow
def test_embeddings_from_a_file_score_as_the_encoder_itself(config, cells_folder, tmp_path, capsys):
    """Also added to a finished study; and the page warns of an encoder that may know the test images."""
    for part in (config.pretrain, config.finetune):
        part.data.update(source="folder", dir=str(cells_folder))
    config.pretrain.data.part = "train"
    config.inits, config.evaluations, config.fractions = ("scratch", "mae"), ("lbfgs", "knn"), (0.3, 1.0)
    config.finetune.probe.neighbours = (1, 5)
    study = tmp_path / "study"
    label_study.run(config, study)
    out = tmp_path / "embedded.npz"
    files.embed(str(study / "pretrain"), str(cells_folder), out)
    config.inits = (*config.inits, f"file=features:{out},seen=Raabin-WBC")
    assert any("file" in line for line in main.plan(config, str(study), timed=False))
    capsys.readouterr()
    label_study.run(config, study)
    for task in ("lbfgs", "knn"):
        for labels in ("30pct", "100pct"):
            one, two = (
                read_predictions(study / "cells" / f"{task}-{labels}-{init}-seed0" / contents.PREDICTIONS, "ABC")[0]
                for init in ("mae", "file")
            )
            assert one.images == two.images and (one.predictions == two.predictions).all()
            np.testing.assert_allclose(one.probabilities, two.probabilities, atol=1e-6)
    printed = capsys.readouterr().out
    assert "| linear probe (L-BFGS) | 30 % " not in printed  # lbfgs is the main table here
    text = (study / "report" / "index.html").read_text()
    assert "Test images of test may be known to file, whose encoder was trained on Raabin-WBC: its score there" in text
    dispatch(["runs", str(study)])
    assert re.search(r"file\b", capsys.readouterr().out)
    with pytest.raises(UserError, match="classifies features of"):
        mae_jax.load(study / "cells" / "knn-30pct-file-seed0")
