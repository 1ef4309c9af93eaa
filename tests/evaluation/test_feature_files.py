"""Features from files: each format, and the join by name, with everything that is refused."""

import dataclasses

import h5py
import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from mae_jax.data import sources
from mae_jax.evaluation import feature_files
from mae_jax.predict import writers
from mae_jax.runtime.errors import UserError

X = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)


def of_names(*names):
    """A source whose images have these names."""
    source = sources.synthetic("Train", len(names), 16, 0)
    return dataclasses.replace(source, names=names, fingerprint=" ".join(names))


TRAIN, TEST = of_names("Train/A/1.png", "Train/B/2.png", "Train/B/3.png"), of_names("Test/A/4.png", "Test/B/5.png")
NAMES = (*TRAIN.names, *TEST.names)


def write(path, names=NAMES, features=X):
    with writers.vectors(path, features.shape[1]) as add:
        add(list(names), features)
    return path


@pytest.mark.parametrize("kind", ["npz", "h5", "parquet"])
def test_what_embed_writes_is_read_in_any_order_of_rows(tmp_path, kind):
    order = [3, 0, 4, 2, 1]
    file = feature_files.read(write(tmp_path / f"x.{kind}", [NAMES[i] for i in order], X[order]), "init_from")
    features = feature_files.joined(file, [TRAIN, TEST], "init_from")
    np.testing.assert_array_equal(features.of(TRAIN, np.array([2, 0])), X[[2, 0]])
    np.testing.assert_array_equal(features.of(TEST, np.array([1, 1, 0])), X[[4, 4, 3]])
    assert features.width == 3 and features.of(TRAIN, np.zeros(0, int)).shape == (0, 3)
    assert features.digest == feature_files.read(tmp_path / f"x.{kind}", "init_from").digest


def test_other_types_and_names_of_arrays_and_columns(tmp_path):
    np.savez(tmp_path / "a.npz", embeddings=X[None].astype(np.float16), paths=np.array(NAMES))
    assert feature_files.read(tmp_path / "a.npz", "x").features.dtype == np.float32
    columns = {"path": list(NAMES), "feature": [row.tolist() for row in X], "label": [0] * 5}
    parquet.write_table(pyarrow.table(columns), tmp_path / "b.pq")
    np.testing.assert_array_equal(feature_files.read(tmp_path / "b.pq", "x").features, X)


def test_files_of_a_folder_are_one(tmp_path):
    write(tmp_path / "train.npz", TRAIN.names, X[:3])
    write(tmp_path / "test.h5", TEST.names, X[3:])
    (tmp_path / "notes.txt").write_text("not read")
    features = feature_files.joined(feature_files.read(tmp_path, "x"), [TRAIN, TEST], "x")
    np.testing.assert_array_equal(features.of(TEST, np.arange(2)), X[3:])
    write(tmp_path / "wide.npz", ("other.png",), np.ones((1, 4), np.float32))
    with pytest.raises(UserError, match="files of different kinds \\(widths 3, 4\\)"):
        feature_files.read(tmp_path, "x")


def test_tiles_of_trident_are_found_by_slide_and_position(tmp_path):
    """One file for each slide, with coordinates and no names."""
    tiles = of_names("S1/x000512_y000000.jpg", "S2/x000512_y000000.jpg", "cohort/S1/x000000_y001024.jpg")
    for slide, coords, rows in (("S1", [[0, 1024], [512, 0]], [2, 0]), ("S2", [[512, 0]], [1])):
        with h5py.File(tmp_path / f"{slide}.h5", "w") as archive:
            archive["features"], archive["coords"] = X[rows], np.array(coords)
    features = feature_files.joined(feature_files.read(tmp_path, "x"), [tiles], "x")
    np.testing.assert_array_equal(features.of(tiles, np.arange(3)), X[:3])


@pytest.mark.parametrize("names", [
    [name.rsplit("/", 1)[1] for name in NAMES],
    [name.rsplit("/", 1)[1].removesuffix(".png") for name in NAMES],
    ["D:\\cells\\" + name.rsplit("/", 1)[1] for name in NAMES],
])  # fmt: skip
def test_names_without_folders_or_endings_are_found_if_they_are_unique(tmp_path, names):
    file = feature_files.read(write(tmp_path / "x.npz", names), "x")
    np.testing.assert_array_equal(feature_files.joined(file, [TRAIN, TEST], "x").of(TEST, np.arange(2)), X[3:])
    twins = of_names("other/4.png")
    with pytest.raises(UserError, match="1 images of the data have names that are equal here .*: Test/A/4.png, other"):
        feature_files.joined(file, [TRAIN, TEST, twins], "x")


@pytest.mark.parametrize(("names", "message"), [
    (NAMES[1:], "has no features of 1 of 5 images: Train/A/1.png; its names are such as Train/B/2.png"),
    (("a", "b", "c", "d", "e"), "has no features of 5 of 5 images: Train/A/1.png, Train/B/2.png, Train/B/3.png, ...;"),
    ((*NAMES, "Test/C/6.png"), "has features of 1 image that the data do not have: Test/C/6.png; remove"),
    ((*NAMES, NAMES[0], NAMES[0], NAMES[4]), "2 names occur more than once: Train/A/1.png, Test/B/5.png; keep one row"),
])  # fmt: skip
def test_missing_surplus_and_double_names_are_refused(tmp_path, names, message):
    features = np.resize(X, (len(names), 3))
    file = feature_files.read(write(tmp_path / "x.npz", names, features), "init_from")
    with pytest.raises(UserError, match=f"init_from={tmp_path}/x.npz") as error:
        feature_files.joined(file, [TRAIN, TEST], "init_from")
    assert message in str(error.value) and "\n" not in str(error.value)


def damaged(tmp_path, kind):
    if kind == "npz without names":
        np.savez(tmp_path / "x.npz", features=X)
    elif kind == "npz of text":
        np.savez(tmp_path / "x.npz", features=np.array(NAMES), names=np.array(NAMES))
    elif kind == "too few names":
        np.savez(tmp_path / "x.npz", features=X, names=np.array(NAMES[:3]))
    elif kind == "not finite":
        write(tmp_path / "x.npz", features=np.where(X == X[2, 1], np.nan, X))
    elif kind == "no zip":
        (tmp_path / "x.npz").write_bytes(b"nothing")
    elif kind == "no hdf5":
        (tmp_path / "x.h5").write_bytes(b"nothing")
    elif kind == "no parquet":
        (tmp_path / "x.parquet").write_bytes(b"nothing")
    elif kind == "uneven lists":
        parquet.write_table(pyarrow.table({"name": ["a", "b"], "embedding": [[1.0], [1.0, 2.0]]}), tmp_path / "x.pq")
    elif kind == "coords of 3":
        with h5py.File(tmp_path / "x.h5", "w") as archive:
            archive["features"], archive["coords"] = X, np.zeros((5, 3), int)
    elif kind == "a text file":
        (tmp_path / "x.csv").write_text("a,b")
    return next(tmp_path.glob("x.*"), tmp_path / "x.npz")


@pytest.mark.parametrize(("kind", "message"), [
    ("npz without names", "has features, but no names; name it names"),
    ("npz of text", "one row of numbers for each name"),
    ("too few names", "have shape (5, 3) and type float32 for 3 names"),
    ("not finite", "the features of Train/B/3.png are not finite"),
    ("no zip", "is not an .npz file that can be read"),
    ("no hdf5", "is not an HDF5 file that can be read"),
    ("no parquet", "is not a Parquet file that can be read"),
    ("uneven lists", "different lengths"),
    ("coords of 3", "x and y of each tile are needed"),
    ("a text file", "is not allowed; name a file ending in .npz, .h5"),
    ("nothing there", "does not exist; name a file ending in .npz"),
])  # fmt: skip
def test_files_that_cannot_be_used_are_refused_in_one_line(tmp_path, kind, message):
    path = damaged(tmp_path, kind)
    with pytest.raises(UserError) as error:
        feature_files.read(path, "init_from")
    assert str(error.value).startswith(f"init_from={path}") and message in str(error.value)
    assert "\n" not in str(error.value)
