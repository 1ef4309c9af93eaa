"""Compares interpolated positions with PyTorch's. `tests/golden/make.py interpolation` makes the numbers."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.weights import positions

GOLDEN = Path(__file__).parents[1] / "golden" / "interpolation.npz"


@pytest.mark.parametrize("way", positions.WAYS)
def test_positions_are_those_of_pytorch(way):
    expected = dict(np.load(GOLDEN))
    for grid in (2, 3, 7):
        ours = positions.interpolate(jnp.asarray(expected["positions"]), grid, way)
        np.testing.assert_allclose(ours, expected[f"{way}/{grid}"], rtol=0, atol=5e-6)


def test_the_ways_differ():
    x = jnp.asarray(dict(np.load(GOLDEN))["positions"])
    ours = [np.asarray(positions.interpolate(x, 3, way)) for way in positions.WAYS]
    assert all(np.abs(ours[i] - ours[j]).max() > 0.01 for i, j in ((0, 1), (0, 2), (1, 2)))
