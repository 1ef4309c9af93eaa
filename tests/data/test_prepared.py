"""Prepared data sets: their index, and what is damaged or missing."""

import dataclasses
import errno
import io
import os
import re

import numpy as np
import pytest
import tensorflow_datasets
from PIL import Image

from mae_jax.data import groups, prepared
from mae_jax.data.checking import digest
from mae_jax.data.looks import look
from mae_jax.runtime.errors import UserError


@pytest.mark.parametrize("texts", [["a/b.jpg", "", "Zoë/ß.png", "c"], ["one"], ["", ""]])
def test_texts_are_what_they_were(texts):
    kept = prepared.Texts.of(texts)
    assert list(kept) == texts and len(kept) == len(texts)
    assert [kept[np.int64(i)] for i in range(-len(texts), 0)] == texts
    assert kept[:2] == texts[:2] and kept[::-1] == texts[::-1] and kept[5:] == []
    assert kept.index(texts[-1]) == texts.index(texts[-1]) and "nowhere" not in kept
    with pytest.raises(IndexError):
        kept[len(texts)]


def example(name: str, group: str, seed: int, label: int = -1) -> dict:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (6 + seed, 9, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return {"name": name.encode(), "group": group.encode(), "label": label, "image": file.getvalue()}


def test_an_index_is_sorted_by_name_and_knows_the_record_of_each_image(tmp_path):
    examples = [example("b", "g1", 0, 2), example("a", "", 1, 0), example("ü\n", "g1", 2, 1)]
    index = prepared.make_index(examples)
    assert list(index.names) == ["a", "b", "ü\n"] and index.record.tolist() == [1, 0, 2]
    assert index.label.tolist() == [0, 2, 1] and list(index.groups) == ["", "g1", "g1"]
    assert index.size.tolist() == [[7, 9], [6, 9], [8, 9]]
    assert index.digest.tolist() == [digest(examples[i]["image"]) for i in (1, 0, 2)]
    np.testing.assert_array_equal(index.look[0], look(examples[1]["image"]))
    index.save(tmp_path / "index.npz")
    read = prepared.Index.load(tmp_path / "index.npz")
    assert list(read.names) == ["a", "b", "ü\\n"]  # a line break would separate two names
    assert list(read.groups) == ["", "g1", "g1"]
    for name in ("record", "label", "digest", "look", "size"):
        np.testing.assert_array_equal(getattr(read, name), getattr(index, name))
    assert prepared.Index.load(tmp_path / "index.npz", looks=False).look.shape == (3, 0)


def test_an_index_whose_parts_do_not_fit_is_refused(tmp_path):
    index = prepared.make_index([example("a", "", 0), example("b", "", 1)])
    dataclasses.replace(index, label=index.label[:1]).save(tmp_path / "index.npz")
    with pytest.raises(UserError, match=r"index.npz cannot be read \(its arrays have different lengths\); remove its"):
        prepared.Index.load(tmp_path / "index.npz")
    (tmp_path / "other.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match="other.npz cannot be read"):
        prepared.Index.load(tmp_path / "other.npz")


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), MemoryError()])
def test_a_failure_of_the_machine_is_not_damage(tmp_path, monkeypatch, error):
    """A prepared data set is good, and nobody should remove it, where memory or the storage fails."""
    prepared.make_index([example("a", "", 0)]).save(tmp_path / "index.npz")

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(np, "load", fail)
    with pytest.raises(type(error)) as raised:
        prepared.Index.load(tmp_path / "index.npz")
    assert raised.value is error
    monkeypatch.setattr(tensorflow_datasets, "builder_from_directory", fail)
    monkeypatch.setattr(prepared, "locate", lambda name, directory: tmp_path)
    with pytest.raises(type(error)):
        prepared.info_of("raabin_wbc", tmp_path)


def test_a_storage_error_does_not_advise_to_prepare_the_data_again(tmp_path, monkeypatch):
    prepared.make_index([example("a", "", 0)]).save(tmp_path / "index.npz")

    def fail(path, *args, **options):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))

    monkeypatch.setattr(prepared.files, "open", fail, raising=False)
    with pytest.raises(OSError, match="Input/output error"):
        prepared.Index.load(tmp_path / "index.npz")
    records = prepared.Records("x", ("train",), tmp_path, [np.arange(1)])

    class Failing:
        def __getitem__(self, i):
            raise OSError(errno.EIO, os.strerror(errno.EIO), "x.tfrecord")

    records._open = [Failing()]
    with pytest.raises(OSError, match="Input/output error"):
        records(0)


@pytest.mark.parametrize(
    ("name", "tfds"),
    [
        ("raabin_wbc", "raabin_wbc"),
        ("prcc", "prcc/tile500"),
        ("prcc:tile50", "prcc/tile50"),
        ("tiles:a.b", "tiles/a.b"),
    ],
)
def test_names_of_tfds(name, tfds):
    assert prepared.tfds_name(name) == tfds and prepared.known(name)


def test_names_to_choose_from_say_which_need_one_of_the_user():
    assert prepared.names() == ["raabin_wbc", "cam16", "prcc", "tiles:NAME"]


@pytest.mark.parametrize("name", ["raabin_wbc:x", "tiles", "tiles:", "tiles:../x", "prcc:a/b"])
def test_names_that_tfds_could_not_have_are_refused(name):
    with pytest.raises(UserError, match=rf"data.source={re.escape(name)} is not a data set that can be prepared"):
        prepared.tfds_name(name)
    assert not prepared.known("folder")


def test_the_newest_finished_version_is_used(tmp_path):
    for version in ("1.9.0", "1.10.0", "1.2.0", "incomplete.1", "2.0.0"):
        (tmp_path / "cam16" / version).mkdir(parents=True)
        if version != "2.0.0":  # not finished
            (tmp_path / "cam16" / version / "dataset_info.json").write_text("{}")
    assert [path.name for path in prepared.versions("cam16", tmp_path)] == ["1.2.0", "1.9.0", "1.10.0"]
    assert prepared.locate("cam16", tmp_path).name == "1.10.0"
    with pytest.raises(UserError, match=r"prcc is not prepared in .*mae-jax prepare prcc --source DIR --data_dir "):
        prepared.locate("prcc", tmp_path)


def test_the_folder_of_prepared_data_sets(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/x")
    monkeypatch.setenv("TFDS_DATA_DIR", "~/sets")
    assert str(prepared.root(tmp_path)) == str(tmp_path) and str(prepared.root()) == "/home/x/sets"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert str(prepared.root()) == "/home/x/tensorflow_datasets"
    with pytest.raises(UserError, match="data.prepared_dir=gs://a/b"):
        prepared.root("gs://a/b")


def test_groups_are_from_names_where_a_data_set_has_them_there():
    names = ["95-8-10-0_300_7.jpg", "other.jpg"]
    lines = groups.of_names(names).groups
    assert lines[0] and not lines[1]
    assert prepared.groups_of("raabin_wbc", names, ["field 1", "field 2"]).groups == lines
    result = prepared.groups_of("prcc:tile50", ["a.jpg", "b.jpg"], ["r1", ""])
    assert (result.groups, result.kind) == (("r1", ""), "region")
    assert prepared.groups_of("tiles:x", ["a.jpg"], [""]).kind == ""
