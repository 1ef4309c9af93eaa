import dataclasses
import itertools
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from mae_jax.config import loading, naming, schedule
from mae_jax.config.validation import validate
from mae_jax.runtime.errors import UserError
from mae_jax.study import validation

ROOT = Path(__file__).parents[2]
ARGUMENTS = {
    "pretrain.py": [f"exp={e},data={d}" for e, d in itertools.product((1, 2, 3), ("synthetic", "cam16+prcc"))],
    "finetune.py": [
        "",
        "frac=0.1",
        "frac=0.01,init=mae,seed=3,data=synthetic",
        "frac=1,init=runs/x,data=folder",
        "recipe=mae,init=mae",
    ],
    "study.py": [
        "",
        "data=synthetic",
        "data=folder,scale=laptop",
        "protocol=paper,exp=3",
        "protocol=author",
        "data=synthetic,scale=laptop,recipe=mae",
    ],
    "demo.py": ["", "smoke=true"],
    "quick.py": ["", "data=synthetic,seeds=2,steps=10"],
    "probe.py": ["", "frac=0.1,kind=knn,init=mae,data=synthetic"],
    "linear_probe.py": ["", "frac=0.1,init=mae,data=synthetic"],
    "mask_sweep.py": ["", "data=folder,scale=laptop", "data=synthetic,smoke=true"],
}


def test_every_config_file_is_listed_here():
    assert {p.name for p in (ROOT / "configs").glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize(("name", "arg"), [(n, a) for n, every in ARGUMENTS.items() for a in every])
def test_configs_parse_and_are_valid(name, arg):
    config = loading.load(ROOT / "configs" / name, arg)
    whole = {"study": validation.validate_study, "sweep": validation.validate_sweep}
    whole.get(config.task, validate)(config)
    assert naming.default_workdir(config).startswith("runs/")
    assert len((ROOT / "configs" / name).read_text().splitlines()) <= 150


def test_the_three_experiments_are_those_of_the_study():
    one, two, three = (loading.load(ROOT / "configs/pretrain.py", f"exp={e}") for e in (1, 2, 3))
    assert (one.optim.base_lr, one.mae.mask_ratio, one.optim.weight_decay) == (1.5e-4, 0.75, 0.05)
    assert (one.train.batch_per_device, one.train.accumulation, one.optim.schedule) == (48, 8, "cosine")
    assert (two.optim.base_lr, two.optim.weight_decay, two.train.accumulation) == (5e-5, 0.01, 4)
    assert two.seed != one.seed
    assert (three.mae.mask_ratio, three.optim.base_lr, three.optim.schedule) == (0.25, 8e-5, "constant")
    assert three.data.crop_scale[0] > one.data.crop_scale[0] == 0.2
    assert tuple(three.data.mean) != tuple(one.data.mean) == (0, 0, 0)
    for config in (one, two, three):
        assert (config.model.size, config.model.image_size, config.model.patch_size) == ("base", 224, 16)


def test_fine_tuning_defaults_are_those_of_the_study():
    config = loading.load(ROOT / "configs/finetune.py", "frac=0.1")
    assert (config.train.epochs, config.train.batch_size, config.data.source) == (20, 64, "raabin_wbc")
    assert (config.data.fraction, config.init, config.model.size) == (0.1, "scratch", "base")


def test_the_mae_recipe_matches_its_code_for_vit_b():
    plain, mae = (loading.load(ROOT / "configs/finetune.py", f"frac=0.1,recipe={r}") for r in ("study", "mae"))
    assert loading.flatten(plain) == loading.flatten(loading.load(ROOT / "configs/finetune.py", "frac=0.1"))
    found = loading.flatten(mae)
    expected = {
        "optim.base_lr": 5e-4, "optim.layer_decay": 0.65, "optim.weight_decay": 0.05, "optim.b1": 0.9,
        "optim.b2": 0.999, "optim.min_lr": 1e-6, "optim.warmup_epochs": 5, "optim.schedule": "cosine",
        "optim.clip_norm": 0, "model.drop_path": 0.1, "model.pool": "mean", "model.head_std": 2e-5,
        "train.mixup": 0.8, "train.cutmix": 1.0, "train.label_smoothing": 0.1,
        "data.randaugment": 9, "data.randaugment_colour": True, "data.random_erasing": 0.25,
    }  # fmt: skip
    assert {key: found[key] for key in expected} == expected
    # All other fields are those of the study, except the name, because its runs have their own directories.
    differ = {key for key, value in loading.flatten(plain).items() if value != found[key]}
    assert differ <= expected.keys() | {"name"}
    assert naming.default_workdir(mae) != naming.default_workdir(plain)
    study = loading.load(ROOT / "configs/study.py", "data=synthetic,recipe=mae")
    assert all(loading.flatten(study.finetune)[key] == value for key, value in expected.items())
    assert study.name == "study_controlled_exp2_recipe_mae"
    with pytest.raises(UserError, match="recipe=paper is not allowed; use one of study, mae"):
        loading.load(ROOT / "configs/finetune.py", "recipe=paper")


@pytest.mark.parametrize("arg", ["frac", "frac=x", "fraction=0.1", "frac=0.1,,seed=1.5", "seed=1,1", "seed=1,seed=2"])
def test_unknown_arguments_are_refused(arg):
    with pytest.raises(UserError, match="config argument"):
        loading.load(ROOT / "configs/finetune.py", arg)


@pytest.mark.parametrize(
    ("field", "value", "said"),
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
        ("train.mixup", 0.8, "train.mixup=0.8 mixes labels and is only for fine-tuning; set it to 0"),
        ("train.cutmix", -1.0, "train.cutmix=-1.0 is out of range"),
        ("data.randaugment", 11.0, "data.randaugment=11.0 is out of range; allowed: [0, 10]"),
        ("data.random_erasing", 1.5, "data.random_erasing=1.5 is out of range"),
        ("model.head_std", -0.1, "model.head_std=-0.1 is out of range"),
    ],
)
def test_invalid_values_are_refused_by_name(tiny_config, field, value, said):
    config = tiny_config("pretrain")
    section, name = field.split(".")
    with config.ignore_type():
        config[section][name] = value
    with pytest.raises(UserError) as error:
        validate(config)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_misspelled_field_gets_a_suggestion(tiny_config):
    config = tiny_config()
    with config.unlocked():
        config.train.epoch = 3
    with pytest.raises(UserError, match=r"train.epoch is not a field .* did you mean train.epochs\?"):
        validate(config)


def test_an_override_of_an_unknown_field_is_refused():
    with pytest.raises(UserError, match=r"did you mean --config.train.epochs\?"):
        loading.check_arguments([f"--config={ROOT}/configs/finetune.py:frac=0.1", "--config.train.epoch=3"])
    loading.check_arguments(["--config", f"{ROOT}/configs/finetune.py:frac=0.1", "--config.train.epochs", "3"])


def test_resolved_values_follow_from_the_config(tiny_config):
    config = tiny_config("pretrain")
    config.train.update(epochs=20.0, batch_size=0, batch_per_device=48, accumulation=8)
    config.optim.update(base_lr=1.5e-4, warmup_epochs=2.0)
    r = schedule.resolve(config, n_train=10_000, devices=5)
    assert r.batch_size == 48 * 8 * 5 == r.rows and r.steps_per_epoch == 6 and r.steps == 120
    assert r.peak_lr == pytest.approx(1.5e-4 * 1920 / 256) and r.warmup_steps == 12


def test_twenty_epochs_of_one_percent_are_forty_updates(tiny_config):
    config = tiny_config()
    config.train.update(epochs=20.0, batch_size=64)
    assert schedule.resolve(config, n_train=92, devices=1).steps == 40
    assert schedule.resolve(config, n_train=5, devices=1).steps == 20


def test_equal_updates_also_mean_equal_warm_up_evaluations_and_checkpoints(tiny_config):
    """A run of 100 images that trains as long as 1,000 do differs from theirs only in its images and its epochs."""
    config = tiny_config()
    config.train.update(epochs=20.0, batch_size=10)
    config.optim.warmup_epochs, config.eval.every_epochs, config.checkpoint.every_epochs = 2.0, 1.0, 5.0
    few, many = schedule.resolve(config, 100, 1, n_schedule=1000), schedule.resolve(config, 1000, 1)
    assert (few.n_train, few.steps_per_epoch) == (100, 10)
    assert dataclasses.replace(few, n_train=1000, steps_per_epoch=100) == many
    assert (few.steps, few.warmup_steps, few.eval_every, few.save_every) == (2000, 200, 100, 500)


def test_arms_are_named_by_what_differs_from_the_usual_training(tiny_config):
    names = {}
    for match, count, blocks in ((0.0, 0, -1), (0.5, 0, -1), (0.0, 200, -1), (0.0, 0, 0), (0.0, 0, 1), (1.0, 0, 2)):
        fields = {"train.match_fraction": match, "train.match_count": count, "train.blocks": blocks}
        names[match, count, blocks] = naming.arm_of(tiny_config(**fields))
    assert list(names.values()) == [
        *("", "as many updates as 50 %", "as many updates as 200 labels", "the head trained", "1 block trained"),
        "as many updates as 100 %, 2 blocks trained",
    ]


def test_a_batch_that_devices_do_not_divide_is_padded(tiny_config):
    config = tiny_config()
    config.train.update(batch_size=64, accumulation=2)
    r = schedule.resolve(config, n_train=100, devices=5)
    assert (r.batch_size, r.rows) == (64, 70)


def test_hparams_have_the_same_keys_in_every_run_and_no_none(tiny_config):
    one, two = (loading.hparams(tiny_config(task)) for task in ("pretrain", "finetune"))
    assert one.keys() == two.keys()
    assert all(type(v) in (int, float, str, bool) for v in (one | two).values())


def test_difference_lists_what_matters():
    ours, theirs = {"seed": 1, "log.every_steps": 5, "pretrain.name": "a"}, {"seed": 0, "log.every_steps": 9}
    assert loading.difference(ours, theirs) == ["seed: 0 -> 1"]


def test_a_study_needs_one_encoder():
    config = loading.load(ROOT / "configs/study.py", "data=synthetic,scale=laptop")
    config.finetune.model.width = 384
    with pytest.raises(UserError, match=r"pretrain.model.width=192 and finetune.model.width=384 differ"):
        validation.validate_study(config)
    with pytest.raises(UserError, match="not a field of a study"):
        validation.validate_study(ConfigDict({"fraction": 1}))


def test_protocols_have_their_seeds_and_the_author_settings():
    def study(arg):
        return loading.load(ROOT / "configs" / "study.py", arg)

    assert tuple(study("").seeds) == (0, 1, 2, 3, 4) and tuple(study("").subset_seeds) == (10, 11, 12, 13, 14)
    assert tuple(study("seeds=3").seeds) == (0, 1, 2)
    for arg in ("protocol=paper", "protocol=author"):
        assert (tuple(study(arg).seeds), tuple(study(arg).subset_seeds)) == ((0,), ())
    assert tuple(study("protocol=author").inits) == ("scratch=scratch:model.dropout=0.1", "mae")
    f = study("protocol=author").finetune
    peak = schedule.resolve(f, n_train=6300, devices=1).peak_lr
    assert peak == pytest.approx(2e-4) and f.train.batch_size == 63
    assert (f.optim.schedule, f.optim.warmup_epochs, f.optim.weight_decay) == ("linear", 0, 0)
    assert f.train.select == "loss" and tuple(f.data.mean) == tuple(f.data.std) == (0.5, 0.5, 0.5)
    assert tuple(f.data.crop_scale) == (1, 1) and f.data.flips
