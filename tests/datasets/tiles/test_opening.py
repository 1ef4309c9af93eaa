"""Slides and plain images: which files are taken, and at which resolution they were scanned."""

import errno
import os
from pathlib import Path

import pytest
import tifffile
from PIL import Image

from mae_jax.datasets.builder import LeftOut
from mae_jax.datasets.tiles import opening
from mae_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("properties", "mpp", "assumed", "expected"),
    [
        ({"openslide.mpp-x": "0.25"}, 0.5, 0.0, 0.25),
        ({"openslide.objective-power": "20"}, 0.5, 0.0, 0.5),
        ({"openslide.mpp-x": "0.25", "openslide.objective-power": "10"}, 0.5, 0.0, 0.25),  # the first counts
        ({"openslide.mpp-x": "353"}, 0.5, 0.4, 0.4),  # 72 dpi, which no scanner has
        ({"openslide.mpp-x": "nonsense"}, 0.5, 0.4, 0.4),
        ({}, 0.5, 0.5, 0.5),
        ({"openslide.mpp-x": "0.52"}, 0.5, 0.0, 0.52),  # within 5 %
    ],
)
def test_a_resolution_is_that_of_the_header_where_it_is_plausible(properties, mpp, assumed, expected):
    assert opening.resolution(properties, mpp, assumed) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("properties", "mpp", "message"),
    [
        ({}, 0.5, r"its header has no resolution \(set --assume_mpp\)"),
        ({"openslide.mpp-x": "353"}, 0.5, "its header says 353 micrometers per pixel, which no scanner has"),
        ({"openslide.mpp-x": "-1"}, 0.5, "has no resolution"),
        ({"openslide.mpp-x": "0.5"}, 0.25, "scanned at 0.5 micrometers per pixel, coarser than the requested 0.25"),
    ],
)
def test_an_unknown_or_too_coarse_resolution_leaves_the_slide_out(properties, mpp, message):
    with pytest.raises(LeftOut, match=message):
        opening.resolution(properties, mpp, 0.0)


def test_slides_are_found_once_and_plain_images_only_where_asked_for(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.svs", "deep/a.tif", "c.png", ".hidden.svs", "notes.txt"):
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "link.svs").symlink_to(tmp_path / "b.svs")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.svs")
    result, left_out = opening.find(tmp_path, plain=False)
    assert [path.relative_to(tmp_path).as_posix() for path in result] == ["b.svs", "deep/a.tif"]
    assert left_out["plain images (--assume_mpp takes them as slides)"] == ["c.png"]
    assert left_out["a link to a slide that is already used"] == ["link.svs"]
    assert left_out["not a regular file"] == ["pipe.svs"]
    result, left_out = opening.find(tmp_path, plain=True)
    assert [path.name for path in result] == ["b.svs", "c.png", "a.tif"] and "notes.txt" not in str(left_out)


def test_a_folder_of_slides_that_cannot_be_read_stops(tmp_path, monkeypatch):
    (tmp_path / "deep").mkdir()
    scan = os.scandir

    def listed(at):
        if Path(at).name == "deep":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(at))
        return scan(at)

    monkeypatch.setattr(os, "scandir", listed)
    with pytest.raises(UserError, match=r"^--source: '.*/deep' cannot be read \(Input/output error\); check the disk"):
        opening.find(tmp_path, plain=False)


def test_no_memory_is_not_a_fault_of_the_slide(tmp_path, monkeypatch):
    def fail(path):
        raise MemoryError

    monkeypatch.setattr(tifffile, "TiffFile", fail)
    (tmp_path / "a.tif").write_bytes(b"II*\0")
    with pytest.raises(MemoryError), opening.opened(tmp_path / "a.tif", plain=False):
        pass


def test_a_plain_image_is_a_slide_of_one_level(tmp_path):
    Image.new("RGB", (40, 30), (9, 8, 7)).save(tmp_path / "a.png")
    assert opening.announced(tmp_path / "a.png", plain=True) == ((40, 30), {})
    with opening.opened(tmp_path / "a.png", plain=True) as (slide, assumed):
        assert slide.dimensions == (40, 30) and assumed == ()
        assert slide.read_region((0, 0), 0, (1, 1)).convert("RGB").getpixel((0, 0)) == (9, 8, 7)
    (tmp_path / "b.png").write_bytes(b"no image")
    for use in (opening.announced, lambda path, plain: opening.opened(path, plain).__enter__()):
        with pytest.raises(LeftOut):
            use(tmp_path / "b.png", True)


def test_a_tiff_in_strips_says_how_to_convert_it(tmp_path):
    Image.new("RGB", (40, 30)).save(tmp_path / "a.tif")
    with pytest.raises(LeftOut, match="a TIFF in strips: OpenSlide needs tiles, .*--assume_mpp takes it as a plain"):
        opening.opened(tmp_path / "a.tif", plain=False).__enter__()
    with opening.opened(tmp_path / "a.tif", plain=True) as (slide, _):
        assert slide.dimensions == (40, 30)
