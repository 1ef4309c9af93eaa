"""Every command without arguments, with --help and with nonsense; nothing heavy is imported to find a mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from mae_jax import commands

ROOT = Path(__file__).parents[2]
WITHOUT_ARGUMENTS = {"doctor", "version", "runs"}  # commands that need none
HEAVY = ("jax", "flax", "tensorflow", "matplotlib", "orbax", "numpy", "scipy", "PIL")
# {arguments with something that does not exist: what the message begins with}
MISSING = {
    "quick nowhere": "PLACE=nowhere",
    "report nowhere": "DIR=nowhere",
    "predict nowhere --images=. --out=p.csv": "RUN=nowhere",
    "embed nowhere --images=. --out=e.npz": "RUN_OR_WEIGHTS=nowhere",
    "select nowhere --images=. --budget=1 --out=s.csv": "RUN_OR_WEIGHTS=nowhere",
    "robustness nowhere": "STUDY_OR_RUN=nowhere",
    "runs nowhere": "DIR=nowhere",
    "runs --compare nowhere nowhere": "--compare=nowhere",
    "convert import nowhere out": "SRC=nowhere",
    "convert export nowhere out --format=hf": "RUN_DIR=nowhere",
    "inspect nowhere": "RUN_DIR=nowhere",
    "reconstruct nowhere --images=a=. --out=o": "RUN_DIR=nowhere",
}
# The same for what is only found with NumPy and Pillow, and still without JAX.
MISSING_IMAGES = {
    "predict . --images=nowhere --out=p.csv": "--images=nowhere does not exist",
    "predict . --images=. --out=p.txt": "--out=p.txt is not allowed; name a file ending in .csv or .parquet",
    "embed . --images=nowhere --out=e.npz": "--images=nowhere does not exist",
    "embed . --images=. --out=e.csv": "--out=e.csv is not allowed",
    "select . --images=nowhere --budget=1 --out=s.csv": "--images=nowhere does not exist",
    "reconstruct . --images=a=nowhere --out=o": "--images: 'nowhere' is not a folder",
    "check nowhere": "'nowhere' is neither a folder, a table of labels nor a data set",
    "prepare tiles:x --source=nowhere": "--source nowhere is not a folder",
}
# The same for places that exist and do not hold what the command needs, in a folder with empty/ and images/.
WRONG_PLACES = {
    "predict images --images=images --out=p.csv": "RUN=images holds no run",
    "predict w.npz --images=images --out=p.csv --all": "--all requires a study's directory",
    "embed images --images=images --out=e.npz": "RUN_OR_WEIGHTS=images holds no run",
    "select images --images=images --budget=1 --out=s.csv": "RUN_OR_WEIGHTS=images holds no run",
    "inspect images": "RUN_DIR=images is not a run directory (no config.json)",
    "reconstruct images --images=a=images --out=o": "RUN_DIR=images is not a run directory (no config.json)",
    "robustness images": "images is not the directory of a run or study (no run.json)",
    "report images": "images is not the directory of a run or study (no run.json)",
    "convert import images out": "SRC=images has no file of weights",
    "convert import w.npz images": "OUT=images exists and is not empty",
    "convert import w.npz w.npz": "OUT=w.npz exists and is not empty",
    "convert export images out --format=onnx": "RUN_DIR=images is not a run directory (no config.json)",
    "quick empty": "'empty' has no class folders",
    "quick images --init=nowhere": "--init=nowhere does not exist",
    "quick images --init=empty": "--init=empty is not a run directory (no config.json)",
    "prepare raabin_wbc --source=empty": "--source empty is empty; name the folder with the files of raabin_wbc",
}
WRONG_RUNS = {
    "run --config=configs/finetune.py:data=folder,init=nowhere --config.data.dir=images": "init_from=nowhere",
    "run --config=configs/demo.py:smoke --workdir=w.npz": "workdir w.npz cannot be written: File exists",
    "run --config=configs/demo.py:smoke --workdir=w.npz/r": "workdir w.npz/r cannot be written: Not a directory",
}
WRONG_FIELD = ["--config=configs/demo.py", "--config.seeds=(0,0)"]
SCRIPT = """
import contextlib, io, json, sys
from mae_jax.__main__ import main

ends = {}
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["mae-jax", *arguments]  # where ml_collections looks for the fields that are set
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    ends[" ".join(arguments)] = code, out.getvalue(), err.getvalue()
print(json.dumps([ends, [name for name in HEAVY if name in sys.modules]]))
"""


def ends_of(calls: list[list[str]], heavy: tuple[str, ...], folder: Path = ROOT) -> dict:
    """Exit code and output of each call, all of one process that must not import a module of `heavy`."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.replace("HEAVY", repr(heavy)), json.dumps(calls)],
        capture_output=True, text=True, cwd=folder, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ends, imported = json.loads(done.stdout)
    assert imported == []
    return ends


@pytest.fixture(scope="module")
def ends():
    """{arguments: (code, out, err)}"""
    calls = [[], ["--help"], ["-h"], ["help"], ["nonsense"], ["--nonsense"], ["chek"], ["--version"]]
    for verb in commands.VERBS:
        calls += [[verb, "--help"], [verb, "--nonsense=1"], [verb, "-h"]]
        calls += [] if verb in WITHOUT_ARGUMENTS else [[verb]]
    calls += [arguments.split() for arguments in MISSING]
    calls += [["run", *WRONG_FIELD]]  # the last, since absl reads the fields of a config once a process
    return ends_of(calls, HEAVY)


def test_a_bare_call_lists_the_commands(ends):
    code, out, err = ends[""]
    assert code == 2 and not out
    assert all(f"  {verb} " in err and commands.load(verb).SUMMARY in err for verb in commands.VERBS)
    for help_ in ("--help", "-h", "help"):
        assert ends[help_] == [0, err, ""]


def test_a_command_that_does_not_exist(ends):
    assert ends["nonsense"] == [2, "", "error: 'nonsense' is not a command of mae-jax; mae-jax --help lists them\n"]
    assert (
        ends["chek"][2]
        == "error: 'chek' is not a command of mae-jax (did you mean check?); mae-jax --help lists them\n"
    )
    assert ends["--nonsense"][0] == 2 and "is not a command" in ends["--nonsense"][2]
    assert ends["--version"][0] == 0 and ends["--version"][1].startswith("mae_jax 0.")


@pytest.mark.parametrize("verb", commands.VERBS)
def test_each_command_without_arguments_with_help_and_with_nonsense(ends, verb):
    code, out, err = ends[f"{verb} --help"]
    assert code == 0 and "usage: " in out and not err
    assert ends[f"{verb} -h"] == [0, out, ""]
    if verb not in WITHOUT_ARGUMENTS:
        code, out, err = ends[verb]
        *help_, line = err.strip().splitlines()
        assert code == 2 and not out and line.startswith("error: ") and any("usage: " in row for row in help_), err
    code, out, err = ends[f"{verb} --nonsense=1"]
    assert code == 2 and not out and err.startswith("error: ") and "nonsense" in err and err.count("\n") == 1, err


def test_a_wrong_field_is_found_before_anything_heavy_is_imported(ends):
    code, out, err = ends[" ".join(["run", *WRONG_FIELD])]
    assert (code, out) == (2, "") and err == "error: seeds=(0, 0) is not allowed; use at least one value, each once\n"


@pytest.mark.parametrize("arguments", MISSING)
def test_a_missing_place_is_found_before_anything_heavy_is_imported(ends, arguments):
    code, out, err = ends[arguments]
    assert (code, out) == (2, "") and err.startswith(f"error: {MISSING[arguments]} does not exist; name "), err


def test_missing_images_and_a_wrong_output_are_found_without_jax_and_leave_nothing(tmp_path):
    heavy = ("jax", "flax", "tensorflow", "orbax")
    for arguments, (code, out, err) in ends_of([call.split() for call in MISSING_IMAGES], heavy, tmp_path).items():
        assert (code, out) == (2, "") and err.startswith(f"error: {MISSING_IMAGES[arguments]}"), (arguments, err)
    assert list(tmp_path.iterdir()) == []


def test_places_that_hold_something_else_are_found_without_jax_and_leave_nothing(tmp_path):
    for name in ("images/a", "images/b", "empty"):
        (tmp_path / name).mkdir(parents=True)
    for i in range(8):
        Image.new("RGB", (16, 16), (20 * i, 90, 10)).save(tmp_path / "images" / "ab"[i % 2] / f"{i}.png")
    (tmp_path / "w.npz").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    heavy = ("jax", "flax", "tensorflow", "orbax", "matplotlib")
    ends = ends_of([call.split() for call in WRONG_PLACES], heavy, tmp_path)
    for call in WRONG_RUNS:  # absl reads the fields of a config once a process
        ends |= ends_of([call.split()], heavy, tmp_path)
    for arguments, message in (WRONG_PLACES | WRONG_RUNS).items():
        code, _, err = ends[arguments]
        assert code == 2 and err.startswith(f"error: {message}") and err.count("\n") == 1, (arguments, err)
    assert sorted(tmp_path.rglob("*")) == before


def test_each_command_documents_itself():
    for verb in commands.VERBS:
        command = commands.load(verb)
        assert command.__doc__ and command.SUMMARY and command.SUMMARY[0].islower() and "\n" not in command.SUMMARY
