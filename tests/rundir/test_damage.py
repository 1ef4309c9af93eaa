"""Run directories with a damaged, missing or replaced file: a line names it, or the same results are restored."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mae_jax.checkpoints import digests
from mae_jax.checkpoints.steps import committed_steps
from mae_jax.config.loading import load
from mae_jax.predict import exporting
from mae_jax.report.__main__ import main as report
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.train import loop
from mae_jax.weights import export

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def config(tiny_config):
    return tiny_config(**{"train.select": "best", "checkpoint.every_epochs": 0.5})


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    loop.run(config, workdir)
    return workdir


@pytest.fixture
def copy(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "run"))


def cut(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: data.rindex(b"\n", 0, -2) - 5])


@pytest.mark.slow
@pytest.mark.parametrize("damage", [Path.unlink, cut, lambda path: path.write_bytes(b"")])
def test_missing_or_truncated_predictions_are_computed_again(config, finished, copy, capsys, damage):
    damage(copy / contents.PREDICTIONS)
    loop.run(config, copy)
    assert f"already finished, but {copy / contents.PREDICTIONS}" in capsys.readouterr().out
    assert (copy / contents.PREDICTIONS).read_bytes() == (finished / contents.PREDICTIONS).read_bytes()
    assert (copy / contents.RESULTS).read_bytes() == (finished / contents.RESULTS).read_bytes()
    loop.run(config, copy)
    assert "already finished\n" in capsys.readouterr().out


def test_predictions_that_cannot_be_computed_again_are_reported(config, copy, capsys):
    (copy / contents.PREDICTIONS).unlink()
    shutil.rmtree(copy / "checkpoints")
    loop.run(config, copy)
    printed = capsys.readouterr().out
    assert "predictions.csv is missing: restore it from a backup" in printed and "its checkpoint of step" in printed


def test_a_file_named_like_a_step_is_put_aside(tiny_config, tmp_path, capsys):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "8").write_text("not a folder")
    loop.run(tiny_config(), tmp_path)
    assert "8 is a file, not a checkpoint; put aside" in capsys.readouterr().out
    assert (tmp_path / "checkpoints" / "8").is_dir() and (tmp_path / "checkpoints" / "8.stray").is_file()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (contents.CONFIG, '{"config": 1}', "is not the config of a run"),
        (contents.CONFIG, "[]", "is not the config of a run"),
        (contents.CONFIG, '{"config": {}, "format": 3}', "has format 3, but this version .* reads formats 1 to 2"),
        (
            contents.CONFIG,
            '{"config": {}, "format": 3, "version": "9.1"}',
            r"has format 3, written by mae_jax 9\.1, but this version .* reads formats 1 to 2; update mae_jax",
        ),
        (contents.CONFIG, '{"config": {}, "format": "x"}', "has format 'x', but this version of mae_jax .* reads"),
        (contents.CONFIG, None, "is a folder instead of a file"),
        (contents.RUN, "[]", "holds a list, not a JSON object"),
        (contents.RESULTS, "[]", "holds a list, not a JSON object"),
        (contents.LOWERED, '{"a": 1}', "is not a list of learning-rate reductions"),
        (contents.LOWERED, '[{"back_to": "x"}]', "is not a list of learning-rate reductions"),
    ],
)
def test_files_with_unexpected_content_are_named(config, copy, name, text, message):
    if name == contents.LOWERED:
        (copy / contents.RESULTS).unlink()
    (copy / name).unlink(missing_ok=True)
    (copy / name).mkdir() if text is None else (copy / name).write_text(text)
    with pytest.raises(UserError, match=f"{name} {message}"):
        loop.run(config, copy)


def test_a_run_without_its_config_does_not_resume_with_another(config, copy):
    (copy / contents.CONFIG).unlink()
    with pytest.raises(UserError, match=r"config\.json is missing; restore it from a backup"):
        loop.run(config, copy)
    (copy / contents.RESULTS).unlink()
    with pytest.raises(UserError, match=r"config\.json is missing, but .*checkpoints has checkpoints of its run"):
        loop.run(config, copy)


def test_a_results_file_without_results_is_refused(config, copy):
    (copy / contents.RESULTS).write_text("{}")
    with pytest.raises(UserError, match=r"results\.json does not hold the results of a run"):
        loop.run(config, copy)


def test_other_missing_files_are_reported(config, copy, finished, capsys):
    (copy / contents.VALIDATION).unlink()
    loop.run(config, copy)
    assert f"{contents.VALIDATION} is missing; computed again" in capsys.readouterr().out
    assert (copy / contents.VALIDATION).read_bytes() == (finished / contents.VALIDATION).read_bytes()
    (copy / contents.RUN).unlink()
    loop.run(config, copy)
    assert "but run.json is missing" in capsys.readouterr().out
    for how, change in (("missing", Path.unlink), ("empty", lambda path: path.write_bytes(b""))):
        (copy / contents.RESULTS).unlink()
        change(copy / contents.METRICS)
        loop.run(config, copy)
        assert f"metrics.jsonl is {how}: its rows up to step 8 are lost, but the run" in capsys.readouterr().out


@pytest.mark.parametrize("name", [contents.PREDICTIONS, contents.RUN, "parameters.txt"])
def test_a_folder_in_place_of_a_file_is_named(config, copy, name):
    (copy / contents.RESULTS).unlink()
    (copy / name).unlink()
    (copy / name).mkdir()
    with pytest.raises(OSError) as error:
        loop.run(config, copy)
    assert error.value.filename == str(copy / name) and not list(copy.glob("*.partial"))


def test_a_config_without_resolved_values_is_compared_without_them(config, copy):
    saved = json.loads((copy / contents.CONFIG).read_text())
    del saved["resolved"]
    (copy / contents.CONFIG).write_text(json.dumps(saved))
    loop.run(config, copy)
    (copy / contents.RESULTS).unlink()
    loop.run(config, copy)


def test_a_damaged_best_epoch_is_not_exported(copy, tmp_path):
    info = contents.read_json(copy / contents.RUN)
    path = copy / "best" / f"{info['selected_step']}.npz"
    undamaged = path.read_bytes()
    (copy / contents.RUN).write_text(json.dumps(info | {"steps": -1}))  # the best epoch is not the last
    for damaged in (undamaged[:-40], b"", b"no zip", undamaged[:200] + bytes([undamaged[200] ^ 255]) + undamaged[201:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=f"best/{path.name}, the network that made predictions.csv, cannot be read"):
            export.load(copy)
    path.write_bytes(undamaged)
    (copy / contents.RUN).write_text(json.dumps(info | {"epochs": "x"}))
    with pytest.raises(UserError, match="lacks an entry that the model card needs"):
        exporting.export(copy, tmp_path / "out", "timm")
    assert not list(tmp_path.glob("out*"))


LIMITED = """
import resource, runpy, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv.pop(1), run_name="__main__")
"""


@pytest.mark.slow
def test_a_report_that_cannot_be_written_keeps_the_previous_one(finished, tmp_path, environment, capsys):
    assert report([str(finished), "--out", str(tmp_path)]) == 0
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    command = [sys.executable, "-c", LIMITED, "20000", "mae_jax.report", str(finished), f"--out={tmp_path}"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert f"error: {tmp_path}/figures/" in done.stderr
    assert "a file may have at most 20000 bytes); raise that limit (ulimit -f)" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_best_epoch_that_cannot_be_written_is_named(tiny_config, tmp_path, environment):
    """The fields of a fine-tuning whose weights are larger than its other files."""
    fields = tiny_config(**{"train.select": "best", "model.width": 64}).to_json()
    code = (
        "import json, resource, sys\n"
        "from ml_collections import ConfigDict\n"
        "from pathlib import Path\n"
        "from mae_jax.checkpoints import best_epoch as best\n"
        "from mae_jax.runtime import command\n"
        "from mae_jax.train import loop\n"
        "offer = best.BestEpoch.offer\n"
        "def limited(self, *rest):\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (50000, 50000))\n"
        "    return offer(self, *rest)\n"
        "best.BestEpoch.offer = limited\n"
        "config = ConfigDict(json.loads(sys.argv[1]))\n"
        "command.call(lambda: (loop.run(config, Path(sys.argv[2])), 0)[1])\n"
    )
    command = [sys.executable, "-c", code, fields, str(tmp_path / "run")]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    assert f"error: {tmp_path}/run/best/" in done.stderr and "File too large" in done.stderr
    assert not (tmp_path / "run" / "best" / "partial").exists()
    assert not list((tmp_path / "run" / "best").glob("*.partial"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(): pass", "get_config must take one argument, the text after ':'"),
        ("def get_config(arg): return 5", "get_config returned a int, not a ConfigDict"),
        ("import nowhere", "cannot be imported: No module named 'nowhere'"),
        ("get_config = 3", "has no function get_config"),
    ],
)
def test_invalid_config_files_are_named(tmp_path, text, message):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(UserError, match=f"config file .*c.py.*{message}"):
        load(tmp_path / "c.py")


def test_the_report_ends_as_other_commands_do(finished, tmp_path, environment):
    line = [sys.executable, "-m", "mae_jax.report", str(finished), "--out"]
    options = {"env": environment, "cwd": ROOT, "capture_output": True, "text": True, "timeout": 100}
    (tmp_path / "index.html").mkdir()
    done = subprocess.run([*line, str(tmp_path)], **options)
    line_on_folder = (
        f"error: {tmp_path}/index.html: Is a directory (a file is needed in its place); move the folder away"
    )
    assert (done.returncode, done.stderr) == (2, f"{line_on_folder}, then run the same command again\n")
    closed = subprocess.run(
        f"{sys.executable} -m mae_jax.report {finished} --out {tmp_path}/b | true", shell=True, **options
    )
    assert "Traceback" not in closed.stderr
    os.mkfifo(tmp_path / "pipe.csv")
    tool = [sys.executable, "-m", "mae_jax", "check", str(tmp_path), "--out", str(tmp_path / "pipe.csv")]
    done = subprocess.run(tool, **options | {"env": environment | {"PYTHONPATH": str(ROOT)}})
    assert done.returncode == 2 and "pipe.csv cannot be written: it is not a regular file" in done.stderr


def test_a_run_directory_needs_a_name_that_can_be_written(environment):
    command = [sys.executable, "-m", "mae_jax.main", "--config=configs/demo.py:smoke=true", b"--workdir=/tmp/\xff\xfe"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert "--workdir='/tmp/\\udcff\\udcfe' has control characters or bytes that are not UTF-8" in done.stderr


@pytest.mark.parametrize("name", [contents.CONFIG, contents.METRICS, "run.json", "lowered.json"])
def test_a_pipe_in_place_of_a_file_does_not_block(config, copy, name):
    if name in (contents.METRICS, "lowered.json"):
        (copy / contents.RESULTS).unlink()
    (copy / name).unlink(missing_ok=True)
    os.mkfifo(copy / name)
    with pytest.raises(UserError, match=rf"{name} is (a pipe|not a regular file).*; restore it"):
        loop.run(config, copy)


def test_a_pipe_in_a_checkpoint_does_not_block(copy):
    steps = copy / "checkpoints"
    newest, before = sorted(steps.iterdir(), key=lambda path: -int(path.name))[:2]
    for path in (newest / digests.DIGESTS, before / "step.txt"):
        path.unlink()
        os.mkfifo(path)
    assert digests.problem(newest) == "digests.json is not a regular file"
    lines = []
    assert committed_steps(steps, lines.append) == [int(newest.name)]
    assert len(lines) == 1 and str(before) in lines[0] and "step.txt is not a regular file" in lines[0]


def test_a_link_to_itself_gives_one_line(finished, copy):
    (copy / contents.CONFIG).unlink()
    (copy / contents.CONFIG).symlink_to(copy / contents.CONFIG)
    code = "import sys; from pathlib import Path; "
    code += "from mae_jax.rundir import contents; from mae_jax.runtime import command; "
    code += "command.call(contents.read_json, Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(copy / contents.CONFIG)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and "config.json" in done.stderr, done.stderr


def test_a_damaged_row_of_metrics_is_reported(config, copy, capsys):
    (copy / contents.RESULTS).unlink()
    metrics = copy / contents.METRICS
    rows = metrics.read_bytes().split(b"\n")
    metrics.write_bytes(b"\n".join([b"\xff" + rows[0][5:], *rows[1:]]))
    loop.run(config, copy)
    assert f"{metrics} has 1 row that cannot be read (up to step" in capsys.readouterr().out
