"""Names of initializations in sentences."""

import dataclasses

import pytest

from mae_jax.report.starts import question, start_of


def study_of_inits(make, inits, configs):
    """A study of `inits`, whose runs have `config.init` from `configs` by name."""
    study = make.in_memory({("", 1.0, init): [0.8] for init in inits})
    runs = [
        dataclasses.replace(run, info=run.info | {"config": {"init": configs[run.init]}})
        if run.init in configs
        else run
        for run in study.runs
    ]
    return dataclasses.replace(study, runs=runs)


def test_the_only_pre_training_needs_no_name(make):
    start = start_of(study_of_inits(make, ("scratch", "mae"), {}), "mae")
    assert start == ("with pre-training", "pre-training", "pre-trained {}", "")
    assert start.models(several=False) == "pre-trained model" and start.named_noun == "pre-training"
    assert start_of(study_of_inits(make, ("scratch", "mae90"), {"mae90": "mae"}), "mae90").name == "mae90"


@pytest.mark.parametrize(
    ("init", "phrase", "noun", "models"),
    [
        ("mae", "with pre-training", "pre-training (mae)", "pre-trained models (mae)"),
        ("mae90", "with pre-training", "pre-training (mae90)", "pre-trained models (mae90)"),
        ("scratch", "from scratch", "training from scratch", "models from scratch"),
        ("resnet", "from scratch", "training from scratch (resnet)", "models from scratch (resnet)"),
        ("{dino}", "from {dino}", "starting from {dino}", "models from {dino}"),
        ("histogram", "with histogram as features", "using histogram as features", "models with histogram as features"),
        ("uni", "with uni as features", "using uni as features", "models with uni as features"),
        ("unknown", "from unknown", "starting from unknown", "models from unknown"),
    ],
)
def test_each_kind_has_its_words(make, init, phrase, noun, models):
    kinds = {"mae90": "mae", "resnet": "scratch", "{dino}": "weights", "histogram": "histogram", "uni": "features"}
    start = start_of(study_of_inits(make, ("scratch", "mae", *kinds, "unknown"), kinds), init)
    assert (start.phrase, start.named_noun, start.models()) == (phrase, noun, models)


def test_the_question_is_about_pre_training_only_if_a_pre_trained_encoder_is_compared(make):
    kinds = {"resnet": "scratch", "histogram": "histogram", "dino": "weights"}

    def asked(*inits):
        return question(study_of_inits(make, ("scratch", *inits), kinds)).partition("(random weights)")[2]

    assert asked("resnet") == asked("histogram", "resnet") == "?"
    much = ", and how much better does it do when it is first pre-trained on images without labels"
    assert asked("dino") == f"{much}?"
    assert asked("mae", "histogram") == f"{much} (mae: as a masked autoencoder)?"
