"""The config fields that follow from an encoder: of runs, studies, bundles and configs of every task."""

import shutil

import pytest

from mae_jax.config import loading
from mae_jax.config.validation import ENCODER, validate
from mae_jax.predict.exporting import export
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError
from mae_jax.train import loop
from mae_jax.weights import encoder_fields, initial_weights

NETWORK = {
    "model.width": 24, "model.heads": 3, "model.depth": 1, "model.image_size": 24, "model.mlp_ratio": 2.0,
    "model.positions": "learned", "model.registers": 1, "model.layer_scale": 0.1,
    "data.mean": (0.5, 0.4, 0.3), "data.std": (0.2, 0.3, 0.25),
}  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_config):
    """A finished pre-training, a classifier that pools the mean, and its bundle; each of an unusual network."""
    top = tmp_path_factory.mktemp("encoders")
    loop.run(tiny_config("pretrain", **NETWORK | {"train.steps": 1}), top / "study" / "pretrain")
    (top / "study" / contents.STUDY).write_text("{}")
    config = tiny_config(**NETWORK | {"train.steps": 1, "model.pool": "mean"})
    loop.run(config, top / "study" / "cells" / "mean")
    export(top / "study" / "cells" / "mean", top / "bundle", "mae_jax")
    return top


def network(config) -> dict:
    model = {f"model.{name}": config.model[name] for name in ENCODER}
    return model | {"data.mean": tuple(config.data.mean), "data.std": tuple(config.data.std)}


@pytest.mark.parametrize("file", ["finetune.py", "linear_probe.py", "probe.py", "pretrain.py"])
@pytest.mark.parametrize("place", ["study/pretrain", "study", "study/cells/mean", "bundle"])
def test_a_config_takes_the_network_of_its_encoder(runs, file, place):
    data = "data=synthetic," if file != "pretrain.py" else ""
    config = loading.load(f"configs/{file}", f"{data}init={runs / place}")
    assert network(config).items() >= NETWORK.items()
    assert config.init_from == str(
        runs / place.replace("study", "study/pretrain") if place == "study" else runs / place
    )
    pool = "mean" if place in ("bundle", "study/cells/mean") and file != "pretrain.py" else "cls"
    assert config.model.pool == pool
    decoder = (config.model.decoder_width, config.model.decoder_depth)
    assert decoder == ((8, 1) if file == "pretrain.py" and place in ("study/pretrain", "study") else (512, 8))
    if file != "pretrain.py" or pool == "mean":
        initial_weights.first_weights(validate(config))  # refuses another network


@pytest.mark.slow
def test_a_classifier_trains_from_a_classifier_of_another_size(runs, tmp_path, capsys):
    config = loading.load("configs/finetune.py", f"data=synthetic,init={runs / 'bundle'}")
    config.data.update(synthetic_train=30, synthetic_test=10, synthetic_size=24)
    config.train.update(steps=1, batch_size=4)
    config.log.tensorboard = False
    loop.run(config, tmp_path / "run")
    printed = capsys.readouterr().out
    assert f"initial weights from {runs / 'bundle'}: ViT with 1 block of width 24, 24 px in patches of 8" in printed


@pytest.mark.parametrize(
    "field, value, words",
    [
        ("patch_size", 4, "patch_size is 4 in the config and 8 in the weights"),
        ("width", 48, "width is 48 in the config and 24 in the weights"),
        ("registers", 0, "registers is 0 in the config and 1 in the weights"),
        ("positions", "fixed", "positions is fixed in the config and learned in the weights"),
        ("size", "small", "model.width=24, depth=1, heads=3 are for size=custom, but model.size=small; leave out"),
    ],
)
def test_a_field_that_conflicts_is_refused_with_both_values(runs, field, value, words):
    config = loading.load("configs/finetune.py", f"data=synthetic,init={runs / 'study/pretrain'}")
    config.model[field] = value
    with pytest.raises(UserError) as refused:
        initial_weights.first_weights(validate(config))
    assert words in str(refused.value) and "\n" not in str(refused.value)


def test_another_image_size_is_allowed(runs):
    config = loading.load("configs/finetune.py", f"data=synthetic,init={runs / 'study'}")
    config.model.image_size = 32
    initial_weights.first_weights(validate(config))


def test_a_run_that_does_not_exist_yet_leaves_the_network(tmp_path):
    before = loading.load("configs/finetune.py", "data=synthetic")
    config = loading.load("configs/finetune.py", f"data=synthetic,init={tmp_path / 'later'}")
    assert network(config) == network(before) and config.init == "mae"


def test_a_study_with_several_pretrainings_asks_for_one(runs, tmp_path):
    shutil.copytree(runs / "study" / "pretrain", tmp_path / "study" / "pretrain-b")
    (tmp_path / "study" / contents.STUDY).write_text("{}")
    assert encoder_fields.pretraining_of(str(tmp_path / "study")) == str(tmp_path / "study" / "pretrain-b")
    shutil.copytree(runs / "study" / "pretrain", tmp_path / "study" / "pretrain-a")
    with pytest.raises(UserError, match="a study with 2 pre-trainings; name one of its runs: pretrain-a, pretrain-b"):
        loading.load("configs/finetune.py", f"init={tmp_path / 'study'}")
    for name in ("pretrain-a", "pretrain-b"):
        shutil.rmtree(tmp_path / "study" / name)
    with pytest.raises(UserError, match="is a study with no pre-training"):
        loading.load("configs/finetune.py", f"init={tmp_path / 'study'}")
