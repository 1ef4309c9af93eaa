"""Selections of images to label, on clusters whose answer is known."""

import numpy as np
import pytest

from mae_jax.evaluation import selection

NONE = np.zeros(0, int)


@pytest.fixture
def clusters():
    """Directions of four clusters of 40, 30, 20 and 10 images, densest in the middle, and two odd images."""
    rng = np.random.default_rng(0)
    centers = np.eye(6)[:4]
    parts = [
        c + rng.normal(0, 0.08, (n, 6)) * rng.uniform(0, 1, (n, 1))
        for c, n in zip(centers, (40, 30, 20, 10), strict=True)
    ]
    features = np.concatenate([*parts, np.eye(6)[4:]])
    return (features * rng.uniform(1, 5, (len(features), 1))).astype(np.float32)  # lengths do not matter


def cluster_of(i):
    return int(np.searchsorted([40, 70, 90, 100, 101], i, side="right"))


def test_typical_images_come_from_the_largest_clusters_and_are_the_densest(clusters):
    chosen = selection.typical(clusters, 4, NONE, 0)
    assert [cluster_of(i) for i in chosen] == [0, 1, 2, 3]
    x = clusters / np.linalg.norm(clusters, axis=1, keepdims=True)
    cluster = x[:40]
    distances = np.sort(np.linalg.norm(cluster[:, None] - cluster[None], axis=2), axis=1)[:, 1:21].mean(1)
    assert chosen[0] == distances.argmin()
    np.testing.assert_array_equal(chosen, selection.typical(clusters, 4, NONE, 0))
    assert not {100, 101} & set(chosen)


def test_a_cluster_with_a_label_waits(clusters):
    chosen = selection.typical(clusters, 3, np.array([5]), 0)
    assert [cluster_of(i) for i in chosen] == [1, 2, 3]
    many = selection.typical(clusters, 101, np.array([5]), 0)
    assert sorted(many) == [i for i in range(102) if i != 5]  # each once, up to the last


def test_a_core_set_takes_the_farthest_image_next(clusters):
    chosen = selection.coreset(clusters, 6, NONE, 3)
    assert {cluster_of(i) for i in chosen} == {0, 1, 2, 3, 4, 5}  # odd images, too
    x = clusters / np.linalg.norm(clusters, axis=1, keepdims=True)
    for n in range(1, 6):
        nearest = np.linalg.norm(x[:, None] - x[chosen[:n]][None], axis=2).min(1)
        assert nearest[chosen[n]] == pytest.approx(nearest.max(), abs=1e-5)
    rest = selection.coreset(clusters, 5, chosen[:1], 7)
    np.testing.assert_array_equal(rest, chosen[1:])
    assert len(set(selection.coreset(np.ones((9, 2), np.float32), 8, NONE, 0))) == 8


def test_a_random_selection_has_each_image_once_and_none_with_a_label(clusters):
    chosen = selection.random(clusters, 100, np.array([0, 7]), 1)
    assert sorted(chosen) == [i for i in range(102) if i not in (0, 7)]
    assert (chosen[:10] != selection.random(clusters, 100, np.array([0, 7]), 2)[:10]).any()
