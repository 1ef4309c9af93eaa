"""Tiles in .zip files as the examples of a data set: names, places and slides."""

import json
import zipfile

import numpy as np
import pytest

from mae_jax.datasets.tiles import tiles_dataset_builder as builder


def test_all_tiles_of_all_slides_are_one_source_in_the_order_of_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(builder, "about", lambda path: {"slide": f"slide {path.stem}"})
    for name, tiles in (("b", ["x0_y0.jpg"]), ("a", ["x512_y0.jpg", "x0_y512.jpg"])):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for tile in tiles:
                archive.writestr(tile, f"{name} {tile}")
    source = builder.tiles_of(tmp_path)
    assert source.names == ("slide a/x512_y0.jpg", "slide a/x0_y512.jpg", "slide b/x0_y0.jpg")
    assert source.groups == ("slide a", "slide a", "slide b") and source.classes == ()
    assert [source.read(i) for i in (2, 0)] == [b"b x0_y0.jpg", b"a x512_y0.jpg"]
    assert json.loads(source.fingerprint) == 3 and set(source.labels) == {-1}


def test_an_example_has_the_place_that_its_name_says():
    ((key, example),) = builder.example("a/b/x000512_y001024.jpg", b"bytes", np.zeros((1, 1, 3), np.uint8))
    assert key == "a/b/x000512_y001024.jpg"
    assert example == {"image": b"bytes", "name": key, "group": "a/b", "x": 512, "y": 1024}
    with pytest.raises(AssertionError, match="not a tile"):
        list(builder.example("a/other.jpg", b"", np.zeros((1, 1, 3), np.uint8)))


def test_a_name_is_a_configuration():
    assert builder.config_of("mine").name == "mine"
