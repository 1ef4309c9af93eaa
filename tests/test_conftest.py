"""The option that leaves out tests for which there is no time left."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(("seconds", "outcome", "late"), [(600, "1 passed", 0), (-1, "1 skipped", 1)])
def test_tests_that_would_begin_too_late_are_skipped_and_counted(environment, seconds, outcome, late):
    one = "tests/test_layout.py::test_a_command_is_used_where_it_is_called"
    options = ["-q", "-rs", "-p", "no:cacheprovider", f"--start-before={time.time() + seconds}"]
    command = [sys.executable, "-m", "pytest", *options, one]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert outcome in done.stdout and f"{late} tests were not started: no time left" in done.stdout
