"""Features of frozen encoders are computed once."""

import numpy as np
import pytest

from mae_jax.data import sources
from mae_jax.evaluation.feature_cache import Features


def test_features_are_computed_once_for_each_encoder_and_image():
    asked = []

    def encode(source, indices):
        asked.append(indices.tolist())
        return np.stack([indices, indices * 10], 1).astype(np.float32)

    one, two = (sources.synthetic("Train", 12, 16, seed) for seed in (0, 1))
    kept = Features()
    for encoder, source, indices in (("a", one, [3, 1]), ("a", one, [1, 5, 3]), ("a", two, [1]), ("b", one, [1])):
        result = kept.of(encoder, source, np.array(indices), encode)
        np.testing.assert_array_equal(result, [[i, 10 * i] for i in indices])
    assert asked == [[1, 3], [5], [1], [1]]


def test_an_encoder_that_failed_leaves_nothing_and_no_image_asks_for_nothing():
    def fails(source, indices):
        raise OSError("disk")

    source, kept = sources.synthetic("Train", 4, 16, 0), Features()
    with pytest.raises(OSError, match="disk"):
        kept.of("a", source, np.array([2]), fails)
    assert kept.of("a", source, np.zeros(0, int), fails).shape == (0, 0)
    encode = lambda source, indices: indices[:, None].astype(np.float32) + 0.5  # noqa: E731
    np.testing.assert_array_equal(kept.of("a", source, np.array([2, 2, 0]), encode), [[2.5], [2.5], [0.5]])
    assert kept.of("a", source, np.zeros(0, int), fails).shape == (0, 1)
