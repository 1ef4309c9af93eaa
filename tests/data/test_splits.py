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
    labelled = splits.labelled(data)
    assert labelled.train.classes == labelled.test.classes == ("A", "B")
    assert (len(labelled.train_idx), len(labelled.val_idx), len(labelled.test)) == (36, 4, 10)
    assert not set(labelled.train_idx) & set(labelled.val_idx)
    assert labelled.train.counts == {"hidden": 1}
    assert labelled.subset["actual"] == {"A": 18, "B": 18} and labelled.subset["validation"] == {"A": 2, "B": 2}


def test_validation_is_the_same_for_every_fraction_and_subset_seed(data):
    kept = splits.labelled(data).val_idx
    subsets = []
    for fraction, seed in ((0.1, 0), (0.5, 0), (0.5, 1)):
        data.fraction, data.subset_seed = fraction, seed
        labelled = splits.labelled(data)
        np.testing.assert_array_equal(labelled.val_idx, kept)
        assert not set(labelled.train_idx) & set(kept)
        subsets.append(set(labelled.train_idx.tolist()))
    assert subsets[0] < subsets[1] != subsets[2]


def test_several_folders_without_labels(data, tmp_path):
    data.dir = f"{tmp_path / 'Train'},{tmp_path / 'TestA'}"
    unlabelled = splits.unlabelled(data)
    assert [len(s) for s in unlabelled.sources] == [40, 10]
    assert [len(t) + len(v) for t, v in zip(unlabelled.train_idx, unlabelled.val_idx, strict=True)] == [40, 10]
    assert unlabelled.names == ("Train", "TestA")
    data.weights = (1.0,)
    with pytest.raises(UserError, match=r"data.weights=\(1.0,\) has 1 number for 2 sources"):
        splits.unlabelled(data)


def test_folders_that_say_nothing_are_refused(data, tmp_path):
    with pytest.raises(UserError, match="name at least one directory, each once"):
        data.dir = f"{tmp_path},{tmp_path}/."
        splits.unlabelled(data)
    data.dir, data.test_split = str(tmp_path), "Train"
    with pytest.raises(UserError, match="train_split=Train and data.test_split=Train overlap"):
        splits.labelled(data)
    data.test_split = "TestA"
    shutil.rmtree(tmp_path / "Train" / "B")
    with pytest.raises(UserError, match="have one class, 'A'"):
        splits.labelled(data)


def test_generated_cells(tiny_config):
    labelled = splits.labelled(tiny_config().data)
    assert (len(labelled.train), len(labelled.test), len(labelled.train.classes)) == (60, 23, 5)
    assert len(splits.unlabelled(tiny_config("pretrain").data).sources[0]) == 40


def test_a_pre_training_holds_out_a_share_of_its_images_but_at_most_256(tiny_config):
    data = tiny_config("pretrain").data
    data.val_fraction = 0.1
    for n, held in ((200, 20), (4000, 256)):
        data.synthetic_unlabelled = n
        unlabelled = splits.unlabelled(data)
        assert [len(part) for part in (*unlabelled.val_idx, *unlabelled.train_idx)] == [held, n - held]
        assert not set(unlabelled.val_idx[0]) & set(unlabelled.train_idx[0])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"source": "imagenet"}, "data.source=imagenet is not known; use one of synthetic, folder"),
        ({"source": "raabin_wbc"}, "data.source=raabin_wbc is not prepared in {empty}: get it (Train.rar"),
        ({"source": "folder", "dir": ""}, "data.dir='' is empty"),
        ({"source": "folder", "dir": "/nowhere"}, "/nowhere"),
    ],
)
@pytest.mark.parametrize("function", [splits.labelled, splits.unlabelled])
def test_sources_that_cannot_be_opened(data, function, fields, message, tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "empty"))
    data.update(fields)
    with pytest.raises(UserError, match="^[^\n]*$") as error:
        function(data)
    assert message.replace("{empty}", str(tmp_path / "empty")) in str(error.value)


def test_sources_stay_open_between_the_cells_of_a_study(data):
    cache = splits.DataCache()
    first = splits.labelled(data, cache=cache)
    data.fraction = 0.5
    assert splits.labelled(data, cache=cache).train is first.train
    data.bad_images = "skip"
    assert splits.labelled(data, cache=cache).test is not first.test


DO_NOT_CHOOSE_FILES = (
    "part weights unlabeled_count val_fraction val_of fraction label_count subset subset_from subset_seed val_seed "
    "crop_scale crop_ratio flips randaugment randaugment_colour random_erasing stain stain_strength mean std threads "
    "workers prefetch"
).split()


def test_runs_share_images_only_if_every_field_that_chooses_them_is_equal(tiny_config):
    """A new field of `data` either is part of the key or is named above."""
    data = validate(tiny_config()).data
    for field in dataclasses.fields(data):
        value = getattr(data, field.name)
        other = dataclasses.replace(data, **{field.name: f"{value}x" if isinstance(value, str) else (value, 1)})
        same = splits._key(splits.labelled, other) == splits._key(splits.labelled, data)
        assert same == (field.name in DO_NOT_CHOOSE_FILES), field.name


@pytest.fixture
def labelled_folder(tiny_config, tmp_path):
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


def test_external_test_sets_keep_the_numbers_of_the_classes(labelled_folder, tmp_path):
    labelled_folder.external = f"TestB,far={tmp_path / 'elsewhere/x'}"
    labelled = splits.labelled(labelled_folder).external
    assert list(labelled) == ["TestB", "far"]
    assert labelled["TestB"].classes == ("a", "b", "c") and labelled["TestB"].labels.tolist() == [1] * 4 + [2] * 4
    assert labelled["far"].labels.tolist() == [2] * 4 and labelled["far"].names[0] == "c/0.png"
    labelled_folder.update(source="synthetic", external="TestB", synthetic_test=12)
    drawn = splits.labelled(labelled_folder)
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
def test_external_test_sets_that_cannot_be_used_are_refused(labelled_folder, external, message):
    labelled_folder.external = external
    with pytest.raises(UserError, match=f"data.external.*{message}"):
        splits.labelled(labelled_folder)
