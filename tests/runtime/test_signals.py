"""Real signals in each phase of a run: the state is saved, `Stopped` is raised, and the results stay the same."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from mae_jax.config.fields import defaults, study_defaults
from mae_jax.rundir import contents
from mae_jax.runtime import signals
from mae_jax.runtime.errors import EXIT_STOPPED, Stopped, UserError
from mae_jax.study import label_study
from mae_jax.train import loop
from mae_jax.weights import arrays

ROOT = Path(__file__).parents[2]


def terminate(*ignored):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)  # the signal ends it here
    raise AssertionError("SIGTERM was not heard")


@pytest.fixture(scope="module")
def config(tiny_config):
    return tiny_config(**{"train.select": "best", "checkpoint.every_epochs": 0.5, "log.every_steps": 1})


@pytest.fixture(scope="module")
def uninterrupted(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    loop.run(config, workdir)
    return workdir


def changed(monkeypatch, **parts):
    """Makes `build` return a task with these parts replaced."""
    original = loop.build

    def built(*args):
        task = original(*args)
        for name, make in parts.items():
            setattr(task, name, make(getattr(task, name)))
        return task

    monkeypatch.setattr(loop, "build", built)


def same_results(one, two) -> bool:
    return all((one / n).read_bytes() == (two / n).read_bytes() for n in (contents.METRICS, contents.PREDICTIONS))


@pytest.mark.slow
@pytest.mark.parametrize("call_number", [1, 2])
def test_a_signal_during_evaluation_saves_and_evaluates_again(
    tmp_path, config, uninterrupted, monkeypatch, call_number
):
    calls = []

    def cut_off(evaluate):
        def cut(params, *where):
            calls.append(None)
            for pair in evaluate(params, *where):
                yield pair
                if len(calls) == call_number:
                    terminate()

        return cut

    with monkeypatch.context() as patched:
        changed(patched, evaluate=cut_off)
        with pytest.raises(Stopped, match=r"SIGTERM; step \d of \d is saved"):
            loop.run(config, tmp_path)
    loop.run(config, tmp_path)
    assert same_results(tmp_path, uninterrupted)


def test_a_signal_during_the_results_keeps_the_last_step(tmp_path, config, uninterrupted, monkeypatch):
    with monkeypatch.context() as patched:
        changed(patched, finish=lambda finish: terminate)
        with pytest.raises(Stopped, match="the last step is saved"):
            loop.run(config, tmp_path)
    assert not (tmp_path / contents.RESULTS).exists()
    loop.run(config, tmp_path)
    assert same_results(tmp_path, uninterrupted)


def test_a_signal_while_images_are_checked_stops_immediately(tmp_path, config, monkeypatch):
    monkeypatch.setattr(loop, "build", terminate)
    with pytest.raises(Stopped, match="SIGTERM; nothing was changed"):
        loop.run(config, tmp_path)


def test_a_signal_while_a_report_is_written_stops_immediately(tmp_path, tiny_config, monkeypatch):
    config = study_defaults(tiny_config("pretrain"), tiny_config())
    monkeypatch.setattr(label_study, "run_all", lambda *args: {})
    monkeypatch.setattr(label_study, "report", terminate)
    with pytest.raises(Stopped, match="all runs are finished; rerun the same command"):
        label_study.run(config, tmp_path)


def test_a_second_signal_stops_immediately():
    with pytest.raises(KeyboardInterrupt), signals.collect_signals() as result:
        os.kill(os.getpid(), signal.SIGTERM)
        assert result == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)


# The main thread waits in the C library, as in a compiler, for a lock that is never released.
DEAF = """
import ctypes, sys, time
from mae_jax.runtime import signals
from mae_jax.runtime.command import call

def work():
    signals.GRACE = 0.5
    libc, lock = ctypes.CDLL(None), ctypes.create_string_buffer(64)
    libc.pthread_mutex_lock(lock)
    with signals.collect_signals(), signals.interruptible("step 3 is saved", hard=sys.argv[1] == "hard"):
        print("deaf", flush=True)
        libc.pthread_mutex_lock(lock)

call(work)
"""


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_code_that_handles_no_signal_is_ended_if_nothing_is_lost(environment, kind):
    command, pipes = [sys.executable, "-c", DEAF, kind], {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
    assert process.stdout.readline() == "deaf\n"
    time.sleep(0.5)  # until it waits
    process.send_signal(signal.SIGTERM)
    try:
        _, printed = process.communicate(timeout=30 if kind == "hard" else 3)
        assert (process.returncode, printed) == (
            EXIT_STOPPED,
            "stopped by SIGTERM; step 3 is saved; rerun the same command to resume\n",
        )
        assert kind == "hard"
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        assert kind == "soft"


def test_a_signal_while_weights_are_read_does_not_look_like_damage(tmp_path, monkeypatch):
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    monkeypatch.setattr(np, "load", lambda *ignored, **options: terminate())
    ready = signals.collect_signals(), signals.interruptible("nothing was changed")
    with pytest.raises(Stopped, match="nothing was changed"), ready[0], ready[1]:
        arrays._npz(tmp_path / "w.npz", "init_from")


TWICE = (
    DEAF.replace("libc.pthread_mutex_lock(lock)\n\ncall", "time.sleep(100)\n\ncall")
    .replace('signals.interruptible("step 3 is saved", hard=sys.argv[1] == "hard")', "open('/dev/null')")
    .replace("signals.collect_signals()", "signals.collect_signals(alone=True)")
)


def test_a_second_signal_ends_a_command_with_one_line(environment):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", TWICE, "-"], cwd=ROOT, env=environment, **pipes)
    assert process.stdout.readline() == "deaf\n"
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.communicate(timeout=1)
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=30)
    assert process.returncode == EXIT_STOPPED
    assert printed == "stopped by SIGINT; what was saved last is kept; rerun the same command to resume\n"


# The cleanup at exit frees arrays that a step still reads; compilation leaves such steps.
COMPUTING = """
import atexit, sys
import jax
from mae_jax.runtime import errors
from mae_jax.runtime.command import call_computing

atexit.register(print, "torn down")

def command():
    print("computing")
    if sys.argv[1] != "none":
        raise getattr(errors, sys.argv[1])("the reason")

call_computing(command)
"""


@pytest.mark.parametrize(
    ("error", "code", "out", "message"),
    [
        ("Stopped", EXIT_STOPPED, "computing\n", "the reason\n"),
        ("UserError", 2, "computing\n", "error: the reason\n"),
        ("none", 0, "computing\ntorn down\n", ""),
    ],
)
def test_a_command_that_fails_during_a_step_keeps_its_exit_code(environment, error, code, out, message):
    done = subprocess.run(
        [sys.executable, "-c", COMPUTING, error], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, out, message)


def test_sighup_saves_like_sigterm_unless_nohup_ignores_it():
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with signals.collect_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received == [signal.SIGHUP]
            with pytest.raises(Stopped, match=r"stopped by SIGHUP; nothing was changed"):
                with signals.interruptible("nothing was changed"):
                    pass
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        with signals.collect_signals() as received:
            os.kill(os.getpid(), signal.SIGHUP)
            assert received == []
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


# A signal while Python searches for a module.
IMPORTING = """
import os, runpy, signal, sys, time

class Interrupt:
    def find_spec(self, name, *rest):
        if name == MODULE:
            os.kill(os.getpid(), NUMBER)
            time.sleep(0.1)
            print("imports continued")

signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
sys.meta_path.insert(0, Interrupt())
sys.argv = ["-m", *ARGUMENTS]  # its value while Python searches for a module
runpy.run_module(TARGET, run_name="__main__", alter_sys=True)
"""

STARTED = {  # files that pass the checks before the imports
    "RUN/config.json": json.dumps({"config": defaults("pretrain").to_dict()}),
    "RUN/run.json": "{}",
    "RUN/results.json": "{}",
    "RUN/predictions.csv": "",
    "DATA/WBC.rar": "",
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "arguments", "module"),
    [
        ("mae_jax.report", ["RUN", "--out", "OUT"], "matplotlib"),
        ("mae_jax.report.sweep", ["RUN", "--out", "OUT"], "matplotlib"),
        ("mae_jax", ["check", "DATA"], "numpy"),
        ("mae_jax", ["prepare", "raabin_wbc", "--source", "DATA"], "rarfile"),
        ("mae_jax", ["convert", "export", "RUN", "OUT", "--format", "hf"], "jaxlib"),
        ("mae_jax", ["inspect", "RUN"], "jaxlib"),
        ("mae_jax", ["reconstruct", "RUN", "--images", "a=synthetic-cells", "--out", "OUT"], "jaxlib"),
    ],
)
def test_a_tool_interrupted_during_its_imports_ends_with_one_line(tmp_path, environment, command, arguments, module):
    number = signal.SIGTERM if module == "jaxlib" else signal.SIGINT
    start = (
        IMPORTING.replace("MODULE", repr(module))
        .replace("NUMBER", str(int(number)))
        .replace("ARGUMENTS", repr(arguments))
    )
    here = tmp_path / "here"
    for name, content in STARTED.items():
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(content)
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", start.replace("TARGET", repr(command))],
        cwd=here, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (EXIT_STOPPED, "imports continued\n"), done.stderr
    assert done.stderr == "interrupted; rerun the same command to resume from what is saved\n"
    assert sorted(tmp_path.rglob("*")) == before


def test_a_notebook_shows_a_mistake_as_one_line():
    assert UserError("train.epochs=-1 is out of range")._render_traceback_() == [
        "error: train.epochs=-1 is out of range"
    ]
    assert Stopped("stopped by SIGINT")._render_traceback_() == ["stopped by SIGINT"]
