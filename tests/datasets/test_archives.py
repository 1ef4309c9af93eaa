"""Synthetic archives, good and hostile: zip, and rar without compression."""

import binascii
import os
import shutil
import struct
import warnings
import zipfile
from pathlib import Path

import pytest

from mae_jax.datasets import archives
from mae_jax.datasets import prepare as preparing
from mae_jax.runtime.errors import UserError


def rar(path: Path, files: dict[str, bytes], *, method: int = 0x30, mode: int = 0o100644) -> Path:
    """A RAR 3 archive; only `method` 0x30 (stored) is applied to the bytes."""

    def block(kind: int, flags: int, rest: bytes, data: bytes = b"") -> bytes:
        body = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
        return struct.pack("<H", binascii.crc32(body) & 0xFFFF) + body + data

    out = b"Rar!\x1a\x07\x00" + block(0x73, 0, b"\0" * 6)
    for name, data in files.items():
        encoded = name.encode()
        rest = struct.pack(
            "<LLBLLBBHL", len(data), len(data), 3, binascii.crc32(data), 0x5A21_0000, 29, method, len(encoded), mode
        )
        out += block(0x74, 0x8000, rest + encoded, data)
    path.write_bytes(out + block(0x7B, 0x4000, b""))
    return path


def zipped(path: Path, files: dict[str, bytes], mode: int = 0o100644) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in files.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            member.compress_type = zipfile.ZIP_DEFLATED
            file.writestr(member, data)
    return path


OUT = ["../out.jpg", "a/../../out.jpg", "/out.jpg", "C:/out.jpg"]


@pytest.mark.parametrize(
    ("make", "name"),
    [(make, name) for make in (zipped, rar) for name in OUT]
    + [(zipped, "..\\out.jpg"), (zipped, "a\\..\\..\\out.jpg")],
)
def test_names_that_lead_out_are_refused(tmp_path, make, name):
    archive = make(tmp_path / ("x.zip" if make is zipped else "x.rar"), {"good.jpg": b"1", name: b"2"})
    with pytest.raises(UserError, match="leads out of its folder"):
        archives.unpack(archive, tmp_path / "in")
    assert sorted(p.name for p in tmp_path.iterdir()) == [archive.name] and not Path("/out.jpg").exists()


@pytest.mark.parametrize("make", [zipped, rar])
def test_links_are_refused(tmp_path, make):
    archive = make(tmp_path / f"x.{'zip' if make is zipped else 'rar'}", {"link.jpg": b"/etc/passwd"}, mode=0o120777)
    with pytest.raises(UserError, match="is a link or a device"):
        archives.unpack(archive, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_too_many_bytes_stop(tmp_path):
    archive = zipped(tmp_path / "bomb.zip", {f"{i}.jpg": b"\0" * 3_000_000 for i in range(4)})
    with pytest.raises(UserError, match="50 times its own size"):
        archives.unpack(archive, tmp_path / "in")
    assert not (tmp_path / "in").exists()
    with zipfile.ZipFile(archive) as file:  # the size in its header is not trusted
        member = file.infolist()[0]
    data = bytearray(archive.read_bytes())
    for at in range(len(data) - 4):
        if data[at : at + 4] == struct.pack("<L", member.file_size):
            data[at : at + 4] = struct.pack("<L", 10)
    archive.write_bytes(data)
    with pytest.raises(UserError, match="Bad CRC-32"):  # no more is read than it announces, so the checksum is wrong
        archives.unpack(archive, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_the_limit_applies_to_all_members_together(tmp_path):
    """A gigabyte in a megabyte, of members each below the limit; unpacking stops when the limit is reached."""
    archive = zipped(tmp_path / "bomb.zip", {f"{i}.jpg": bytes(25 << 20) for i in range(41)})
    assert archive.stat().st_size < 1.1 * 2**20
    with pytest.raises(UserError, match="50 times its own size"):
        archives.unpack(archive, tmp_path / "in")
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize("make", [zipped, rar])
def test_broken_archives_are_named(tmp_path, make):
    archive = make(tmp_path / f"x.{'zip' if make is zipped else 'rar'}", {"a.jpg": os.urandom(9000)})
    data = bytearray(archive.read_bytes())
    data[4000] ^= 1
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"x\....( cannot be unpacked|: )"):
        archives.unpack(archive, tmp_path / "in")
    archive.write_bytes(b"<html>404</html>")
    with pytest.raises(UserError, match="cannot be unpacked"):
        archives.unpack(archive, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_without_a_program_one_line_tells_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    archive = rar(tmp_path / "Train.rar", {"Train/a.jpg": b"1" * 100}, method=0x33)
    with pytest.raises(UserError, match="^[^\n]*$") as error:
        archives.unpack(archive, tmp_path / "in")
    assert f"unpack it by hand to {tmp_path / 'Train'}, and rerun the same command" in str(error.value)


def test_a_program_is_watched(tmp_path, monkeypatch):
    """A program that writes links, or endlessly, simulates one that an archive has exploited."""
    archive = rar(tmp_path / "Train.rar", {"a.jpg": b"1" * 100}, method=0x33)
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setattr(archives, "PROGRAMS", archives.PROGRAMS[:1])

    def program(script: str) -> None:
        (tools / "unrar").write_text(f"#!/bin/sh\n{script}\n")
        (tools / "unrar").chmod(0o755)

    for script, message in (
        ("ln -s /etc/passwd a.jpg", "is a link or a device"),
        ("for i in 1 2 3 4 5 6; do head -c 4000 /dev/zero > $i; done", "times its own size"),
        ("while true; do head -c 100 /dev/zero >> $$; sleep 0.01; done", "(times its own size|cannot unpack it)"),
        ("exit 3", r"unrar \(exit code 3\) cannot unpack it"),
    ):
        program(script)
        with pytest.raises(UserError, match=message):
            archives.unpack(archive, tmp_path / "in")
        assert not (tmp_path / "in").exists()
    program("mkdir Train; echo image > Train/a.jpg")
    archives.unpack(archive, tmp_path / "in")
    assert (tmp_path / "in" / "Train" / "a.jpg").read_text() == "image\n"


@pytest.mark.parametrize("folder", [True, False])
def test_published_archives_are_prepared(trees, tmp_path, folder):
    """Train.rar and TestA.zip next to an unpacked TestB."""
    source = tmp_path / "source"
    for split, make in (("Train", rar), ("TestA", zipped)):
        top = trees / "raabin_wbc" / (split if not folder else "")
        paths = [path for path in (trees / "raabin_wbc" / split).rglob("*.jpg")]
        source.mkdir(exist_ok=True)
        make(
            source / f"{split}.{'rar' if make is rar else 'zip'}",
            {path.relative_to(top).as_posix(): path.read_bytes() for path in paths},
        )
    shutil.copytree(trees / "raabin_wbc" / "TestB", source / "TestB")
    lines: list[str] = []
    preparing.prepare("raabin_wbc", source, tmp_path / "data", lines.append)
    result = "\n".join(lines)
    assert (
        f"unpacking {source / 'Train.rar'}" in result
        and "left out, not an image: 1" in result
        and "left out, damaged image: 1" in result
    )
    for split, n in (("Train", 20), ("TestA", 20), ("TestB", 8)):
        assert f"  {n}" in next(line for line in lines if line.strip().startswith(split))
    assert not list((tmp_path / "data" / ".preparing").glob("*/"))


def test_folders_in_an_archive_are_not_taken_for_links(tmp_path):
    archive = zipped(tmp_path / "x.zip", {"Train/a.jpg": b"1"})
    with zipfile.ZipFile(archive, "a") as file:
        folder = zipfile.ZipInfo("Train/empty/")
        folder.external_attr = 0o040755 << 16
        file.writestr(folder, b"")
    archives.unpack(archive, tmp_path / "in")
    assert [p.name for p in (tmp_path / "in").rglob("*.jpg")] == ["a.jpg"]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a/x.jpg", "a/x.jpg"], "another member has this path"),
        (["a", "a/x.jpg"], "another member has this path"),
        (["a/x.jpg", "a"], "another member has this path"),
        (["n" * 300], "File name too long"),
        (["d/" * 3000 + "x"], "File name too long"),
        (["../up/"], "leads out of its folder"),
        (["a.jpg", "/"], "leads out of its folder"),
        (["a.jpg", ""], "leads out of its folder"),
        (["Train/"], "has no files"),
    ],
)
def test_members_that_share_a_path_are_refused(tmp_path, names, message):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zipfile warns about repeated names
        for name in names:
            file.writestr(zipfile.ZipInfo(name), b"" if name.endswith("/") else b"1")
    with pytest.raises(UserError, match=message):
        archives.unpack(archive, tmp_path / "in")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.zip"]


def test_files_without_bytes_are_counted_too(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_FILES", 99)
    archive = zipped(tmp_path / "x.zip", {f"{i}.jpg": b"" for i in range(100)})
    with pytest.raises(UserError, match="has more than 99 files"):
        archives.unpack(archive, tmp_path / "in")
    assert not (tmp_path / "in").exists()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_bytes_of_every_method_are_named(tmp_path, method):
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w", method) as file:
        file.writestr("a.jpg", os.urandom(3000))
    data = bytearray(archive.read_bytes())
    data[60:70] = bytes(10)
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.zip cannot be unpacked"):
        archives.unpack(archive, tmp_path / "in")
    assert not (tmp_path / "in").exists()


def test_a_locked_archive_is_named(tmp_path):
    archive = zipped(tmp_path / "x.zip", {"a.jpg": b"1"})
    data = bytearray(archive.read_bytes())
    data[6] |= 1
    data[data.rfind(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"x\.zip needs a password; unpack it by hand"):
        archives.unpack(archive, tmp_path / "in")


def test_a_rar_that_is_cut_in_a_header_is_not_taken_for_a_shorter_one(tmp_path):
    archive = rar(tmp_path / "x.rar", {f"{i}.jpg": os.urandom(900) for i in range(3)})
    data = archive.read_bytes()
    for cut in (30, data.index(b"2.jpg") - 9):
        archive.write_bytes(data[:cut])
        with pytest.raises(UserError, match=r"x\.rar cannot be unpacked"):
            archives.unpack(archive, tmp_path / "in")
        assert not (tmp_path / "in").exists()


def test_two_archives_of_one_folder_are_refused(tmp_path):
    (tmp_path / "source").mkdir()
    zipped(tmp_path / "source" / "Train.zip", {"a.jpg": b"1"})
    rar(tmp_path / "source" / "Train.rar", {"a.jpg": b"1"})
    with pytest.raises(UserError, match=r"Train\.rar and .*Train\.zip would both become Train/"):
        archives.gather(tmp_path / "source", tmp_path / "files", print)
    assert not (tmp_path / "files").exists()
