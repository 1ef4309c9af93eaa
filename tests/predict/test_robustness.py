"""Predictions for changed test images: equal to those of the run where nothing changes, and kept when they exist."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from mae_jax.evaluation.perturbations import Perturbation
from mae_jax.predict import loading, robustness
from mae_jax.rundir.predictions import read_predictions
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.progress import Progress
from mae_jax.train import loop

NOTHING = Perturbation("nothing", "", (1.0,), 1.0, lambda images, level: images)
DARK = Perturbation("dark", "", (0.0,), 1.0, lambda images, level: np.zeros_like(images))


@pytest.fixture(scope="module")
def run(tiny_config, tmp_path_factory):
    place = tmp_path_factory.mktemp("robustness") / "run"
    loop.run(tiny_config(), place)
    return place


def test_unchanged_images_have_the_predictions_of_the_run(run):
    robustness.write([run], [NOTHING, DARK], Progress(1.0, quiet=True))
    config_classes = ["Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil"]
    usual, same, dark = (
        read_predictions(path, config_classes)[0]
        for path in (
            run / "predictions.csv", robustness.place_of(run, "nothing", 1.0), robustness.place_of(run, "dark", 0.0)
        )
    )  # fmt: skip
    assert usual.images == same.images == dark.images
    assert (same.probabilities == usual.probabilities).all() and (same.labels == usual.labels).all()
    assert len(np.unique(dark.probabilities, axis=0)) == 1


def test_existing_predictions_are_kept(run):
    robustness.write([run], [NOTHING], Progress(1.0, quiet=True))
    path = robustness.place_of(run, "nothing", 1.0)
    before = path.stat().st_mtime_ns
    robustness.write([run], [NOTHING], Progress(1.0, quiet=True))
    assert path.stat().st_mtime_ns == before


def test_other_test_images_are_refused(run, tmp_path, monkeypatch):
    lines = (run / "predictions.csv").read_text().splitlines(keepends=True)
    monkeypatch.setattr(robustness, "place_of", lambda *args: tmp_path / "new.csv")
    (run / "predictions.csv").write_text("".join(lines[:-1]))
    try:
        with pytest.raises(UserError, match="its 22 test images are not the 23 images that data.dir=synthetic"):
            robustness.write([run], [NOTHING], Progress(1.0, quiet=True))
    finally:
        (run / "predictions.csv").write_text("".join(lines))


def folder_of(place, classes, n, seed=0):
    """A folder for each class with `n` images of noise."""
    rng = np.random.default_rng(seed)
    for name in classes:
        (place / name).mkdir(parents=True)
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8)).save(place / name / f"{seed}-{i}.png")
    return place


def test_an_external_set_is_predicted_unchanged_and_changed(run, tmp_path):
    """A folder that the run has never seen, with two of its classes: the predictions are those of the model."""
    place = folder_of(tmp_path / "clinic", ("Monocyte", "Basophil"), 3)
    names = robustness.write([run], [NOTHING, DARK], Progress(1.0, quiet=True), external=f"ward={place}")
    assert names == [["ward"]]
    model = loading.load(run, "RUN_DIR")
    here, same, dark = (
        read_predictions(path, model.classes)[0]
        for path in (
            robustness.unchanged_place(run, "ward"),
            robustness.place_of(run, "nothing", 1.0, "ward"),
            robustness.place_of(run, "dark", 0.0, "ward"),
        )
    )
    assert [model.classes[i] for i in here.labels] == ["Basophil"] * 3 + ["Monocyte"] * 3
    assert here.images == same.images == dark.images and (here.probabilities == same.probabilities).all()
    assert len(np.unique(dark.probabilities, axis=0)) == 1 and (here.probabilities != dark.probabilities).any()
    files = sorted(place.glob("*/*.png"))
    assert (model.predict(files).indices == here.predictions).all()


def test_an_external_set_of_the_run_keeps_the_predictions_that_it_has(tiny_config, tmp_path):
    loop.run(tiny_config(**{"data.external": "other=TestB"}), tmp_path / "run")
    tested = tmp_path / "run" / "external" / "other" / "predictions.csv"
    before = tested.read_bytes()
    assert robustness.write([tmp_path / "run"], [NOTHING], Progress(1.0, quiet=True)) == [["other"]]
    assert robustness.unchanged_place(tmp_path / "run", "other") == tested and tested.read_bytes() == before
    usual, same = (
        read_predictions(path, ["Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil"])[0]
        for path in (tested, robustness.place_of(tmp_path / "run", "nothing", 1.0, "other"))
    )
    assert usual.images == same.images and (usual.probabilities == same.probabilities).all()


def test_another_folder_under_the_same_name_is_refused(run, tmp_path):
    first = folder_of(tmp_path / "first", ("Monocyte", "Basophil"), 2)
    second = folder_of(tmp_path / "second", ("Monocyte", "Basophil"), 3, seed=1)
    robustness.write([run], [], Progress(1.0, quiet=True), external=f"twice={first}")
    with pytest.raises(UserError, match="4 test images of the external test set twice .* not the 6 images"):
        robustness.write([run], [], Progress(1.0, quiet=True), external=f"twice={second}")


def test_training_images_in_an_external_set_are_named(tiny_config, tmp_path):
    classes = ("Basophil", "Monocyte")
    folder_of(tmp_path / "data" / "Train", classes, 12)
    folder_of(tmp_path / "data" / "TestA", classes, 3, seed=1)
    leak = folder_of(tmp_path / "leak", classes, 4, seed=2)
    shutil.copy(tmp_path / "data" / "Train" / "Monocyte" / "0-5.png", leak / "Monocyte")
    config = tiny_config(**{"data.source": "folder", "data.dir": str(tmp_path / "data"), "data.val_fraction": 0.3})
    loop.run(config, tmp_path / "run")
    out = io.StringIO()
    robustness.write([tmp_path / "run"], [], Progress(1.0, stream=out), external=f"leak={leak}")
    assert out.getvalue().count("warning: leak has 1 byte-identical with training images") == 1
