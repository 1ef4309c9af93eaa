"""Exports of a finished run: what other code computes from them, and what is refused."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest

import mae_jax
from mae_jax.config.validation import validate
from mae_jax.models.vit import ViTConfig
from mae_jax.predict import exporting
from mae_jax.rundir import contents
from mae_jax.rundir.predictions import write_predictions
from mae_jax.runtime.errors import UserError
from mae_jax.weights.reader import Weights

CLASSES = ("Eosinophil", "Lymphocyte")


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["finetune", "linear_probe", "lbfgs"])
def test_an_onnx_file_predicts_the_runs_test_images_as_its_card_says(predict_dir, tmp_path, task):
    out = tmp_path / "cells.onnx"
    assert exporting.export(predict_dir / task, out, "onnx") == []
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    model = mae_jax.load(predict_dir / task)
    assert tuple(json.loads(about["classes"])) == CLASSES and float(about["temperature"]) == model.temperature
    assert json.loads(about["preprocessing"])["image_size"] == 16 and about["run"] == task
    code = onnx.load(out).doc_string.split("```python")[1].split("```")[0]
    assert str(predict_dir) not in onnx.load(out).doc_string
    code = code.replace("FILE.onnx", str(out)) + "prediction = classes[int(probabilities.argmax())]\n"
    code += 'calibrated = session.run(["calibrated_probabilities"], {"images": pixels})[0][0]\n'
    rows = rows_of(predict_dir / task / contents.PREDICTIONS)
    calibrated = model.predict([predict_dir / "cells" / row["image"] for row in rows]).calibrated
    for row, expected in zip(rows, calibrated, strict=True):
        results: dict = {}
        exec(code.replace("cell.png", str(predict_dir / "cells" / row["image"])), results)
        assert results["prediction"] == row["prediction"]
        np.testing.assert_allclose(results["probabilities"], [float(row[f"p_{c}"]) for c in CLASSES], atol=1e-4)
        np.testing.assert_allclose(results["calibrated"], expected, atol=1e-4)
    with pytest.raises(UserError, match=r"OUT=.*cells\.onnx exists; name a new file"):
        exporting.export(predict_dir / task, out, "onnx")


@pytest.mark.slow
def test_an_export_in_another_precision_than_the_runs_says_so(predict_dir, tmp_path):
    shutil.copytree(predict_dir / "finetune", tmp_path / "run")
    run = contents.read_json(tmp_path / "run" / contents.RUN)
    assert run["devices"].endswith("cpu")
    contents.write_json(tmp_path / "run" / contents.RUN, run | {"devices": "1 x NVIDIA H200"})
    (note,) = exporting.export(tmp_path / "run", tmp_path / "cells.onnx", "onnx")
    assert note.startswith("the ONNX file computes in float32, and the run on 1 x NVIDIA H200 may have computed in bfl")
    assert "NVIDIA H200 may have computed" in onnx.load(tmp_path / "cells.onnx").doc_string


@pytest.mark.slow
def test_an_onnx_file_of_a_pretraining_embeds_and_neighbors_are_refused(predict_dir, tmp_path):
    notes = exporting.export(predict_dir / "pretrain", tmp_path / "encoder.onnx", "onnx")
    assert notes == ["only the encoder is written; the file computes embeddings"]
    image = predict_dir / "cells" / "TestA" / CLASSES[0] / "cell_00.png"
    code = onnx.load(tmp_path / "encoder.onnx").doc_string.split("```python")[1].split("```")[0]
    results: dict = {}
    exec(code.replace("FILE.onnx", str(tmp_path / "encoder.onnx")).replace("cell.png", str(image)), results)
    model = mae_jax.load(predict_dir / "pretrain")
    np.testing.assert_allclose(results["mean"], model.embed([image], pool="mean")[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(UserError, match="classifies by nearest neighbors, .* use --format mae_jax"):
        exporting.export(predict_dir / "knn", tmp_path / "knn.onnx", "onnx")
    with pytest.raises(UserError, match=r"OUT=.*cells exists; name a new file ending in \.onnx"):
        exporting.export(predict_dir / "knn", predict_dir / "cells", "onnx")


def test_a_place_that_cannot_be_written_is_refused_before_the_run_is_read(tmp_path):
    (tmp_path / "there.onnx").write_text("")
    for out, message in (("there.onnx", "exists"), ("net.pb", "is not allowed"), ("net", "is not allowed")):
        with pytest.raises(UserError, match=rf"OUT=.*{out} {message}; name a new file ending in \.onnx"):
            exporting.export(tmp_path / "no run", tmp_path / out, "onnx")
    for form in ("onnx", "mae_jax", "timm"):
        with pytest.raises(UserError, match=r"RUN_DIR=.*no run does not exist; name the directory of a run"):
            exporting.export(tmp_path / "no run", tmp_path / "new.onnx", form)


def test_a_model_without_temperature_is_noted_unless_it_has_no_classes(tiny_config, tmp_path):
    shape = ViTConfig(16, 8, 16, 1, 2, n_classes=2)
    config = validate(tiny_config())
    network = Weights({}, shape, "vit", "here", classes=CLASSES)
    about, notes = exporting._about(tmp_path, network, config)
    assert about == {"task": "finetune", "classes": list(CLASSES), "temperature": None, "run": tmp_path.name}
    assert notes == ["the temperature is not known, so probabilities are not calibrated"]
    assert exporting._about(tmp_path, dataclasses.replace(network, kind="mae", classes=()), config)[1] == []
    write_predictions(
        tmp_path / contents.VALIDATION, ["a", "b", "c"], ["", "", ""], np.array([0, 1, 0]),
        np.array([[0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]), CLASSES,
    )  # fmt: skip
    about, notes = exporting._about(tmp_path, network, config)
    # at T, two answers in three are right with 9^(1/T) to 1, so the best odds are 2 to 1: T = log 9 / log 2
    assert about["temperature"] == pytest.approx(np.log(9) / np.log(2), rel=1e-3) and notes == []
