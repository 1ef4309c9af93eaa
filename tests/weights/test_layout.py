import numpy as np
import pytest
from safetensors.numpy import load_file

from mae_jax.runtime.errors import UserError
from mae_jax.weights import layout, reader


def test_a_file_is_found_by_the_names_of_its_keys(timm_file):
    path = timm_file(classes=3)
    result = layout.read_layout(path, "init", heads=4)
    assert (result.family, result.prefix, result.heads, result.augreg, result.ignored) == ("timm", "", 4, False, ())
    assert result.where == f"init: {path}" and result.saved.fields == {} and "model_args" in result.config.fields
    np.testing.assert_array_equal(result.find("head/bias"), load_file(path)["head.bias"])
    assert result.find("fc_norm/scale") is None and result.need("head/kernel", 2).shape == (3, 16)
    with pytest.raises(UserError, match="head.bias has shape .3,. instead of 2 nonempty axes"):
        result.need("head/bias", 2)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (
            {"head.mlp.0.weight": (4, 16)},
            "the head 'head' (1 key) is not a linear layer on the features; it is ignored",
        ),
        ({"head.weight": (3, 5), "head.bias": (3,)}, "the head 'head' (2 keys) is not a linear layer"),
        ({"pre_logits.fc.weight": (9, 16)}, "the head 'pre_logits' (1 key)"),
    ],
)
def test_heads_of_another_shape_are_ignored_and_noted(timm_file, keys, message):
    weights = reader.read(timm_file(lambda a: a.update({key: np.ones(s, np.float32) for key, s in keys.items()})))
    assert (
        any(message in note for note in weights.notes) and "head" not in weights.params and not weights.shape.n_classes
    )


def test_keys_that_match_leave_are_ignored(timm_file):
    def more(arrays):
        arrays |= {f"backbone.{key}": arrays.pop(key) for key in list(arrays)}
        arrays["backbone.adapter.weight"] = arrays["backbone.norm.weight"]

    path = timm_file(more)
    with pytest.raises(UserError, match=r"1 unexpected \(adapter.weight\)"):
        reader.read(path)
    for pattern in (r"^adapter\.", r"^backbone\.adapter\."):
        assert "1 key is ignored, as requested (" in reader.read(path, leave=pattern).notes[0]
    with pytest.raises(UserError, match="matches no key"):
        reader.read(path, leave="decoder")
    with pytest.raises(UserError, match="not a valid regular expression"):
        reader.read(path, leave="(")
    with pytest.raises(UserError, match=r"1 missing \(norm.bias\)"):
        reader.read(path, leave="adapter|norm.bias$")


def test_of_two_networks_in_one_file_the_teacher_is_taken(timm_file):
    def twice(arrays):
        for key in list(arrays):
            arrays[f"teacher.{key}"] = arrays.pop(key)
            arrays[f"student.{key}"] = arrays[f"teacher.{key}"] + 1

    path = timm_file(twice)
    weights = reader.read(path)
    norm = load_file(path)["teacher.norm.weight"]
    np.testing.assert_array_equal(weights.params["encoder"]["norm"]["scale"], norm)
    assert "the one under 'teacher.' is used, 'student.' is ignored" in weights.notes[1]
    assert reader.read(path, leave=r"^student\.").notes[-1] == "the prefix 'teacher.' is removed from the keys"
    student = reader.read(path, leave=r"^teacher\.")
    np.testing.assert_array_equal(student.params["encoder"]["norm"]["scale"], norm + 1)
