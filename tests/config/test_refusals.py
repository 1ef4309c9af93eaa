"""Mistakes on the command line are found before JAX is imported, with one line that names field and value."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mae_jax.config import loading
from mae_jax.study import validation

ROOT = Path(__file__).parents[2]
FINETUNE, PRETRAIN = "configs/finetune.py:data=synthetic", "configs/pretrain.py:data=synthetic"
STUDY = "configs/study.py"
CUSTOM = ["--config.model.size=custom", "--config.model.depth=2", "--config.model.heads=2"]
MISTAKES = [
    (FINETUNE, ["--config.trian.epochs=3"], "trian.epochs is not a field"),
    (FINETUNE, ["--config.train=3"], "it is a group of fields, such as --config.train."),
    (FINETUNE, ["--config.train.epochs=abc"], "--config.train.epochs=abc: 'abc' is not a number"),
    (FINETUNE, ["--config.train.steps=1.5"], "--config.train.steps=1.5: '1.5' is not a whole number"),
    (FINETUNE, ["--config.train.steps", "true"], "'true' is not a whole number"),
    (FINETUNE, ["--config.train.epochs=inf"], "train.epochs=inf is not a finite number"),
    (FINETUNE, ["--config.train.epochs=1e300"], "train.epochs=1e+300 is out of range; allowed: (0, 1000000]"),
    (FINETUNE, ["--config.train.steps=-1"], "train.steps=-1 is out of range"),
    (FINETUNE, ["--config.train.batch_size=1000000000000"], "train.batch_size=1000000000000 is out of range"),
    (FINETUNE, ["--config.train.batch_size=0"], "train.batch_size=0: set it"),
    (FINETUNE, ["--config.train.accumulation=65"], "train.batch_size=64 is smaller than train.accumulation=65"),
    (
        FINETUNE,
        ["--config.data.std=(0,1,1)"],
        "data.std=(0, 1, 1) is not allowed; use 3 numbers above 0, one per channel",
    ),
    (FINETUNE, ["--config.data.mean=(1e999,0,0)"], "data.mean=(inf, 0, 0)"),
    (FINETUNE, ["--config.data.mean=__import__('os').abort()"], "data.mean"),
    (FINETUNE, ["--config.data.crop_ratio=(1e-300,1e300)"], "data.crop_ratio=(1e-300, 1e+300) is not allowed"),
    (FINETUNE, ["--config.data.dir=a\nb"], r"data.dir='a\nb' is not allowed"),
    (FINETUNE, ["--config.optim.b1=1"], "optim.b1=1.0 is out of range; allowed: [0, 1)"),
    (FINETUNE, ["--config.optim.base_lr=1e39"], "optim.base_lr=1e+39 is out of range"),
    (FINETUNE, ["--config.sharding.fsdp=0"], "sharding.fsdp=0 is out of range"),
    (FINETUNE, ["--config.eval.batch_size=0"], "eval.batch_size=0 is out of range"),
    (FINETUNE, ["--config.seed=-1"], "seed=-1 is out of range"),
    (FINETUNE, ["--config.model.patch_size=448"], "model.image_size=224 is not a multiple"),
    (FINETUNE, ["--config.model.patch_size=1"], "makes 50176 patches; at most 16384"),
    (FINETUNE, [*CUSTOM, "--config.model.width=100000000"], "width at most 65536"),
    (FINETUNE, [*CUSTOM, "--config.model.width=8", "--config.model.mlp_ratio=0.1"], "gives the MLP no hidden features"),
    (FINETUNE, ["--config.task=study"], "is not a field of a study"),
    (FINETUNE, ["--config.task=pretrian"], "task=pretrian is not allowed; use one of pretrain, finetune, "),
    ("configs/finetune.py:data=nothing", [], "data.source=nothing is not known; use one of synthetic, folder"),
    ("configs/finetune.py:data=folder", ["--config.data.dir=/nonexistent"], "'/nonexistent' is not a folder"),
    (FINETUNE, ["--config.data.external=/nonexistent"], "'/nonexistent' is not a folder; name one that exists"),
    (FINETUNE, ["--config.data.external=a=x,a=y"], "data.external='a=x,a=y': 'a=y' needs a name of its own"),
    (FINETUNE, ["--noconfig.data.flips=3"], "--noconfig.data.flips=3 does not take an argument"),
    (FINETUNE, ["--config.optim.no_decay=" + "(" * 5000], "optim.no_decay='((("),
    ("configs/finetune.py:frac=nan,data=synthetic", [], "data.fraction=nan is not a finite number"),
    (PRETRAIN, ["--config.mae.mask_ratio=1"], "mae.mask_ratio=1.0 is out of range; allowed: (0, 1)"),
    (PRETRAIN, ["--config.data.weights=(1,2)"], "data.weights=(1, 2) has 2 numbers for 1 source"),
    ("configs/pretrain.py:data=synthetic+synthetic", [], "names a source twice"),
    (f"{STUDY}:data=synthetic", ["--config.inits=('mae:mask_ratio=2',)"], "mae.mask_ratio=2.0 is out of range"),
    (
        f"{STUDY}:data=synthetic",
        ["--config.pretrain.task=finetune"],
        "pretrain.task=finetune is not allowed",
    ),
    (f"{STUDY}:data=folder", ["--config.finetune.data.dir=/"], "pretrain.data.dir='' is empty"),
    (f"{STUDY}:data=synthetic", ["--config.step_matched=nan"], "step_matched=nan is out of range"),
    (f"{STUDY}:data=synthetic", ["--config.target=90"], "target=90.0 is out of range; allowed: [0, 1]"),
    (f"{STUDY}:data=synthetic,seeds=-1", [], "config argument seeds=-1 is negative"),
    ("configs/mask_sweep.py:data=synthetic", ["--config.mask_ratios=(0,1)"], "mask_ratios=(0, 1): 0 is not allowed"),
    ("", [], "--config= names no file"),
    ("README.md", [], "README.md is not a Python file"),
    ("mae_jax/runtime/errors.py", [], "has no function get_config"),
]


# One process in which importing JAX fails; each command runs in a fork of it.
RUN = """
import json, os, sys, tempfile
from mae_jax import main

sys.modules["jax"] = None
for arguments in json.load(sys.stdin):
    with tempfile.TemporaryFile() as output:
        process = os.fork()
        if process == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            sys.argv = ["main", *arguments]
            main.cli()
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        output.seek(0)
        print(json.dumps([code, output.read().decode()]))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory) -> list[tuple[int, str]]:
    """Exit code and output of each of MISTAKES."""
    workdir = tmp_path_factory.mktemp("mistakes") / "run"
    commands = [[f"--config={file}", *more, f"--workdir={workdir}"] for file, more, _ in MISTAKES]
    done = subprocess.run(
        [sys.executable, "-c", RUN], input=json.dumps(commands), cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert not workdir.exists()
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=[f"{f} {' '.join(m)}"[:200] for f, m, _ in MISTAKES])
def test_a_mistake_is_found_before_jax_is_imported(refusals, number):
    code, text = refusals[number]
    assert code == 2 and text.startswith("error: ") and text.count("\n") == 1, text
    assert MISTAKES[number][2] in text


def test_valid_configs_are_not_refused():
    for file, arg in (("finetune.py", "data=synthetic"), ("study.py", "data=synthetic"), ("demo.py", "")):
        result = loading.load(ROOT / "configs" / file, arg)
        validation.check_images(validation.check(result))
