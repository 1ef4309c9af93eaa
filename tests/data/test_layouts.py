"""Layouts of folders: usual names of splits, none at all, and those that are ambiguous."""

from pathlib import Path

import pytest

from mae_jax.data import layouts
from mae_jax.data.layouts import Layout
from mae_jax.runtime.errors import UserError


def tree(top: Path, *files: str) -> Path:
    for file in files:
        (top / file).parent.mkdir(parents=True, exist_ok=True)
        (top / file).write_bytes(b"x")
    return top


def layout_of(top: Path, train="Train", validation="auto", test="TestA") -> Layout:
    return layouts.find(top, train, validation, test)


@pytest.mark.parametrize(
    ("splits", "roles"),
    [
        ("Train TestA", ("Train", None, "TestA")),
        ("Train TestA TestB", ("Train", None, "TestA")),
        ("train val test", ("train", "val", "test")),
        ("TRAIN Valid TEST", ("TRAIN", "Valid", "TEST")),
        ("training validation testing", ("training", "validation", "testing")),
        ("train", ("train", None, None)),
        ("Training dev", ("Training", "dev", None)),
    ],
)
def test_usual_names_of_splits(tmp_path, splits, roles):
    for split in splits.split():
        tree(tmp_path, f"{split}/A/1.png", f"{split}/B/1.png")
    tree(tmp_path, ".ipynb_checkpoints/x.png", "README.txt")
    layout = layout_of(tmp_path)
    assert (layout.train, layout.validation, layout.test) == roles
    assert layout.unused == tuple(s for s in splits.split() if s == "TestB")
    assert layout_of(tmp_path, "auto", "", "auto") == layout
    assert layout_of(tmp_path, validation="none").validation is None


def test_given_names_come_first(tmp_path):
    for split in ("train", "test", "fold0", "TestA", "more/deep"):
        tree(tmp_path, f"{split}/A/1.png", f"{split}/B/1.png")
    assert layout_of(tmp_path, "fold0", "more/deep", "test") == Layout(
        "fold0", "more/deep", "test", ("TestA", "more", "train")
    )
    with pytest.raises(UserError, match=r"Tain.*is not a folder.*TestA, fold0, more, test, train"):
        layout_of(tmp_path, "Tain")
    with pytest.raises(UserError, match="has TestA and test; set data.test_split"):
        layout_of(tmp_path, test="auto")


def test_classes_without_splits(tmp_path):
    tree(tmp_path, "A/1.png", "B/p1/1.png", "C/1.png")  # one folder alone is no group
    assert layout_of(tmp_path) == Layout("")
    assert layout_of(tmp_path).in_words() == "class folders without splits"
    below = tree(tmp_path / "own", "archive/A/1.png", "archive/B/1.png")
    assert layout_of(below) == Layout("archive")
    assert layout_of(tree(tmp_path / "split", "x/train/A/1.png", "x/test/A/1.png")) == Layout("x/train", None, "x/test")


def test_the_folder_data_between_split_and_class(tmp_path):
    for split in ("train", "val", "test"):
        tree(tmp_path, f"{split}/data/normal/1.png", f"{split}/data/tumor/1.png")
    assert layout_of(tmp_path) == Layout("train/data", "val/data", "test/data")


def test_ambiguous_layouts_are_refused_with_what_to_do(tmp_path):
    for split in ("fold1", "fold2"):
        tree(tmp_path / "folds", f"{split}/A/1.png", f"{split}/B/1.png")
    with pytest.raises(UserError, match=r"fold1, fold2 hold folders of the same names \(A, B\).*train_split"):
        layout_of(tmp_path / "folds")
    assert layout_of(tmp_path / "folds", ".") == Layout("")
    tree(tmp_path / "classes", "A/1.png", "B/1.png", "C/1.png")
    with pytest.raises(UserError, match=r"data.train_split=A: A, C .*look like classes, not splits"):
        layout_of(tmp_path / "classes", "A", test="B")
    tree(tmp_path / "half", "test/A/1.png", "B/1.png")
    with pytest.raises(UserError, match="has test, but no folder with a usual name for training"):
        layout_of(tmp_path / "half")
    tree(tmp_path / "two", "train/A/1.png", "training/A/1.png")
    with pytest.raises(UserError, match="has train and training; set data.train_split"):
        layout_of(tmp_path / "two")


NESTED = {
    "class/group": ["A/p1/1.png", "A/p2/1.png", "B/p3/1.png", "B/p4/1.png"],
    "group/class": ["p1/A/1.png", "p2/B/1.png", "p3/A/1.png"],
    "class": ["A/1.png", "A/rejected/2.png", "B/1.png", "B/rejected/2.png"],
}


@pytest.mark.parametrize(("levels", "files"), NESTED.items(), ids=NESTED)
@pytest.mark.parametrize("split", [False, True])
def test_folders_of_groups_inside_or_around_class_folders(tmp_path, levels, files, split):
    names = [f"{s}{file}" for s in (("train/", "test/") if split else ("",)) for file in files]
    layout = layout_of(tree(tmp_path, *names))
    assert layout.levels == levels and (layout.train, layout.test) == (("train", "test") if split else ("", None))
    assert ("groups" in layout.in_words()) == (levels != "class")


@pytest.mark.parametrize("other", [["A/images/1.png", "B/images/1.png"], ["A/one/1.png", "B/p1/1.png", "B/p2/1.png"]])
def test_inner_folders_that_mean_nothing(tmp_path, other):
    assert layout_of(tree(tmp_path, *other)).levels == "class"


def test_patients_with_several_classes_are_refused_until_levels_are_given(tmp_path):
    tree(tmp_path, *(f"p{i}/{c}/1.png" for i in range(7) for c in "AB"))
    with pytest.raises(UserError, match=r"p0, p1, p2, p3, p4, \.\.\. hold.*data.levels=group/class if A, B are"):
        layout_of(tmp_path)
    for levels in ("class", "class/group", "group/class"):
        assert layouts.find(tmp_path, "auto", "auto", "auto", levels) == Layout("", levels=levels)


@pytest.mark.parametrize("levels", ["class/group", "group/class"])
def test_folders_of_patients_are_known_by_the_other_splits(tmp_path, levels):
    for split, groups in (("Training", "p1 p2 p3"), ("valid", "p4"), ("Testing", "p5 p6")):
        for group in groups.split():
            for name in ("lymph", "neutro") if split == "Training" else ("Lymph",):
                place = f"{name}/{group}" if levels == "class/group" else f"{group}/{name}"
                tree(tmp_path, f"{split}/{place}/1.png")
    assert layout_of(tmp_path) == Layout("Training", "valid", "Testing", levels=levels)
    for place in ("lymph/p1", "p1/lymph"):  # a patient on both sides: nothing shows which level has the classes
        tree(tmp_path, f"Testing/{place}/1.png")
    with pytest.raises(UserError) as error:
        layout_of(tmp_path)
    assert "so they may be classes or groups (patients). Set data.levels=group/class if" in str(error.value)
    assert ", or data.levels=class if" in str(error.value) and "test_split" not in str(error.value)
