"""Commands as a user id without a name and without HOME, as containers have it: a result, or one line."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
NOBODY = 1_234_567  # a user id that no machine knows
FIELDS = [
    "--config.data.synthetic_train=40", "--config.data.synthetic_test=10", "--config.model.size=custom",
    "--config.model.image_size=16", "--config.model.patch_size=8", "--config.model.width=16", "--config.model.depth=1",
    "--config.model.heads=2", "--config.train.batch_size=8", "--config.train.steps=2",
]  # fmt: skip
RUN = ["run", f"--config={ROOT}/configs/finetune.py:data=synthetic", *FIELDS]


@pytest.fixture
def nobody(tmp_path):
    """Runs a command in a folder that everybody may write to; returns its exit code and what it printed."""
    # Reading stays allowed, because the interpreter may be in a folder of root's.
    drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    drop += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]
    if os.getuid() or not shutil.which("setpriv") or subprocess.run([*drop, "true"], capture_output=True).returncode:
        pytest.skip("needs root and setpriv, to become another user")
    here = tmp_path / "here"
    here.mkdir()
    here.chmod(0o777)
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}

    def call(*words, cwd=here):
        command = [*drop, sys.executable, "-m", "mae_jax", *words]
        done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr

    call.here = here
    return call


@pytest.mark.slow
def test_a_user_without_a_name_and_a_home_gets_results(nobody):
    code, out, _ = nobody("doctor")
    assert code == 0 and "nothing is broken" in out
    assert all(f"{what}: none: there is no home directory" in out for what in ("compilation cache", "data sets"))
    code, out, err = nobody(*RUN, "--workdir=run")
    assert code == 0 and "test accuracy" in out and (nobody.here / "run" / "results.json").stat().st_uid == NOBODY, err
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(nobody.here / "cell.png")
    code, out, err = nobody("predict", "run", "--images", "cell.png", "--out", "new.csv")
    assert code == 0 and "1 row" in out, err
    code, out, err = nobody("report", "run", "--out", "report")
    assert code == 0 and (nobody.here / "report" / "index.html").is_file(), err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["runs", "~/runs"], "~/runs: no home directory is known here"),
        (["check", "raabin_wbc"], "prepared data sets are expected in ~/tensorflow_datasets, and no home directory"),
        (
            [*RUN, "--workdir=/here"],
            "workdir /here cannot be written: Permission denied; correct its permissions, or choose another --workdir",
        ),
    ],
)
def test_what_needs_a_home_or_permission_ends_in_one_line(nobody, words, line):
    code, _, err = nobody(*words)
    assert code == 2 and err.startswith("error: ") and line in err and len(err.splitlines()) == 1, err
