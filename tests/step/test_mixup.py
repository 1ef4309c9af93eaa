from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mae_jax.step.losses import cross_entropy, soft_cross_entropy, soft_targets
from mae_jax.step.mixup import box, draw, partners


@pytest.mark.parametrize(
    ("share", "centre", "rows", "columns"),
    [
        (0.64, (5, 4), (2, 8), (1, 7)),  # 10 sqrt(0.36) = 6 pixels
        (0.64, (1, 8), (0, 4), (5, 10)),  # across two edges: the part outside is lost
        (0.7, (5, 5), (3, 8), (3, 8)),  # 5.48 becomes 5: 2 above, 3 from the middle on
        (1.0, (5, 5), (5, 5), (5, 5)),
        (0.0, (5, 5), (0, 10), (0, 10)),
    ],
)
def test_a_box_is_where_timm_cuts_it(share, centre, rows, columns):
    expected = np.zeros((10, 10), bool)
    expected[slice(*rows), slice(*columns)] = True
    np.testing.assert_array_equal(box(jnp.float32(share), jnp.array(centre), 10), expected)


draws = partial(jax.jit, static_argnums=(1, 2, 3))(jax.vmap(draw, in_axes=(0, None, None, None)))


def test_shares_are_those_of_the_pixels_and_as_often_as_asked():
    keys = jax.random.split(jax.random.key(0), 4000)
    weights, share = (np.asarray(x) for x in draws(keys, 0.8, 1.0, 8))
    np.testing.assert_allclose(weights.mean((1, 2)), share, atol=1e-6)
    assert (weights >= 0).all() and (weights <= 1).all()
    boxed = np.isin(weights, (0, 1)).all((1, 2))  # weights of 0 and 1 alone
    assert boxed.mean() == pytest.approx(0.5, abs=0.03)
    # Beta(a, a) has the mean 1/2 and the variance 1 / (4 (2 a + 1)).
    assert share[~boxed].mean() == pytest.approx(0.5, abs=0.02)
    assert share[~boxed].var() == pytest.approx(1 / (4 * 2.6), rel=0.06)
    # The box is smaller than drawn, because its sides are rounded down and clipped at the edges.
    assert 0.6 < share[boxed].mean() < 0.9
    rows, columns = (1 - weights[boxed]).sum(2).max(1), (1 - weights[boxed]).sum(1).max(1)
    np.testing.assert_array_equal((1 - weights[boxed]).sum((1, 2)), rows * columns)  # one rectangle


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0)])
def test_only_mixup_or_only_cutmix(mixup, cutmix):
    weights, _ = draws(jax.random.split(jax.random.key(1), 200), mixup, cutmix, 8)
    boxed = np.isin(np.asarray(weights), (0, 1)).all((1, 2))
    assert boxed.all() if cutmix else not boxed.any()


def test_soft_targets_sum_to_one_and_are_smoothed_as_in_timm():
    result = soft_targets(jnp.array([0, 2]), jnp.array([1, 2]), jnp.float32(0.7), 4, 0.1)
    on, off = 1 - 0.1 + 0.1 / 4, 0.1 / 4
    expected = [[0.7 * on + 0.3 * off, 0.7 * off + 0.3 * on, off, off], [off, off, on, off]]
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    np.testing.assert_allclose(result.sum(1), 1, rtol=1e-6)
    # Without a partner, the loss equals the smoothed cross-entropy of unmixed images.
    logits = jax.random.normal(jax.random.key(0), (2, 4))
    alone = soft_targets(jnp.array([0, 2]), jnp.array([1, 1]), jnp.float32(1.0), 4, 0.1)
    np.testing.assert_allclose(
        soft_cross_entropy(logits, alone), cross_entropy(logits, jnp.array([0, 2]), 0.1), rtol=1e-6
    )


def test_padding_is_never_a_partner():
    assert partners(jnp.arange(5), 3).tolist() == [2, 1, 0, 3, 4]
