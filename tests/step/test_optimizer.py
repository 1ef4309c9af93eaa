import jax
import jax.numpy as jnp
import numpy as np
import optax

from mae_jax import models
from mae_jax.config.fields import defaults
from mae_jax.models.params import join, map_paths, part
from mae_jax.models.vit import ViTConfig
from mae_jax.step.optimizer import Optimizer, layer_scales

SHAPE = ViTConfig(16, 4, 16, 2, 2, decoder_width=8, decoder_depth=1, decoder_heads=2, n_classes=3)


def optimizer(**fields):
    values = {"b1": 0.9, "b2": 0.95, "weight_decay": 0.1, "no_decay": defaults("finetune").optim.no_decay}
    return Optimizer(**(values | {"clip_norm": 0.0, "layer_decay": 1.0} | fields))


def test_no_decay_on_biases_norms_and_tokens():
    params = models.init("vit", SHAPE, jax.random.key(0))
    decayed, free = [], []
    map_paths(lambda path, leaf: (decayed if leaf else free).append(path), optimizer().decayed(params))
    assert all(path.endswith("kernel") for path in decayed)
    assert all(path.endswith(("bias", "scale", "cls_token")) for path in free)
    assert len(decayed) == 2 + 2 * 4 and len(decayed) + len(free) == len(jax.tree.leaves(params))


def test_update_is_adamw_and_leaves_biases_undecayed():
    params = {"kernel": jnp.array([1.0, -2.0]), "bias": jnp.array([3.0])}
    ours = optimizer()
    mask = {"kernel": True, "bias": False}
    theirs = optax.adamw(0.01, b1=0.9, b2=0.95, weight_decay=0.1, mask=mask)
    state, their_state, expected = ours.transform().init(params), theirs.init(params), params
    for i in range(3):
        gradient = jax.tree.map(lambda p, i=i: p * 0.1 + i, params)
        params, state = ours.update(gradient, state, params, jnp.float32(0.01))
        updates, their_state = theirs.update(gradient, their_state, expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)
    # With no gradient, decay alone moves the weights.
    still = {"kernel": jnp.array([1.0]), "bias": jnp.array([1.0])}
    zero = jax.tree.map(jnp.zeros_like, still)
    moved, _ = ours.update(zero, ours.transform().init(still), still, jnp.float32(0.5))
    np.testing.assert_allclose(moved["kernel"], 1 - 0.5 * 0.1, rtol=1e-6)
    assert moved["bias"] == 1


def test_clipping_is_by_the_norm_over_all_parameters():
    """LARS leaves the gradient of a bias as it is, so the first update is the clipped gradient itself."""
    gradient = {"a": {"bias": jnp.array([6.0, 0.0])}, "b": {"bias": jnp.array([0.0, 8.0])}}  # the norm of both is 10
    zero = jax.tree.map(jnp.zeros_like, gradient)
    for clip_norm, factor in ((5.0, 0.5), (10.0, 1.0), (20.0, 1.0), (0.0, 1.0)):
        clipped = optimizer(name="lars", clip_norm=clip_norm, weight_decay=0.0)
        after, _ = clipped.update(gradient, clipped.transform().init(zero), zero, jnp.float32(1))
        np.testing.assert_allclose(after["a"]["bias"], [-6.0 * factor, 0], rtol=1e-6)
        np.testing.assert_allclose(after["b"]["bias"], [0, -8.0 * factor], rtol=1e-6)


def test_adam_sees_the_clipped_gradient():
    """Adam's first step hardly depends on the size of the gradient; the second shows whether the first was clipped."""
    params, ours = {"bias": jnp.zeros(2)}, optimizer(clip_norm=1.0, weight_decay=0.0)
    state, m, v, expected = ours.transform().init(params), 0.0, 0.0, np.zeros(2)
    for i, gradient in enumerate(([30.0, 40.0], [0.3, -0.4]), 1):
        params, state = ours.update({"bias": jnp.array(gradient)}, state, params, jnp.float32(0.1))
        g = np.array(gradient) / max(1.0, float(np.linalg.norm(gradient)))
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        expected -= 0.1 * (m / (1 - 0.9**i)) / (np.sqrt(v / (1 - 0.95**i)) + 1e-8)
    np.testing.assert_allclose(params["bias"], expected, rtol=1e-5)


def test_lars_matches_the_paper():
    """Two updates by hand: trust ratio for the kernel but not the bias, then momentum, then the learning rate."""
    ours = optimizer(name="lars", weight_decay=0.5)
    params = {"kernel": jnp.array([[3.0, 4.0]]), "bias": jnp.array([2.0])}  # the kernel's norm is 5
    gradients = [{"kernel": jnp.array([[g, 0.0]]), "bias": jnp.array([g])} for g in (1.0, -2.0)]
    state = ours.transform().init(params)
    kernel, bias, moved = np.array([[3.0, 4.0]]), 2.0, (0.0, 0.0)
    for rate, gradient in zip((0.1, 0.4), gradients, strict=True):
        params, state = ours.update(gradient, state, params, jnp.float32(rate))
        step = np.asarray(gradient["kernel"], np.float64) + 0.5 * kernel
        step *= 0.001 * np.linalg.norm(kernel) / np.linalg.norm(step)
        moved = 0.9 * moved[0] + step, 0.9 * moved[1] + float(gradient["bias"][0])
        kernel, bias = kernel - rate * moved[0], bias - rate * moved[1]
        np.testing.assert_allclose(params["kernel"], kernel, rtol=1e-6)
        np.testing.assert_allclose(params["bias"], bias, rtol=1e-6)
    assert sum(x.size for x in jax.tree.leaves(state)) == 3  # momentum, and nothing else
    # A kernel of zeros has norm 0, so its gradient is not scaled.
    zero = {"kernel": jnp.zeros((1, 2))}
    after, _ = ours.update({"kernel": jnp.ones((1, 2))}, ours.transform().init(zero), zero, jnp.float32(1))
    np.testing.assert_allclose(after["kernel"], -1)


def test_the_last_blocks_keep_their_scale_where_the_others_are_not_trained():
    params = models.init("vit", SHAPE, jax.random.key(0))
    last, rest = part(params, "^(head|encoder/norm|encoder/block_01)/")
    assert set(last) == {"encoder", "head"} and set(last["encoder"]) == {"block_01", "norm"}
    assert set(rest) == {"encoder"} and set(rest["encoder"]) == {"patch_embed", "cls_token", "block_00"}
    jax.tree.map(np.testing.assert_array_equal, join(last, rest), params)
    assert part(params, "") == (params, {})
    trained = part(layer_scales(params, 0.5), "^(head|encoder/norm|encoder/block_01)/")[0]
    assert layer_scales(last, 0.5) == trained


def test_layer_decay_counts_from_the_head():
    scales = layer_scales(models.init("vit", SHAPE, jax.random.key(0)), 0.5)
    assert scales["encoder"]["patch_embed"]["proj"]["kernel"] == 0.5**3
    assert scales["encoder"]["cls_token"] == 0.5**3
    assert scales["encoder"]["block_00"]["norm1"]["scale"] == 0.5**2
    assert scales["encoder"]["block_01"]["mlp"]["fc2"]["bias"] == 0.5
    assert scales["encoder"]["norm"]["scale"] == 1 and scales["head"]["kernel"] == 1
