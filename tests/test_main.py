"""The command line, as a process: a mistake gives one line and exit 2, help is quick to import."""

import subprocess
import sys
from pathlib import Path

import pytest

from mae_jax.main import parse
from mae_jax.runtime.errors import UserError

ROOT = Path(__file__).parents[1]


def test_a_mistake_is_one_line_and_a_non_zero_exit(tmp_path):
    command = [sys.executable, "-m", "mae_jax.main", "--config=configs/pretrain.py:exp=1,data=synthetic"]
    command += ["--config.mae.mask_ratio=1.0", f"--workdir={tmp_path / 'run'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.strip() == "error: mae.mask_ratio=1.0 is out of range; allowed: (0, 1)"
    assert not (tmp_path / "run").exists()


def test_help_imports_neither_jax_nor_tensorflow():
    code = "import sys, mae_jax.main; print([m for m in ('jax', 'tensorflow', 'flax') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    "flag", ["--config.train.epochs=many", "--confg=x", "--config.train.epoch=3", "--config=configs/nothing.py"]
)
def test_flags_that_are_not_understood(flag):
    with pytest.raises(UserError, match="^[^\n]*$"):
        parse(["main", f"--config={ROOT}/configs/finetune.py:frac=0.5,data=synthetic", flag])


def test_an_unknown_flag_gets_a_hint_only_where_one_is_near():
    for flag, hint in (("--wokdir=x", r" \(did you mean --workdir\?\)"), ("--nonsense", "")):
        with pytest.raises(UserError, match=f"^unknown argument '{flag.partition('=')[0]}'{hint}; --help lists the"):
            parse(["main", flag])
