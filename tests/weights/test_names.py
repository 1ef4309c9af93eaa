import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from mae_jax import models
from mae_jax.weights import reader

GOLDEN = Path(__file__).parents[1] / "golden"
spec = importlib.util.spec_from_file_location("drawing", GOLDEN / "drawing.py")
assert spec and spec.loader
drawing = importlib.util.module_from_spec(spec)
spec.loader.exec_module(drawing)


@pytest.mark.parametrize("above", ["", "opt/target/"])
def test_googles_npz_files_give_the_logits_that_timm_computes(tmp_path, above):
    """`tests/golden/make.py encoders` made the logits."""
    golden = np.load(GOLDEN / "augreg.npz")
    shapes = json.loads(str(golden["shapes"]))
    np.savez(tmp_path / "x.npz", **{above + key: drawing.array(key, tuple(shape)) for key, shape in shapes.items()})
    weights = reader.read(tmp_path / "x.npz")
    assert (weights.shape.heads, weights.heads_known, weights.mean) == (4, True, (0.5, 0.5, 0.5))
    assert any("0.5, as in Google's code, is assumed" in note for note in weights.notes)
    apply = jax.jit(models.apply, static_argnums=(0, 1))
    logits = apply("vit", weights.shape, weights.params, drawing.images(16))
    np.testing.assert_allclose(logits, golden["logits"], rtol=1e-5, atol=1e-5)
