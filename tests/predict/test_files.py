"""The commands predict and embed: rows, columns and files."""

import csv
import os
import shutil
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

import mae_jax
from mae_jax import models
from mae_jax.predict import files
from mae_jax.predict.model import Batch
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError

CLASSES = ("Eosinophil", "Lymphocyte")


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_command_writes_the_same_predictions_and_skips_broken_images(predict_dir, tmp_path, capsys):
    folder = tmp_path / "new"
    shutil.copytree(predict_dir / "cells" / "TestA", folder / "TestA")
    (folder / "TestA" / "broken.png").write_bytes((folder / "TestA" / CLASSES[0] / "cell_00.png").read_bytes()[:60])
    run, out = str(predict_dir / "finetune"), tmp_path / "out.csv"
    with pytest.raises(UserError, match=r"broken\.png: .*--bad_images=skip"):
        files.predict(run, str(folder), out)
    assert not list(tmp_path.glob("out*"))
    options = files.Options(bad_images="skip", calibrated=True, embeddings=True)
    assert files.predict(run, str(folder), out, options) == {"written": 13, "skipped": 1}
    assert "skipped: TestA/broken.png" in capsys.readouterr().out
    rows = {row["image"]: row for row in rows_of(out)}
    for expected in rows_of(predict_dir / "finetune" / contents.PREDICTIONS):
        row = rows[expected["image"]]
        assert row.items() >= {k: v for k, v in expected.items() if k not in ("group", "label")}.items()
    files.predict(run, str(folder), tmp_path / "out.parquet", options)
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.column("image").to_pylist() == list(rows)
    for name in ("confidence", "calibrated_confidence", f"p_{CLASSES[1]}", f"calibrated_{CLASSES[0]}"):
        assert [f"{v:.9g}" for v in table.column(name).to_pylist()] == [row[name] for row in rows.values()]
    embedding = np.asarray(table.column("embedding").to_pylist(), np.float32)
    np.testing.assert_array_equal(embedding[:, 3], [np.float32(row["embedding_3"]) for row in rows.values()])
    np.testing.assert_array_equal(embedding, mae_jax.load(run).embed([folder / name for name in rows]))


@pytest.mark.slow
def test_images_come_from_a_table_and_all_runs_of_a_study_predict(predict_dir, tmp_path, capsys):
    (predict_dir / "cells" / "list.csv").write_text(
        "slide;where\n1;TestA/Eosinophil/cell_00.png\n2;Train/Eosinophil/cell_02.png\n"
    )
    with pytest.raises(UserError, match=r"--images: .*list\.csv has the columns slide, where; name the path column"):
        files.predict(str(predict_dir / "knn"), str(predict_dir / "cells" / "list.csv"), tmp_path / "out.csv")
    with pytest.raises(UserError, match="is a study; name one of its runs"):
        files.predict(str(predict_dir), str(predict_dir / "cells"), tmp_path / "out.csv")
    assert str(predict_dir / "lbfgs") in capsys.readouterr().out
    options = files.Options(columns="path=where", every_run=True)
    files.predict(str(predict_dir), str(predict_dir / "cells" / "list.csv"), tmp_path / "out.csv", options)
    assert capsys.readouterr().out.count("initial weights from") == 1  # of knn and lbfgs, which share the encoder
    rows = rows_of(tmp_path / "out.csv")
    assert [row["run"] for row in rows[::2]] == ["finetune", "knn", "lbfgs", "linear_probe"] and len(rows) == 8
    knn = mae_jax.load(predict_dir / "knn").predict(predict_dir / "cells" / "TestA" / "Eosinophil" / "cell_00.png")
    assert rows[2]["prediction"] == knn.predictions[0] and rows[2]["confidence"] == f"{knn.confidence[0]:.9g}"


@pytest.mark.slow
def test_embeddings_of_any_weights_in_every_format(predict_dir, tmp_path, capsys):
    images = tmp_path / "slide"
    images.mkdir()
    for i, path in enumerate(sorted((predict_dir / "cells" / "TestA" / CLASSES[0]).iterdir())):
        shutil.copy(path, images / f"x{512 * i:06}_y001024.png")
    model = mae_jax.load(predict_dir / "pretrain")
    with pytest.raises(UserError, match="has no classifier"):
        model.predict(images)
    features = {pool: model.embed(images, pool=pool) for pool in ("cls", "mean", "both")}
    np.testing.assert_array_equal(features["both"][:, 16:], features["mean"])
    np.testing.assert_allclose(features["both"][:, :16], features["cls"], rtol=1e-5, atol=1e-6)
    pixels = np.stack(
        [np.asarray(Image.open(p).resize((16, 16), Image.Resampling.BICUBIC)) for p in sorted(images.iterdir())]
    )
    spec = model.spec
    scaled = (pixels / 255 - np.asarray(spec.mean)) / np.asarray(spec.std)
    tokens = models.apply("encoder", spec.shape, model.params["encoder"], jnp.asarray(scaled, jnp.float32))
    np.testing.assert_allclose(features["mean"], tokens[:, 1:].mean(1), rtol=1e-4, atol=1e-5)
    for kind in ("npz", "h5", "parquet"):
        files.embed(str(predict_dir / "pretrain"), str(images), tmp_path / f"out.{kind}", pool="mean")
    with np.load(tmp_path / "out.npz") as npz, h5py.File(tmp_path / "out.h5") as h5:
        for expected in (npz, h5):
            np.testing.assert_array_equal(expected["features"][:], features["mean"])
            np.testing.assert_array_equal(expected["coords"][:], [[512 * i, 1024] for i in range(7)])
    assert "coords" not in capsys.readouterr().out
    (tmp_path / "slides").mkdir()
    for name in "a", "b":
        shutil.copytree(images, tmp_path / "slides" / name)
    files.embed(str(predict_dir / "pretrain"), str(tmp_path / "slides"), tmp_path / "two.h5")
    assert "the tiles of 2 slides" in capsys.readouterr().out
    shutil.copy(next(images.iterdir()), tmp_path / "slides" / "other.png")
    files.embed(str(predict_dir / "pretrain"), str(tmp_path / "slides"), tmp_path / "mixed.h5")
    assert "coords: not written" in capsys.readouterr().out
    table = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    np.testing.assert_array_equal(np.asarray(table["embedding"], np.float32), features["mean"])
    golden = Path(__file__).parents[1] / "golden" / "timm_mean"
    other = mae_jax.load(golden)
    assert other.embed(pixels).shape == (7, other.width()) and other.task == ""
    with pytest.raises(UserError, match="pool=cls: .* use pool=mean"):
        other.embed(pixels, pool="cls")


def model(temperature):
    return SimpleNamespace(classes=CLASSES, temperature=temperature)


def reader(names, bad=()):
    return SimpleNamespace(source=SimpleNamespace(names=names), bad=dict(bad))


def test_columns_have_the_order_of_the_header():
    p = np.array([[0.9, 0.1], [0.2, 0.8]])
    batch = Batch(np.array([2, 0]), p, np.array([[1.0, 2.0], [3.0, 4.0]]))
    header = ["run", "image", "prediction", "confidence", "calibrated_confidence"]
    options = files.Options(calibrated=True, embeddings=True)
    run, image, prediction, confidence, calibrated, *rest = files._columns(
        model(2.0), batch, reader("abc"), ["x"], header, options
    )
    assert (run, image, prediction) == (["x", "x"], ["c", "a"], ["Eosinophil", "Lymphocyte"])
    np.testing.assert_array_equal(confidence, [0.9, 0.8])
    soft = np.sqrt(p) / np.sqrt(p).sum(1, keepdims=True)  # a temperature of 2 takes the square root
    np.testing.assert_allclose(calibrated, soft.max(1))
    np.testing.assert_array_equal(rest[:2], p.T)
    np.testing.assert_allclose(rest[2:4], soft.T)
    np.testing.assert_array_equal(rest[4], batch.embeddings)
    plain = files._columns(model(None), batch, reader("abc"), [], header[1:], files.Options())
    assert len(plain) == 6 and np.isnan(plain[3]).all()
    empty = Batch(np.zeros(0, int), np.zeros((0, 2)), None)
    assert [len(c) for c in files._columns(model(None), empty, reader("abc"), [], header[1:4], files.Options())] == [
        0
    ] * 5


def test_five_skipped_images_are_named_and_the_others_counted():
    lines = []
    files.name_skipped(reader("", {i: f"{i}.png is empty" for i in (7, 1, 2, 3, 4, 5, 6)}), lines.append)
    assert lines == [*(f"skipped: {i}.png is empty" for i in range(1, 6)), "skipped: 2 more"]
    lines.clear()
    files.name_skipped(reader(""), lines.append)
    assert lines == []


def test_progress_counts_images_also_those_that_are_skipped(monkeypatch):
    seen = []
    monkeypatch.setattr(files, "counting", lambda label, say: lambda done, total: seen.append((done, total)))
    batches = [
        Batch(np.array([0, 2]), None, None),
        Batch(np.zeros(0, int), None, None),
        Batch(np.array([5]), None, None),
    ]
    assert list(files.with_progress(batches, 8, "x")) == batches
    assert seen == [(3, 8), (3, 8), (6, 8), (8, 8)]


def test_the_file_is_checked_before_images_and_images_before_the_model(tmp_path):
    with pytest.raises(UserError, match=r"--out=.*out\.txt is not allowed; name a file ending in \.csv or \.parquet"):
        files.predict("nothing", "nowhere", tmp_path / "out.txt")
    with pytest.raises(UserError, match=r"ending in \.npz or \.h5 or \.parquet"):
        files.embed("nothing", "nowhere", tmp_path / "out.csv")
    with pytest.raises(UserError, match="--images=nowhere does not exist"):
        files.predict("nothing", "nowhere", tmp_path / "out.csv")
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="RUN=.*nothing does not exist"):
        files.predict(str(tmp_path / "nothing"), str(tmp_path / "a.png"), tmp_path / "out.csv")
    with pytest.raises(UserError, match="--all requires a study's directory"):
        files.predict(str(tmp_path), str(tmp_path / "a.png"), tmp_path / "out.csv", files.Options(every_run=True))
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_images(predict_dir, tmp_path):
    """Each further image adds its name, and neither its 12 kB of pixels nor its row."""
    peaks = []
    for n in (300, 1500):
        folder = tmp_path / str(n)
        folder.mkdir()
        Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(folder / "0000.png")
        for i in range(1, n):
            os.link(folder / "0000.png", folder / f"{i:04}.png")
        tracemalloc.start()
        files.predict(str(predict_dir / "finetune"), str(folder), tmp_path / f"{n}.csv")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert len(rows_of(tmp_path / "1500.csv")) == 1500
    assert (peaks[1] - peaks[0]) / 1200 < 2000, peaks
