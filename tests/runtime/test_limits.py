"""Faults around a command: closed or full output, little memory, no threads, a script without a main guard."""

import contextlib
import errno
import fcntl
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_jax.rundir import lock
from mae_jax.runtime import limits
from mae_jax.runtime.command import call
from mae_jax.runtime.errors import EXIT_STOPPED, UserError

ROOT = Path(__file__).parents[2]
STOPPED = """
import os, signal, sys, time
from mae_jax.runtime import signals
from mae_jax.runtime.command import call_computing

def work():
    if "print" in sys.argv:
        print("working", flush=True)
    with signals.collect_signals(), signals.interruptible("nothing was changed"):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

call_computing(work)
"""


def shell(line: str, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess:
    """Runs a line of bash, in which "$@" is Python with these arguments."""
    command = ["bash", "-c", line, "bash", sys.executable, *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "> /dev/full", "> /dev/full 2>&1"])
def test_a_signal_keeps_its_exit_code_if_nothing_can_be_printed(environment, streams):
    done = shell(f'"$@" {streams}', environment, "-c", STOPPED)
    assert done.returncode == EXIT_STOPPED and "Traceback" not in done.stderr


@pytest.mark.parametrize("streams", ["2>&-", "2> /dev/full", "> /dev/full 2>&1"])
def test_a_mistake_keeps_its_exit_code_if_nothing_can_be_printed(environment, streams):
    assert shell(f'"$@" {streams}', environment, "-m", "mae_jax", "check", "/nowhere").returncode == 2


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments", [("-m", "mae_jax", "version"), ("-m", "mae_jax", "runs", "--help"), ("-c", STOPPED, "print")]
)
def test_output_to_a_full_device_is_one_line(environment, arguments, unbuffered):
    environment = environment | {"PYTHONUNBUFFERED": unbuffered}
    done = shell('"$@" > /dev/full', environment, *arguments)
    line = "error: the output of this command cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (2, line)


def test_a_file_never_takes_the_place_of_a_closed_stream(environment, tmp_path):
    code = (
        "import sys; from mae_jax.runtime.command import call\n"
        "def command():\n    with open(sys.argv[1], 'w') as file:\n        print(file.fileno(), file=file)\n"
        "call(command)"
    )
    assert shell('"$@" <&- >&- 2>&-', environment, "-c", code, str(tmp_path / "x")).returncode == 0
    assert int((tmp_path / "x").read_text()) > 2


@pytest.mark.parametrize("module", ["mae_jax", "mae_jax.main"])
@pytest.mark.parametrize(
    ("name", "reason"), [("missing", errno.ENOENT), ("/", errno.EISDIR), ("x" * 300, errno.ENAMETOOLONG)]
)
def test_a_flagfile_that_cannot_be_read_is_one_line(environment, module, name, reason):
    arguments = ["run"] if module == "mae_jax" else ["--config=configs/demo.py"]
    done = shell('"$@"', environment, "-m", module, *arguments, f"--flagfile={name}")
    assert (done.returncode, done.stdout) == (2, "")
    why = os.strerror(reason)
    assert done.stderr == f"error: --flagfile={name} cannot be read: {why}; name a file of arguments\n"


@pytest.mark.parametrize("module", ["mae_jax", "mae_jax.main"])
def test_a_flagfile_that_is_not_text_is_one_line(environment, tmp_path, module):
    (tmp_path / "flags").write_bytes(b"--workdir=\xff\xfe")
    arguments = ["run"] if module == "mae_jax" else ["--config=configs/demo.py"]
    done = shell('"$@"', environment, "-m", module, *arguments, f"--flagfile={tmp_path / 'flags'}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: --flagfile={tmp_path / 'flags'} is not UTF-8 text ('utf-8' codec can't decode byte 0xff in position "
        "10: invalid start byte); save it as UTF-8\n"
    )


def test_little_memory_is_refused_before_jax_starts(environment, tmp_path):
    run = ("-m", "mae_jax.main", "--config=configs/demo.py:smoke=true", f"--workdir={tmp_path / 'run'}")
    done = shell('ulimit -v 1000000; "$@"', environment, *run)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "error: this process may use 976.6 MiB of address space (ulimit -v), but a run needs at least 2.0 GiB; raise "
        "that limit\n"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("limit", [5, 40])
def test_few_threads_are_refused_before_jax_starts(environment, limit):
    drop = "setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=+dac_override --ambient-caps=+dac_override"
    if os.getuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root has no such limit, and setpriv is not here")
    code = (
        "from mae_jax.runtime import limits; from mae_jax.runtime.command import call; call(limits.refuse_few_threads)"
    )
    as_user = drop if os.getuid() == 0 else ""
    done = shell(f'ulimit -u {limit}; {as_user} "$@"', environment, "-c", code)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"error: you may have {limit} processes and threads (ulimit -u), and other programs")


@pytest.mark.parametrize(("cores", "others", "limit", "refused"), [
    (2, 0, 56, False), (2, 0, 55, True), (2, 10, 66, False), (2, 10, 65, True), (16, 0, 111, True), (16, 0, 112, False),
    (2, 1000, resource.RLIM_INFINITY, False),
])  # fmt: skip
def test_the_threads_of_a_run_grow_with_the_cores(monkeypatch, cores, others, limit, refused):
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: (limit, limit))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)))
    monkeypatch.setattr(limits, "_threads_of_user", lambda: others)
    monkeypatch.setattr(limits, "_is_exempt", lambda: False)
    with pytest.raises(UserError, match=f"a run needs {48 + 4 * cores} on") if refused else contextlib.nullcontext():
        limits.refuse_few_threads()
    monkeypatch.setattr(limits, "_is_exempt", lambda: True)
    limits.refuse_few_threads()


def test_the_other_threads_of_the_user_are_counted():
    before = limits._threads_of_user()
    code = "import threading; [threading.Thread(target=input).start() for _ in range(50)]; print(flush=True)"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        process.stdout.readline()
        assert limits._threads_of_user() - before > 25  # other processes of this user come and go
        process.kill()


def test_a_thread_that_cannot_start_names_the_limits(capsys, monkeypatch):
    limits = {resource.RLIMIT_NPROC: 40, resource.RLIMIT_AS: 8 << 30}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (limits[which], limits[which]))

    def start(*args):
        raise RuntimeError("can't start new thread")  # of CPython, when the system refuses

    monkeypatch.setattr(threading, "_start_new_thread", start)
    with pytest.raises(SystemExit) as end:
        call(threading.Thread(target=print).start)
    line = capsys.readouterr().err
    assert end.value.code == 2 and line.count("\n") == 1
    assert "cannot start another thread or process (ulimit -u is 40, ulimit -v is 8388608)" in line


def test_a_process_that_cannot_start_names_the_limits(capsys, monkeypatch):
    given = {resource.RLIMIT_NPROC: 40, resource.RLIMIT_AS: resource.RLIM_INFINITY}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (given[which], given[which]))

    def fork(*args):
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(subprocess, "_fork_exec", fork)
    with pytest.raises(SystemExit) as end:
        call(subprocess.run, ["true"])
    line = capsys.readouterr().err
    assert end.value.code == 2 and line.count("\n") == 1
    assert line.startswith("error: this process cannot start another thread or process (ulimit -u is 40); ")


def test_a_lock_with_bytes_that_are_not_utf8_is_named(tmp_path):
    (tmp_path / ".lock").write_bytes(b"\xff\xfe 12")
    with open(tmp_path / ".lock") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with (
            pytest.raises(UserError, match=r"is in use by process \\xff\\xfe 12; wait for it"),
            lock.held(tmp_path),
        ):
            pass
    with lock.held(tmp_path):
        assert (tmp_path / ".lock").read_text().startswith(f"{os.getpid()} on ")


SCRIPT = """
import sys
from mae_jax import config, main
c = config.load("configs/finetune.py", "data=synthetic,frac=0.5")
with c.unlocked():
    c.data.update(workers=2, synthetic_train=40, synthetic_test=13, synthetic_size=32)
    c.model.update(size="custom", image_size=16, patch_size=8, width=16, depth=1, heads=2)
    c.train.update(batch_size=6, steps=4)
main.run(c, sys.argv[1])
"""


@pytest.mark.slow
def test_a_script_without_a_main_guard_is_told_so(environment, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = shell('"$@"', environment | {"PYTHONPATH": str(ROOT)}, str(tmp_path / "script.py"), str(tmp_path / "run"))
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "error: data.workers: this script starts the run again in each process that reads images; put the call under "
        '`if __name__ == "__main__":`, or set data.workers=0\n'
    )


@pytest.mark.slow
def test_a_script_from_standard_input_needs_no_guard_and_its_mistakes_are_one_line(environment, tmp_path):
    """As in `python - <<EOF`: there is no file that the processes could import."""
    given = {**environment, "PYTHONPATH": str(ROOT), "script": SCRIPT}
    done = shell(f'"$@" - {tmp_path / "run"} <<< "$script"', given)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "results.json").is_file()
    given["script"] = SCRIPT.replace("batch_size=6", "batch_size=6, epochs=-1")
    done = shell(f'"$@" - {tmp_path / "other"} <<< "$script"', given)
    assert done.returncode == 2 and done.stderr.startswith("error: train.epochs=-1.0 "), done.stderr
    assert done.stderr.count("\n") == 1


PREPARE = """
import sys
from mae_jax.datasets.prepare import prepare
from mae_jax.datasets.tiles.slides import Cutting
cutting = Cutting(tile=32, mpp=1.0, assume_mpp=1.0, tissue=0.0, workers=2)
prepare("tiles:mine", sys.argv[1], sys.argv[2], cutting=cutting)
"""


@pytest.mark.slow
def test_a_script_that_cuts_slides_without_a_main_guard_is_told_so(environment, tmp_path):
    pytest.importorskip("openslide")
    for name in ("one", "two"):
        (tmp_path / "slides").mkdir(exist_ok=True)
        Image.fromarray(np.full((64, 64, 3), (200, 90, 160), np.uint8)).save(tmp_path / "slides" / f"{name}.png")
    (tmp_path / "script.py").write_text(PREPARE)
    arguments = [str(tmp_path / name) for name in ("script.py", "slides", "data")]
    done = shell('"$@"', environment | {"PYTHONPATH": str(ROOT)}, *arguments)
    assert done.returncode == 2, done.stderr
    assert done.stderr.endswith(
        "error: workers: this script starts again in each process that cuts slides; put the call under "
        '`if __name__ == "__main__":`, or set workers=1\n'
    )


# Background jobs of a shell ignore SIGINT, and so do the processes that they start.
HEED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.slow
def test_ctrl_c_early_in_the_imports_ends_in_one_line(environment):
    """From the moment that Python runs the first line of a command on; before, only Python itself can answer."""
    for module, delay in (("mae_jax", 0.0), ("mae_jax", 0.05), ("mae_jax.main", 0.0), ("mae_jax.main", 0.05)):
        more = ["check", "/nowhere"] if module == "mae_jax" else ["--config=missing.py"]
        arguments = [sys.executable, "-c", HEED, "-m", module, *more]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen(arguments, cwd=ROOT, env=environment, **pipes)
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None and not int(status.read_text().split("SigBlk:")[1].split()[0], 16) & 2:
            time.sleep(0.001)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, printed = process.communicate(timeout=60)
        assert process.returncode in (EXIT_STOPPED, 2) and printed.count("\n") == 1 and "Traceback" not in printed, (
            printed
        )


def test_limits_are_named_and_little_address_space_is_refused(monkeypatch):
    given = {limits.resource.RLIMIT_AS: limits.resource.RLIM_INFINITY, limits.resource.RLIMIT_NPROC: 77}
    monkeypatch.setattr(limits.resource, "getrlimit", lambda which: (given[which], given[which]))
    limits.refuse_little_memory()
    assert "(ulimit -u is 77)" in limits.no_more_threads()
    given[limits.resource.RLIMIT_AS] = 2**30
    with pytest.raises(UserError, match="this process may use 1.0 GiB of address space"):
        limits.refuse_little_memory()
    assert "(ulimit -u is 77, ulimit -v is 1048576)" in limits.no_more_threads()
    given[limits.resource.RLIMIT_AS] = 2**31  # just enough
    limits.refuse_little_memory()
