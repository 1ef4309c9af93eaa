"""`python -m mae_jax.report`: arguments, output, and what it imports."""

import subprocess
import sys

import pytest
from PIL import Image

from mae_jax.report.__main__ import main


def test_the_command_takes_a_study(study, tmp_path, capsys):
    assert main([str(study), "--out", str(tmp_path / "out"), "--png"]) == 0
    printed = capsys.readouterr()
    assert "| 10 %" in printed.out and "not finished, and so left out: 50pct-mae-seed0" in printed.err
    assert "not finished, and so left out: 50pct-mae-seed0".capitalize() in (tmp_path / "out/index.html").read_text()
    assert (tmp_path / "out" / "figures" / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("fraction", ["0", "1.5", "nan"])
@pytest.mark.parametrize("option", ["--fraction", "--target"])
def test_a_value_that_is_not_a_fraction_is_refused(study, tmp_path, option, fraction, capsys):
    assert main([str(study), "--out", str(tmp_path / "out"), option, fraction]) == 2
    assert f"{option}={fraction} is out of range; allowed: above 0 and at most 1" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["mae_jax.report", "mae_jax.report.sweep"])
def test_help_loads_no_library(module):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['-m', '--help']\n"
        "try:\n"
        f"    runpy.run_module({module!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "heavy = {'numpy', 'scipy', 'matplotlib', 'PIL', 'jinja2', 'jax'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "DIR" in done.stdout, done.stderr


@pytest.fixture
def pair(make, tmp_path):
    return [make.run(tmp_path / init, init, 0.1, rows=60) for init in ("scratch", "mae")]


def test_the_command_imports_no_training_library(make, pair, tmp_path):
    code = (
        "import sys, mae_jax.report.__main__ as m\n"
        "rc = m.main(sys.argv[1:])\n"
        "bad = {'jax', 'flax', 'tensorflow', 'orbax', 'grain'} & set(sys.modules)\n"
        "own = {n.split('.')[1] for n in sys.modules if n.startswith('mae_jax.')}\n"
        "assert not bad and own == {'config', 'report', 'rundir', 'runtime'}, (bad, own)\n"
        "sys.exit(rc)"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-c", code, *map(str, pair), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "accuracy: scratch" in done.stdout and str(out / "index.html") in done.stdout


def test_a_target_outside_zero_and_one_and_a_missing_out_are_refused_before_anything_is_read(tmp_path, capsys):
    places = [str(tmp_path / "a"), str(tmp_path / "b")]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert main([*places, "--target", "1.5", "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.startswith("error: --target=1.5 is out of range; allowed: above 0 and at most 1")
    assert main(places) == 2
    assert capsys.readouterr().err == "error: --out is missing; with several DIR, name a directory for the report\n"
    assert not (tmp_path / "out").exists()


def test_the_report_of_one_directory_is_below_it_and_the_flags_reach_the_page(make, tmp_path, capsys):
    run = make.run(tmp_path / "run", "scratch", 0.1, rows=60, image_root=str(tmp_path))
    for line in (run / "predictions.csv").read_text().splitlines()[1:]:
        file = tmp_path / line.partition(",")[0]
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)
    assert main([str(run), "--title", "Few labels", "--no-pictures"]) == 0
    out = capsys.readouterr().out
    assert out.rstrip().endswith(f"report: {run / 'report' / 'index.html'}")
    page = (run / "report" / "index.html").read_text()
    assert "<h1>Few labels</h1>" in page and "image/jpeg" not in page


def test_a_control_character_in_a_file_name_does_not_reach_the_terminal(tmp_path, capsys):
    assert main([str(tmp_path / "a\x1b[2Jb"), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err
    assert "a\\x1b[2Jb" in printed and "\x1b" not in printed and printed.count("\n") == 1
