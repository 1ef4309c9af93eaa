import jax
import jax.numpy as jnp
import numpy as np

from mae_jax.step.losses import cross_entropy, normalize_patches, reconstruction, soft_cross_entropy, soft_targets


def test_loss_counts_only_removed_patches():
    patches = jnp.zeros((1, 4, 6))
    pred = patches.at[0, 1].set(2.0).at[0, 3].set(5.0)
    mask = jnp.array([[0.0, 1.0, 1.0, 0.0]])
    removed, visible = reconstruction(pred, patches, mask, False)
    np.testing.assert_allclose(removed, [4 / 2])  # patches 1 and 2: 4 and 0
    np.testing.assert_allclose(visible, [25 / 2])  # patches 0 and 3: 0 and 25


def test_normalized_targets_use_the_unbiased_variance():
    patch = jnp.array([[[1.0, 2.0, 3.0, 6.0]]])
    expected = (np.array([1, 2, 3, 6]) - 3) / np.sqrt(14 / 3 + 1e-6)
    np.testing.assert_allclose(normalize_patches(patch)[0, 0], expected, rtol=1e-6)
    removed, _ = reconstruction(jnp.asarray(expected, jnp.float32)[None, None], patch, jnp.ones((1, 1)), True)
    np.testing.assert_allclose(removed, [0], atol=1e-12)


def test_cross_entropy_with_and_without_smoothing():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1]]))
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([1])), -np.log(0.2), rtol=1e-6)
    target = np.array([0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])
    expected = -(target * np.log([0.7, 0.2, 0.1])).sum()
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([1]), 0.1), expected, rtol=1e-6)
    assert jnp.isfinite(jax.grad(lambda x: cross_entropy(x, jnp.array([0])).sum())(logits * 1e4)).all()


def test_class_weights_multiply_each_class_s_part_of_the_target():
    p, weights = np.array([0.7, 0.2, 0.1]), np.array([0.5, 3.0, 2.0], np.float32)
    logits = jnp.log(jnp.array([p, p]))
    labels = jnp.array([1, 2])
    plain = cross_entropy(logits, labels, weights=jnp.asarray(weights))
    np.testing.assert_allclose(plain, [-3 * np.log(0.2), -2 * np.log(0.1)], rtol=1e-6)
    target = np.array([0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])
    smoothed = cross_entropy(logits, labels, 0.1, jnp.asarray(weights))[0]
    np.testing.assert_allclose(smoothed, -(target * weights * np.log(p)).sum(), rtol=1e-6)
    mixed = soft_targets(labels, labels[::-1], jnp.float32(0.75), 3)
    expected = -0.75 * 3 * np.log(0.2) - 0.25 * 2 * np.log(0.1)
    np.testing.assert_allclose(soft_cross_entropy(logits, mixed, jnp.asarray(weights))[0], expected, rtol=1e-6)
