import itertools
from pathlib import Path

import pytest

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
        "seeds=3,fractions=many,pretrain_seeds=true",
    ],
    "demo.py": ["", "smoke=true"],
    "quick.py": ["", "data=synthetic,seeds=2,steps=10"],
    "probe.py": ["", "frac=0.1,kind=knn,init=mae,data=synthetic"],
    "linear_probe.py": ["", "frac=0.1,init=mae,data=synthetic"],
    "open_questions.py": [
        "question=stain",
        "question=stain,data=synthetic,stain=hed,smoke=true",
        "question=ratio,data=folder,scale=laptop",
        "question=select,data=synthetic",
        "question=cellmix,data=folder",
        "question=domains,data=synthetic",
    ],
    "mask_sweep.py": ["", "data=folder,scale=laptop", "data=synthetic,smoke=true"],
}


def test_every_config_file_is_listed_here():
    assert {p.name for p in (ROOT / "configs").glob("*.py")} == set(ARGUMENTS)


@pytest.mark.parametrize(("name", "arg"), [(n, a) for n, arguments in ARGUMENTS.items() for a in arguments])
def test_configs_parse_and_are_valid(name, arg):
    config = loading.load(ROOT / "configs" / name, arg)
    validators = {"study": validation.validate_study, "sweep": validation.validate_sweep}
    validators.get(config.task, validate)(config)
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
    result = loading.flatten(mae)
    expected = {
        "optim.base_lr": 5e-4, "optim.layer_decay": 0.65, "optim.weight_decay": 0.05, "optim.b1": 0.9,
        "optim.b2": 0.999, "optim.min_lr": 1e-6, "optim.warmup_epochs": 5, "optim.schedule": "cosine",
        "optim.clip_norm": 0, "model.drop_path": 0.1, "model.pool": "mean", "model.head_std": 2e-5,
        "train.mixup": 0.8, "train.cutmix": 1.0, "train.label_smoothing": 0.1,
        "data.randaugment": 9, "data.randaugment_colour": True, "data.random_erasing": 0.25,
    }  # fmt: skip
    assert {key: result[key] for key in expected} == expected
    # All other fields are those of the study, except the name, because its runs have their own directories.
    differ = {key for key, value in loading.flatten(plain).items() if value != result[key]}
    assert differ <= expected.keys() | {"name"}
    assert naming.default_workdir(mae) != naming.default_workdir(plain)
    study = loading.load(ROOT / "configs/study.py", "data=synthetic,recipe=mae")
    assert all(loading.flatten(study.finetune)[key] == value for key, value in expected.items())
    assert study.name == "study_controlled_exp2_recipe_mae"
    with pytest.raises(UserError, match="recipe=paper is not allowed; use one of study, mae"):
        loading.load(ROOT / "configs/finetune.py", "recipe=paper")


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


def test_a_study_offers_more_fractions_and_a_pretraining_for_each_seed():
    usual, more = (loading.load(ROOT / "configs/study.py", arg) for arg in ("", "fractions=many,pretrain_seeds=true"))
    assert (usual.fractions, usual.pretrain_seeds) == ((0.01, 0.1, 0.5, 1.0), ())
    assert more.fractions == (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
    assert more.pretrain_seeds == more.seeds == (0, 1, 2, 3, 4)
    with pytest.raises(UserError, match="fractions=all is not allowed; use one of few, many"):
        loading.load(ROOT / "configs/study.py", "fractions=all")
