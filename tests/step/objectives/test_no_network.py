"""The objective of a run without a network."""

import jax
import jax.numpy as jnp
import pytest

from mae_jax.config.validation import validate
from mae_jax.models.vit import ViTConfig
from mae_jax.step import sharding
from mae_jax.step.objectives.no_network import NoNetwork
from mae_jax.step.optimizer import Optimizer
from mae_jax.step.spec import StepSpec
from mae_jax.step.state import init_state


def test_it_has_no_parameters_and_makes_no_step(tiny_config):
    objective = NoNetwork.of(validate(tiny_config("lbfgs")))
    shape = ViTConfig(16, 8, 16, 1, 2)
    spec = StepSpec(
        objective, shape, Optimizer(0.9, 0.95, 0.1, "", 0.0, 1.0), (0.5,) * 3, (0.25,) * 3, 4, 1, sharding.make_mesh(1)
    )
    state = init_state(spec, 0)
    assert not jax.tree.leaves((state.params, state.opt_state)) or int(state.step) == 0
    assert state.params == {} == objective.init(shape, jax.random.key(0))
    with pytest.raises(TypeError, match="makes no update"):
        objective.loss(spec, {}, {}, jax.random.key(0), None)
    with pytest.raises(TypeError, match="evaluates none"):
        objective.evaluate(spec, {}, {}, jnp.int32(0))
