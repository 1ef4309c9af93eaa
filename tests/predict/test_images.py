"""Images for prediction: folders, tables, single files and arrays, and files that cannot be read."""

import numpy as np
import pytest
from PIL import Image

from mae_jax.data.checking import ReadError
from mae_jax.predict import images
from mae_jax.runtime.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """b.png and sub/a.png, each of one gray level."""
    (tmp_path / "sub").mkdir()
    for name, level in (("b.png", 20), ("sub/a.png", 10)):
        Image.new("RGB", (3, 2), (level,) * 3).save(tmp_path / name)
    return tmp_path


def levels(source):
    reader = images.Reader(source)
    return [int(reader.source[i]["image"].max()) for i in range(len(source))]


def test_a_folder_is_read_at_any_depth(folder):
    source = images.named(str(folder))
    assert list(source.names) == ["b.png", "sub/a.png"] and levels(source) == [20, 10]


def test_a_table_and_a_single_image_are_relative_to_their_folders(folder):
    (folder / "list.csv").write_text("id,file\n1,sub/a.png\n2,b.png\n")
    source = images.named(str(folder / "list.csv"), "path=file")
    assert list(source.names) == ["sub/a.png", "b.png"] and levels(source) == [10, 20]
    one = images.named(str(folder / "sub" / "a.png"))
    assert list(one.names) == ["a.png"] and levels(one) == [10]


def test_a_place_without_images_is_named_with_its_field(folder):
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match="--images=.*/nowhere does not exist; name a folder of images, a CSV"):
        images.named(str(folder / "nowhere"))
    with pytest.raises(UserError, match="images: no image below .*empty"):
        images.named(str(folder / "empty"), field="images")
    with pytest.raises(UserError, match="--images=s3://a/b: s3:// addresses are neither read nor written"):
        images.named("s3://a/b")


def test_arrays_and_file_names_from_python(folder):
    one = np.full((2, 3, 3), 7, np.uint8)
    for given in (one, one[None], [one]):
        source = images.given(given)
        assert list(source.names) == ["image 0"] and levels(source) == [7]
    mixed = images.given([one, np.zeros((5, 4, 3), np.uint8)])  # of any size
    assert list(mixed.names) == ["image 0", "image 1"] and mixed[1]["image"].shape == (5, 4, 3)
    files = [folder / "b.png", str(folder / "sub" / "a.png")]
    assert list(images.given(files).names) == list(map(str, files)) and levels(images.given(files)) == [20, 10]
    assert list(images.given(folder).names) == ["b.png", "sub/a.png"]
    assert len(images.given([])) == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([np.zeros((2, 2, 3))], "item 0 is float64 of shape (2, 2, 3)"),
        ([np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8)], "item 1 is uint8 of shape (2, 2)"),
        ([np.zeros((2, 0, 3), np.uint8)], "item 0 is uint8 of shape (2, 0, 3)"),
        ([np.zeros((2, 2, 3), np.uint8), "a.png"], "item 1 is str"),
        ([3], "item 0 is int"),
    ],
)
def test_what_is_not_an_image_is_named_by_its_number(given, message):
    with pytest.raises(UserError) as error:
        images.given(given)
    assert f"images: {message}; pass uint8 arrays of shape (height, width, 3) or file names" in str(error.value)


def test_files_that_cannot_be_read_are_skipped_or_stop(folder):
    (folder / "c.png").write_bytes(b"\x89PNG")
    source = images.named(str(folder))
    assert list(source.names) == ["b.png", "c.png", "sub/a.png"]
    skipping = images.Reader(source, images.SKIP)
    assert skipping.source[1]["image"].shape == (1, 1, 3) and not skipping.source[1]["image"].any()
    assert skipping.source[2]["image"].max() == 10 and list(skipping.bad) == [1] and "c.png" in skipping.bad[1]
    with pytest.raises(UserError, match=r"c\.png.*; fix or remove this image, or set bad=skip to skip it"):
        images.Reader(source, images.STOP, "bad").read(1)
    with pytest.raises(UserError, match="--bad_images='maybe' is not allowed; use 'stop' or 'skip'"):
        images.Reader(source, "maybe")


def test_a_fault_of_the_storage_is_never_skipped():
    def fails(i):
        raise ReadError("a.png cannot be read (Input/output error)")

    reader = images.Reader(images._source(["a.png"], fails), images.SKIP)
    with pytest.raises(ReadError, match="Input/output error"):
        reader.read(0)
    assert reader.bad == {}


def test_paths_in_lists_and_tables_are_treated_alike(tmp_path, monkeypatch):
    """`~` is expanded, addresses are refused, and missing files are counted before a model is used."""
    name = "Eosinophil/cell_00.png"
    (tmp_path / name).parent.mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / name)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert images.given([f"~/{name}"])[0]["image"] == (tmp_path / name).read_bytes()
    with pytest.raises(UserError, match="^images: item 1=s3://b/x.png: s3:// addresses are neither read nor written"):
        images.given([f"~/{name}", "s3://b/x.png"])
    (tmp_path / "tables").mkdir()
    table = tmp_path / "tables" / "list.csv"
    table.write_text(f"File Name\n{name}\n~/{name}\nnowhere.png\n")
    for options, message in (
        ({}, r"2 of 3 files do not exist, the first is .*tables/.*cell_00.png; set --dir to .*--bad_images=skip"),
        ({"directory": tmp_path}, "1 of 3 files does not exist, the first is .*/nowhere.png"),
    ):
        with pytest.raises(UserError, match=message):
            images.named(str(table), **options)
    source = images.named(str(table), directory=tmp_path, bad_images="skip")
    assert len(source) == 3 and source[0]["image"] == source[1]["image"]
    table.write_text("path\nnowhere.png\n")
    with pytest.raises(UserError, match="1 of 1 file does not exist"):
        images.named(str(table), bad_images="skip")
    with pytest.raises(UserError, match="--dir=/x is for a table of paths, but --images=.* is not one"):
        images.named(str(tmp_path), directory="/x")
