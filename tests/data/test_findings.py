"""Classes with few images, films and days of one class, identical images under two labels or across validation."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import findings, splits
from mae_jax.data.sources import Source
from mae_jax.rundir import contents
from mae_jax.step import sharding
from mae_jax.train.build import build


def source(labels, groups=None, names=None, sizes=None, digests=None, kind="film") -> Source:
    n = len(labels)
    return Source(
        names=tuple(names or (f"{i}.png" for i in range(n))),
        labels=np.asarray(labels, np.int32),
        groups=tuple(groups or [""] * n),
        classes=("A", "B", "C"),
        fingerprint="",
        read=lambda i: b"",
        sizes=None if sizes is None else np.asarray(sizes, np.int32),
        digests=None if digests is None else np.asarray(digests, np.uint64),
        kind=kind,
    )


RECOGNIZED = "the network may recognize the {} instead of the cells, so the recall of C may be too high"
LABELS = [0] * 20 + [1] * 20 + [2] * 10
FILMS = [f"f{i % 8}" for i in range(40)]  # A and B share theirs


def test_few_images_of_a_class_are_named():
    lines = findings.few({"A": 4, "B": 5, "C": 1}, {"A": 0, "B": 9, "C": 5})
    assert lines[0].startswith("fewer than 5 training images of A (4), C (1):")
    assert lines[1].startswith("fewer than 5 validation images of A (0):") and len(lines) == 2
    assert findings.few({"A": 5}, {"A": 0}) == []  # without validation there is nothing to choose on


def test_a_class_that_alone_has_its_films_is_named():
    with_days = source(LABELS, FILMS + [f"d{i % 3}" for i in range(10)])
    assert findings.of_one_class(with_days) == [f"only C has the film d0, d1, d2: {RECOGNIZED.format('film')}"]
    assert findings.of_one_class(source(LABELS, FILMS + [f"f{i % 8}" for i in range(10)])) == []
    mixed = FILMS + ["d0"] * 8 + ["f0"] * 2  # 80 % of its images are not 90 %
    assert findings.of_one_class(source(LABELS, mixed)) == []


def test_a_class_that_alone_has_its_day_or_size_is_named():
    days = [f"2019053{i % 2}_{i:06}_1.png" for i in range(40)] + [f"20200101_{i:06}_1.png" for i in range(10)]
    assert findings.of_one_class(source(LABELS, names=days)) == [
        f"only C has the day 20200101: {RECOGNIZED.format('day')}"
    ]
    sizes = [[575, 575 + i % 2] for i in range(40)] + [[360, 363]] * 10
    assert findings.of_one_class(source(LABELS, sizes=sizes)) == [
        f"only C has the image size 363 x 360: {RECOGNIZED.format('image size')}"
    ]


def test_values_that_are_all_different_say_nothing():
    assert findings.of_one_class(source(LABELS, [f"p{i}" for i in range(50)])) == []
    assert findings.of_one_class(source(LABELS, sizes=[[i, i] for i in range(50)])) == []


def test_labels_of_whole_patients_are_one_sentence():
    patients = [f"p{label}{i % 4}" for i, label in enumerate(LABELS)]
    lines = findings.of_one_class(source(LABELS, patients, kind="patient"))
    assert len(lines) == 1 and lines[0].startswith("each class has its own groups (patient)")


def test_identical_images_are_counted_by_kind():
    result = findings.repeated(source([0, 0, 1, 1, 2, 2], digests=[5, 6, 5, 7, 7, 7]), np.array([4]))
    assert (result["identical"], result["two_labels"], result["across_validation"]) == (3, 3, 1)
    assert result["examples"]["across_validation"] == [["3.png", "4.png"]]
    assert findings.repeated_in_words(result)[2] == (
        "1 image in training or validation and identical to one on the other side (3.png = 4.png)"
    )
    assert findings.repeated(source([0, 1]), np.array([0])) == {}
    assert findings.repeated_in_words(findings.repeated(source([0, 1], digests=[1, 2]), np.array([0]))) == []


def test_files_that_were_skipped_or_assumed_and_large_images_are_counted_by_source():
    odd = dataclasses.replace(
        source([0, 1]),
        counts={"hidden": 1, "not an image": 2},
        skipped_files={"hidden": ("a/.x",), "not an image": ("a/b.txt", "a/c.txt")},
        assumed={"the first frame is used": 2},
        sizes=np.full((2, 2), 900, np.int32),
    )
    text = findings.skipped_files(odd)
    assert text == "1 skipped: hidden, 2 skipped: not an image (a/b.txt, ...)"
    lines = findings.about_files({"": odd, "TestA": source([0])}, 16, labeled=True)
    assert lines["files"] == text and lines["assumed"] == "2 images: the first frame is used"
    assert lines["warning: large images"].startswith("the shorter side of 900 pixels (median) becomes 16")
    named = findings.about_files({"Train": odd}, 16, labeled=True)
    assert named["assumed"] == "Train: 2 images: the first frame is used"
    both = findings.about_files({"Train": odd, "TestA": odd}, 16, labeled=True)
    assert both["assumed"] == "Train, TestA: 2 images: the first frame is used"


@pytest.fixture
def config(tiny_config, tmp_path):
    """A folder in which one image has two labels, and class C alone is of another size."""
    for number in range(60):
        split, name = ("Train", "TestA")[number % 5 == 4], "ABC"[number % 3]
        side = 12 if name == "C" else 8
        place = tmp_path / split / name / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (side, side, 3), np.uint8)).save(place)
    copy = (tmp_path / "Train" / "A" / "0.png").read_bytes()
    (tmp_path / "Train" / "B" / "copy.png").write_bytes(copy)
    config = tiny_config()
    config.data.update(source="folder", dir=str(tmp_path))
    return config


def test_a_run_reports_what_makes_its_scores_doubtful(config):
    task = build(config, sharding.make_mesh(1))
    warnings = task.facts["data_warnings"]
    assert warnings == task.about["warning"]
    assert "1 image identical to an image with another label (Train/A/0.png = Train/B/copy.png)" in warnings
    assert any(line.startswith("fewer than 5 validation images of A ") for line in warnings)
    assert f"Train, TestA: only C has the image size 12 x 12: {RECOGNIZED.format('image size')}" in warnings
    assert task.facts["repeated"]["two_labels"] == 1


@pytest.mark.slow
def test_labels_are_asked_for_in_images(config, tmp_path):
    from mae_jax.train.loop import run

    config.data.label_count = 7
    config.train.epochs = 1.0
    config.data.val_fraction = 0.1
    labeled = splits.labeled(config.data)
    assert len(labeled.train_idx) == 7 and labeled.subset["label_count"] == 7
    pool = sum(labeled.subset["train"].values())
    run(config, tmp_path / "run")
    about = contents.read_json(tmp_path / "run" / contents.RUN)
    assert about["label_count"] == about["n_train"] == 7 and about["fraction"] == 7 / pool
