"""Every field of every task is read, or refused if it is set."""

import dataclasses
import sys

import pytest

from mae_jax.config import fields, loading
from mae_jax.config.fields import RunConfig, changed, defaults, rules
from mae_jax.config.tasks import QUICK, TASKS
from mae_jax.config.unused import CONDITIONS, conditions_of, refuse_unused, set_fields, why_unused
from mae_jax.config.validation import validate
from mae_jax.rundir import contents, identity
from mae_jax.runtime.errors import UserError
from mae_jax.train import loop
from tests.config.test_config import ARGUMENTS, ROOT

KEYS = [key for key in rules(RunConfig) if key != "task"]
# Read by the code that writes the config, compares configs or names directories, and not while a run computes.
ELSEWHERE = {"name", "init_name", "tuned", "data.group_pattern", "data.bad_images", "data.prepared_dir", "data.labels"}
ELSEWHERE |= {"data.columns", "data.dir", "data.levels", "data.train_split", "data.test_split", "data.val_split"}
ELSEWHERE |= {"data.test_fraction", "data.test_seed", "init_from"}
ELSEWHERE |= {"data.synthetic_train", "data.synthetic_test", "data.synthetic_unlabelled"}  # one generated data set
ELSEWHERE |= {"train.on_divergence"}  # if a number is not finite


def other(key: str):
    """Another allowed value of a field, which is not 0, False or empty."""
    default, rule = rules(RunConfig)[key]
    if rule.choices and isinstance(default, tuple):
        return rule.choices[:1]
    if rule.choices:
        return next(value for value in rule.choices if value != default)
    if isinstance(default, bool):
        return True
    if isinstance(default, str):
        return {"data.source": "folder", "optim.no_decay": "bias", "data.group_pattern": "(some)"}.get(key, "some")
    if isinstance(default, tuple):
        return {"data.crop_scale": (0.3, 1.0), "data.weights": (1.0,)}.get(key, tuple(v * 0.9 for v in default))
    value = default * 0.5 or (1e-9 if key == "optim.min_lr" else 1)
    return type(default)(max(value, 2) if isinstance(default, int) else value)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("task", TASKS)
def test_a_field_that_a_task_does_not_read_is_refused(task, key):
    base = validate(defaults(task))
    config = changed(base, {key: other(key)})
    if why_unused(key, config) and key in set_fields(config):
        with pytest.raises(UserError, match=rf"^{key}=.* has no effect: it is used only .*; leave it out$"):
            refuse_unused(config)
        return
    try:
        refuse_unused(config)
    except UserError as error:  # this value makes a default of the task useless
        assert not str(error).startswith(f"{key}=")


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_task_reads_the_fields_that_are_not_refused_and_depends_on_no_other(task, tiny_config, tmp_path, monkeypatch):
    more = {"probe.temperature": (0.07, 0.1), "data.randaugment": 2.0 * (task not in QUICK)}
    more |= {"train.steps": 2, "checkpoint.keep": 5}
    config = validate(tiny_config(task, **more))
    unread = {key: other(key) for key in KEYS if why_unused(key, config)}
    set_now = {key: value for key, value in unread.items() if not refused_anyway(config, key, value)}
    results = [loop.run(changed(config, set_now), tmp_path / "other")]
    read = recorded_reads(monkeypatch)
    results.append(loop.run(config, tmp_path / "run"))
    assert {key for key in KEYS if key not in unread} - ELSEWHERE - read == set()
    for each in results:
        each.pop("seconds", None)
    assert results[0] == results[1]
    names = [name for name in (contents.PREDICTIONS, contents.RECONSTRUCTIONS) if (tmp_path / "run" / name).exists()]
    assert names
    for name in names:
        assert (tmp_path / "run" / name).read_text() == (tmp_path / "other" / name).read_text()


def refused_anyway(config: RunConfig, key: str, value) -> bool:
    """Whether other checks refuse the value, so that the code behind them may rely on that."""
    if key in ("data.labels", "data.columns", "data.weights"):  # by the code that opens images
        return True
    try:
        validate(changed(config, {key: value}))
    except UserError:
        return True
    return False


def recorded_reads(monkeypatch) -> set[str]:
    """The dotted names of all fields that are read from now on."""
    read: set[str] = set()
    sections = {type(getattr(RunConfig(), f.name)): f"{f.name}." for f in dataclasses.fields(RunConfig)}
    for kind in [*(k for k in sections if issubclass(k, fields.Fields)), RunConfig]:

        def get(self, name, prefix=f"{sections[kind]}" if kind in sections else ""):
            if sys._getframe(1).f_code.co_filename != dataclasses.__file__:  # a copy of the whole config is no reading
                read.add(prefix + name)
            return object.__getattribute__(self, name)

        monkeypatch.setattr(kind, "__getattribute__", get)
    return read


def test_every_condition_is_that_of_a_field_and_every_field_names_conditions_that_exist():
    named = {name for _, rule in rules(RunConfig).values() for name in rule.used.split()}
    assert named == set(CONDITIONS)
    assert conditions_of("mae.mask_ratio") == (CONDITIONS["decoder"],)  # that of its group
    assert conditions_of("seed") == () and len(conditions_of("train.batch_per_device")) == 2


def test_batches_per_device_need_an_open_batch_size():
    config = loading.load("configs/finetune.py", "data=synthetic")
    config.train.batch_per_device = 16
    with pytest.raises(UserError, match="batch_per_device=16 has no effect: it is used only with train.batch_size=0"):
        refuse_unused(validate(config))
    config.train.batch_size = 0
    refuse_unused(validate(config))


@pytest.mark.parametrize("name", ["finetune.py", "linear_probe.py", "probe.py", "pretrain.py"])
def test_the_config_files_set_only_fields_that_are_read(name):
    for arg in ARGUMENTS[name]:
        refuse_unused(validate(loading.load(ROOT / "configs" / name, arg)))


def test_a_field_that_is_not_read_does_not_make_another_run(tiny_config, tmp_path):
    """An older run may have such a field, which a new config does not set any more."""
    old = validate(tiny_config("knn", **{"data.crop_scale": (0.5, 1.0), "optim.base_lr": 3.0}))
    identity.keep_config(tmp_path, old, {})
    new = changed(old, {"data.crop_scale": (0.2, 1.0), "optim.base_lr": 1.0})
    identity.keep_config(tmp_path, new, {})
    with pytest.raises(UserError, match="probe.neighbours"):
        identity.keep_config(tmp_path, changed(new, {"probe.neighbours": (3.0,)}), {})
