"""Run directories of strangers: their files never lead outside, block forever or cause a stack trace."""

import base64
import io
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from mae_jax.report import autoencoder_pictures, external_tests, mistakes
from mae_jax.report.runs import read_runs
from mae_jax.runtime.errors import UserError


@pytest.fixture
def run_dir(tmp_path) -> Path:
    path = tmp_path / "run"
    path.mkdir()
    (path / "run.json").write_text(json.dumps({"init": "scratch", "fraction": 0.1, "seed": 0, "classes": ["a", "b"]}))
    (path / "predictions.csv").write_text("image,label,prediction,confidence\nx.png,a,b,0.9\ny.png,b,b,0.8\n")
    return path


def replaced(path: Path, make) -> None:
    path.unlink(missing_ok=True)
    make(path)


@pytest.mark.parametrize("name", ["run.json", "predictions.csv"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_reading_what_is_not_a_file_does_not_block(run_dir, name, make):
    replaced(run_dir / name, make)
    with pytest.raises(UserError, match=rf"{name}: cannot be read.*(not a regular|instead of a) file"):
        read_runs([run_dir])


def test_a_pipe_in_place_of_a_picture_file_is_skipped(run_dir):
    info = json.loads((run_dir / "run.json").read_text()) | {"init": "mae", "init_from": str(run_dir)}
    (run_dir / "run.json").write_text(json.dumps(info))
    for name in ("reconstructions.json", "metrics.jsonl", "predictions_val.csv", "x.png"):
        os.mkfifo(run_dir / name)
    runs, _ = read_runs([run_dir])
    assert autoencoder_pictures.sheets(runs) == []
    assert mistakes.gallery(runs)[0]["images"][0]["uri"] is None


def test_files_written_on_windows_are_read(run_dir):
    for name in ("run.json", "predictions.csv"):
        text = (run_dir / name).read_text()
        (run_dir / name).write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    runs, _ = read_runs([run_dir])
    assert runs[0].test.images == ("x.png", "y.png")
    (run_dir / "predictions.csv").write_bytes("image,label".encode("utf-16"))
    with pytest.raises(UserError, match="not UTF-8; save it as CSV in UTF-8"):
        read_runs([run_dir])


@pytest.mark.parametrize("field", ["init", "arm", "classes"])
def test_names_that_no_figure_could_show_are_refused(run_dir, field):
    info = json.loads((run_dir / "run.json").read_text())
    (run_dir / "run.json").write_text(json.dumps(info | {field: ["a", "b" * 201] if field == "classes" else "x" * 201}))
    with pytest.raises(UserError, match=f"{field} is .*of up to 200 characters"):
        read_runs([run_dir])


def test_no_picture_comes_from_outside_by_a_name_or_a_link(run_dir, tmp_path):
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "secret.png")
    predictions = run_dir / "predictions.csv"

    def shown(image: str) -> bool:
        predictions.write_text(f"image,label,prediction,confidence\n{image},a,b,0.9\ny.png,b,b,0.8\n")
        return mistakes.gallery(read_runs([run_dir])[0])[0]["images"][0]["uri"] is not None

    assert not shown(str(tmp_path / "secret.png"))
    assert not shown("../secret.png")
    info = json.loads((run_dir / "run.json").read_text())
    (tmp_path / "pictures").mkdir()
    (run_dir / "run.json").write_text(json.dumps(info | {"image_root": str(tmp_path / "pictures")}))
    assert not shown("../secret.png") and not shown(str(tmp_path / "secret.png"))
    (run_dir / "thumbnails").mkdir()
    (run_dir / "thumbnails" / "linked.png.jpg").symlink_to(tmp_path / "secret.png")
    (run_dir / "inside.png").symlink_to(tmp_path / "secret.png")
    assert not shown("linked.png") and not shown("inside.png")
    shutil.copy(tmp_path / "secret.png", run_dir / "inside2.png")
    assert shown("inside2.png")  # a picture of its own
    uri = mistakes.gallery(read_runs([run_dir])[0])[0]["images"][0]["uri"]
    assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size == (8, 8)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_not_a_file_is_not_an_external_test_set(run_dir, make):
    (run_dir / "external" / "x").mkdir(parents=True)
    make(run_dir / "external" / "x" / "predictions.csv")
    assert external_tests.read(read_runs([run_dir])[0])[0] == []
