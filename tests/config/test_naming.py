"""Names made from a config: arms, run directories, labels of data."""

import pytest

from mae_jax.config import fields, naming
from mae_jax.runtime.errors import UserError


def test_arms_are_named_by_what_differs_from_the_usual_training(tiny_config):
    names = {}
    for match, count, blocks in ((0.0, 0, -1), (0.5, 0, -1), (0.0, 200, -1), (0.0, 0, 0), (0.0, 0, 1), (1.0, 0, 2)):
        fields = {"train.match_fraction": match, "train.match_count": count, "train.blocks": blocks}
        names[match, count, blocks] = naming.arm_of(tiny_config(**fields))
    assert list(names.values()) == [
        *("", "as many updates as 50 %", "as many updates as 200 labels", "the head trained", "1 block trained"),
        "as many updates as 100 %, 2 blocks trained",
    ]


def test_a_run_directory_is_named_by_what_the_run_is(tiny_config):
    data = {"data.source": "folder", "data.dir": "/x/my cells/"}
    config = tiny_config(**data, **{"data.fraction": 0.1}, init="mae", init_from="runs/mine", seed=3)
    assert naming.default_workdir(config) == "runs/finetune-my_cells-10pct-mae_mine-16x2_p8_16px-seed3"
    counted = tiny_config(**{"data.label_count": 200, "train.blocks": 1}, name="a b")
    assert naming.default_workdir(counted) == "runs/a_b-synthetic-200labels-scratch-blocks1-16x2_p8_16px-seed0"
    weights = tiny_config(init="weights", init_from="/w/vit.safetensors")
    assert "-weights_vit-" in naming.default_workdir(weights)
    assert naming.default_workdir(tiny_config("pretrain")) == "runs/pretrain-synthetic-16x2_p8_16px-seed0"
    study = fields.study_defaults(tiny_config("pretrain"), tiny_config(**data))
    assert naming.default_workdir(study) == "runs/study-my_cells-16x2_p8_16px"


def test_a_given_directory_is_taken_unless_its_name_cannot_be_shown(tiny_config):
    assert str(naming.run_directory(tiny_config(), "here/x")) == "here/x"
    assert str(naming.run_directory(tiny_config())) == naming.default_workdir(tiny_config())
    with pytest.raises(UserError, match="has control characters or bytes that are not UTF-8; rename it"):
        naming.run_directory(tiny_config(), "a\nb")


def test_images_are_named_by_their_sources_and_folders(tiny_config):
    data = tiny_config("pretrain", **{"data.source": "cam16+folder+prcc", "data.dir": "/a/one,b/two/"}).data
    assert naming.source_names(data) == ["cam16", "one", "two", "prcc"]
    assert naming.source_label(data) == "cam16+one+two+prcc"
    table = tiny_config(**{"data.source": "folder", "data.labels": "/x/cells.v2.csv"}).data
    assert naming.source_names(table) == ["cells.v2"]
    assert [naming.percent_slug(f) for f in (0.1, 0.005, 1.0)] == ["10pct", "0.5pct", "100pct"]
