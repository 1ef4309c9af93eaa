"""Rules of fields: their ranges and places, and what a group states for all of its fields."""

import dataclasses

import pytest

from mae_jax.config import fields, rule
from mae_jax.config.fields import RunConfig, StudyConfig
from mae_jax.config.rule import Fields, Rule, field


@pytest.mark.parametrize(
    ("rule", "inside", "outside", "words"),
    [
        (Rule("", low=0, high=1), (0, 0.5, 1), (-0.1, 1.1), "[0, 1]"),
        (Rule("", low=0, high=1, open="low"), (1e-9, 1), (0, 2), "(0, 1]"),
        (Rule("", low=0, high=1, open="low high"), (0.5,), (0, 1), "(0, 1)"),
        (Rule("", low=3, open="high"), (3, 1e300), (2, float("inf")), "[3, inf)"),
    ],
)
def test_a_range_has_open_or_closed_ends(rule, inside, outside, words):
    assert all(map(rule.holds, inside)) and not any(map(rule.holds, outside))
    assert rule.range == words and rule.has_range and not Rule("").has_range


def test_rules_are_named_by_their_place():
    result = fields.rules(StudyConfig)
    assert result["pretrain.mae.mask_ratio"][0] == 0.75 and "fractions" in result and "pretrain" not in result
    assert list(fields.rules(fields.MaeFields, "mae.")) == [
        f"mae.{field.name}" for field in dataclasses.fields(fields.MaeFields)
    ]


def test_changes_reach_their_places_and_leave_the_original():
    config = RunConfig()
    other = fields.changed(config, {"seed": 3, "data.fraction": 0.1, "data.flips": False, "model.size": "large"})
    assert (other.seed, other.data.fraction, other.data.flips, other.model.size) == (3, 0.1, False, "large")
    assert config == RunConfig() and fields.changed(config, {}) == config
    assert fields.as_dict(other)["data"]["fraction"] == 0.1
    with pytest.raises(TypeError):
        fields.changed(config, {"nothing": 1})


def test_conditions_of_a_group_are_those_of_its_fields():
    @dataclasses.dataclass(frozen=True)
    class Group(Fields):
        one: int = field(1, "one", used="b")
        two: int = field(2, "two")

    @dataclasses.dataclass(frozen=True)
    class All(Fields):
        group: Group = dataclasses.field(default_factory=Group, metadata={"used": "a"})

    assert {name: each.used for name, (_, each) in rule.rules(All).items()} == {"group.one": "a b", "group.two": "a"}
