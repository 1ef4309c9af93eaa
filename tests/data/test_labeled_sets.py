"""Labeled images from folders with and without splits and from tables, with groups and a test set split off."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_jax.config.fields import DataFields, changed
from mae_jax.config.validation import typed
from mae_jax.data import labeled_sets, sources, splits, subsets
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.step import sharding
from mae_jax.train.build import build


def draw(path: Path, number: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return path.name


@pytest.fixture
def data(tiny_config, tmp_path):
    """Fields of a folder without splits: 3 classes of 10, 20 and 30 images, of 5 patients each."""
    number = 0
    for name, n in (("A", 10), ("B", 20), ("C", 30)):
        for i in range(n):
            draw(tmp_path / "images" / name / f"patient{name}{i % 5}_{i}.png", number)
            number += 1
    fields = tiny_config().data
    fields.update(source="folder", dir=str(tmp_path / "images"))
    return fields


def test_a_test_set_is_split_off_by_class_from_a_seed(data):
    labeled = splits.labeled(data)
    assert (len(labeled.test), len(labeled.train_idx) + len(labeled.val_idx)) == (12, 48)
    assert np.bincount(labeled.test.labels).tolist() == [2, 4, 6]
    assert not set(labeled.test.names) & set(labeled.train.names) and labeled.sets.test_name == "test"
    assert labeled.sets.about["test set"] == ("12 images, 20 % of all images, split off by class (data.test_seed=0)")
    assert splits.labeled(data).test.names == labeled.test.names
    data.val_seed = data.subset_seed = 5  # these do not move the test set
    assert splits.labeled(data).test.names == labeled.test.names
    data.test_seed = 1
    assert splits.labeled(data).test.names != labeled.test.names
    data.test_fraction = 0.0
    with pytest.raises(UserError, match=r"there is no test set, and data.test_fraction=0 is 0"):
        splits.labeled(data)


def test_the_test_set_is_not_drawn_like_a_validation_set(data):
    """With equal seeds and shares, a validation set drawn from all images is another one."""
    result = labeled_sets.load(typed(data, DataFields))
    everything = sources.folder(data.dir)
    split = subsets.split_validation(everything.labels, everything.groups, data.test_fraction, data.test_seed)[1]
    assert len(split) == len(result.test)
    assert {everything.names[i] for i in split} != set(result.test.names)


def test_validation_images_are_taken_out_of_the_fraction(data):
    data.fraction, data.val_fraction = 0.5, 0.0
    drawn = splits.labeled(typed(data, DataFields))  # 8, 16 and 24 images to train on, of which half
    assert drawn.subset["actual"] == {"A": 4, "B": 8, "C": 12}
    data.val_of, data.val_fraction = "fraction", 0.25
    labeled = splits.labeled(typed(data, DataFields))
    assert sorted([*labeled.train_idx, *labeled.val_idx]) == drawn.train_idx.tolist()
    assert labeled.subset["actual"] == {"A": 3, "B": 6, "C": 9} and labeled.subset["validation"] == {
        "A": 1,
        "B": 2,
        "C": 3,
    }
    assert labeled.subset["train"] == {"A": 8, "B": 16, "C": 24}
    data.fraction = 1.0
    all_labels = splits.labeled(typed(data, DataFields))
    assert splits.n_training(typed(data, DataFields), labeled, share=1.0) == len(all_labels.train_idx) == 36
    assert {*labeled.train_idx, *labeled.val_idx} < {*all_labels.train_idx, *all_labels.val_idx}
    data.label_count = 6
    few = splits.labeled(typed(data, DataFields))
    assert (len(few.train_idx), len(few.val_idx)) == (4, 2)  # 1, 2 and 3: a class of one has none to spare
    assert splits.n_training(typed(data, DataFields), few, count=24) == len(labeled.train_idx)


def test_groups_of_the_fraction_are_on_one_side(data):
    data.update(group_pattern=r"(patient\w\d)_", val_of="fraction", val_fraction=0.25, fraction=0.5)
    labeled = splits.labeled(typed(data, DataFields))
    trained, held = ({labeled.train.groups[i] for i in part} for part in (labeled.train_idx, labeled.val_idx))
    assert held and trained and not held & trained


def test_groups_by_pattern_are_on_one_side(data):
    assert splits.labeled(data).groups["text"] == "not known; the same patient may be on both sides"
    data.group_pattern = r"(patient\w\d)_"
    labeled = splits.labeled(data)
    held = {labeled.train.groups[i] for i in labeled.val_idx}
    trained = {labeled.train.groups[i] for i in labeled.train_idx}
    assert held and not held & trained and not set(labeled.test.groups) & (held | trained)
    assert len(set(labeled.test.groups)) == 3 and labeled.groups["count"] == {"train": 12, "test": 3}
    assert "split off by class, with each patient or slide on one side (" in labeled.sets.about["test set"]
    data.group_pattern = r"(slide\d)"
    with pytest.raises(UserError, match="matches none of the 60 names of images in"):
        splits.labeled(data)


def test_a_validation_folder_is_used(data, tmp_path):
    for seed, (split, n) in enumerate((("train", 6), ("val", 3), ("test", 2))):
        for name in "AB":
            for i in range(n):
                draw(tmp_path / "split" / split / name / f"{i}.png", 1000 * seed + 10 * ord(name) + i)
    data.dir = str(tmp_path / "split")
    labeled = splits.labeled(data)
    assert (len(labeled.train_idx), len(labeled.val_idx), len(labeled.test)) == (12, 6, 4)
    assert {labeled.train.names[i].split("/")[0] for i in labeled.val_idx} == {"val"}
    assert labeled.train[int(labeled.val_idx[4])]["name"] == "val/B/1.png"
    assert labeled.subset["validation"] == {"A": 3, "B": 3}
    assert labeled.sets.about["layout"] == "train for training, val for validation, test for test"
    data.val_of = "fraction"
    with pytest.raises(UserError, match=r"data.val_of=fraction, but these images have a validation split"):
        splits.labeled(data)
    data.val_of, data.val_split = "all", "none"
    labeled = splits.labeled(data)
    assert len(labeled.train) == 12 and len(labeled.val_idx) == 2
    assert {labeled.train.names[i].split("/")[0] for i in labeled.val_idx} == {"train"}


def test_shares_that_split_off_nothing_are_named(data, tmp_path):
    assert "not used" not in labeled_sets.load(typed(data, DataFields)).about
    for split in ("train", "val", "test"):
        for name in ("A", "B"):
            draw(tmp_path / "split" / split / name / "0.png", 100 + len(split) * 10 + len(name))
    data.update(dir=str(tmp_path / "split"), train_split="auto", test_split="auto", test_fraction=0.3, val_fraction=0.4)
    assert labeled_sets.load(typed(data, DataFields)).about["not used"] == (
        "data.test_fraction=0.3, because the data have a test set (data.test_split); data.val_fraction=0.4, because "
        "the data have a validation set (data.val_split)"
    )


@pytest.fixture
def table(data, tmp_path) -> Path:
    """The same images in one folder, labels in a CSV beside it."""
    lines = ["file,cell_type,patient,fold"]
    for number in range(60):
        name = draw(tmp_path / "flat" / f"{number:03}.png", number)
        fold = "test" if number % 6 == 0 else "val" if number % 6 == 1 else "train"
        lines.append(f"flat/{name},{'xyz'[number % 3]},p{number // 6},{fold}")
    file = tmp_path / "labels.csv"
    file.write_text("\n".join(lines) + "\n")
    data.update(dir="", labels=str(file))
    return file


def test_a_table_gives_labels_groups_and_splits(data, table):
    data.columns = "split=fold"
    labeled = splits.labeled(data)
    assert labeled.train.classes == ("x", "y", "z")
    assert (len(labeled.train_idx), len(labeled.val_idx), len(labeled.test)) == (40, 10, 10)
    assert set(labeled.test.names) == {f"flat/{i:03}.png" for i in range(0, 60, 6)}
    assert labeled.test.groups[1] == "p1" and labeled.train.kind == "patient"
    assert labeled.groups["shared_with_training"]["test"] == {"groups": 10, "images": 10}
    assert (labeled.train.labels == [int(n[5:8]) % 3 for n in labeled.train.names]).all()
    data.update(val_split="none", external="more=val")
    labeled = splits.labeled(data)
    assert len(labeled.external["more"]) == 10 and len(labeled.train) == 40


def test_a_table_without_splits_keeps_patients_together(data, table, tmp_path):
    labeled = splits.labeled(data)
    parts = [labeled.test.groups] + [
        [labeled.train.groups[i] for i in idx] for idx in (labeled.val_idx, labeled.train_idx)
    ]
    assert [len(set(part)) for part in parts] == [2, 1, 7]
    assert sum(map(len, parts)) == 60 and len({g for part in parts for g in set(part)}) == 10
    moved = tmp_path / "elsewhere.csv"
    table.rename(moved)
    data.update(labels=str(moved), dir=str(tmp_path / "flat"))
    with pytest.raises(UserError, match=r"data.labels: 60 of 60 files do not exist, the first is .*flat/flat/000.png"):
        splits.labeled(data)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"columns": "split=patient"}, "has the values p0, p1, .* none of them usual for training"),
        ({"columns": "split=fold", "train_split": "p0"}, "data.train_split=p0 is not in .*; it has test, train, val"),
        ({"columns": "split=fold", "external": "x=train"}, "train holds the images of train"),
        ({"columns": "split=fold", "external": "x=p0"}, "'p0' is neither a folder nor a split"),
        ({"source": "synthetic"}, "is for data.source=folder"),
        ({"labels": "", "dir": "/tmp", "columns": "path=x"}, "needs data.labels"),
        ({"columns": "group=patient", "group_pattern": "(x)"}, "exclude each other"),
    ],
)
def test_fields_that_do_not_fit_are_refused(data, table, fields, message):
    data.update(fields)
    with pytest.raises(UserError, match=message):
        labeled_sets.check(data)


def test_a_run_says_where_its_sets_come_from(data, tiny_config, tmp_path):
    from mae_jax.train.loop import run

    config = tiny_config()
    config.data.update(data)
    config.train.epochs = 1.0
    task = build(config, sharding.make_mesh(1))
    assert task.about["groups"] == "not known; the same patient may be on both sides"
    assert task.about["layout"] == "class folders without splits"
    run(config, tmp_path / "run")
    about = contents.read_json(tmp_path / "run" / contents.RUN)
    assert about["test_split"] == "test" and about["groups"]["known"] is False
    assert about["groups"]["count"] == {"train": None, "test": None}
    assert about["groups"]["text"].startswith("not known")


def test_a_pre_training_on_the_training_images_sees_no_other(data, tmp_path, monkeypatch):
    opened = []
    load = labeled_sets.load
    monkeypatch.setattr(labeled_sets, "load", lambda *given: opened.append(given) or load(*given))
    data.part = "train"
    cache, fields = splits.DataCache(), typed(data, DataFields)
    pretrained = splits.unlabeled(fields, cache=cache)
    trained = splits.labeled(changed(fields, {"part": "all"}), cache=cache)
    (source,) = pretrained.sources
    assert set(source.names) == set(trained.train.names) and not set(source.names) & set(trained.test.names)
    assert len(pretrained.train_idx[0]) + len(pretrained.val_idx[0]) == 48 and len(opened) == 1


def test_a_pre_training_on_the_training_images_leaves_the_validation_folder(data, tmp_path):
    for split, start in (("train", 0), ("val", 100), ("test", 200)):
        for i in range(8):
            draw(tmp_path / "split" / split / "AB"[i % 2] / f"{i}.png", start + i)
    data.update(dir=str(tmp_path / "split"), part="train", train_split="auto", test_split="auto")
    (source,) = splits.unlabeled(typed(data, DataFields)).sources
    assert len(source) == 8 and all(name.startswith("train/") for name in source.names)
