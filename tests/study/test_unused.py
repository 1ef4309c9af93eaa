"""Fields of a study that none of its runs reads are refused."""

import pytest
from ml_collections import ConfigDict

from mae_jax import main
from mae_jax.config import loading
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.study import unused, validation


def refused(config) -> str:
    try:
        unused.refuse(validation.check(config), loading.loaded_values(config))
    except UserError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


FILES = {
    "study.py": ["data=synthetic", "data=synthetic,protocol=paper", "protocol=author", "scale=laptop,recipe=mae"],
    "demo.py": ["", "smoke=true"],
    "quick.py": [""],
    "mask_sweep.py": ["", "data=synthetic,smoke=true"],
}


@pytest.mark.parametrize("file, arg", [(file, arg) for file, args in FILES.items() for arg in args])
def test_the_config_files_set_only_fields_that_are_read(file, arg):
    assert refused(loading.load(f"configs/{file}", arg)) == ""


@pytest.mark.parametrize(
    "file, fields, words",
    [
        ("study.py", {"finetune.data.fraction": 0.1}, "the study sets it in each of its runs"),
        ("study.py", {"finetune.seed": 3}, "the study sets it in each of its runs"),
        ("study.py", {"finetune.mae.mask_ratio": 0.5}, "it is used only in pre-training"),
        ("study.py", {"pretrain.model.pool": "mean"}, "it is used only by classifiers"),
        ("study.py", {"finetune.train.batch_per_device": 8}, "it is used only with train.batch_size=0"),
        ("study.py", {"pretrain.checkpoint.keep_optimizer": True}, "it is used only by the classifiers of a study"),
        ("study.py", {"evaluations": ("lbfgs",), "finetune.train.epochs": 3.0}, "no run of this study uses it"),
        ("study.py", {"inits": ("scratch",), "pretrain.train.epochs": 3.0}, "no run of this study uses it"),
        ("study.py", {"inits": ("scratch",), "pretrain_seeds": (1, 2, 3, 4, 5)}, "no run of this study uses it"),
        ("study.py", {"label_counts": (20, 50), "fractions": (0.3, 1.0)}, "no run of this study uses it"),
        ("study.py", {"label_counts": (20, 50)}, ""),
        ("study.py", {"parallel": "2"}, ""),
        ("mask_sweep.py", {"parallel": "2"}, ""),
        # the file has epochs
        ("study.py", {"step_matched": 0.0, "finetune.train.steps": 5, "pretrain.train.steps": 5}, ""),
        ("mask_sweep.py", {"finetune.train.steps": 5, "finetune.train.epochs": 3.0},
         "it is used only with train.steps=0"),
        ("study.py", {"title": "Ours", "pictures": False, "target": 0.5, "random_probe": True}, ""),
        ("study.py", {"finetune.checkpoint.keep_optimizer": True, "finetune.probe.folds": 5}, ""),
        ("study.py", {"finetune.train.batch_per_device": 0, "pretrain.train.epochs": 3.0}, ""),
        ("study.py", {"pretrain.model.head_std": 0.1, "finetune.model.head_std": 0.1}, ""),
        ("study.py", {"finetune.model.head_std": 0.1, "pretrain.model.head_std": 0.2},
         "it is used only by finetune and linear_probe"),
        ("mask_sweep.py", {"pretrain.mae.mask_ratio": 0.5}, "the sweep sets it in each of its runs"),
        ("mask_sweep.py", {"finetune.data.fraction": 0.3, "mask_ratios": (0.4,)}, ""),
    ],
)  # fmt: skip
def test_a_field_without_effect_is_refused(file, fields, words):
    config = loading.load(f"configs/{file}", "data=synthetic")
    config.update_from_flattened_dict(fields)
    message = refused(config)
    if words:
        key, value = list(fields.items())[-1]
        assert message == f"{key}={value} has no effect: {words}; leave it out"
    else:
        assert message == ""


def test_a_config_from_elsewhere_is_not_compared(tmp_path, monkeypatch):
    """For example that of an earlier run, which has the fields of all tasks."""
    config = loading.load("configs/finetune.py", "data=synthetic")
    config.train.batch_per_device = 16
    monkeypatch.setattr(unused, "refuse", None)
    copy = ConfigDict(config.to_dict())
    main._refuse_unused(copy, validation.check(copy), tmp_path)


def test_runs_are_refused_before_they_start_and_resume_as_they_were_started(tmp_path):
    config = loading.load("configs/finetune.py", "data=synthetic")
    config.train.batch_per_device = 16
    with pytest.raises(UserError, match="train.batch_per_device=16 has no effect"):
        main.plan(config, tmp_path / "run")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / contents.CONFIG).write_text("{}")
    main._refuse_unused(config, validation.check(config), tmp_path / "run")
