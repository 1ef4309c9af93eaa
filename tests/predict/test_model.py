"""Finished runs classify and embed new images exactly as they did their own test images."""

import csv
import json
import shutil
from pathlib import Path

import h5py
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from pyarrow import parquet

import mae_jax
from mae_jax import models
from mae_jax.data import synthetic
from mae_jax.predict import exporting, files, writers
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.train import loop
from mae_jax.weights import reader

CLASSES = ("Eosinophil", "Lymphocyte")


def draw(folder, n, seed):
    """Writes `n` PNG files of synthetic cells, of two classes and several sizes, below `folder`."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        label = i % 2
        pixels = synthetic.draw_cell(rng, label, 24 + 4 * (i % 3))
        path = folder / CLASSES[label] / f"cell_{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_config):
    """A directory with images in cells/Train and cells/TestA, and a finished run of every task on them."""
    top = tmp_path_factory.mktemp("predict")
    draw(top / "cells" / "Train", 40, 0)
    draw(top / "cells" / "TestA", 13, 1)
    data = {"data.source": "folder", "data.dir": str(top / "cells"), "data.val_fraction": 0.25, "model.depth": 1}
    runs = {"pretrain": tiny_config("pretrain", **data | {"train.steps": 1})}
    runs["finetune"] = tiny_config(**data | {"train.steps": 4, "train.select": "best"})
    encoder = {"init": "mae", "init_from": str(top / "pretrain")}
    runs["linear_probe"] = tiny_config("linear_probe", **data | encoder | {"train.steps": 2})
    runs["lbfgs"] = tiny_config("lbfgs", **data | encoder)
    runs["knn"] = tiny_config("knn", **data)
    for name, config in runs.items():
        loop.run(config, top / name)
    return top


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def as_written(probabilities):
    return [[f"{p:.9g}" for p in row] for row in probabilities]


@pytest.mark.slow
@pytest.mark.parametrize("task", ["finetune", "linear_probe", "lbfgs", "knn"])
def test_predictions_of_the_runs_own_test_images_are_bit_identical(made, task):
    model = mae_jax.load(made / task)
    rows = rows_of(made / task / contents.PREDICTIONS)
    files = [str(made / "cells" / row["image"]) for row in rows]
    result = model.predict(files)
    assert as_written(result.probabilities) == [[row[f"p_{c}"] for c in CLASSES] for row in rows]
    assert result.predictions == [row["prediction"] for row in rows]
    assert model.classes == CLASSES and result.names == tuple(files) and not result.skipped
    arrays = [np.asarray(Image.open(file)) for file in files]
    np.testing.assert_array_equal(model.predict(arrays).probabilities, result.probabilities)
    assert model.temperature and repr(model).startswith("<Model of") and "13 images" in repr(result)


@pytest.mark.slow
def test_calibrated_probabilities_have_the_lowest_loss_on_validation_images(made):
    model = mae_jax.load(made / "finetune")
    rows = rows_of(made / "finetune" / contents.VALIDATION)
    result = model.predict([made / "cells" / row["image"] for row in rows])
    labels = [CLASSES.index(row["label"]) for row in rows]

    def loss(temperature):
        logits = np.log(result.probabilities.astype(np.float64)) / temperature
        return np.mean(np.log(np.exp(logits).sum(1)) - logits[np.arange(len(labels)), labels])

    best = model.temperature
    assert loss(best) <= min(loss(best * 1.01), loss(best / 1.01), loss(1.0))
    own = np.log(result.calibrated[np.arange(len(labels)), labels]).mean()
    np.testing.assert_allclose(-own, loss(best), rtol=1e-6)


@pytest.mark.slow
def test_the_command_writes_the_same_predictions_and_skips_broken_images(made, tmp_path, capsys):
    folder = tmp_path / "new"
    shutil.copytree(made / "cells" / "TestA", folder / "TestA")
    (folder / "TestA" / "broken.png").write_bytes((folder / "TestA" / CLASSES[0] / "cell_00.png").read_bytes()[:60])
    run, out = str(made / "finetune"), tmp_path / "out.csv"
    with pytest.raises(UserError, match=r"broken\.png: .*--bad_images=skip"):
        files.predict(run, str(folder), out)
    assert not list(tmp_path.glob("out*"))
    options = files.Options(bad_images="skip", calibrated=True, embeddings=True)
    assert files.predict(run, str(folder), out, options) == {"written": 13, "skipped": 1}
    assert "skipped: TestA/broken.png" in capsys.readouterr().out
    rows = {row["image"]: row for row in rows_of(out)}
    for expected in rows_of(made / "finetune" / contents.PREDICTIONS):
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
def test_images_come_from_a_table_and_all_runs_of_a_study_predict(made, tmp_path, capsys):
    (made / "cells" / "list.csv").write_text(
        "slide;img\n1;TestA/Eosinophil/cell_00.png\n2;Train/Eosinophil/cell_02.png\n"
    )
    with pytest.raises(UserError, match=r"--images: .*list\.csv has the columns slide, img; name the path column"):
        files.predict(str(made / "knn"), str(made / "cells" / "list.csv"), tmp_path / "out.csv")
    with pytest.raises(UserError, match="is a study; name one of its runs"):
        files.predict(str(made), str(made / "cells"), tmp_path / "out.csv")
    assert str(made / "lbfgs") in capsys.readouterr().out
    options = files.Options(columns="path=img", every_run=True)
    files.predict(str(made), str(made / "cells" / "list.csv"), tmp_path / "out.csv", options)
    rows = rows_of(tmp_path / "out.csv")
    assert [row["run"] for row in rows[::2]] == ["finetune", "knn", "lbfgs", "linear_probe"] and len(rows) == 8
    knn = mae_jax.load(made / "knn").predict(made / "cells" / "TestA" / "Eosinophil" / "cell_00.png")
    assert rows[2]["prediction"] == knn.predictions[0] and rows[2]["confidence"] == f"{knn.confidence[0]:.9g}"


@pytest.mark.slow
def test_remote_addresses_are_refused_and_the_home_directory_is_expanded(made, monkeypatch, tmp_path):
    for place in ("s3://bucket/run", "gs://bucket/run"):
        with pytest.raises(UserError, match=r"load=\w+://bucket/run: \w+:// addresses are not read; copy"):
            mae_jax.load(place)
    monkeypatch.setenv("HOME", str(made))
    assert mae_jax.load("~/knn").origin == str(made / "knn")


def test_tiles_have_their_places_from_their_names():
    names = ["a/x000512_y001024.jpg", "b/c/x3_y000004.png"]
    assert writers.coordinates(names).tolist() == [[512, 1024], [3, 4]]
    assert writers.coordinates([*names, "a/other.jpg"]) is None and writers.coordinates([]) is None


@pytest.mark.slow
def test_embeddings_of_any_weights_in_every_format(made, tmp_path):
    images = tmp_path / "slide"
    images.mkdir()
    for i, path in enumerate(sorted((made / "cells" / "TestA" / CLASSES[0]).iterdir())):
        shutil.copy(path, images / f"x{512 * i:06}_y001024.png")
    model = mae_jax.load(made / "pretrain")
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
        files.embed(str(made / "pretrain"), str(images), tmp_path / f"out.{kind}", pool="mean")
    with np.load(tmp_path / "out.npz") as npz, h5py.File(tmp_path / "out.h5") as h5:
        for found in (npz, h5):
            np.testing.assert_array_equal(found["features"][:], features["mean"])
            np.testing.assert_array_equal(found["coords"][:], [[512 * i, 1024] for i in range(7)])
    table = parquet.read_table(tmp_path / "out.parquet").to_pydict()
    np.testing.assert_array_equal(np.asarray(table["embedding"], np.float32), features["mean"])
    golden = Path(__file__).parents[1] / "golden" / "timm_mean"
    other = mae_jax.load(golden)
    assert other.embed(pixels).shape == (7, other.width()) and other.task == ""
    with pytest.raises(UserError, match="pool=cls: .* use pool=mean"):
        other.embed(pixels, pool="cls")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["finetune", "linear_probe", "lbfgs"])
def test_an_onnx_file_predicts_the_runs_test_images_as_its_card_says(made, tmp_path, task):
    out = tmp_path / "cells.onnx"
    assert exporting.export(made / task, out, "onnx") == []
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    model = mae_jax.load(made / task)
    assert tuple(json.loads(about["classes"])) == CLASSES and float(about["temperature"]) == model.temperature
    assert json.loads(about["preprocessing"])["image_size"] == 16 and about["run"] == task
    code = onnx.load(out).doc_string.split("```python")[1].split("```")[0]
    assert str(made) not in onnx.load(out).doc_string
    code = code.replace("FILE.onnx", str(out)) + "prediction = classes[int(probabilities.argmax())]\n"
    code += 'calibrated = session.run(["calibrated_probabilities"], {"images": pixels})[0][0]\n'
    rows = rows_of(made / task / contents.PREDICTIONS)
    calibrated = model.predict([made / "cells" / row["image"] for row in rows]).calibrated
    for row, expected in zip(rows, calibrated, strict=True):
        results: dict = {}
        exec(code.replace("cell.png", str(made / "cells" / row["image"])), results)
        assert results["prediction"] == row["prediction"]
        np.testing.assert_allclose(results["probabilities"], [float(row[f"p_{c}"]) for c in CLASSES], atol=1e-4)
        np.testing.assert_allclose(results["calibrated"], expected, atol=1e-4)
    with pytest.raises(UserError, match=r"OUT=.*cells\.onnx exists; name a new file"):
        exporting.export(made / task, out, "onnx")


@pytest.mark.slow
def test_an_export_in_another_precision_than_the_runs_says_so(made, tmp_path):
    shutil.copytree(made / "finetune", tmp_path / "run")
    run = contents.read_json(tmp_path / "run" / contents.RUN)
    assert run["devices"].endswith("cpu")
    contents.write_json(tmp_path / "run" / contents.RUN, run | {"devices": "1 x NVIDIA H200"})
    (note,) = exporting.export(tmp_path / "run", tmp_path / "cells.onnx", "onnx")
    assert note.startswith("the ONNX file computes in float32, and the run on 1 x NVIDIA H200 may have computed in bfl")
    assert "NVIDIA H200 may have computed" in onnx.load(tmp_path / "cells.onnx").doc_string


@pytest.mark.slow
def test_an_onnx_file_of_a_pretraining_embeds_and_neighbors_are_refused(made, tmp_path):
    notes = exporting.export(made / "pretrain", tmp_path / "encoder.onnx", "onnx")
    assert notes == ["only the encoder is written; the file computes embeddings"]
    image = made / "cells" / "TestA" / CLASSES[0] / "cell_00.png"
    code = onnx.load(tmp_path / "encoder.onnx").doc_string.split("```python")[1].split("```")[0]
    results: dict = {}
    exec(code.replace("FILE.onnx", str(tmp_path / "encoder.onnx")).replace("cell.png", str(image)), results)
    model = mae_jax.load(made / "pretrain")
    np.testing.assert_allclose(results["mean"], model.embed([image], pool="mean")[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="classifies by nearest neighbors, .* use --format mae_jax"):
        exporting.export(made / "knn", tmp_path / "knn.onnx", "onnx")
    with pytest.raises(UserError, match=r"OUT=.*cells exists; name a new file ending in \.onnx"):
        exporting.export(made / "knn", made / "cells", "onnx")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["finetune", "linear_probe", "lbfgs", "knn", "pretrain"])
def test_a_bundle_predicts_like_its_run(made, tmp_path, task):
    out = tmp_path / "bundle"
    exporting.export_bundle(made / task, out)
    images = made / "cells" / "TestA"
    run, model = mae_jax.load(made / task), mae_jax.load(out)
    np.testing.assert_array_equal(model.embed(images), run.embed(images))
    if task != "pretrain":
        np.testing.assert_array_equal(model.predict(images).probabilities, run.predict(images).probabilities)
        assert model.temperature == run.temperature and model.classes == CLASSES
    card, about = (out / "README.md").read_text(), (out / "config.json").read_text()
    assert "mae_jax.load(" in card and str(made) not in card + about
    assert ("pretrain (trained by mae_jax on cells)" in card) == (task in ("linear_probe", "lbfgs"))
    weights = reader.read(out)  # init=PATH reads it like this
    np.testing.assert_array_equal(weights.params["encoder"]["cls_token"], model.params["encoder"]["cls_token"])
    damaged = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(damaged[:-8])
    with pytest.raises(UserError, match=r"load: .*model\.safetensors cannot be read"):
        mae_jax.load(out)
