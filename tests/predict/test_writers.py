"""Files of predictions and embeddings, in every format."""

import csv
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from pyarrow import parquet

from mae_jax.predict import writers
from mae_jax.runtime.errors import UserError


def test_tiles_have_their_places_from_their_names():
    names = ["a/x000512_y001024.jpg", "b/c/x3_y000004.png"]
    assert writers.coordinates(names).tolist() == [[512, 1024], [3, 4]]
    assert writers.coordinates([*names, "a/other.jpg"]) is None and writers.coordinates([]) is None


def test_tiles_name_their_slides():
    names = ["b.svs/x000512_y001024.jpg", "sub/a.tif/x000000_y000000.jpg", "b.svs/x000000_y000000.jpg"]
    assert writers.slides(names) == {"b.svs", "sub/a.tif"} and writers.slides([*names, "other.jpg"]) == set()
    assert writers.slides(["c_x1_y2.png", "x000000_y000000.jpg"]) == {"c", ""} and writers.slides([]) == set()


ROWS = (["a", "=b"], np.array([0.25, 1 / 3], np.float32), np.array([[1.0, 2.0], [3.0, 4.5]], np.float32))


def write(path):
    with writers.table(path, ["name", "score", "vector"], ["name"], {"vector": 2}) as add:
        add(ROWS)
        add((["c"], np.array([1.0], np.float32), np.array([[5.0, 6.0]], np.float32)))


def test_a_csv_file_has_a_column_for_each_number_of_a_vector(tmp_path):
    write(tmp_path / "out.csv")
    with open(tmp_path / "out.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["name", "score", "vector_0", "vector_1"],
            ["a", "0.25", "1", "2"],
            ["'=b", "0.333333343", "3", "4.5"],  # no formula
            ["c", "1", "5", "6"],
        ]


@pytest.mark.parametrize("rows", [1, 2, 4096])
def test_a_parquet_file_has_lists_and_does_not_depend_on_its_row_groups(tmp_path, monkeypatch, rows):
    monkeypatch.setattr(writers, "ROWS", rows)
    write(tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column("name").to_pylist() == ["a", "=b", "c"]
    assert table.column("vector").to_pylist() == [[1, 2], [3, 4.5], [5, 6]]
    assert table.column("score").to_pylist() == pytest.approx([0.25, 1 / 3, 1])


@pytest.mark.parametrize("kind", ["npz", "h5", "parquet"])
@pytest.mark.parametrize("tiles", [True, False])
def test_embeddings_are_the_same_in_every_format(tmp_path, kind, tiles):
    names = ["s/x000512_y000000.png", "s/x000000_y001024.png", "s/x000001_y000002.png" if tiles else "s/other.png"]
    features = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    with writers.vectors(tmp_path / f"out.{kind}", 4) as add:
        add(names[:2], features[:2])
        add(names[2:], features[2:])
    if kind == "parquet":
        table = parquet.read_table(tmp_path / "out.parquet").to_pydict()
        result = {"features": np.asarray(table["embedding"], np.float32), "names": table["name"]}
    elif kind == "npz":
        with np.load(tmp_path / "out.npz") as npz:
            result = {name: npz[name] for name in npz.files}
    else:
        with h5py.File(tmp_path / "out.h5") as h5:
            result = {name: h5[name][:] for name in h5}
            result["names"] = [name.decode() for name in result["names"]]
    np.testing.assert_array_equal(result["features"], features)
    assert list(result["names"]) == names
    assert ("coords" in result) == (tiles and kind != "parquet")
    if "coords" in result:
        assert result["coords"].tolist() == [[512, 0], [0, 1024], [1, 2]] and result["coords"].dtype == np.int64


@pytest.mark.parametrize("kind", ["csv", "parquet", "npz", "h5"])
def test_a_file_that_is_not_completed_leaves_the_earlier_one(tmp_path, kind):
    path = tmp_path / f"out.{kind}"
    path.write_bytes(b"earlier")
    with pytest.raises(RuntimeError, match="stopped"):
        if kind == "csv":
            with writers.table(path, ["name"], ["name"], {}) as add:
                add((["a"],))
                raise RuntimeError("stopped")
        else:
            with writers.vectors(path, 1) as add:
                add(["a"], np.zeros((1, 1), np.float32))
                raise RuntimeError("stopped")
    assert path.read_bytes() == b"earlier" and [file.name for file in tmp_path.iterdir()] == [path.name]


def test_kinds_of_files():
    assert writers.kind_of(Path("a.CSV"), (".csv", ".parquet")) == ".csv"
    with pytest.raises(UserError, match=r"--to=a\.txt is not allowed; name a file ending in \.csv or \.npz"):
        writers.kind_of(Path("a.txt"), (".csv", ".npz"), "--to")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError, match=r"--out=a\.h5 needs the package h5py; install it with pip install h5py"):
        writers.kind_of(Path("a.h5"), (".h5",))
