"""From the fields of a config to images: folders and generated cells, labeled and unlabeled."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image

from mae_jax.config.validation import validate
from mae_jax.data import splits
from mae_jax.runtime.errors import UserError


@pytest.fixture
def data(tiny_config, tmp_path):
    """A folder of 40 training and 10 test images in two classes, with a hidden file."""
    rng = np.random.default_rng(0)
    for split, n in (("Train", 20), ("TestA", 5)):
        for name in ("A", "B"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(folder / f"{name}_{i}.png")
    (tmp_path / "Train" / "A" / ".DS_Store").write_text("x")
    fields = tiny_config().data
    fields.update(source="folder", dir=str(tmp_path))
    return fields


def test_a_folder_with_labels(data):
    labeled = splits.labeled(data)
    assert labeled.train.classes == labeled.test.classes == ("A", "B")
    assert (len(labeled.train_idx), len(labeled.val_idx), len(labeled.test)) == (36, 4, 10)
    assert not set(labeled.train_idx) & set(labeled.val_idx)
    assert labeled.train.counts == {"hidden": 1}
    assert labeled.subset["actual"] == {"A": 18, "B": 18} and labeled.subset["validation"] == {"A": 2, "B": 2}


def test_validation_is_the_same_for_every_fraction_and_subset_seed(data):
    kept = splits.labeled(data).val_idx
    subsets = []
    for fraction, seed in ((0.1, 0), (0.5, 0), (0.5, 1)):
        data.fraction, data.subset_seed = fraction, seed
        labeled = splits.labeled(data)
        np.testing.assert_array_equal(labeled.val_idx, kept)
        assert not set(labeled.train_idx) & set(kept)
        subsets.append(set(labeled.train_idx.tolist()))
    assert subsets[0] < subsets[1] != subsets[2]


def test_several_folders_without_labels(data, tmp_path):
    data.dir = f"{tmp_path / 'Train'},{tmp_path / 'TestA'}"
    unlabeled = splits.unlabeled(data)
    assert [len(s) for s in unlabeled.sources] == [40, 10]
    assert [len(t) + len(v) for t, v in zip(unlabeled.train_idx, unlabeled.val_idx, strict=True)] == [40, 10]
    assert unlabeled.names == ("Train", "TestA")
    data.weights = (1.0,)
    with pytest.raises(UserError, match=r"data.weights=\(1.0,\) has 1 number for 2 sources"):
        splits.unlabeled(data)


def test_folders_that_say_nothing_are_refused(data, tmp_path):
    with pytest.raises(UserError, match="name at least one directory, each once"):
        data.dir = f"{tmp_path},{tmp_path}/."
        splits.unlabeled(data)
    data.dir, data.test_split = str(tmp_path), "Train"
    with pytest.raises(UserError, match="train_split=Train and data.test_split=Train overlap"):
        splits.labeled(data)
    data.test_split = "TestA"
    shutil.rmtree(tmp_path / "Train" / "B")
    with pytest.raises(UserError, match="have one class, 'A'"):
        splits.labeled(data)


def test_generated_cells(tiny_config):
    labeled = splits.labeled(tiny_config().data)
    assert (len(labeled.train), len(labeled.test), len(labeled.train.classes)) == (60, 23, 5)
    assert len(splits.unlabeled(tiny_config("pretrain").data).sources[0]) == 40


def test_a_pre_training_holds_out_a_share_of_its_images_but_at_most_256(tiny_config):
    data = tiny_config("pretrain").data
    data.val_fraction = 0.1
    for n, held in ((200, 20), (4000, 256)):
        data.synthetic_unlabelled = n
        unlabeled = splits.unlabeled(data)
        assert [len(part) for part in (*unlabeled.val_idx, *unlabeled.train_idx)] == [held, n - held]
        assert not set(unlabeled.val_idx[0]) & set(unlabeled.train_idx[0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "imagenet"}, "data.source=imagenet is not known; use one of synthetic, folder"),
        ({"source": "raabin_wbc"}, "data.source=raabin_wbc is not prepared in {empty}: get it (Train.rar"),
        ({"source": "folder", "dir": ""}, "data.dir='' is empty"),
        ({"source": "folder", "dir": "/nowhere"}, "/nowhere"),
    ],
)
@pytest.mark.parametrize("function", [splits.labeled, splits.unlabeled])
def test_sources_that_cannot_be_opened(data, function, fields, message, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "empty"))
    data.update(fields)
    with pytest.raises(UserError, match="^[^\n]*$") as error:
        function(data)
    assert message.replace("{empty}", str(tmp_path / "empty")) in str(error.value)


def test_sources_stay_open_between_the_cells_of_a_study(data):
    cache = splits.DataCache()
    first = splits.labeled(data, cache=cache)
    data.fraction = 0.5
    assert splits.labeled(data, cache=cache).train is first.train
    data.bad_images = "skip"
    assert splits.labeled(data, cache=cache).test is not first.test


DO_NOT_CHOOSE_FILES = (
    "part weights unlabeled_count val_fraction val_of val_folds val_folds_up_to fraction label_count "
    "subset subset_from subset_seed val_seed crop_scale crop_ratio flips randaugment randaugment_colour random_erasing "
    "stain stain_strength mean std threads workers prefetch"
).split()


def test_runs_share_images_only_if_every_field_that_chooses_them_is_equal(tiny_config):
    """A new field of `data` either is part of the key or is named above."""
    data = validate(tiny_config()).data
    for field in dataclasses.fields(data):
        value = getattr(data, field.name)
        other = dataclasses.replace(data, **{field.name: f"{value}x" if isinstance(value, str) else (value, 1)})
        same = splits._key(splits.labeled, other) == splits._key(splits.labeled, data)
        assert same == (field.name in DO_NOT_CHOOSE_FILES), field.name


@pytest.fixture
def labeled_folder(tiny_config, tmp_path):
    rng = np.random.default_rng(0)
    for split, classes in (("Train", "abc"), ("TestA", "abc"), ("TestB", "bc"), ("elsewhere/x", "c"), ("odd", "ad")):
        for name in classes:
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(folder / f"{i}.png")
    data = tiny_config().data
    data.update(source="folder", dir=str(tmp_path))
    return data


def test_external_test_sets_keep_the_numbers_of_the_classes(labeled_folder, tmp_path):
    labeled_folder.external = f"TestB,far={tmp_path / 'elsewhere/x'}"
    labeled = splits.labeled(labeled_folder).external
    assert list(labeled) == ["TestB", "far"]
    assert labeled["TestB"].classes == ("a", "b", "c") and labeled["TestB"].labels.tolist() == [1] * 4 + [2] * 4
    assert labeled["far"].labels.tolist() == [2] * 4 and labeled["far"].names[0] == "c/0.png"
    labeled_folder.update(source="synthetic", external="TestB", synthetic_test=12)
    drawn = splits.labeled(labeled_folder)
    assert len(drawn.external["TestB"]) == 12 and drawn.external["TestB"].fingerprint != drawn.test.fingerprint


@pytest.mark.parametrize(
    ("external", "message"),
    [
        ("TestA", "TestA holds the images of TestA"),
        ("x=Train/a", "Train/a holds the images of Train"),
        ("nowhere", "'.*nowhere' is not a folder"),
        ("odd", "'d', which is not a class of the training images"),
        ("TestB,TestB", "needs a name of its own"),
        ("../x=TestB", "needs a name of its own"),
    ],
)
def test_external_test_sets_that_cannot_be_used_are_refused(labeled_folder, external, message):
    labeled_folder.external = external
    with pytest.raises(UserError, match=f"data.external.*{message}"):
        splits.labeled(labeled_folder)
