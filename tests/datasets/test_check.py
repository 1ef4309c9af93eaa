"""Planted duplicates and groups in two splits are found in a folder, in a prepared data set and at a run's start."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mae_jax import __main__
from mae_jax.config.fields import DataFields, changed
from mae_jax.data import checking, duplicates, prepared, shifted, splits
from mae_jax.data.looks import look
from mae_jax.datasets.check import check
from mae_jax.datasets.prepare import prepare
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.step import sharding
from mae_jax.train import loop
from mae_jax.train.build import build

ROOT = Path(__file__).parents[2]
PLANTED = {  # what each planted file of `leaky` is found as: finding, across splits, two labels
    "TestA/Basophil/copy.jpg": ("identical", "yes", "no"),
    "Train/Monocyte/copy.jpg": ("identical", "no", "yes"),
    "TestA/Neutrophil/again.jpg": ("near-identical", "yes", "yes"),
    "TestB/Lymphocyte/95-8-10-0_300_7.jpg": ("field in two splits", "yes", "yes"),  # its group, too
}


@pytest.fixture(scope="module")
def leaky(trees, tmp_path_factory) -> Path:
    """The published layout with a copy in the test set, a copy under another label, a re-encoded copy, and
    an image of a training field of view in TestB."""
    root = tmp_path_factory.mktemp("leaky") / "source"
    shutil.copytree(trees / "raabin_wbc", root)
    for junk in ("Neutrophil/.DS_1.jpg", "Neutrophil/95-8-14-0_300_9.jpg", "Monocyte/95-8-13-0_300_7.jpg"):
        (root / "Train" / junk).unlink()
    one = root / "Train" / "Basophil" / "95-8-10-0_300_0.jpg"
    two = root / "Train" / "Lymphocyte" / "95-8-12-0_300_0.jpg"
    shutil.copy(one, root / "TestA" / "Basophil" / "copy.jpg")
    shutil.copy(two, root / "Train" / "Monocyte" / "copy.jpg")
    with Image.open(root / "Train" / "Eosinophil" / "95-8-11-0_300_0.jpg") as image:
        darker = ImageEnhance.Brightness(image.resize((30, 26))).enhance(0.9)
        darker.save(root / "TestA" / "Neutrophil" / "again.jpg", quality=75)
    place = root / "TestB" / "Lymphocyte" / "95-8-10-0_300_7.jpg"
    Image.fromarray(np.random.default_rng(99).integers(0, 256, (24, 24, 3), np.uint8)).save(place)
    return root


def findings(path: Path) -> dict[str, tuple]:
    """By the planted file, whichever of the two it is."""
    collected = {}
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            planted = [row[key] for key in ("image", "other_image") if row[key] in PLANTED]
            collected[planted[0] if planted else str(row)] = (row["finding"], row["across_splits"], row["two_labels"])
    return collected


def test_planted_duplicates_are_found(leaky, tmp_path):
    lines: list[str] = []
    prepare("raabin_wbc", leaky, tmp_path, lines.append)
    check("raabin_wbc", tmp_path, tmp_path / "found.csv", lines.append)
    assert findings(tmp_path / "found.csv") == PLANTED
    assert "  identical images: 2, 1 across splits, 1 under two labels (TestA and Train 1)" in lines
    assert "  film in two splits: 1 (TestB and Train 1)" in lines
    assert "  field of view in two splits: 1 (TestB and Train 1)" in lines
    groups = next(line for line in lines if line.startswith("  groups"))
    assert groups.startswith("  groups: 24 (film), and 3 images without a group, such as Test")
    assert groups.endswith(".jpg; the same patient may be on both sides")
    check(str(leaky), "", tmp_path / "folder.csv", lines.append)
    assert findings(tmp_path / "folder.csv") == PLANTED


def test_nothing_is_found_where_nothing_is(prepared_sets, tmp_path):
    assert check("cam16", prepared_sets[0], tmp_path / "found.csv", lambda line: None) == []


@pytest.mark.parametrize("named", [True, False])
def test_a_fine_tuning_says_what_its_test_set_shares(leaky, tmp_path, tiny_config, named):
    config = tiny_config()
    config.data.update(source="folder", dir=str(leaky), external="TestB")
    if named:
        prepare("raabin_wbc", leaky, tmp_path, lambda line: None)
        config.data.update(source="raabin_wbc", dir="", prepared_dir=str(tmp_path))
    task = build(config, sharding.make_mesh(1))
    assert task.leaks["TestA"]["identical"] == 1 and task.leaks["TestA"]["groups"] == 0
    assert task.leaks["TestA"]["near_identical"] == 1
    assert task.leaks["TestA"]["images"] == ["TestA/Basophil/copy.jpg", "TestA/Neutrophil/again.jpg"]
    assert task.leaks["TestA"]["examples"]["identical"] == [
        ["TestA/Basophil/copy.jpg", "Train/Basophil/95-8-10-0_300_0.jpg"]
    ]
    assert (task.leaks["TestB"]["groups"], task.leaks["TestB"]["images_in_shared_groups"]) == (1, 1)
    text = task.about["warning: test images that may be known from training"]
    assert "TestA has 1 byte-identical with training images, 1 that looks like copies of training images" in text
    assert "TestB has 1 of a group that training has, too" in text
    assert not any("shifted" in key for key in task.about)


def test_a_fine_tuning_says_where_shifted_copies_are_not_searched_for(leaky, tiny_config, monkeypatch):
    monkeypatch.setattr(shifted, "PAIRS", 10)
    config = tiny_config()
    config.data.update(source="folder", dir=str(leaky))
    task = build(config, sharding.make_mesh(1))
    assert task.about["shifted and cropped copies of training images"] == (
        "not searched for in TestA, because there are more than 10 pairs of images"
    )
    assert task.leaks["TestA"]["shifted_searched"] is False


def test_scores_without_leaked_images(leaky, tmp_path, tiny_config):
    """They are those of the predictions' other rows."""
    config = tiny_config()
    config.data.update(source="folder", dir=str(leaky), external="TestB")
    config.train.epochs = 1.0
    results = loop.run(config, tmp_path / "run")
    with open(tmp_path / "run" / contents.PREDICTIONS, newline="") as file:
        rows = list(csv.DictReader(file))
    leaked = contents.read_json(tmp_path / "run" / contents.RUN)["leaks"]["TestA"]["images"]
    rest = [row for row in rows if row["image"] not in leaked]
    right = sum(row["label"] == row["prediction"] for row in rest)
    result = results["without_leaked"]
    assert (result["leaked"], result["n"], result["accuracy"]) == (2, len(rest), right / len(rest)) and len(rest) == 20
    assert results["n"] == 22 and 0 <= result["f1"] <= 1
    assert results["external"]["TestB"]["without_leaked"]["leaked"] == 1


def test_a_fine_tuning_says_what_its_pre_training_saw_of_the_test_set(leaky, tmp_path, tiny_config):
    """Of a pre-training on a folder within a study, which has it open, and on a prepared data set at any time."""
    pretraining, config = tiny_config("pretrain"), tiny_config(init="mae", init_from=str(tmp_path / "run"))
    shutil.copytree(leaky / "TestA" / "Eosinophil", tmp_path / "more")
    pretraining.data.update(source="folder", dir=str(tmp_path / "more"))
    config.data.update(source="folder", dir=str(leaky))
    config.model.update({key: value for key, value in pretraining.model.items() if key in config.model})
    (tmp_path / "run").mkdir()

    def seen(cache: splits.DataCache | None) -> dict:
        contents.write_json(tmp_path / "run" / contents.CONFIG, {"config": json.loads(pretraining.to_json())})
        task = build(config, sharding.make_mesh(1), cache=cache)
        assert bool(task.seen_before) == any("known from pre-training" in key for key in task.about)
        return task.seen_before

    cache = splits.DataCache()
    splits.unlabeled(pretraining.data, None, cache)
    assert seen(None) == {}
    n = len(list((tmp_path / "more").glob("*.jpg")))
    assert seen(cache)["TestA"]["identical"] == n > 0
    prepare("raabin_wbc", leaky, tmp_path / "data", lambda line: None)
    pretraining.data.update(source="raabin_wbc", dir="", prepared_dir=str(tmp_path / "data"))
    assert seen(None)["TestA"]["identical"] == 1  # Train alone is pre-trained on, and has one
    shutil.rmtree(tmp_path / "data")
    assert seen(None) == {}


def test_generated_images_are_not_searched(tiny_config):
    assert splits.labeled(tiny_config().data).leaks == {}


def test_folders_of_other_layouts(trees, tmp_path):
    """CAM16's own, where the class lies one folder deeper, and images without labels."""
    source = tmp_path / "cam16"
    shutil.copytree(trees / "cam16", source)
    one = next((source / "train" / "data" / "normal").glob("*.jpg"))
    shutil.copy(one, source / "train" / "data" / "tumor" / "copy.jpg")
    shutil.copy(one, source / "test" / "data" / "normal" / "copy.jpg")
    rows = check(str(source), "", tmp_path / "found.csv", lambda line: None)
    result = {(row["split"], row["other_split"], row["label"], row["other_label"], row["two_labels"]) for row in rows}
    # Splits in alphabetical order: the copy in test comes first, and both others are copies of it.
    assert result == {
        ("test/data", "train/data", "normal", "normal", "no"),
        ("test/data", "train/data", "normal", "tumor", "yes"),
    }
    for name, places in (("flat", ["a.jpg", "b.jpg"]), ("deep", ["one/a.jpg", "two/b.jpg"])):
        for place in places:
            (tmp_path / name / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(one, tmp_path / name / place)
        rows = check(str(tmp_path / name), "", tmp_path / "found.csv", lambda line: None)
        labels = "yes" if name == "deep" else "no"  # one/ and two/ are classes
        assert [(row["image"], row["other_image"], row["two_labels"]) for row in rows] == [(*places, labels)]


def test_layouts_and_groups_are_reported(tmp_path):
    for i in range(8):
        place = tmp_path / "x" / f"fold{i % 2}" / "AB"[i // 4] / f"patient{i // 2}_{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8)).save(place)
    result: list[str] = []
    assert check(str(tmp_path / "x"), "", tmp_path / "found.csv", result.append) == []
    assert "fold0, fold1 hold folders of the same names (A, B)" in result[0]
    assert "  groups: not known; the same patient may be on both sides" in result
    assert not any("in two splits" in line for line in result)  # not known is not 0
    rows = check(str(tmp_path / "x"), "", tmp_path / "found.csv", result.append, pattern=r"(patient\d)_")
    assert [(row["finding"], row["group"]) for row in rows] == [
        ("group in two splits", f"patient{i}") for i in range(4)
    ]
    assert "  groups: 4 (patient or slide)" in result
    lines = ["file,kind,who,split"]
    lines += [f"x/fold{i % 2}/{'AB'[i // 4]}/patient{i // 2}_{i}.png,c{i // 4},w{i // 2},s{i % 2}" for i in range(8)]
    (tmp_path / "l.csv").write_text("\n".join(lines))
    rows = check(str(tmp_path / "l.csv"), "", tmp_path / "found.csv", result.append, "label=kind,group=who")
    assert [(row["group"], row["split"], row["other_split"], row["label"]) for row in rows] == [
        (f"w{i}", "s0", "s1", f"c{i // 2}") for i in range(4)
    ]


def test_the_command(leaky, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        line = [sys.executable, "-m", "mae_jax", "check", *arguments]
        return subprocess.run(
            line, cwd=tmp_path, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )

    done = run(str(leaky))
    assert done.returncode == 0 and "written to check_source.csv" in done.stdout
    assert findings(tmp_path / "check_source.csv") == PLANTED
    for name, message in (
        ("nothing", "'nothing' is neither a folder, a table of labels nor"),
        ("nothing.csv", "nothing.csv does not exist; name a folder, a CSV or Parquet file"),
        ("cam16", "cam16 is not prepared in"),
    ):
        done = run(name, "--data_dir", str(tmp_path))
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_files_that_are_skipped_are_counted_and_named(leaky, tmp_path):
    root, text = Path(shutil.copytree(leaky, tmp_path / "source")), []
    (root / "TestA" / "Basophil" / "page.jpg").write_text("<html>")
    (root / "TestA" / "Basophil" / ".DS_Store").write_text("")
    check(str(root), "", tmp_path / "found.csv", text.append)
    assert "TestA: 1 file skipped (not an image): TestA/Basophil/page.jpg" in text
    assert "TestA: 1 file skipped (hidden): TestA/Basophil/.DS_Store" in text


def test_a_folder_as_the_output_file_is_refused(tmp_path, monkeypatch):
    line = [sys.executable, "-m", "mae_jax", "check", str(tmp_path), "--out", str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=100)
    assert done.returncode == 2
    assert done.stderr == f"error: --out={tmp_path} cannot be written: it is a folder; name a file\n"


def test_names_that_a_spreadsheet_would_run_are_quoted(leaky, tmp_path):
    root = tmp_path / "set"
    for split, name in (("=cmd|a", "x"), ("B", "x")):
        place = root / split / name / "1.jpg"
        place.parent.mkdir(parents=True)
        shutil.copy(leaky / "TestA" / "Basophil" / "copy.jpg", place)
    check(str(root), "", tmp_path / "found.csv", lambda line: None)
    assert ",=cmd" not in (tmp_path / "found.csv").read_text()


def test_index_of_a_prepared_set_knows_digests(prepared_sets):
    source = prepared.labeled("cam16", "train", prepared_sets[0])
    digests, looks = duplicates.hashes_of(source)
    np.testing.assert_array_equal(digests, [checking.digest(source.read(i)) for i in range(len(source))])
    np.testing.assert_array_equal(looks[2], look(source.read(2)))
    read = dataclasses.replace(source, looks=None)
    assert all((a == b).all() for a, b in zip(duplicates.hashes_of(read), (digests, looks), strict=True))
    with pytest.raises(UserError):
        check("prcc", prepared_sets[0], prepared_sets[0] / "x.csv")


@pytest.mark.parametrize("left", ["__MACOSX", "lost+found", "$RECYCLE.BIN"])
def test_system_folders_are_not_splits(leaky, tmp_path, left):
    root = Path(shutil.copytree(leaky, tmp_path / "source"))
    shutil.copytree(root / "TestA", root / left / "TestA")
    with_it, without = (check(str(place), tmp_path, tmp_path / f"{i}.csv") for i, place in enumerate((root, leaky)))
    assert with_it == without


def test_what_a_run_warns_about_is_printed(tmp_path):
    """Classes with few images, a class that alone has a size, large images, and a test set that is split off."""
    for i in range(48):
        name = "ABC"[i % 3] if i < 42 else "D"
        place = tmp_path / "cells" / name / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        side = 90 if name == "C" else 88
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (side, side, 3), np.uint8)).save(place)
    lines: list[str] = []
    check(str(tmp_path / "cells"), "", tmp_path / "found.csv", lines.append, image_size=8)
    run = splits.labeled(changed(DataFields(), {"source": "folder", "dir": str(tmp_path / "cells")}))
    assert f"{tmp_path / 'cells'}: 48 images" in lines and "reading 48 images" in lines
    assert [line for line in lines if "warning:" in line][:-1] == [f"  warning: {line}" for line in run.warnings]
    assert any("fewer than 5 training images of D (" in line for line in lines)
    assert any("only C has the image size 90 x 90" in line for line in lines)
    assert any(line.startswith("  test set: ") and "split off by class (data.test_seed=0)" in line for line in lines)
    sizes = (len(run.train_idx), len(run.val_idx), len(run.test))
    assert "  a run uses {} for training, {} for validation, {} for test".format(*sizes) in lines
    assert lines[-2].startswith(
        "  warning: large images: train, test: the shorter side of 88 pixels (median) becomes 8"
    )
    check(str(tmp_path / "cells"), "", tmp_path / "found.csv", lines.append)
    assert "large images" not in lines[-2]


def test_images_that_a_run_cannot_use_are_named_with_the_reason(tmp_path):
    for i in range(4):
        place = tmp_path / "cells" / "Train" / "A" / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8)).save(place)
    lines: list[str] = []
    check(str(tmp_path / "cells"), "", tmp_path / "found.csv", lines.append)
    assert any(line.startswith("  a run cannot use these images: the training images of") for line in lines)


def test_options_of_the_command(tmp_path, monkeypatch, capsys):
    """Patients, splits and a table's folder are given by options, and messages name them."""
    monkeypatch.chdir(tmp_path)
    rows = ["file,cell type,split"]
    for i in range(12):
        place = tmp_path / "set" / f"p{i // 2}" / "AB"[i % 2] / f"{i}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 9, 3), np.uint8)).save(place)
        rows.append(f"p{i // 2}/{'AB'[i % 2]}/{i}.png,{'AB'[i % 2]},s{i % 2}")
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "labels.csv").write_text("\n".join(rows))

    def run(*arguments: str) -> str:
        code = __main__.dispatch(["check", *arguments])
        assert not code
        return capsys.readouterr().out

    text = run("set")
    assert text.count("Set --levels=group/class if A, B are the classes") == 1 and "a run cannot use" not in text
    assert "groups: 6 (folder)" in run("set", "--levels", "group/class")
    assert "layout: p0 for training, p1 for test" in run("set", "--train_split", "p0", "--test_split", "p1")
    text = run("more/labels.csv", "--dir", "set", "--group_pattern", "(p[01])/")
    assert "groups: 2 (patient or slide), and 8 images without a group, such as p2/A/4.png" in text
    assert "written to check_labels.csv" in text
    for arguments, message in (
        (["more/labels.csv"], "12 of 12 files do not exist, the first is more/p0/A/0.png; set --dir to"),
        (["more/labels.csv", "--dir", "set", "--columns", "label=kind"], "--columns='label=kind': 'kind' is not a"),
        (
            ["set", "--levels", "class", "--group_pattern", "x(y)"],
            "--group_pattern='x(y)' matches none of the 12 names",
        ),
        (["set", "--dir", "set"], "--dir=set is for a table of labels"),
        (["set", "--train_split", "p9"], "--train_split: 'set/p9' is not a folder"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            __main__.dispatch(["check", *arguments])


def test_drawings_of_one_shape_are_reported_with_a_note(tmp_path):
    y, x = np.mgrid[:48, :48]
    for i in range(24):
        dx, dy = i % 5, i // 5
        inside = ((x - 22 - dx) / 11) ** 2 + ((y - 22 - dy) / 9) ** 2 < 1
        image = np.where(inside[..., None], np.array([120, 60, 150]), np.array([235, 225, 230]))
        (tmp_path / "cells").mkdir(exist_ok=True)
        Image.fromarray(image.astype(np.uint8)).save(tmp_path / "cells" / f"{i}.png")
    lines: list[str] = []
    check(str(tmp_path / "cells"), "", tmp_path / "pairs.csv", lines.append)
    assert any(
        "of 24 images look like copies of others, so many that the images may all show" in line for line in lines
    )
