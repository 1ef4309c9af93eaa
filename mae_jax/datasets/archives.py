"""Unpacks untrusted .zip and .rar archives: no files outside the folder, no links, and a limit on the size."""

from __future__ import annotations

import contextlib
import errno
import itertools
import lzma
import os
import re
import shutil
import stat
import subprocess
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

import rarfile

from mae_jax.runtime.disk import is_dir, is_file
from mae_jax.runtime.errors import UserError

SUFFIXES = (".zip", ".rar")
MAX_RATIO = 50  # unpacked over packed bytes; images hardly compress, so a larger ratio is an attack
MAX_BYTES = 500e9  # of one archive, unpacked
MAX_FILES = 1_000_000  # of one archive; empty files add no bytes to the count
BLOCK = 1 << 20
_BROKEN = (zipfile.BadZipFile, rarfile.Error, zlib.error, lzma.LZMAError)  # bz2 raises an OSError without an errno
_BROKEN += (EOFError, RuntimeError, NotImplementedError, ValueError)
_NO_PLACE = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG)
PROGRAMS = (  # for compressed .rar files; each unpacks into its working directory
    ("unrar", "x", "-p-", "-o-", "-inul", "-y", "--"),
    ("7zz", "x", "-p", "-y", "-bd", "--"),
    ("7z", "x", "-p", "-y", "-bd", "--"),
    ("bsdtar", "-x", "-f"),
    ("unar", "-quiet", "-no-directory", "-password", ""),
)


def gather(source: Path, into: Path, say: Callable[[str], None]) -> Path:
    """Unpacks the archives in `source`; returns a folder with everything, or `source` if it has no archive.

    `Train.rar` becomes Train/, whether or not the archive contains a folder of that name. An archive next to a
    folder of its name counts as unpacked. Raises UserError for an archive that cannot be opened or is hostile.
    """
    entries = sorted(path for path in source.iterdir() if not path.name.startswith("."))
    folders = {path.name for path in entries if is_dir(path)}
    archives = [path for path in entries if path.suffix.lower() in SUFFIXES and is_file(path)]
    archives = [path for path in archives if path.stem not in folders]
    if not archives:
        return source
    for one, two in itertools.combinations(archives, 2):
        if one.stem == two.stem:
            raise UserError(f"{one} and {two} would both become {one.stem}/; keep one of them")
    into.mkdir(parents=True)
    for path in entries:
        if path.suffix.lower() not in SUFFIXES:
            (into / path.name).symlink_to(path.resolve())
    for archive in archives:
        say(f"unpacking {archive}")
        scratch = into.with_name(into.name + "-unpacking")
        unpack(archive, scratch)
        inside = [path for path in scratch.iterdir() if path.name != "__MACOSX"]
        nested = len(inside) == 1 and is_dir(inside[0]) and inside[0].name == archive.stem
        os.replace(inside[0] if nested else scratch, into / archive.stem)
        shutil.rmtree(scratch, ignore_errors=True)
    return into


def unpack(archive: Path, into: Path) -> None:
    """Unpacks into the new folder `into`. Raises UserError if it cannot, and then leaves nothing there."""
    into.mkdir()
    try:
        limit = min(MAX_BYTES, MAX_RATIO * archive.stat().st_size)
        with _opened(archive) as opened:
            if len(opened.infolist()) > MAX_FILES:
                raise UserError(f"{archive} has more than {MAX_FILES} files; it is not unpacked")
            for member in opened.infolist():
                _refuse_hostile(archive, member)
            members = [member for member in opened.infolist() if not member.is_dir()]
            if not members:
                raise UserError(f"{archive} has no files; download it again, or unpack it by hand")
            if _by_hand(opened, members):
                _copy(archive, opened, members, into, limit)
            else:
                _run(archive, into, limit)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[zipfile.ZipFile | rarfile.RarFile]:
    try:
        rar = archive.suffix.lower() == ".rar"
        # Without "strict", rarfile silently skips what follows a damaged header.
        with rarfile.RarFile(archive, errors="strict") if rar else zipfile.ZipFile(archive) as opened:
            if isinstance(opened, rarfile.RarFile):
                locked = opened.needs_password()
            else:
                locked = any(member.flag_bits & 1 for member in opened.infolist())
            if locked:
                raise UserError(f"{archive} needs a password; unpack it by hand to {archive.with_suffix('')}")
            yield opened
    except (*_BROKEN, OSError) as error:
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno is not None):
            raise
        raise UserError(f"{archive} cannot be unpacked ({error}); download it again, or unpack it by hand") from None


def _refuse_hostile(archive: Path, member: zipfile.ZipInfo | rarfile.RarInfo) -> None:
    """Raises UserError for names that lead out of the folder, and for links and devices."""
    name = member.filename or ""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or re.search(r"[\\\0]|^[A-Za-z]:", name):
        raise UserError(f"{archive} has a member {name!r}, which leads out of its folder; it is not unpacked")
    if member.is_dir():
        return
    if isinstance(member, rarfile.RarInfo):
        link = not member.is_file()
    else:
        mode = member.external_attr >> 16
        link = stat.S_IFMT(mode) not in (0, stat.S_IFREG)
    if link:
        raise UserError(f"{archive} has a member {name!r}, which is a link or a device; it is not unpacked")


def _by_hand(opened: zipfile.ZipFile | rarfile.RarFile, members: Sequence) -> bool:
    """Whether Python can unpack the members: those of .zip files, and of .rar files without compression."""
    return isinstance(opened, zipfile.ZipFile) or all(m.compress_type == rarfile.RAR_M0 for m in members)


def _copy(archive: Path, opened: zipfile.ZipFile | rarfile.RarFile, members: Sequence, into: Path, limit: float):
    """Unpacks in Python and counts the bytes written, because sizes in an archive's header are not trusted."""
    written = 0
    for member in members:
        place = into / PurePosixPath(member.filename or "")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            file = open(place, "xb")  # never overwrites a member, even on a disk that does not distinguish A from a
        except OSError as error:
            if error.errno not in _NO_PLACE:
                raise
            why = error.strerror if error.errno == errno.ENAMETOOLONG else "another member has this path"
            raise UserError(
                f"{archive} has a member {member.filename!r} that cannot be written ({why}); it is not unpacked"
            ) from None
        with file, opened.open(member) as packed:
            while block := packed.read(BLOCK):
                written += len(block)
                if written > limit:
                    raise _too_much(archive, limit)
                file.write(block)


def _run(archive: Path, into: Path, limit: float) -> None:
    """Unpacks with the first program that can, and writes at most `limit` bytes."""
    failed = []
    for command in PROGRAMS:
        if shutil.which(command[0]):
            code = _watch([*command, str(archive.resolve())], archive, into, limit)
            if code == 0:
                break
            failed.append(f"{command[0]} (exit code {code})")  # some are built without .rar
            shutil.rmtree(into)
            into.mkdir()
    else:
        names = ", ".join(dict.fromkeys(command[0] for command in PROGRAMS))
        why = f"{', '.join(failed)} cannot unpack it" if failed else f"no program for .rar is installed ({names})"
        raise UserError(
            f"{archive}: {why}; install one that can, or unpack it by hand to {archive.with_suffix('')}, and rerun the "
            f"same command"
        )
    for path in into.rglob("*"):
        status = path.lstat()
        if not (stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)):
            raise UserError(f"{archive} has a member {path.name!r}, which is a link or a device; it is not unpacked")


def _watch(command: Sequence[str], archive: Path, into: Path, limit: float) -> int:
    """Runs a program until it ends or has written more than the limit; returns its exit code."""
    blocks = int(limit) // 512 + 1  # for a single file, which is over the limit if it reaches this size
    process = subprocess.Popen(
        ["sh", "-c", 'ulimit -f "$0" && exec "$@"', str(blocks), *command],
        cwd=into,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while process.poll() is None:
            time.sleep(0.1)
            if _size(into) > limit:
                raise _too_much(archive, limit)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if _size(into) > limit:
        raise _too_much(archive, limit)
    return process.returncode


def _size(folder: Path) -> int:
    total = 0
    for count, path in enumerate(folder.rglob("*")):
        if count > MAX_FILES:
            return int(MAX_BYTES) + 1
        with contextlib.suppress(OSError):  # the program may rename it at this moment
            total += path.lstat().st_size
    return total


def _too_much(archive: Path, limit: float) -> UserError:
    return UserError(
        f"{archive} unpacks to more than {limit / 1e6:.0f} MB, {MAX_RATIO} times its own size; it is not unpacked. If "
        f"you trust it, unpack it by hand to {archive.with_suffix('')}"
    )
