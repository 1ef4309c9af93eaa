"""Network, step and trained parameters that follow from a config."""

import re

import pytest

from mae_jax.config.fields import changed
from mae_jax.config.schedule import resolve
from mae_jax.config.validation import validate
from mae_jax.models import vit
from mae_jax.runtime.errors import UserError
from mae_jax.step import from_config, sharding
from mae_jax.step.objectives.classification import Classification
from mae_jax.step.objectives.reconstruction import Reconstruction


def test_a_named_size_is_that_of_the_papers_and_a_custom_one_is_as_given(tiny_config):
    config = validate(tiny_config())
    base = changed(config, {"model.size": "base", "model.width": 0, "model.depth": 0, "model.heads": 0})
    shape = from_config.shape_of(base, 5)
    assert (shape.width, shape.depth, shape.heads) == vit.SIZES["base"] == (768, 12, 12) and shape.n_classes == 5
    shape = from_config.shape_of(config)
    assert (shape.width, shape.depth, shape.heads, shape.image_size, shape.patch_size) == (16, 2, 2, 16, 8)
    assert (shape.dtype, shape.attention) == ("float32", "xla")  # auto, on a CPU


@pytest.mark.parametrize(
    ("task", "decoder", "batch_norm", "drop_path"),
    [("pretrain", 1, False, 0.0), ("finetune", 0, False, 0.3), ("linear_probe", 0, True, 0.0), ("knn", 0, False, 0.0)],
)
def test_parts_of_the_network_belong_to_its_task(tiny_config, task, decoder, batch_norm, drop_path):
    config = changed(validate(tiny_config(task)), {"model.drop_path": 0.3, "model.dropout": 0.3})
    shape = from_config.shape_of(config)
    assert (shape.decoder_depth, shape.decoder_width > 0, shape.batch_norm) == (decoder, bool(decoder), batch_norm)
    assert shape.drop_path == shape.dropout == drop_path


def test_a_spec_has_the_fields_of_its_config(tiny_config):
    fields = {"mae.mask_ratio": 0.5, "mae.visible_weight": 0.25, "train.accumulation": 2, "optim.clip_norm": 3.0}
    config = validate(tiny_config("pretrain", **fields, **{"mae.norm_pix_loss": False, "optim.layer_decay": 0.75}))
    mesh = sharding.make_mesh(1)
    spec = from_config.spec_of(config, resolve(config, 100, 5), mesh)
    assert spec.objective == Reconstruction(0.5, False, 0.25)
    assert (spec.batch_size, spec.accumulation, spec.mesh, spec.trained) == (16, 2, mesh, "")
    o = spec.optimizer
    assert (o.b1, o.b2, o.weight_decay) == (config.optim.b1, config.optim.b2, config.optim.weight_decay)
    assert (o.no_decay, o.clip_norm, o.layer_decay, o.name) == (config.optim.no_decay, 3.0, 0.75, "adamw")
    classifier = validate(tiny_config(**{"mae.mask_ratio": 0.5, "train.mixup": 0.8, "train.label_smoothing": 0.1}))
    spec = from_config.spec_of(classifier, resolve(classifier, 100, 5), mesh, 3)
    assert spec.objective == Classification(label_smoothing=0.1, mixup=0.8) and spec.shape.n_classes == 3


PATHS = (
    *("encoder/block_00/attn/qkv/kernel", "encoder/block_01/mlp/fc1/bias", "encoder/block_02/norm1/scale"),
    *("encoder/norm/scale", "encoder/cls_token", "fc_norm/scale", "head/kernel", "header/kernel"),
)


@pytest.mark.parametrize(
    ("task", "blocks", "trained", "frozen_blocks"),
    [
        ("finetune", -1, None, 0),
        ("finetune", 0, [6], 3),
        ("finetune", 1, [2, 3, 5, 6], 2),
        ("finetune", 3, [0, 1, 2, 3, 5, 6], 0),
        ("linear_probe", -1, [6], 0),
    ],
)
def test_partial_fine_tuning_trains_the_last_blocks_the_last_norm_and_the_head(
    tiny_config, task, blocks, trained, frozen_blocks
):
    config = changed(validate(tiny_config(task, **{"model.depth": 3})), {"train.blocks": blocks})
    pattern = from_config.trained_parameters(config)
    result = None if not pattern else [i for i, path in enumerate(PATHS) if re.search(pattern, path)]
    assert result == trained and from_config.shape_of(config).frozen_blocks == frozen_blocks


def test_more_blocks_than_there_are_is_refused(tiny_config):
    config = validate(tiny_config(**{"train.blocks": 3}))
    with pytest.raises(UserError, match="train.blocks=3 is out of range; use 0 to 2, or -1 to train everything"):
        from_config.trained_parameters(config)
