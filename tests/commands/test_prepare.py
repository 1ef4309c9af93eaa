"""`mae-jax prepare`: only known data sets, and options of tiles for tiles alone."""

import argparse

import pytest

from mae_jax.__main__ import dispatch
from mae_jax.commands import prepare as command
from mae_jax.datasets import prepare, stain_normalization
from mae_jax.datasets.tiles.slides import Cutting
from mae_jax.runtime.errors import UserError


def test_options_are_passed_on_and_a_magnification_is_a_resolution(record):
    calls = record(prepare, "prepare")
    assert dispatch(["prepare", "cam16", "--source=a", "--data_dir=b"]) == 0
    assert calls[0] == (("cam16", "a", "b"), {"cutting": Cutting(), "stain": "", "stain_target": ""})
    dispatch(["prepare", "tiles:x", "--source=a", "--tile=256", "--magnification=20", "--tissue=0.5", "--workers=3"])
    assert calls[1][0] == ("tiles:x", "a", "")
    assert calls[1][1]["cutting"] == Cutting(tile=256, mpp=0.5, tissue=0.5, workers=3)
    dispatch(["prepare", "tiles:x", "--source=a", "--mpp=0.25", "--assume_mpp=1"])
    assert calls[2][1]["cutting"] == Cutting(mpp=0.25, assume_mpp=1.0)
    dispatch(["prepare", "cam16", "--source=a", "--stain=reinhard", "--stain_target=b.png"])
    assert calls[3][1] == {"cutting": Cutting(), "stain": "reinhard", "stain_target": "b.png"}


def test_the_methods_of_stain_normalization_are_those_of_the_builder():
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    choices = next(action.choices for action in parser._actions if action.dest == "stain")
    assert choices == stain_normalization.METHODS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cam17", "--source=a"], "cam17 cannot be prepared; use one of raabin_wbc, cam16, prcc, tiles:NAME"),
        (["cam16", "--source=a", "--mpp=1"], "--mpp is for tiles:NAME; cam16 has no such option"),
        (["prcc", "--source=a", "--tile=99"], "--tile is for tiles:NAME; prcc has no such option; use prcc:tile99"),
        (["tiles:x", "--source=a", "--magnification=0"], "--magnification=0 is out of range; allowed: 0.1 to 200"),
        (["tiles:x", "--source=a", "--tile=4"], "--tile=4 is out of range; allowed: 16 to 10000"),
        (["tiles:x", "--source=a", "--tissue=2"], "--tissue=2 is out of range; allowed: 0 to 1"),
        (["tiles:x", "--source=a", "--mpp=-1"], "--mpp=-1 is out of range; allowed: above 0 and at most 100"),
        (["tiles:x", "--source=a", "--assume_mpp=0"], "--assume_mpp=0 is out of range; allowed: above 0 and at most"),
        (["tiles:x", "--source=a", "--workers=-1"], "--workers=-1 is out of range; allowed: 0 to 1024"),
        (["tiles:x", "--source=a", "--mpp=1", "--magnification=9"], "not allowed with argument"),
        (["cam16", "--source=a", "--stain=vahadane"], "choose from"),
        (["cam16", "--source=a", "--stain_target=b.png"], "--stain_target=b.png has no effect without --stain"),
    ],
)
def test_mistakes_are_refused_before_anything_is_read(record, arguments, message):
    calls = record(prepare, "prepare")
    with pytest.raises(UserError) as error:
        dispatch(["prepare", *arguments])
    assert message in str(error.value) and calls == []
