import jax.numpy as jnp
import numpy as np

from mae_jax.step.batches import micro_batches, to_float


def test_images_are_scaled_then_normalized_per_channel(images):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.25, 0.125)
    np.testing.assert_allclose(
        to_float(jnp.asarray(images), mean, std), (images / 255 - mean) / std, rtol=1e-5, atol=1e-5
    )


def test_every_nth_row_is_in_one_micro_batch():
    rows = {"index": jnp.arange(6), "image": jnp.arange(12).reshape(6, 2)}
    parts = micro_batches(rows, 3)
    np.testing.assert_array_equal(parts["index"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(parts["image"][1], [[2, 3], [8, 9]])
