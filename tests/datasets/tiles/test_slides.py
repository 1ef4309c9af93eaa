"""Cutting of synthetic slides: tiled TIFF, pink tissue on white glass."""

import json
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import prepared
from mae_jax.data.decode import load_image
from mae_jax.datasets.prepare import prepare
from mae_jax.datasets.tiles import slides
from mae_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[3]
TILE = 256  # of the file


def tissue(height: int, width: int, seed: int, left: int = 0) -> np.ndarray:
    """White glass, with pink noise from column `left` to half the width."""
    image = np.full((height, width, 3), 243, np.uint8)
    small = np.random.default_rng(seed).integers(-40, 41, (height // 8 + 1, width // 8 + 1, 3))
    pink = np.clip(np.array([200, 110, 170]) + small, 0, 255).astype(np.uint8)
    pink = pink.repeat(8, 0).repeat(8, 1)[:height, :width]
    image[:, left : width // 2] = pink[:, left : width // 2]
    return image


def write_slide(path: Path, image: np.ndarray, mpp: float = 0.0) -> Path:
    """An uncompressed tiled TIFF; `mpp` micrometers per pixel in its header (0: none)."""
    height, width, _ = image.shape
    down, across = -(-height // TILE), -(-width // TILE)
    padded = np.full((down * TILE, across * TILE, 3), 255, np.uint8)
    padded[:height, :width] = image
    tiles = [
        padded[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE].tobytes()
        for y in range(down)
        for x in range(across)
    ]
    size, n = TILE * TILE * 3, len(tiles)
    extra = 8 + n * size  # after the pixels: values that do not fit into a tag
    offsets, counts, bits = extra, extra + 4 * n, extra + 8 * n
    resolution = bits + 6
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 3, bits), (259, 3, 1, 1), (262, 3, 1, 2), (277, 3, 1, 3)]
    if mpp:
        tags += [(282, 5, 1, resolution), (283, 5, 1, resolution), (296, 3, 1, 3)]
    tags += [(322, 3, 1, TILE), (323, 3, 1, TILE), (324, 4, n, offsets), (325, 4, n, counts)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.write(b"II*\0" + struct.pack("<L", resolution + 8) + b"".join(tiles))
        file.write(struct.pack(f"<{n}L", *(8 + i * size for i in range(n))) + struct.pack(f"<{n}L", *[size] * n))
        file.write(struct.pack("<3H", 8, 8, 8) + struct.pack("<LL", round(1e7 / mpp) if mpp else 0, 1000))
        file.write(struct.pack("<H", len(tags)))
        for tag in tags:
            file.write(struct.pack("<HHLL", *tag))
        file.write(struct.pack("<L", 0))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two slides of 1000 x 700 pixels, one in a subfolder; one of glass; a file that is not a slide."""
    top = tmp_path_factory.mktemp("slides")
    write_slide(top / "a.tiff", tissue(700, 1000, 0), mpp=0.5)
    write_slide(top / "case 2" / "b.svs", tissue(700, 1000, 1))
    write_slide(top / "glass.tiff", np.full((300, 300, 3), 240, np.uint8), mpp=0.5)
    (top / "notes.tif").write_bytes(b"<html>")
    (top / "._a.tiff").write_bytes(b"junk")
    return top


@pytest.fixture(scope="module")
def cut(folder, tmp_path_factory) -> tuple[Path, list[str]]:
    """tiles:mine prepared, and the lines printed."""
    lines: list[str] = []
    top = tmp_path_factory.mktemp("prepared_tiles")
    prepare("tiles:mine", folder, top, lines.append, slides.Cutting(tile=100, workers=2))
    return top, lines


def test_tiles_with_tissue_at_their_places(cut):
    source = prepared.unlabeled("tiles:mine", cut[0])
    assert set(source.groups) == {"a.tiff", "case 2/b.svs"} and len(source) == 2 * 5 * 7
    i = source.names.index("case 2/b.svs/x000300_y000500.jpg")
    tile = load_image(source[i]["image"]).astype(int)
    assert tile.shape == (100, 100, 3) and source.groups[i] == "case 2/b.svs"
    assert np.abs(tile - tissue(700, 1000, 1)[500:600, 300:400]).mean() < 6
    record = prepared.open_split("tiles:mine", "train", cut[0])[0]
    place = re.search(r"x(\d+)_y(\d+)", record["name"].decode())
    assert (record["x"], record["y"]) == tuple(map(int, place.groups()))


def test_prepared_with_other_options_is_reported(cut, folder):
    lines: list[str] = []
    for tile in (100, 200):
        prepare("tiles:mine", folder, cut[0], lines.append, slides.Cutting(tile=tile, workers=5))
    assert lines[0].startswith("tiles:mine is already prepared; remove")
    assert lines[1].startswith("tiles:mine is already prepared, with other options; remove")


def test_what_was_left_out_is_reported(cut):
    top, text = cut
    assert "  left out, cannot be read: 1 (notes.tif)" in text
    assert "  left out, no tile with tissue: 1 (glass.tiff)" in text
    assert "  left out, without tissue: 70 tiles" in text
    about = json.loads((prepared.locate("tiles:mine", top) / "prepared.json").read_text())
    assert about["cutting"]["tile"] == 100
    assert not list((top / ".preparing").glob("*/"))


@pytest.mark.parametrize(("mpp", "tiles"), [(0.5, 7 * 5), (1.0, 3 * 2 + 3), (0.7, 5 * 3 + 5)])
def test_resolution(folder, tmp_path, mpp, tiles):
    """Tiles of 100 pixels at 1 micrometer per pixel cover 200 pixels of a scan at 0.5."""
    zip_files, left_out = slides.cut_folder(
        folder, tmp_path / "cut", slides.Cutting(tile=100, mpp=mpp, workers=1), lambda line: None
    )
    assert left_out["its header has no resolution (set --assume_mpp)"] == ["case 2/b.svs"]
    assert [slides.about(p)["slide"] for p in zip_files] == ["a.tiff"]
    step = 100 * mpp / 0.5
    assert slides.about(zip_files[0])["tiles"] == tiles
    assert slides.about(zip_files[0])["tiles"] + slides.about(zip_files[0])["blank"] == int(1000 / step) * int(
        700 / step
    )


def test_a_finer_resolution_than_scanned_is_refused(folder, tmp_path):
    cutting = slides.Cutting(tile=100, mpp=0.25, assume_mpp=0.25, workers=1)
    zip_files, left_out = slides.cut_folder(folder, tmp_path / "cut", cutting, lambda line: None)
    assert [slides.about(p)["slide"] for p in zip_files] == ["case 2/b.svs"]
    assert "a.tiff" in left_out["scanned at 0.5 micrometers per pixel, coarser than the requested 0.25"]


def test_a_killed_start_resumes_slide_by_slide(tmp_path):
    for i in range(4):
        write_slide(tmp_path / "in" / f"{i}.tiff", tissue(300, 640, i))
    slow = f"""
import time
from mae_jax.datasets.prepare import prepare
from mae_jax.datasets.tiles import slides
encode = slides.jpeg.encode
slides.jpeg.encode = lambda pixels: (time.sleep(0.05), encode(pixels))[1]  # a large slide takes long
if __name__ == "__main__":
    cutting = slides.Cutting(tile=64, workers=2)
    prepare("tiles:x", {str(tmp_path / "in")!r}, {str(tmp_path / "out")!r}, lambda line: None, cutting)
"""
    (tmp_path / "run.py").write_text(slow)
    process = subprocess.Popen([sys.executable, str(tmp_path / "run.py")], env=os.environ | {"PYTHONPATH": str(ROOT)})
    work = tmp_path / "out" / ".preparing" / "tiles-x-slides"
    deadline = time.monotonic() + 60
    while not list(work.glob("*.zip")) and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait(60)
    done = list(work.glob("*.zip"))
    assert 1 <= len(done) < 4 and prepared.versions("tiles:x", tmp_path / "out") == []
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(workers) >= 2 and not any(Path(f"/proc/{pid}").exists() for pid in workers)
    lines: list[str] = []
    prepare("tiles:x", tmp_path / "in", tmp_path / "out", lines.append, slides.Cutting(tile=64, workers=1))
    already = int(next(line for line in lines if line.startswith("4 slides, "))[10:].split()[0])
    assert len(done) <= already < 4
    source = prepared.unlabeled("tiles:x", tmp_path / "out")
    assert len(source) == 4 * 4 * 5 and len(set(source.groups)) == 4


def test_slides_cut_with_other_options_are_cut_again(folder, tmp_path):
    def cut(tile: int) -> list[str]:
        lines: list[str] = []
        slides.cut_folder(folder, tmp_path / "cut", slides.Cutting(tile=tile, workers=1), lines.append)
        return lines

    assert "4 slides" in cut(100) and "4 slides, 2 of them already cut" in cut(100) and "4 slides" in cut(200)
    zip_files, _ = slides.cut_folder(folder, tmp_path / "cut", slides.Cutting(tile=200, workers=1), lambda line: None)
    assert {slides.about(p)["tiles"] for p in zip_files} == {3 * 3}


def test_tiles_fill_a_side_that_they_divide_but_for_rounding():
    assert slides.grid(700, 100.0) == slides.grid(799, 100.0) == [0, 100, 200, 300, 400, 500, 600]
    step = 3 * 0.1 * 1000  # 300.00000000000006, as 0.5 / 0.2525 * tile may be
    assert step > 300 and slides.grid(2100, step) == [0, 300, 600, 900, 1200, 1500, 1800]


def test_tissue_is_where_there_is_color():
    image = tissue(64, 128, 0, left=16)
    mask = slides.tissue_mask(image)
    assert mask[:, 16:64].mean() > 0.95 and mask[:, :16].mean() == 0 == mask[:, 64:].mean()
    assert not slides.tissue_mask(np.full((9, 9, 3), 250, np.uint8)).any()
    assert 0.1 < slides.otsu(np.repeat([0.1, 0.8], 50)) < 0.8


def test_the_command_line(folder, tmp_path):
    def run(*arguments: str) -> subprocess.CompletedProcess:
        line = [sys.executable, "-m", "mae_jax", "prepare", *arguments, "--data_dir", str(tmp_path)]
        return subprocess.run(
            line, capture_output=True, text=True, timeout=120, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )

    done = run("tiles:x", "--source", str(folder), "--magnification", "20", "--tile", "100", "--workers", "1")
    assert done.returncode == 0 and done.stderr == "" and "  train      35       1" in done.stdout
    (tmp_path / "none").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "none" / "notes.txt").write_text("no slide")
    for arguments, message in (
        (("tiles", "--source", str(folder)), "tiles is not a data set that can be prepared; use tiles:NAME"),
        (("cam16", "--source", str(folder), "--mpp", "1"), "--mpp is for tiles:NAME"),
        (("tiles:y", "--source", str(tmp_path / "none")), "has no slide (.svs"),
        (("tiles:y", "--source", str(tmp_path / "empty")), "empty is empty; name the folder with the files of"),
    ):
        done = run(*arguments)
        assert done.returncode == 2 and message in done.stderr and done.stderr.count("\n") == 1


def test_without_openslide_one_line_names_what_to_install(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    with pytest.raises(UserError, match=r"pip install -e \"\.\[slides\]\""):
        slides.cut_folder(folder, tmp_path / "cut", slides.Cutting(), lambda line: None)


def cut_into(tmp_path: Path, source: Path, **fields) -> tuple[list[str], dict[str, list[str]]]:
    """Names of the slides that were cut, and of files left out."""
    cutting = slides.Cutting(**{"tile": 100, "workers": 1} | fields)
    zip_files, left_out = slides.cut_folder(source, tmp_path / "cut", cutting, lambda line: None)
    return sorted(slides.about(path)["slide"] for path in zip_files), left_out


@pytest.mark.parametrize("mpp", [352.78, 264.58, 10.01, 0.005])
def test_a_resolution_that_no_scanner_has_counts_as_none(tmp_path, mpp):
    """Converters write 72 or 96 dpi when they do not know the resolution."""
    write_slide(tmp_path / "in" / "a.tiff", tissue(300, 600, 0), mpp=mpp)
    write_slide(tmp_path / "in" / "b.tiff", tissue(300, 600, 1), mpp=9.9)
    with pytest.raises(UserError, match=rf"its header says {mpp:.4g} micrometers per pixel, which no scanner has "):
        cut_into(tmp_path, tmp_path / "in", mpp=0.5)
    names, left_out = cut_into(tmp_path, tmp_path / "in", mpp=0.5, assume_mpp=0.5)
    assert names == ["a.tiff"]
    assert left_out == {"scanned at 9.9 micrometers per pixel, coarser than the requested 0.5": ["b.tiff"]}


def test_links_to_a_slide_are_one_slide(tmp_path):
    top = tmp_path / "in"
    slide = write_slide(top / "b.tiff", tissue(300, 600, 0))
    (top / "a.tiff").symlink_to("b.tiff")
    os.link(slide, top / "c.tiff")
    (top / "loop").symlink_to(top)
    (tmp_path / "elsewhere").mkdir()
    write_slide(tmp_path / "elsewhere" / "d.svs", tissue(300, 600, 1))
    (top / "more").symlink_to(tmp_path / "elsewhere")
    (top / "e.svs").symlink_to(tmp_path / "elsewhere" / "d.svs")
    names, left_out = cut_into(tmp_path, top)
    assert names == ["b.tiff", "e.svs"]
    assert left_out == {"a link to a slide that is already used": ["c.tiff", "a.tiff", "more/d.svs"]}


def test_plain_images_are_cut_where_their_resolution_is_given(tmp_path):
    """PNG, JPEG, and TIFF in strips, which OpenSlide does not read, give the tiles of a slide with the same pixels."""
    top, image = tmp_path / "in", tissue(300, 600, 0)
    top.mkdir()
    for name in ("a.png", "b.jpg", "c.tif"):
        Image.fromarray(image).save(top / name, **({"quality": 95} if name == "b.jpg" else {}))
    Image.fromarray(image[:50, :50]).save(top / "small.png")
    Image.fromarray(image[..., 0].astype(np.int32)).save(top / "deep.tif")
    strips = "a TIFF in strips: OpenSlide needs tiles, which `vips tiffsave IN OUT --tile --pyramid` writes"
    with pytest.raises(
        UserError, match=r"(?s)--assume_mpp takes it as a plain image\): 2 \(c.tif, deep.tif\)|vips"
    ) as error:
        cut_into(tmp_path, top)
    assert f"{strips} (--assume_mpp takes it as a plain image): 2 (c.tif, deep.tif)" in str(error.value)
    assert "plain images (--assume_mpp takes them as slides): 3 (a.png, b.jpg, small.png)" in str(error.value)
    write_slide(top / "d.tiff", image)
    Image.fromarray(image).save(top / "pages.tif", save_all=True, append_images=[Image.fromarray(image)])
    for mpp, side in ((0.0, 100), (1.0, 200)):
        names, left_out = cut_into(tmp_path, top, assume_mpp=0.5, mpp=mpp)
        assert names == ["a.png", "b.jpg", "c.tif", "d.tiff", "pages.tif"]
        tiles = {slides.about(path)["slide"]: slides.about(path)["tiles"] for path in (tmp_path / "cut").glob("*.zip")}
        assert set(tiles.values()) == {(300 // side) * (-(-300 // side))}
        assert left_out.pop("smaller than a tile") == ["small.png"]
        assumed = {
            slides.about(path)["slide"]: slides.about(path)["assumed"] for path in (tmp_path / "cut").glob("*.zip")
        }
        assert {name: text for name, text in assumed.items() if text} == {
            "pages.tif": ["several pages: the first is used"]
        }
        ((why, result),) = left_out.items()
        assert result == ["deep.tif"] and why.startswith(
            f"cannot be read: {strips}, and it has signed pixels (32 bits)"
        )


def test_images_that_are_parts_of_a_slide_are_not_cut(tmp_path):
    top = tmp_path / "in"
    for folder in ("", "case", "other"):
        (top / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(tissue(300, 600, 0)).save(top / folder / "x.png")
    (top / "other" / "x.vms").write_text("")
    (top / "case.mrxs").write_text("")
    (top / "x.png").unlink()
    Image.fromarray(tissue(300, 600, 1)).save(tmp_path / "alone.png")
    with pytest.raises(UserError) as error:
        cut_into(tmp_path, top, assume_mpp=0.5)
    assert "no slide could be cut: cannot be read: 2 (case.mrxs, other/x.vms)" in str(error.value)
