"""Arms that pre-train on other images have as many updates as the others."""

import pytest

from mae_jax import main
from mae_jax.config.fields import study_defaults
from mae_jax.config.loading import flatten
from mae_jax.data.splits import DataCache
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.study import images_seen, label_study, plan, preview
from mae_jax.study.validation import validate_study

MORE = "more=mae:data.synthetic_unlabelled=100"


@pytest.fixture
def config(tiny_config):
    study = study_defaults(tiny_config("pretrain"), tiny_config("finetune"))
    study.fractions, study.inits = (1.0,), ("scratch", "mae", MORE)
    return study


def pretrainings(config, workdir):
    """{arm: its planned pre-training}."""
    cache = DataCache()
    runs = [run for run in preview.runs(validate_study(config), workdir, cache) if not run[1].traits.labeled]
    planned = plan.make(runs, cache, timed=False)
    return {run.directory.name.removeprefix("pretrain").removeprefix("-"): run for run in planned}


def test_an_arm_with_more_images_has_as_many_updates_and_differs_in_nothing_else(config, tmp_path):
    plain, more = pretrainings(config, tmp_path).values()
    assert (plain.resolved.n_train, more.resolved.n_train) == (36, 90)
    assert plain.resolved.steps == more.resolved.steps == 6  # 2 epochs of ceil(36 / 16)
    before, after = flatten(plain.config), flatten(more.config)
    assert {key: after[key] for key in after if after[key] != before[key]} == {
        "name": "pre-training more", "data.synthetic_unlabelled": 100, "train.epoch_images": 36
    }  # fmt: skip


def test_the_first_arm_counts_if_none_keeps_the_images(config, tmp_path):
    config.inits = ("scratch", "few=mae:data.synthetic_unlabelled=20", MORE)
    few, more = pretrainings(config, tmp_path).values()
    assert (few.config.train.epoch_images, more.config.train.epoch_images) == (0, 18)
    assert few.resolved.steps == more.resolved.steps == 4


@pytest.mark.parametrize("length", ["train.epochs=1", "train.epoch_images=64", "train.steps=5"])
def test_an_arm_that_sets_its_length_keeps_it(config, tmp_path, length):
    config.inits = ("scratch", "mae", f"{MORE},{length}")
    more = pretrainings(config, tmp_path)["more"]
    key, _, value = length.partition("=")
    assert flatten(more.config)[key] == float(value)
    assert more.config.train.epoch_images == (64 if "images" in length else 0)


@pytest.mark.parametrize("field", ["steps", "epoch_images"])
def test_a_study_that_sets_the_length_keeps_it(config, tmp_path, field):
    config.pretrain.train[field] = 48
    plain, more = pretrainings(config, tmp_path).values()
    assert flatten(plain.config.train) == flatten(more.config.train)
    assert plain.resolved.steps == more.resolved.steps == (48 if field == "steps" else 6)


def test_changes_that_choose_no_images_change_no_length_and_open_none(config, tmp_path, monkeypatch):
    monkeypatch.setattr(images_seen.splits, "unlabeled", None)
    config.inits = (
        "scratch",
        "mae",
        "stain=mae:data.stain=hed",
        "few=mae:data.unlabeled_count=20",
        "mae:mask_ratio=0.5",
    )
    runs = preview.runs(validate_study(config), tmp_path)
    assert [run.train.epoch_images for _, run in runs] == [0] * len(runs)


def test_each_seed_of_the_pretraining_sees_as_many_images(config, tmp_path):
    config.seeds = config.pretrain_seeds = (0, 1)
    planned = pretrainings(config, tmp_path)
    assert {name: run.resolved.steps for name, run in planned.items()} == dict.fromkeys(
        ("seed0", "seed1", "more-seed0", "more-seed1"), 6
    )


@pytest.mark.parametrize(("train", "expected"), [({"epoch_images": 12}, 12), ({}, 0), ("damaged", 0)])
def test_a_run_that_has_begun_keeps_its_number(config, tmp_path, monkeypatch, train, expected):
    monkeypatch.setattr(images_seen.splits, "unlabeled", None)
    (tmp_path / "pretrain-more").mkdir()
    contents.write_json(tmp_path / "pretrain-more" / contents.CONFIG, {"config": {"train": train}})
    runs = dict(preview.runs(validate_study(config), tmp_path))
    assert runs[tmp_path / "pretrain-more"].train.epoch_images == expected


def test_a_folder_that_does_not_exist_is_named(config, tmp_path):
    config.pretrain.data.update(source="folder", dir=str(tmp_path / "nowhere"))
    config.inits = ("scratch", "mae", f"more=mae:data.dir={tmp_path}")
    with pytest.raises(UserError, match="nowhere"):
        preview.runs(validate_study(config), tmp_path)


def test_the_plan_shows_how_many_images_an_epoch_has(config, tmp_path):
    lines = main.plan(config, tmp_path / "study", timed=False)
    assert "  pre-training: 36 images, 2 epochs, 6 updates of 16" in lines
    assert "  pre-training more: 90 images, 2 epochs of 36 images, 6 updates of 16" in lines


@pytest.mark.slow
def test_the_runs_of_a_study_record_it_and_are_resumed(config, tmp_path):
    config.evaluations = ("finetune", "knn")
    label_study.run(config, tmp_path / "study")
    saved = contents.read_config(tmp_path / "study" / "pretrain-more" / contents.CONFIG)
    plain = contents.read_config(tmp_path / "study" / "pretrain" / contents.CONFIG)
    assert (saved["config"]["train"]["epoch_images"], plain["config"]["train"]["epoch_images"]) == (36, 0)
    assert saved["resolved"]["steps"] == plain["resolved"]["steps"] == 6
    before = (tmp_path / "study" / "pretrain-more" / contents.RESULTS).stat().st_mtime_ns
    label_study.run(config, tmp_path / "study")
    assert (tmp_path / "study" / "pretrain-more" / contents.RESULTS).stat().st_mtime_ns == before
