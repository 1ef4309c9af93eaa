"""The wheel, installed with its requirements in a fresh environment, runs the demo from an empty folder."""

import os
import subprocess
import sys
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


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> None:
    """Skips where pip cannot get a small package."""
    command = [sys.executable, "-m", "pip", "--retries=1", "--timeout=10", "download", "--no-deps", "--no-cache-dir"]
    done = subprocess.run([*command, "-d", str(tmp_path_factory.mktemp("index")), "packaging"], capture_output=True)
    if done.returncode:
        pytest.skip("pip cannot reach the package index, from which the wheel's requirements come")


@pytest.mark.slow
def test_the_demo_runs_from_an_empty_folder(wheel, index, tmp_path):
    """In a fresh environment that holds the wheel and what it requires, and nothing else."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True, env=environment)
    python = tmp_path / "venv/bin/python"

    def run(*command, **options):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, **options)
        assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    run(python, "-m", "pip", "install", "-q", wheel)
    run(python, "-m", "pip", "check")
    empty = tmp_path / "empty"
    empty.mkdir()
    run(tmp_path / "venv/bin/mae-jax", "run", "--config=configs/demo.py:smoke", "--workdir=demo", cwd=empty)
    assert (empty / "demo/report/index.html").is_file() and not (empty / "configs").exists()
    where = run(python, "-c", "import mae_jax; print(mae_jax.__file__)", cwd=empty)
    assert Path(where.strip()).is_relative_to(tmp_path / "venv")
    assert "as required" in run(tmp_path / "venv/bin/mae-jax", "doctor", cwd=empty)
    assert not run(python, "-m", "pip", "list", "--format=freeze", "--exclude-editable").count("pytest")
