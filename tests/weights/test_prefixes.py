import numpy as np
import pytest

from mae_jax.runtime.errors import UserError
from mae_jax.weights import prefixes

EMBEDDING = "patch_embed.proj.weight"


def arrays(*keys):
    return {key: np.full(1, i, np.float32) for i, key in enumerate(keys)}


def test_only_keys_with_the_prefix_are_taken():
    """A wrapper's own norm must not replace the encoder's."""
    taken, _, notes = prefixes.select(
        arrays(f"backbone.{EMBEDDING}", "backbone.norm.bias", "norm.bias", "fc.bias"), "x"
    )
    assert {key: int(value[0]) for key, value in taken.items()} == {EMBEDDING: 0, "norm.bias": 1}
    assert notes[-1] == "2 keys outside of it are ignored (fc.bias, norm.bias)"


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("student.backbone.", "teacher.backbone."), "teacher.backbone."),
        (("model.", "model_ema."), "model_ema."),
        (("module.base_encoder.", "module.momentum_encoder."), "module.base_encoder."),
        (("model.student.", "model.teacher.", "model.ema."), "model.teacher."),
        (("base_encoder.", "teacher."), "teacher."),
        (("online.", "model_ema."), "model_ema."),
    ],
)
def test_the_teacher_or_the_average_is_taken_and_the_choice_is_noted(names, expected):
    taken, _, notes = prefixes.select(arrays(*(name + EMBEDDING for name in names)), "x")
    assert int(taken[EMBEDDING][0]) == names.index(expected)
    assert f"the one under {expected!r} is used" in notes[1] and all(repr(name) in notes[1] for name in names)


def test_networks_between_which_no_choice_is_clear_are_refused():
    with pytest.raises(UserError, match=r"several networks, under 'a\.', 'b\.'; leave all but one out with .*--leave"):
        prefixes.select(arrays(f"a.{EMBEDDING}", f"b.{EMBEDDING}"), "init: file")


def test_a_convolutional_stem_is_no_second_network():
    keys = ("patch_embed.backbone.layer1.0.conv1.weight", EMBEDDING)
    assert prefixes.select(arrays(*keys), "x")[0].keys() == set(keys)


@pytest.mark.parametrize("model", ["vit", "dinov2", "dinov2_with_registers", "beit"])
def test_the_names_of_transformers_models_are_no_prefix(model):
    key = f"{model}.embeddings.patch_embeddings.projection.weight"
    assert prefixes.select(arrays(key, "classifier.bias"), "x")[0].keys() == {key, "classifier.bias"}
    assert prefixes.select(arrays(f"model.{key}"), "x")[0].keys() == {key}


def test_parts_that_wrappers_add_are_removed_and_collisions_refused():
    key = "_orig_mod.blocks.0._fsdp_wrapped_module.attn._checkpoint_wrapped_module.qkv.weight"
    assert prefixes.unwrapped(arrays(key), "x").keys() == {"blocks.0.attn.qkv.weight"}
    with pytest.raises(UserError, match=r"'norm\.bias' and '_orig_mod\.norm\.bias' are the same parameter"):
        prefixes.unwrapped(arrays("norm.bias", "_orig_mod.norm.bias"), "init: file")
