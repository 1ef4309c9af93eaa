"""One process at a time uses a run directory."""

import errno
import fcntl
import os
import threading

import pytest

from mae_jax.rundir import lock
from mae_jax.runtime.errors import UserError


def test_a_second_user_is_refused_with_the_name_of_the_first_and_later_admitted(tmp_path):
    place = tmp_path / "new" / "run"
    me = f"{os.getpid()} on {os.uname().nodename}"
    with lock.held(place):
        assert (place / ".lock").read_text() == me
        with (
            pytest.raises(UserError, match=f"workdir {place} is in use by process {me}; wait for it"),
            lock.held(place),
        ):
            pass
        with lock.held(place, leader=False):  # of several processes only the leader locks
            pass
    assert (place / ".lock").read_text() == ""
    with lock.held(place):
        pass


def test_a_directory_is_held_only_inside_the_context(tmp_path, monkeypatch):
    assert not lock.is_held(tmp_path)  # without a lock file
    with lock.held(tmp_path):
        assert lock.is_held(tmp_path)
    assert not lock.is_held(tmp_path)
    monkeypatch.setattr(fcntl, "flock", failing(errno.ENOLCK))
    assert not lock.is_held(tmp_path)
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    with pytest.raises(OSError, match="error"):
        lock.is_held(tmp_path)


def test_what_an_earlier_process_left_is_replaced(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\xff 123456 on another machine, and much more than any name")
    with lock.held(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()} on {os.uname().nodename}"


def test_the_lock_is_released_after_an_error(tmp_path):
    with pytest.raises(KeyError), lock.held(tmp_path):
        raise KeyError
    with lock.held(tmp_path):
        pass


def test_a_file_in_place_of_the_directory_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match=f"{tmp_path / 'run'}"), lock.held(tmp_path / "run"):
        pass


@pytest.mark.parametrize("number", sorted(lock.NO_LOCKS))
def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with lock.held(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(str(os.getpid()))


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.EBADF])
def test_an_error_of_the_storage_is_not_taken_for_one_without_locks(tmp_path, monkeypatch, number):
    monkeypatch.setattr(fcntl, "flock", failing(number))
    with pytest.raises(UserError, match=f"workdir {tmp_path} cannot be written: {os.strerror(number)}"):
        with lock.held(tmp_path):
            pass


def failing(number: int):
    def fail(*args):
        raise OSError(number, os.strerror(number))

    return fail


def test_only_processes_that_live_hold_a_lock():
    assert lock._lives(str(os.getpid())) and lock._lives("1")  # of another user, perhaps
    assert not lock._lives("9" * 30)  # more than a process number can be
    assert not lock._lives("nonsense") and not lock._lives(str(2**22 + 1))  # above the largest process number


def test_a_run_directory_that_cannot_be_is_refused_before_it_is_made(tmp_path):
    (tmp_path / "file").write_text("")
    lock.refuse_unusable(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="file cannot be written: File exists"):
        lock.refuse_unusable(tmp_path / "file")
    with pytest.raises(UserError, match="run cannot be written: Not a directory"):
        lock.refuse_unusable(tmp_path / "file" / "run")


def test_a_look_at_the_lock_does_not_refuse_a_start(tmp_path):
    (tmp_path / ".lock").write_text("")
    with open(tmp_path / ".lock", "rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.03, fcntl.flock, (looking, fcntl.LOCK_UN)).start()
        with lock.held(tmp_path):
            assert lock.is_held(tmp_path)


@pytest.mark.parametrize(("left", "waits"), [("{dead} on {here}", True), ("", True), ("{dead} on another", False)])
def test_the_name_of_an_earlier_process_of_this_machine_is_not_taken_for_the_holder(tmp_path, monkeypatch, left, waits):
    here = os.uname().nodename
    left = left.format(dead=2**22 + 1, here=here)
    file = tmp_path / ".lock"
    file.write_text(left)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: file.write_text(f"{os.getpid()} on {here}"))
    with open(file) as opened:
        assert lock._holder(opened) == (f"{os.getpid()} on {here}" if waits else left)
