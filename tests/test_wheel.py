"""The wheel, installed in an environment of its own, runs the demo from an empty folder."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    # A copy: a build leaves folders in its source.
    source = out / "source"
    source.mkdir()
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, files.split("\0")):
        if not name.startswith(("tests/", "docs/")) and (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("mae_jax-*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_everything_that_a_user_runs(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"mae_jax/configs/{path.name}" for path in (ROOT / "configs").glob("*.py")} <= names
    templates = {str(path.relative_to(ROOT)) for path in (ROOT / "mae_jax").rglob("*.j2")}
    assert len(templates) >= 5 and templates <= names
    assert "mae_jax/py.typed" in names and "mae_jax/commands/doctor.py" in names
    assert not [name for name in names if name.startswith(("tests", "tools", "docs"))]


@pytest.mark.slow
def test_the_demo_runs_from_an_empty_folder(wheel, tmp_path):
    venv.create(tmp_path / "venv", symlinks=True)
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # what mae_jax needs
    python = tmp_path / "venv/bin/python"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    install = [
        sys.executable,
        "-m",
        "pip",
        f"--python={python}",
        "install",
        "--no-deps",
        "--force-reinstall",
        str(wheel),
    ]
    done = subprocess.run(install, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    empty = tmp_path / "empty"
    empty.mkdir()
    command = [tmp_path / "venv/bin/mae-jax", "run", "--config=configs/demo.py:smoke", "--workdir=demo"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=empty)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (empty / "demo/report/index.html").is_file() and not (empty / "configs").exists()
    where = subprocess.run(
        [python, "-c", "import mae_jax; print(mae_jax.__file__)"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=empty,
    )
    assert where.stdout.startswith(str(site))
