"""The training state: a function of the seed, optimizer state of trained parameters alone, padding and its removal."""

import dataclasses

import jax
import numpy as np

from mae_jax.models.vit import ViTConfig
from mae_jax.step import sharding, state
from mae_jax.step.objectives.classification import Classification
from mae_jax.step.objectives.reconstruction import Reconstruction
from mae_jax.step.optimizer import Optimizer
from mae_jax.step.spec import StepSpec

SHAPE = ViTConfig(16, 8, 33, 1, 3, n_classes=3, mlp_ratio=4.0)


def spec_of(fsdp=1, **fields):
    values = dict(
        objective=Classification(), shape=SHAPE, optimizer=Optimizer(0.9, 0.95, 0.1, "", 0.0, 1.0), mean=(0.5,) * 3,
        std=(0.25,) * 3, batch_size=8, accumulation=1, mesh=sharding.make_mesh(fsdp),
    )  # fmt: skip
    return StepSpec(**values | fields)


def arrays(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def test_a_state_is_a_function_of_the_seed_and_does_not_depend_on_its_sharding():
    one, again, other = (state.init_state(spec_of(), seed) for seed in (0, 0, 1))
    assert int(one.step) == 0
    for a, b in zip(arrays(one), arrays(again), strict=True):
        np.testing.assert_array_equal(a, b)
    kernels = [tree.params["head"]["kernel"] for tree in (one, other)]
    assert (np.asarray(kernels[0]) != np.asarray(kernels[1])).all()
    split = spec_of(5)
    padded = state.init_state(split, 0)
    for a, b in zip(arrays(one), arrays(state.unpadded(split, padded)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_padding_is_added_where_no_axis_can_be_split_and_taken_away_again():
    spec = spec_of(5)
    tree = state.init_state(spec, 0)
    kernel = tree.params["encoder"]["block_00"]["mlp"]["fc1"]["kernel"]
    assert SHAPE.width == 33 and kernel.shape == (33, 135)  # 33 x 132 of the network
    assert kernel.addressable_shards[0].data.size == kernel.size // 5
    assert not np.asarray(kernel)[:, 132:].any()
    unpadded = state.unpadded(spec, tree)
    like = state.abstract_state(spec)
    assert [leaf.shape for leaf in jax.tree.leaves(unpadded)] == [leaf.shape for leaf in jax.tree.leaves(like)]
    again = state.padded(spec, unpadded)
    assert [leaf.shape for leaf in jax.tree.leaves(again)] == [
        leaf.shape for leaf in jax.tree.leaves(state.split_state(spec))
    ]
    for a, b in zip(arrays(tree), arrays(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert state.unpadded(spec_of(), unpadded) is unpadded  # nothing to do on one part


def test_only_trained_parameters_have_optimizer_state():
    everything, head = (state.abstract_state(spec_of(trained=trained)) for trained in ("", "^head/"))
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert count(head.params) == count(everything.params)
    moments = count(everything.opt_state) - 2 * count(everything.params)
    assert count(head.opt_state) == 2 * (33 * 3 + 3) + moments  # two moments of each trained value, and the counters


def test_a_pre_training_has_a_decoder_and_shapes_cost_no_arrays():
    shape = dataclasses.replace(SHAPE, decoder_width=16, decoder_depth=1, decoder_heads=2, n_classes=0)
    like = state.abstract_state(spec_of(objective=Reconstruction(mask_ratio=0.5, norm_pix=True), shape=shape))
    assert set(like.params) == {"encoder", "decoder"}
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(like))


def test_functions_of_the_state_are_compiled_once_for_all_seeds():
    """A study draws, pads and crops the state of each run; compiling takes longer than a run of few steps."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, duration_secs, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    spec = spec_of(5, batch_size=24)  # other tests have not compiled it
    for seed in range(3):
        before = len(compiled)
        drawn = state.init_state(spec, seed)
        state.padded(spec, state.unpadded(spec, drawn))
        assert (len(compiled) > before) == (seed == 0)
