"""What the tests of CLIP's and DINOv3's layouts share: drawn arrays, and the network for images of any size."""

import dataclasses
import json
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mae_jax import models
from mae_jax.weights import transfer
from tests.golden import drawing

EXPECTED = dict(np.load(Path(__file__).parents[1] / "golden" / "towers.npz"))
KEYS = json.loads(str(EXPECTED["keys"]))
_apply = jax.jit(models.apply, static_argnums=(0, 1))


def drawn(name):
    """The arrays of a reference of this name, by their keys."""
    return {key: drawing.array(key, tuple(shape)) for key, shape in KEYS[name].items()}


def network(weights, grid):
    """Shape and parameters of a classifier's encoder for images of grid x grid patches."""
    shape = dataclasses.replace(weights.shape, image_size=grid * 8, n_classes=1)
    like = jax.eval_shape(partial(models.init, "vit", shape), jax.random.key(0))
    params, _ = transfer.transfer(jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), like), shape, weights)
    return shape, params["encoder"]


def tokens(weights, grid):
    """Tokens of the encoder for images of grid x grid patches."""
    return _apply("encoder", *network(weights, grid), drawing.images(grid * 8))
