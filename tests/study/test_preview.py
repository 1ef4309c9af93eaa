"""What `mae-jax plan` lists: every run of a config, and one plan for all."""

from pathlib import Path

import pytest

from mae_jax.config.fields import study_defaults, sweep_defaults
from mae_jax.config.validation import validate
from mae_jax.data.splits import DataCache
from mae_jax.study import forecast, plan, preview
from mae_jax.study.validation import validate_study, validate_sweep


def parts(tiny_config):
    return tiny_config("pretrain"), tiny_config()


def test_a_run_is_itself_and_a_study_has_its_pre_training_first(tiny_config, tmp_path):
    config = validate(tiny_config())
    assert preview.runs(config, tmp_path) == [(tmp_path, config)]
    study = study_defaults(*parts(tiny_config))
    study.fractions, study.seeds = (0.5, 1.0), (0, 1)
    result = preview.runs(validate_study(study), tmp_path)
    assert [run.task for _, run in result] == ["pretrain"] + ["finetune"] * 8  # 2 fractions, 2 inits, 2 seeds
    assert len({place for place, _ in result}) == 9 and all(place.is_relative_to(tmp_path) for place, _ in result)


def test_a_sweep_has_a_network_for_each_ratio_and_weight_and_classifiers_for_each(tiny_config, tmp_path):
    sweep = sweep_defaults(*parts(tiny_config))
    sweep.mask_ratios, sweep.visible_weights, sweep.seeds = (0.25, 0.75), (0.0, 1.0), (0,)
    result = preview.runs(validate_sweep(sweep), tmp_path)
    networks = [(run.mae.mask_ratio, run.mae.visible_weight) for _, run in result if run.task == "pretrain"]
    assert sorted(networks) == [(0.25, 0.0), (0.25, 1.0), (0.75, 0.0), (0.75, 1.0)]
    assert sum(run.task == "finetune" for _, run in result) == 5  # scratch, and one from each network


@pytest.mark.parametrize(("timed", "devices", "times"), [(True, True, 1), (True, False, 0), (False, True, 0)])
def test_several_devices_are_foretold_only_where_times_are_measured(tiny_config, monkeypatch, timed, devices, times):
    actual, lines = [], []
    monkeypatch.setattr(plan, "make", lambda runs, cache, progress, timed: actual.append((runs, timed)) or ["planned"])
    monkeypatch.setattr(plan, "describe", lambda planned: [f"{planned}"])
    monkeypatch.setattr(forecast, "lines", lambda planned, cache: lines.append(cache) or ["on 8 devices"])
    cache, config = DataCache(), validate(tiny_config())
    result = preview.lines(config, Path("w"), timed, cache, devices)
    assert result == ["['planned']"] + ["on 8 devices"] * times and lines == [cache] * times
    assert actual == [([(Path("w"), config)], timed)]
