"""Where a run's initial weights come from, and which runs cannot give any."""

import pytest

from mae_jax.config.fields import changed
from mae_jax.config.validation import validate
from mae_jax.data.splits import DataCache
from mae_jax.rundir import contents, identity, saved_runs
from mae_jax.runtime.errors import UserError
from mae_jax.weights import initial_weights


def saved(place, config):
    place.mkdir(parents=True, exist_ok=True)
    identity.keep_config(place, config, {"devices": 1})
    return place


def started(config, place):
    return changed(config, {"init": "mae", "init_from": str(place)})


def test_without_a_start_the_random_weights_stay(tiny_config):
    params = {"encoder": {}}
    assert initial_weights.first_weights(validate(tiny_config()))(None, params) is params


def test_runs_that_cannot_start_others_are_refused_before_an_image_is_read(tiny_config, tmp_path, capsys):
    config = validate(tiny_config())
    knn = saved(tmp_path / "knn", validate(tiny_config("knn")))
    with pytest.raises(UserError, match="init_from=.*knn is a run of task knn, which trains no network; name a run of"):
        initial_weights.first_weights(started(config, knn))
    unfinished = saved(tmp_path / "fine", config)
    with pytest.raises(UserError, match="is a run of task finetune that is not finished; rerun its command to finish"):
        initial_weights.first_weights(started(config, unfinished))
    with pytest.raises(UserError, match="RUN_DIR=.*fine is a run of task finetune; name a run of task pretrain"):
        saved_runs.pretraining_config_of(unfinished, "RUN_DIR")
    wide = saved(tmp_path / "wide", validate(tiny_config("pretrain", **{"model.width": 32})))
    with pytest.raises(UserError, match="width"):
        initial_weights.first_weights(started(config, wide))


def test_a_start_that_is_not_finished_or_saw_other_colors_is_noted(tiny_config, tmp_path, capsys):
    place = saved(tmp_path / "pre", validate(tiny_config("pretrain", **{"data.mean": (0.1, 0.2, 0.3)})))
    assert callable(initial_weights.first_weights(started(validate(tiny_config()), place)))
    out = capsys.readouterr().out
    assert f"note: the pre-training in {place} has not finished; its newest checkpoint is used" in out
    assert "note: data.mean is " in out and "was trained with (0.1, 0.2, 0.3)" in out and "data.std" not in out
    contents.write_json(place / contents.RESULTS, {})
    same = changed(started(validate(tiny_config()), place), {"data.mean": (0.1, 0.2, 0.3)})
    initial_weights.first_weights(same)
    assert capsys.readouterr().out == ""


def test_the_data_of_earlier_runs_is_followed_to_the_first(tiny_config, tmp_path):
    first = saved(tmp_path / "a", validate(tiny_config("pretrain", **{"data.synthetic_size": 32})))
    second = started(validate(tiny_config("pretrain", **{"data.synthetic_size": 48})), first)
    saved(tmp_path / "b", second)
    config = started(validate(tiny_config()), tmp_path / "b")
    result = initial_weights.earlier_data(config)
    assert [(task, data.synthetic_size) for task, data in result] == [("pretrain", 48), ("pretrain", 32)]
    assert initial_weights.earlier_data(validate(tiny_config())) == []


def test_runs_that_share_a_cache_print_what_they_load_once(tiny_config, tmp_path, capsys):
    place = saved(tmp_path / "pre", validate(tiny_config("pretrain")))
    cache = DataCache()
    for _ in range(3):
        initial_weights.first_weights(started(validate(tiny_config()), place), cache)
    assert capsys.readouterr().out.count("has not finished") == 1
    initial_weights.first_weights(started(validate(tiny_config()), place))
    assert capsys.readouterr().out.count("has not finished") == 1
