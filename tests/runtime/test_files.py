"""Real folders of images with pipes, links, missing permissions, unusual names and damaged files."""

import errno
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mae_jax.data import folders, layouts, loaders, sources, splits, tables
from mae_jax.predict import images
from mae_jax.runtime import files
from mae_jax.runtime.errors import UserError
from mae_jax.train import finetune

ROOT = Path(__file__).parents[2]


@pytest.fixture
def train(tmp_path) -> Path:
    """Two classes of two images."""
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (tmp_path / "Train" / name).mkdir(parents=True)
        for i in range(2):
            Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)).save(tmp_path / "Train" / name / f"{i}.png")
    return tmp_path / "Train"


def at_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(path))  # the length of a path is limited


def no_pixels(path: Path) -> None:
    """A PNG of size 0 x 0."""
    Image.new("RGB", (4, 4)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = bytes(8)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    path.write_bytes(data)


def many_words(path: Path) -> None:
    """A PNG of a kilobyte whose text unpacks to 80 megabytes."""
    text = PngImagePlugin.PngInfo()
    text.add_text("about", "a" * 80_000_000, zip=True)
    Image.new("RGB", (4, 4)).save(path, pnginfo=text)


FAULTS = {
    "pipe": (os.mkfifo, "x.png is not a regular file"),
    "socket": (at_socket, "x.png is not a regular file"),
    "dangling link": (lambda path: path.symlink_to("nowhere"), "x.png is a broken link"),
    "link to itself": (lambda path: path.symlink_to(path.name), "x.png is a broken link"),
    "empty": (lambda path: path.write_bytes(b""), "x.png is empty"),
    "page": (lambda path: path.write_text("<html>404</html>"), "x.png is a web page, not an image of a format"),
    "EPS": (lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "x.png is a PostScript file, not an image"),
    "bomb": (lambda path: Image.new("1", (20_000, 20_000)).save(path), "cut it into tiles"),
    "large": (lambda path: Image.new("1", (10_000, 10_000)).save(path), "cut it into tiles"),
    "no pixels": (no_pixels, "x.png begins as a PNG file and is cut short or damaged"),
    "many words": (many_words, "x.png begins as a PNG file and is cut short or damaged"),
    "sparse": (lambda path: path.touch() or os.truncate(path, 2**31), "has 2147483648 bytes, but at most"),
    "floats": (lambda path: Image.new("F", (4, 4)).save(path, format="TIFF"), "has floating-point pixels (32 bits)"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unusable_file_is_named_or_skipped_and_counted(train, fault):
    make, text = FAULTS[fault]
    make(train / "ant" / "x.png")
    for read in (sources.folder, sources.unlabeled_folder):
        with pytest.raises(UserError, match=r"^data\.dir: .*ant/x\.png.*data\.bad_images='skip'") as error:
            read(train)
        assert text in str(error.value) and "\n" not in str(error.value)
        source = read(train, bad_images="skip")
        assert len(source) == 4 and sum(source.counts.values()) == 1


@pytest.mark.parametrize("name", [b"a\nb.png", b"\x1b[2J.png", b"\xff\xfe.png", b"tab\t.png", "\u2028.png".encode()])
def test_names_that_would_break_lines_are_escaped_and_refused(train, name):
    shutil.copy(train / "ant" / "0.png", os.fsencode(train) + b"/ant/" + name)
    with pytest.raises(UserError, match="control characters or bytes that are not UTF-8 in its name") as error:
        sources.folder(train)
    assert str(error.value).isprintable()
    source = sources.folder(train, bad_images="skip")
    assert len(source) == 4 and source.counts == {"unusable name": 1}


@pytest.mark.parametrize("name", ["Größe 1.png", "سلول.png", "=1+1.png", "-x.png", "<b>.png", "a'b\"c.png", ".5.png "])
def test_names_in_all_languages_are_accepted(train, name):
    shutil.copy(train / "ant" / "0.png", train / "ant" / name)
    source = sources.folder(train)
    assert (f"ant/{name}" in source.names) == (not name.startswith("."))


# Runs without root's permissions, because root may read everything.
DENIED = """
import sys
from mae_jax.data import sources
from mae_jax.runtime.errors import UserError
for policy in ("stop", "skip"):
    try:
        print(policy, len(sources.folder(sys.argv[1], bad_images=policy)))
    except UserError as error:
        print(policy, error)
"""


@pytest.mark.parametrize("what", ["file", "folder", "class", "link to a class", "link below a class"])
def test_unreadable_files_are_named(train, what):
    drop = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.getuid() == 0 else []
    if drop and not shutil.which("setpriv"):
        pytest.skip("root may read everything, and setpriv is not here")
    named = denied = {"file": train / "ant" / "0.png", "folder": train / "ant" / "deep"}.get(what, train / "ant")
    denied.mkdir(exist_ok=True) if what == "folder" else None
    if what.startswith("link"):  # to a folder inside one that may not be entered
        denied = train.parent / "closed"
        shutil.copytree(train / "bee", denied / "cat")
        named = train / ("cat" if what == "link to a class" else "ant/deep")
        named.symlink_to(denied / "cat")
    denied.chmod(0)
    try:
        done = subprocess.run(
            [*drop, sys.executable, "-c", DENIED, str(train)], cwd=ROOT, capture_output=True, text=True, timeout=100
        )
    finally:
        denied.chmod(0o700)
    stop, skip = done.stdout.splitlines()
    assert str(named) in stop and "cannot be read (Permission denied)" in stop, done.stderr
    # Skipping a folder would lose many images or a class, so it always stops the run.
    assert skip == "skip 3" if what == "file" else skip.removeprefix("skip") == stop.removeprefix("stop")


class Entries(list):
    """What os.scandir returns."""

    __enter__ = lambda self: self  # noqa: E731
    __exit__ = lambda self, *error: None  # noqa: E731


class Entry:
    """A link in a folder, on storage that fails when it is followed."""

    def __init__(self, entry: os.DirEntry, number: int):
        self.name, self.path, self.is_symlink, self.number = entry.name, entry.path, lambda: True, number

    def is_dir(self) -> bool:
        raise OSError(self.number, os.strerror(self.number), self.path)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN, errno.ESTALE, errno.EACCES, errno.EPERM])
@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("failing", ["bee", "ant/deep"])
def test_a_link_that_cannot_be_followed_stops(train, monkeypatch, number, policy, failing):
    """Otherwise a class, or many images, would be missing without a word."""
    (train / "ant" / "deep").mkdir()
    scan = os.scandir
    path = str(train / failing)
    monkeypatch.setattr(os, "scandir", lambda at: Entries(Entry(e, number) if e.path == path else e for e in scan(at)))
    permission = number in (errno.EACCES, errno.EPERM)
    advice = "grant yourself permission" if permission else "check the disk or the mount, then run the same command"
    why = rf"^data\.dir: '{path}' cannot be read \({os.strerror(number)}\); {advice}"
    for read in (sources.folder, sources.unlabeled_folder):
        with pytest.raises(UserError, match=why):
            read(train, bad_images=policy)
    if failing == "bee":
        with pytest.raises(UserError, match=why):
            layouts.find(train, "auto", "auto", "auto")


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN, errno.EACCES])
@pytest.mark.parametrize("failing", ["", "bee"])
def test_a_folder_that_cannot_be_listed_stops_with_fitting_advice(train, monkeypatch, number, failing):
    scan = os.scandir

    def listed(at):
        if Path(at) == train / failing:
            raise OSError(number, os.strerror(number), str(at))
        return scan(at)

    monkeypatch.setattr(os, "scandir", listed)
    with pytest.raises(UserError, match=rf"cannot be read \({os.strerror(number)}\); ") as error:
        sources.folder(train, bad_images="skip")
    assert ("grant yourself permission" in str(error.value)) == (number == errno.EACCES)
    assert ("check the disk or the mount" in str(error.value)) == (number != errno.EACCES)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTCONN])
def test_a_data_set_on_failing_storage_is_not_called_missing(train, monkeypatch, number):
    look = os.stat

    def failing(path, **options):
        if path == train:
            raise OSError(number, os.strerror(number), str(path))
        return look(path, **options)

    monkeypatch.setattr(os, "stat", failing)
    with pytest.raises(
        UserError, match=rf"Train' cannot be read \({os.strerror(number)}\); check the disk or the mount"
    ):
        sources.folder(train)


@pytest.mark.parametrize("policy", ["stop", "skip"])
@pytest.mark.parametrize("target", ["nowhere", "cat"])  # "cat" is the link itself
def test_a_broken_link_in_place_of_a_class_stops(train, policy, target):
    (train / "cat").symlink_to(target)
    why = f"cat' is a broken link to '{target}'; restore what it names, or remove the link"
    with pytest.raises(UserError, match=why):
        sources.folder(train, bad_images=policy)
    with pytest.raises(UserError, match=why):
        layouts.find(train, "auto", "auto", "auto")


@pytest.mark.parametrize(
    ("one", "two"), [("ant", "Ant"), ("ant", "ant "), ("Größe", "Gro\u0308ße"), ("ant", "a\u200bnt")]
)
def test_classes_that_look_alike_are_refused(train, one, two):
    for name in (one, two):
        shutil.copytree(train / "bee", train / name, dirs_exist_ok=True)
    with pytest.raises(UserError, match="differ only in case or white space; merge them or rename one"):
        sources.folder(train)
    shutil.rmtree(train / two)
    classes = sources.folder(train).classes
    (train / one).rename(train / two)
    with pytest.raises(UserError, match="not a class of the training images .*differs only in case or white space"):
        sources.folder(train, classes=classes)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", " ", "\u200b"])
def test_a_class_needs_a_printable_name(train, name):
    shutil.copytree(train / "bee", train / name)
    with pytest.raises(UserError, match="rename it") as error:
        sources.folder(train)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("name", ["@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information", ".Trash-1000"])
def test_system_folders_are_not_classes(train, name):
    shutil.copytree(train / "bee", train / name)
    shutil.copytree(train / "bee", train / "ant" / name)
    source = sources.folder(train)
    assert source.classes == ("ant", "bee") and len(source) == 4 and source.counts == {"hidden": 2}


def test_changed_bytes_of_the_same_size_are_found_on_resume(train):
    def position():
        source = sources.folder(train)
        return json.loads(json.dumps(loaders.position(3, [source], None, seed=0, batch_size=2)))

    path = train / "ant" / "x.bmp"
    Image.new("RGB", (8, 8)).save(path)
    saved = position()
    loaders.check_position(saved, position())
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"files \(names, labels and bytes of the training images\) was"):
        loaders.check_position(saved, position())


def test_an_image_removed_during_training_is_named(train):
    source = sources.folder(train)
    (train / "bee" / "1.png").unlink()
    with pytest.raises(UserError, match=r"bee/1\.png cannot be read \(No such file"):
        source[3]


def test_an_image_replaced_during_training_is_named(train):
    source = sources.folder(train)
    shutil.copy(train / "ant" / "0.png", train / "bee" / "1.png")
    with pytest.raises(UserError, match=r"image bee/1\.png has changed since the data set was checked"):
        next(loaders.train_batches([source], None, [], batch_size=4, seed=0))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE])
@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_a_read_error_of_the_storage_is_not_a_bad_image(train, monkeypatch, number, policy):
    """It stops with either policy, because a lost mount would otherwise silently shrink the data set."""
    read = Path.read_bytes

    def failing(path: Path) -> bytes:
        if path.name == "1.png" and path.parent.name == "ant":
            raise OSError(number, os.strerror(number), str(path))
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", failing)
    why = rf"^data\.dir: .*ant/1\.png cannot be read \({os.strerror(number)}\); the storage failed"
    for source in (sources.folder, sources.unlabeled_folder):
        with pytest.raises(UserError, match=why) as error:
            source(train, bad_images=policy)
        assert "\n" not in str(error.value)


@pytest.mark.skipif(not os.path.exists("/sys/class/net/lo/speed"), reason="needs a file of Linux that fails when read")
def test_a_real_read_error_stops(train):
    (train / "ant" / "x.png").symlink_to("/sys/class/net/lo/speed")  # a regular file of 4096 bytes; EINVAL
    with pytest.raises(UserError, match=r"ant/x\.png cannot be read \(Invalid argument\); the storage failed"):
        sources.folder(train, bad_images="skip")


def test_assumptions_are_counted(train):
    for i in range(3):
        Image.fromarray(np.full((8, 8), 100 + i, np.uint16)).save(train / "ant" / f"dark{i}.png")
    red, green = (Image.new("RGB", (8, 8), color) for color in ("red", "green"))
    red.save(train / "bee" / "x.gif", save_all=True, append_images=[green])
    source = sources.folder(train)
    dark, first = (
        "16 bits without a value above 4095: 65535 is white, so the image is almost black",
        "an animation: the first frame is used",
    )
    assert source.assumed == {dark: 3, first: 1} and sources.join([source, source]).assumed == {dark: 6, first: 2}
    assert sources.take(source, np.arange(2)).assumed == source.assumed


def test_a_split_without_images_is_named(train):
    (train.parent / "TestA" / "ant").mkdir(parents=True)
    with pytest.raises(UserError, match="no image below '.*TestA'"):
        sources.folder(train.parent, "TestA", classes=("ant", "bee"))


def test_the_best_epoch_needs_validation_images(tiny_config, train):
    for name in ("ant", "bee"):
        (train / name / "1.png").unlink()
    shutil.copytree(train, train.parent / "TestA")
    fields = {"data.source": "folder", "data.dir": str(train.parent), "train.select": "best"}
    config = tiny_config(**fields)
    data = splits.labeled(config.data)
    assert len(data.val_idx) == 0 and len(data.train_idx) == 2
    with pytest.raises(UserError, match=r"train\.select=best needs validation images"):
        finetune.resolve_finetune(config, data, 1)


def test_a_file_is_replaced_only_once_it_is_completely_written(tmp_path):
    file = tmp_path / "new" / "a.txt"
    assert files.write(file, "one\r\nü\ud800") == file and file.read_bytes() == "one\r\nü\\ud800".encode()
    with pytest.raises(KeyError), files.replacing(file) as stream:
        stream.write("half")
        raise KeyError
    with pytest.raises(KeyError), files.replacing_path(file) as partial:
        partial.write_text("half")
        raise KeyError
    assert file.read_bytes().startswith(b"one") and [path.name for path in file.parent.iterdir()] == ["a.txt"]
    with files.replacing_path(file) as partial:
        partial.write_text("whole")
    assert file.read_text() == "whole"
    with pytest.raises(OSError) as error, files.replacing(tmp_path / "nowhere" / "b"):
        pass
    assert error.value.filename == str(tmp_path / "nowhere" / "b")  # not the partial file


def test_pictures_and_arrays_are_read_as_they_were_written(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    files.save_picture(tmp_path / "a.png", Image.fromarray(pixels))
    files.save_picture(tmp_path / "a.JPG", Image.fromarray(pixels), quality=80)
    with Image.open(tmp_path / "a.png") as png, Image.open(tmp_path / "a.JPG") as jpeg:
        np.testing.assert_array_equal(np.asarray(png), pixels)
        assert jpeg.format == "JPEG"
    files.save_arrays(tmp_path / "a.npz", {"x": pixels, "y": np.eye(2)})
    with np.load(tmp_path / "a.npz") as saved:
        np.testing.assert_array_equal(saved["x"], pixels)
        assert saved.files == ["x", "y"]


def packed(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "x")
    return path


@pytest.mark.parametrize("start", [b"Rar!", b"7z\xbc\xaf", b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\0" * 257 + b"ustar"])
def test_archives_are_not_taken_for_folders_or_tables(tmp_path, start):
    (tmp_path / "a").write_bytes(start + b"\0" * 99)
    for path in (tmp_path / "a", packed(tmp_path / "cells.zip", "A/1.png")):
        says = r"[.]\w+ archive; unpack it and name its folder$"
        with pytest.raises(UserError, match=f"^data.dir: '.*' is a {says}"):
            folders.existing(path, "", "data.dir")
        with pytest.raises(UserError, match=f"^data.labels=.* is a {says}"):
            tables.read(path)
        with pytest.raises(UserError, match=f"^--images=.* is a {says}"):
            images.named(str(path))


def test_spreadsheets_and_tables_in_place_of_folders_are_named(tmp_path):
    (tmp_path / "old.xls").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")
    new = packed(tmp_path / "l.xlsx", "docProps/app.xml", "xl/workbook.xml")
    for path in (tmp_path / "old.xls", new, packed(tmp_path / "l.ods", "mimetype", "content.xml")):
        with pytest.raises(UserError, match="is a spreadsheet; save it as CSV in UTF-8"):
            tables.read(path)
    (tmp_path / "l.csv").write_text("path,label\n")
    with pytest.raises(UserError, match="l.csv' is a table; set data.labels to it"):
        folders.existing(tmp_path / "l.csv", "", "data.dir")
    assert not files.other_format(tmp_path / "l.csv") and not files.other_format(tmp_path / "none")
