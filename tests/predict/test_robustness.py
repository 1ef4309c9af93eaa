"""Predictions for changed test images: equal to those of the run where nothing changes, and kept when they exist."""

import numpy as np
import pytest

from mae_jax.evaluation.perturbations import Perturbation
from mae_jax.predict import robustness
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
