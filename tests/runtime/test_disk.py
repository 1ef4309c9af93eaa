"""Every storage error is one line: the path, the reason of the system, and what to do."""

import ast
import errno
import os
import re
import resource
from pathlib import Path

import pytest

from mae_jax.rundir import contents
from mae_jax.runtime import disk, files
from mae_jax.runtime.command import call

STORAGE = [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EHOSTDOWN]


def line_of(command, capsys) -> str:
    with pytest.raises(SystemExit) as end:
        call(command)
    printed = capsys.readouterr().err
    assert end.value.code == 2 and printed.count("\n") == 1 and printed.startswith("error: ")
    return printed


@pytest.mark.parametrize("doing", ["opening", "writing", "syncing"])
def test_every_error_number_gives_one_line_with_path_and_reason(tmp_path, monkeypatch, capsys, doing):
    def fail(*args, **options):
        raise OSError(number, os.strerror(number), *([str(args[0])] if doing == "opening" else []))

    if doing == "opening":
        monkeypatch.setattr(files, "open", fail, raising=False)
    else:
        monkeypatch.setattr(os, "fsync" if doing == "syncing" else "replace", fail)
    for number in sorted(errno.errorcode):
        line = line_of(lambda: files.write(tmp_path / "x.json", "{}"), capsys)
        assert f"{tmp_path / 'x.json'}: {os.strerror(number)}" in line
        assert not list(tmp_path.iterdir())


def test_an_error_without_a_number_keeps_its_stack_trace(capsys):
    def command():
        raise OSError("no number")

    with pytest.raises(OSError, match="no number"):
        call(command)


@pytest.mark.parametrize(
    ("number", "advice", "is_about_space"),
    [
        (errno.ENOSPC, "make room, then run the same command again", True),
        (errno.EDQUOT, "make room within your quota", True),
        (errno.EFBIG, "choose a file system that takes larger files", True),
        (errno.EMFILE, "raise that limit (ulimit -n)", False),
        (errno.ENFILE, "raise that limit (ulimit -n)", False),
        (errno.ENAMETOOLONG, "choose a shorter name", False),
        (errno.EROFS, "choose another place, or mount the file system with write access", False),
        (errno.EACCES, "correct its permissions", False),
        (errno.ENOMEM, "free memory", False),
        (errno.EISDIR, "move the folder away", False),
        *((number, "check the disk or the mount", False) for number in STORAGE),
    ],
)
def test_the_advice_fits_the_cause(tmp_path, number, advice, is_about_space):
    line = disk.disk_line(OSError(number, os.strerror(number), str(tmp_path / "x")))
    assert line.startswith(f"{tmp_path / 'x'}: {os.strerror(number)}") and advice in line
    assert ("make room" in line or "bytes free" in line) == is_about_space


def test_a_disk_without_inodes_is_distinguished_from_a_full_one(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result((4096, 4096, 100, 50, 50, 1000, 0, 0, 0, 255)))
    line = disk.disk_line(OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "x")))
    assert "(no free inodes on its disk); remove files that you no longer need, then run" in line


def test_links_and_pipes_are_named(tmp_path, capsys):
    (tmp_path / "link").symlink_to("nowhere")
    line = line_of(lambda: open(tmp_path / "link").close(), capsys)
    assert "link: No such file or directory (it is a broken link); restore what the link names" in line
    (tmp_path / "loop").symlink_to("loop")
    assert "(it is a broken link)" in line_of(lambda: open(tmp_path / "loop").close(), capsys)
    line = line_of(lambda: (tmp_path / "link/run").mkdir(parents=True), capsys)
    assert "link: File exists (it is a broken link); restore what" in line
    line = disk.disk_line(OSError(errno.EEXIST, "File exists", str(tmp_path / "link/run/x")))
    assert f"x: File exists ({tmp_path / 'link'} is a broken link); restore what the link names" in line
    os.mkfifo(tmp_path / "pipe")
    line = line_of(lambda: os.open(tmp_path / "pipe", os.O_WRONLY | os.O_NONBLOCK), capsys)
    assert "pipe: No such device or address (it is a pipe); put a regular file in its place" in line
    line = line_of(lambda: (tmp_path / "pipe/run").mkdir(), capsys)
    pipe = tmp_path / "pipe"
    assert f"run: Not a directory ({pipe} is a pipe, and a folder is needed there); move that away" in line
    (tmp_path / "file").touch()
    line = line_of(lambda: (tmp_path / "file").mkdir(), capsys)
    assert "file: File exists (it is a file, and a folder is needed there); move it away" in line
    line = line_of(lambda: open(tmp_path / ("x" * 300), "w").close(), capsys)
    assert "File name too long; choose a shorter name" in line


def test_too_many_open_files_are_named_with_the_limit(tmp_path, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened = []

    def command():
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
        try:
            for i in range(200):
                opened.append(open(tmp_path / str(i), "w"))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    line = line_of(command, capsys)
    for file in opened:
        file.close()
    assert "Too many open files (at most " in line and "ulimit -n" in line


def test_the_error_number_in_a_tensorstore_message_is_found():
    text = (
        'UNKNOWN: Error writing "a.w/0" in OCDBT database at local file "/runs/a/ocdbt.process_0/": Failed writing: '
        '"/runs/a/d/45dba": Failed to write 75461 bytes to file 4: words in any language '
        f"[os_error_code='{errno.EIO}'] [source locations='x.cc:1']\nmore"
    )
    fault = disk.os_error(ValueError(text))
    assert fault is not None and fault.errno == errno.EIO and fault.filename == "/runs/a/d/45dba"
    assert fault.strerror == os.strerror(errno.EIO)


def test_the_cause_of_an_error_is_found_but_not_invented():
    cause = OSError(errno.ESTALE, os.strerror(errno.ESTALE), "/x")
    try:
        try:
            raise cause
        except OSError:
            raise RuntimeError("could not save")  # noqa: B904
    except RuntimeError as error:
        assert disk.os_error(error) is cause
    assert disk.os_error(ValueError("No space left on device, says a user's own text")) is None
    assert disk.os_error(OSError("no number")) is None and disk.os_error(None) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.ESTALE])
def test_tensorflow_error_texts_are_recognized(number):
    result = type("ResourceExhaustedError", (Exception,), {"__module__": "tensorflow.python.framework.errors_impl"})
    fault = disk.os_error(result(f"/runs/a/events.out.tfevents.1; {os.strerror(number)}"))
    assert fault is not None and fault.errno == number
    assert disk.os_error(result("/runs/a; all is well")) is None


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_a_storage_error_does_not_mean_that_a_path_does_not_exist(tmp_path, monkeypatch, number):
    assert disk.exists(tmp_path) and not disk.exists(tmp_path / "x") and not disk.exists(Path(__file__, "x"))

    def fail(path):
        raise OSError(number, os.strerror(number), path)

    (tmp_path / "link").symlink_to("nowhere")
    assert disk.lexists(tmp_path / "link") and not disk.exists(tmp_path / "link") and not disk.lexists(tmp_path / "x")
    with monkeypatch.context() as patch:
        patch.setattr(os, "stat", fail)
        patch.setattr(os, "lstat", fail)
        for function in (disk.exists, disk.lexists, disk.is_file, disk.is_dir):
            with pytest.raises(OSError, match=os.strerror(number)):
                function(tmp_path)


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (errno.EIO, "a file: Input/output error; check the disk or the mount, then run the same command again"),
        (errno.ENOTCONN, "a file or a connection: Transport endpoint is not connected; check the disk or the mount"),
        (errno.EADDRINUSE, "a connection: Address already in use\n"),
        (errno.ECONNREFUSED, "a connection: Connection refused\n"),
        (errno.ENOSYS, "the system refuses a request of this process: Function not implemented\n"),
        (errno.EPERM, "the system refuses a request of this process: Operation not permitted\n"),
        (errno.ENOMEM, "the system refuses a request of this process: Cannot allocate memory; free memory"),
    ],
)
def test_an_error_without_a_path_blames_the_disk_only_where_it_may_be_at_fault(capsys, number, line):
    def fail():
        raise OSError(number, os.strerror(number))

    assert line_of(fail, capsys).startswith(f"error: {line}")
    at_path = disk.disk_line(OSError(number, os.strerror(number), "/x"))
    assert at_path.startswith(f"/x: {os.strerror(number)}")


def test_failures_of_the_machine_are_told_from_faults_of_a_file():
    memory, storage = MemoryError(), OSError(errno.EIO, os.strerror(errno.EIO))
    assert disk.failure(memory) is memory and disk.failure(storage) is storage
    missing = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    assert [disk.failure(error) for error in (missing, OSError("truncated"), ValueError("damaged"))] == [None] * 3


def test_sizes_are_in_powers_of_1024():
    shown = [disk.readable(size) for size in (0, 1023, 1024, 1536, 1024**2 - 1, 1024**2, 5 * 1024**4, 2048 * 1024**4)]
    assert shown == ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1024.0 KiB", "1.0 MiB", "5.0 TiB", "2048.0 TiB"]


def test_what_is_not_there_is_told_from_what_cannot_be_asked(tmp_path, monkeypatch):
    (tmp_path / "b").mkdir()
    (tmp_path / "a").write_text("")
    assert disk.entries(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert [disk.exists(tmp_path / n) for n in "abc"] == [True, True, False]
    assert [disk.is_file(tmp_path / n) for n in "abc"] == [True, False, False]
    assert [disk.is_dir(tmp_path / n) for n in "abc"] == [False, True, False]
    for nowhere in (tmp_path / "c", tmp_path / "a" / "x", Path("\0"), Path("\ud800")):
        assert not disk.exists(nowhere) and not disk.is_file(nowhere) and not disk.is_dir(nowhere)
    assert disk.entries(tmp_path / "c") == disk.entries(tmp_path / "a") == []
    for number in (errno.EACCES, errno.EIO, errno.ESTALE, errno.ELOOP):

        def fail(path, *args, number=number, **options):
            raise OSError(number, os.strerror(number), str(path))

        for name, ask in [("scandir", disk.entries), *(("stat", f) for f in (disk.exists, disk.is_file, disk.is_dir))]:
            with monkeypatch.context() as patched:
                patched.setattr(os, name, fail)
                with pytest.raises(OSError, match=os.strerror(number)):
                    ask(tmp_path)


SWALLOW = {"exists", "is_file", "is_dir", "isfile", "isdir", "lexists"}


def bare_tests_of_paths(tree: ast.AST) -> list[int]:
    """Lines that ask a path itself whether it exists, which is false where the storage fails."""
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in SWALLOW:
            of = ast.unparse(node.func.value)
            ours = of in ("disk", "entry", "member")  # entries of folders raise, members of archives know
            if not ours and (of == "os.path" or not node.args):
                lines.add(node.lineno)
    return sorted(lines)


def test_a_bare_test_of_a_path_is_told_from_the_helper():
    code = "\nif Path(x).is_dir():\n    os.path.exists(y)\nif disk.is_dir(x) or is_file(y) or entry.is_dir():\n    pass"
    assert bare_tests_of_paths(ast.parse(code)) == [2, 3]


def test_no_module_takes_a_storage_fault_for_a_missing_file():
    package = Path(disk.__file__).parents[1]
    lines = {
        str(path.relative_to(package)): bare_tests_of_paths(ast.parse(path.read_text()))
        for path in package.rglob("*.py")
        if path != Path(disk.__file__)  # it gives advice on a path that has just failed
    }
    assert {name: numbers for name, numbers in lines.items() if numbers} == {}


OF_ARCHIVES = re.compile(r"(Image|archive|opened)\.open\(")


def without_a_name(tree: ast.AST) -> list[int]:
    """Lines whose errors of reading or writing have no path: `path.read_text()`, or `with open(path)` alone."""
    lines = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            methods = {"read_text", "read_bytes", "write_text", "write_bytes"}
            if node.func.attr in methods and ast.unparse(node.func.value) != "disk":
                lines.add(node.lineno)
        if isinstance(node, ast.With):
            calls = [ast.unparse(item.context_expr) for item in node.items]
            opened = [call for call in calls if re.match(r"open\(|.*\.open\(", call) and not OF_ARCHIVES.match(call)]
            if opened and not any("naming(" in call for call in calls):
                lines.add(node.lineno)
    return sorted(lines)


def test_a_file_that_is_read_or_written_without_its_name_is_found():
    code = "Path(x).read_text()\ndisk.read_text(x)\nwith open(x): y\nwith naming(x), x.open(): y\nwith x.open(): y"
    assert without_a_name(ast.parse(code)) == [1, 3, 5]


def test_every_module_names_the_files_that_it_reads_and_writes():
    package = Path(disk.__file__).parents[1]
    of_the_system = {"runtime/limits.py", "runtime/hardware.py"}  # files of /proc and /sys
    own_message = {"runtime/disk.py", "runtime/files.py", "runtime/command.py", "data/checking.py"}
    lines = {
        str(path.relative_to(package)): without_a_name(ast.parse(path.read_text())) for path in package.rglob("*.py")
    }
    assert {name for name, numbers in lines.items() if numbers} == of_the_system | own_message


def test_an_error_of_reading_names_the_file(tmp_path, capsys):
    file = tmp_path / "config.json"
    file.symlink_to("/proc/self/mem")  # a regular file that can be opened and not read
    for read in (disk.read_text, disk.read_bytes, contents.read_json, files.load_arrays):
        assert line_of(lambda read=read: read(file), capsys).startswith(f"error: {file}: Input/output error; check the")
    with pytest.raises(OSError) as unnumbered, disk.naming(file):
        raise OSError("not of the system")
    assert str(unnumbered.value) == "not of the system"
