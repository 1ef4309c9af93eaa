"""Identical and near-identical images, and what two splits share."""

import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from mae_jax.data import duplicates, shifted
from mae_jax.data.looks import look
from mae_jax.data.sources import Source


def test_the_perceptual_hash_tells_images_apart_and_copies_together():
    rng = np.random.default_rng(0)
    looks = []
    for _ in range(6):
        small = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        image = small.resize((120, 100), Image.Resampling.BICUBIC)
        for version in (image, image.resize((60, 50)), ImageEnhance.Contrast(image).enhance(0.7)):
            file = io.BytesIO()
            version.save(file, "JPEG", quality=70)
            looks.append(look(file.getvalue()))
    looks = np.stack(looks)
    pairs = {(i, j) for i, j, *_ in duplicates.near(looks)}
    assert pairs == {(i, j) for i in range(18) for j in range(i + 1, 18) if i // 3 == j // 3}
    pairs = {(i, j) for i, j, *_ in duplicates.near(looks[::3], looks)}
    assert pairs == {(i, 3 * i + k) for i in range(6) for k in range(3)}


def test_rotated_and_mirrored_images_are_found():
    rng = np.random.default_rng(2)
    images = [Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((90, 90)) for _ in range(5)]
    ways = [None, *Image.Transpose]
    looks = []
    for image in images:
        for way in ways:
            file = io.BytesIO()
            (image if way is None else image.transpose(way)).save(file, "PNG")
            looks.append(look(file.getvalue()))
    pairs = {(i, j) for i, j, *_ in duplicates.near(np.stack(looks))}
    n = len(ways)
    assert n == 8 and pairs == {(i, j) for i in range(5 * n) for j in range(i + 1, 5 * n) if i // n == j // n}


def test_images_without_structure_are_never_alike():
    file = io.BytesIO()
    Image.new("RGB", (50, 50), "white").save(file, "PNG")
    flat = np.stack([look(file.getvalue())] * 3)
    assert not flat.any() and list(duplicates.near(flat)) == []


def test_blocks_of_rows_miss_nothing(monkeypatch):
    monkeypatch.setattr(duplicates, "ROWS", 3)
    monkeypatch.setattr(duplicates, "COLUMNS", 4)
    looks = np.random.default_rng(1).integers(-127, 128, (10, 256)).astype(np.int8)
    looks[7], looks[9] = looks[1], looks[2] // 2
    result = list(duplicates.near(looks))
    assert [(i, j) for i, j, *_ in result] == [(1, 7), (2, 9)]
    assert result[0][3] == pytest.approx(1) and result[1][3] > 0.99


def test_rotated_copies_are_bounded_exactly():
    rng = np.random.default_rng(3)
    rows = duplicates._unit(rng.integers(-127, 128, (30, 256)).astype(np.int8))
    bounds = duplicates._unturned(rows)
    exact = np.einsum("wnp,mp->wnm", duplicates._turned(rows), rows).max(0)
    assert (bounds @ bounds.T >= exact - 1e-5).all()
    np.testing.assert_allclose(duplicates._unturned(duplicates._turned(rows)[5]), bounds, atol=1e-5)


def source(images, name, groups=None, labels=0):
    data = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        data.append(file.getvalue())
    return Source(
        names=tuple(f"{name}/{i}" for i in range(len(data))),
        labels=np.full(len(data), labels, np.int32),
        groups=tuple(groups or [""] * len(data)),
        classes=("a",),
        fingerprint=name,
        read=data.__getitem__,
    )


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(5)
    return [np.asarray(Image.fromarray(rng.integers(0, 256, (7, 7, 3), np.uint8)).resize((64, 64))) for _ in range(9)]


def test_what_a_test_set_shares_is_counted_by_kind_and_each_image_once(pictures):
    brighter = np.clip(pictures[1].astype(int) + 9, 0, 255).astype(np.uint8)
    train = [source(pictures[:2], "one", ["p1", "p2"]), source(pictures[2:4], "two", ["p3", ""])]
    test = source([pictures[3], brighter, *pictures[5:8]], "test", ["", "p9", "p2", "p2", ""])
    leaks = duplicates.leaks(train, test)
    assert (leaks["identical"], leaks["near_identical"], leaks["shifted_searched"]) == (1, 1, True)
    assert (leaks["groups"], leaks["images_in_shared_groups"]) == (1, 2)
    assert leaks["images"] == ["test/0", "test/1", "test/2", "test/3"]
    assert leaks["examples"] == {
        "groups": ["p2"],
        "identical": [["test/0", "two/1"]],
        "near_identical": [["test/1", "one/1"]],
    }
    nothing = duplicates.leaks(train[:1], source(pictures[6:8], "test"))
    assert nothing["images"] == [] and not any(nothing[k] for k in ("groups", "identical", "near_identical"))


def test_a_search_for_shifted_copies_has_an_end(pictures, monkeypatch):
    moved = np.zeros_like(pictures[0])
    moved[4:, 4:] = pictures[0][:-4, :-4]
    train, test = source(pictures[:3], "train"), source([moved], "test")
    assert duplicates.leaks([train], test)["near_identical"] == 1
    monkeypatch.setattr(shifted, "PAIRS", 2)  # there are three pairs
    leaks = duplicates.leaks([train], test)
    assert (leaks["near_identical"], leaks["shifted_searched"]) == (0, False)
    assert duplicates.unsearched({"TestA": leaks, "TestB": leaks | {"shifted_searched": True}}) == (
        "not searched for in TestA, because there are more than 2 pairs of images"
    )
    assert duplicates.unsearched({}) == ""


def test_images_are_numbered_over_all_sources(pictures):
    sources = [source(pictures[:2], "one"), source(pictures[2:4], "two")]
    for i in range(4):
        np.testing.assert_array_equal(duplicates.pictures(sources, i), pictures[i])  # 64 pixels as they are
    with pytest.raises(IndexError):
        duplicates.pictures(sources, 4)


def test_sharing_in_words():
    result = {"groups": 2, "images_in_shared_groups": 7, "identical": 1, "near_identical": 0}
    assert duplicates.in_words(result) == "7 of 2 groups that training has, too, 1 byte-identical with training images"
    one = {"groups": 1, "images_in_shared_groups": 3, "identical": 0, "near_identical": 2}
    assert duplicates.in_words(one, "pre-training") == (
        "3 of a group that pre-training has, too, 2 that look like copies of pre-training images"
    )
    assert duplicates.in_words(dict.fromkeys(result, 0)) == ""


def test_a_set_in_which_most_images_look_like_copies_gets_a_note():
    leaks = {"groups": 0, "identical": 0, "near_identical": 40, "test_images": 60}
    assert duplicates.in_words(leaks) == (
        "40 that look like copies of training images (so many that the images may all show one shape, as drawings do; "
        "look at some pairs before you remove any)"
    )
    for changes in ({"test_images": 81}, {"near_identical": 9, "test_images": 9}):
        assert "so many" not in duplicates.in_words(leaks | changes)
    del leaks["test_images"]  # of a run of an earlier version
    assert duplicates.in_words(leaks) == "40 that look like copies of training images"
