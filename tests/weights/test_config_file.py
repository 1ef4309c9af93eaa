import json
from pathlib import Path

import pytest

from mae_jax.runtime.errors import UserError
from mae_jax.weights import config_file, reader


def test_fields_are_checked_when_they_are_read():
    config = config_file.ConfigFile({"a": 2, "b": {"c": 0.5}, "d": "x"}, Path("w.npz"), "init")
    assert (config.count("a"), config.count("none"), config.section("b").epsilon("c"), config.get("d")) == (
        2,
        0,
        0.5,
        "x",
    )
    for read in (config.count, config.epsilon, config.section):
        with pytest.raises(UserError, match=r"init: the config.json of w.npz: d is 'x'; it should be an? "):
            read("d")


def test_class_names_are_those_of_transformers_timm_and_mae_jax_if_they_are_as_many_as_the_classes():
    for fields in (
        {"id2label": {"10": "c", "1": "b", "0": "a"}},
        {"label_names": ["a", "b", "c"]},
        {"mae_jax": {"classes": ["a", "b", "c"]}},
    ):
        config = config_file.ConfigFile(fields, Path("w.npz"), "init")
        assert config_file.class_names(config, 3) == ("a", "b", "c") and config_file.class_names(config, 4) == ()


def test_the_scale_of_images_is_stated_or_assumed(tmp_path):
    config = config_file.ConfigFile({"mean": [0.1, 0.2, 0.3]}, tmp_path, "init")
    (mean, std), notes = config_file.scale(config, ((0.5,) * 3, (0.25,) * 3))
    assert mean == (0.1, 0.2, 0.3) and std == (0.25,) * 3 and "the images' standard deviation; 0.5, as in" in notes[0]
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.7] * 3, "image_std": [2, 2, 2]}))
    assert config_file.scale(config, ((0.5,) * 3, (0.25,) * 3)) == (((0.7,) * 3, (2.0,) * 3), [])


HOSTILE = [
    ({"num_attention_heads": "two"}, "num_attention_heads is 'two'; it should be a whole number above 0"),
    ({"num_attention_heads": float("nan")}, "num_attention_heads is nan"),
    ({"num_attention_heads": float("inf")}, "num_attention_heads is inf"),
    ({"num_attention_heads": -2}, "num_attention_heads is -2"),
    ({"num_attention_heads": 10**18}, "num_attention_heads is 1000000000000000000"),
    ({"num_attention_heads": [2]}, r"num_attention_heads is [2]"),
    ({"num_attention_heads": True}, "num_attention_heads is True"),
    ({"model_args": [1]}, "model_args is [1]; it should be an object"),
    ({"layer_norm_eps": "x"}, "layer_norm_eps is 'x'; it should be a number between 0 and 1"),
    ({"layer_norm_eps": -1}, "layer_norm_eps is -1"),
    ({"layer_norm_eps": float("nan")}, "layer_norm_eps is nan"),
    ({"pretrained_cfg": 5}, "pretrained_cfg is 5"),
    ({"pretrained_cfg": {"mean": [float("nan"), 0, 0]}}, "image_mean is [nan, 0, 0]; it should be three numbers"),
    ({"pretrained_cfg": {"std": [0, 1, 1]}}, "image_std is [0, 1, 1]; it should be three numbers above 0"),
    ({"pretrained_cfg": {"mean": "grey"}}, "image_mean is 'grey'"),
    ({"id2label": ["a"]}, "id2label is ['a']; it should be an object"),
    ([1], "holds a list instead of a JSON object"),
]


@pytest.mark.parametrize(("about", "message"), HOSTILE)
def test_a_hostile_config_is_refused_and_the_field_named(timm_file, about, message):
    with pytest.raises(UserError) as error:
        reader.read(timm_file(about=about, classes=3), "init")
    assert message in str(error.value) and str(error.value).startswith("init: ")


def test_a_config_nested_a_hundred_thousand_levels_deep_is_refused(timm_file):
    path = timm_file()
    (path.parent / "config.json").write_text('{"a":' * 100_000)
    with pytest.raises(UserError, match="not valid JSON"):
        reader.read(path)
