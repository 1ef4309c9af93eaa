"""Signals are blocked before a command imports anything else."""

import signal
import subprocess
import sys

from mae_jax.runtime import blocking


def test_the_three_signals_that_stop_a_run_are_blocked_and_no_other():
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        blocking.block()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert blocked - before == {signal.SIGTERM, signal.SIGINT, signal.SIGHUP} - before
    assert set(blocking.HEARD) == {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def test_it_imports_next_to_nothing():
    code = (
        "import sys; from mae_jax.runtime import blocking; print(*(n for n in sys.modules if n.startswith('mae_jax')))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert set(done.stdout.split()) == {
        "mae_jax",
        "mae_jax.runtime",
        "mae_jax.runtime.blocking",
        "mae_jax.runtime.version",
    }


def test_signals_are_blocked_before_slow_imports():
    """`python -m mae_jax` imports the package before it can block signals."""
    code = "import sys; import mae_jax, mae_jax.runtime.blocking; print('typing' in sys.modules)"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
