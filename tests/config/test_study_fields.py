"""Fields of studies and sweeps."""

from mae_jax.config import fields
from mae_jax.config.fields import RunConfig
from mae_jax.config.study_fields import StudyConfig, SweepConfig


def test_every_default_is_within_its_rule():
    for kind in (RunConfig, StudyConfig, SweepConfig):
        for name, (default, rule) in fields.rules(kind).items():
            assert rule.meaning and not rule.meaning.endswith("."), name
            if rule.choices and not isinstance(default, tuple):
                assert default in rule.choices, name
            if rule.has_range:
                assert all(map(rule.holds, default if isinstance(default, tuple) else [default])), name


def test_fields_of_the_study_itself_do_not_change_its_runs():
    itself = {
        kind: {name for name, (_, rule) in fields.rules(kind).items() if not rule.of_runs}
        for kind in (StudyConfig, SweepConfig, RunConfig)
    }
    assert itself[RunConfig] == set() and itself[SweepConfig] == {"task", "name", "title", "parallel"}
    report = {"target", "pictures", "contrasts"}
    assert itself[StudyConfig] == itself[SweepConfig] | report | {"random_probe", "experiments"}
