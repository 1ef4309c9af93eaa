"""Values of a config that are refused, each by the name of its field."""

import pytest

from mae_jax.config.validation import validate
from mae_jax.runtime.errors import UserError


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("mae.mask_ratio", 1.0, "mae.mask_ratio=1.0 is out of range"),
        ("mae.mask_ratio", 0.0, "mae.mask_ratio=0.0 is out of range"),
        ("mae.mask_ratio", 0.999, "mae.mask_ratio=0.999 leaves 0 of 4"),
        ("mae.visible_weight", -1.0, "mae.visible_weight=-1.0 is out of range"),
        ("eval.mask_ratios", (0.5, 0.9), "eval.mask_ratios=(0.5, 0.9): 0.9 leaves 0 of 4"),
        ("eval.mask_ratios", (0.5, 0.5), "use each value once"),
        ("eval.mask_ratios", (0.0, 0.5), "eval.mask_ratios=(0.0, 0.5): 0.0 leaves 4 of 4"),
        ("model.patch_size", 5, "model.image_size=16 is not a multiple"),
        ("model.heads", 3, "multiple of 4 and of heads"),
        ("optim.base_lr", -1.0, "optim.base_lr=-1.0 is out of range"),
        ("optim.base_lr", float("nan"), "optim.base_lr=nan is not a finite"),
        ("optim.schedule", "cosin", "optim.schedule=cosin is not allowed; use one of cosine"),
        ("train.epochs", 0.0, "train.epochs=0.0 is out of range"),
        ("train.batch_size", "64", "train.batch_size='64' has the wrong type; allowed: int"),
        ("data.crop_scale", (0.9, 0.2), "data.crop_scale"),
        ("data.crop_scale", (0.5, 2.0), "data.crop_scale"),
        ("data.std", (0.0, 1.0, 1.0), "data.std"),
        ("data.mean", (0.1,), "use 3 numbers, one per channel"),
        ("data.mean", (0.1, 0.2, float("nan")), "has the wrong type; allowed: finite numbers"),
        ("data.weights", (1.0, -1.0), "data.weights"),
        ("data.fraction", 1.5, "data.fraction=1.5 is out of range"),
        ("optim.no_decay", "(", "not a regular expression"),
        ("train.cellmix", "pairs", "train.cellmix=pairs mixes labels and is only for fine-tuning; set it to none"),
        ("train.mixup", 0.8, "train.mixup=0.8 mixes labels and is only for fine-tuning; set it to 0"),
        ("train.cutmix", -1.0, "train.cutmix=-1.0 is out of range"),
        ("data.randaugment", 11.0, "data.randaugment=11.0 is out of range; allowed: [0, 10]"),
        ("data.random_erasing", 1.5, "data.random_erasing=1.5 is out of range"),
        ("model.head_std", -0.1, "model.head_std=-0.1 is out of range"),
    ],
)
def test_invalid_values_are_refused_by_name(tiny_config, field, value, message):
    config = tiny_config("pretrain")
    section, name = field.split(".")
    with config.ignore_type():
        config[section][name] = value
    with pytest.raises(UserError) as error:
        validate(config)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_misspelled_field_gets_a_suggestion(tiny_config):
    config = tiny_config()
    with config.unlocked():
        config.train.epoch = 3
    with pytest.raises(UserError, match=r"train.epoch is not a field .* did you mean train.epochs\?"):
        validate(config)


def test_a_run_may_match_the_updates_of_as_many_labels_or_more_but_not_of_fewer(tiny_config):
    for share in (0.5, 1.0):
        assert (
            validate(tiny_config(**{"data.fraction": 0.5, "train.match_fraction": share})).train.match_fraction == share
        )
    with pytest.raises(UserError, match=r"train\.match_fraction=0\.25 .* must be at least data\.fraction=0\.5;"):
        validate(tiny_config(**{"data.fraction": 0.5, "train.match_fraction": 0.25}))
