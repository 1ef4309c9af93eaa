"""Files that are read once before a start: what a run reports of them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import checking, copies, looks, sources
from mae_jax.step import sharding
from mae_jax.train.build import build


def save(path: Path, side: int, seed: int, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(small).resize((side + 20, side)).save(path, **options)
    return path


@pytest.mark.parametrize(("side", "reported"), [(159, False), (160, True)])
def test_large_images_are_those_of_ten_times_the_side_that_is_seen(side, reported):
    sizes = np.array([[side, 9000], [9000, side], [side, side], [16, 16], [9000, 9000]], np.int32)
    text = checking.large(sizes, 16, labeled=False)
    assert bool(text) == reported
    if reported:
        assert "the shorter side of 160 pixels (median) becomes 16, so structures smaller than 10 pixels" in text
        assert "mae-jax prepare tiles:NAME --source DIR --assume_mpp MPP --tile 64" in text
        assert "tiles:NAME" not in checking.large(sizes, 16, labeled=True)
    assert checking.large(None, 16, labeled=False) == ""


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_a_start_reports_large_images_and_what_is_assumed(tmp_path, tiny_config, task):
    places = [(split, name, i) for split in ("Train", "TestA") for name in ("ant", "bee") for i in range(6)]
    for seed, (split, name, i) in enumerate(places):
        save(tmp_path / split / name / f"{i}.png", 170 if split == "Train" else 60, seed)
    frames = [Image.new("RGB", (170, 170), color) for color in ("red", "lime")]
    frames[0].save(tmp_path / "Train" / "ant" / "film.gif", save_all=True, append_images=frames[1:])
    config = tiny_config(task)
    config.data.update(source="folder", dir=str(tmp_path if task == "finetune" else tmp_path / "Train"))
    built = build(config, sharding.make_mesh(1))
    prefix = "Train: " if task == "finetune" else ""
    assert built.about["assumed"] == f"{prefix}1 image: an animation: the first frame is used"
    large = f"{prefix}the shorter side of 170 pixels (median) becomes 16"
    assert built.about["warning: large images"].startswith(large)
    assert built.assumed() == {"train": {"an animation: the first frame is used": 1}}


def test_a_file_is_decoded_again_only_if_it_has_changed(tmp_path, monkeypatch):
    for i in range(4):
        save(tmp_path / "cells" / "ant" / f"{i}.png", 40, i)
    (tmp_path / "cells" / "ant" / "bad.png").write_bytes(b"no image")
    count, decode = Counter(), checking.decode
    monkeypatch.setattr(checking, "decode", lambda data, name: count.update([Path(name).name]) or decode(data, name))
    decoded: checking.Decoded = {}
    first = sources.folder(tmp_path, "cells", bad_images="skip", decoded=decoded)
    save(tmp_path / "cells" / "ant" / "3.png", 60, 9)
    second = sources.unlabeled_folder(tmp_path / "cells", bad_images="skip", decoded=decoded)
    assert count == {"0.png": 1, "1.png": 1, "2.png": 1, "3.png": 2, "bad.png": 2}
    fresh = sources.unlabeled_folder(tmp_path / "cells", bad_images="skip")
    for name in ("digests", "sizes"):
        np.testing.assert_array_equal(getattr(second, name), getattr(fresh, name))
        np.testing.assert_array_equal(getattr(second, name)[:3], getattr(first, name)[:3])
    np.testing.assert_array_equal(second.looks(), fresh.looks())
    assert (second.fingerprint, second.counts) == (fresh.fingerprint, {"not an image": 1})


def test_each_image_is_read_and_decoded_once_before_training(tmp_path, tiny_config, monkeypatch):
    """With three test sets, and the search for copies between them, which finds the planted one.

    The search reads a sample of both compared sets and the pairs to confirm once more, see `copies`.
    """
    splits = ("Train", "TestA", "TestB", "TestC")
    places = [(split, name, i) for split in splits for name in ("ant", "bee") for i in range(5)]
    for seed, (split, name, i) in enumerate(places):
        save(tmp_path / split / name / f"{i}.jpg", 40, seed, quality=95)
    save(tmp_path / "TestC" / "ant" / "again.jpg", 40, 0, quality=70)
    reads: Counter[str] = Counter()
    decoded: Counter[str] = Counter()
    read_file, decode = checking.read_file, checking.decode

    def counted_read(root, names, i):
        reads[names[i]] += 1
        return read_file(root, names, i)

    def counted_decode(data, name):
        decoded[name] += 1
        return decode(data, name)

    monkeypatch.setattr(checking, "read_file", counted_read)
    monkeypatch.setattr(checking, "decode", counted_decode)
    monkeypatch.setattr(looks, "load_image", lambda *args: pytest.fail("decoded again"))
    config = tiny_config()
    config.data.update(source="folder", dir=str(tmp_path), external="TestB,TestC")
    built = build(config, sharding.make_mesh(1))
    assert built.leaks["TestC"]["near_identical"] == 1
    assert len(reads) == len(decoded) == len(places) + 1
    sample, confirmed = min(copies.SAMPLE, 10), 4  # each set has 10 images, and one has a copy
    assert decoded.total() == len(decoded) and reads.total() <= len(reads) + 2 * sample + confirmed
