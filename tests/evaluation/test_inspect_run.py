"""Pictures of what a finished run's encoder sees, and the images that they are of."""

import numpy as np
import pytest
from PIL import Image

from mae_jax.__main__ import main
from mae_jax.config.validation import validate
from mae_jax.data import splits
from mae_jax.evaluation import inspect_run
from mae_jax.rundir import contents
from mae_jax.runtime.errors import UserError


def call(*arguments):
    try:
        main(["inspect", *map(str, arguments)])
    except SystemExit as end:
        if end.code:
            raise


@pytest.mark.slow
def test_the_command_writes_a_picture_and_tensorboard_gets_it(finished, capsys, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    before = (finished / contents.METRICS).read_bytes()
    call(finished, "--n", 3)
    assert "cells/unlabelled/" in capsys.readouterr().out
    with Image.open(finished / "inspection.png") as picture:
        assert picture.height > 3 * 100 and picture.width > 5 * 100  # image, components, mean, two heads
    events = EventAccumulator(str(finished))
    events.Reload()
    assert inspect_run.PICTURE in events.Tags()["tensors"]
    assert (finished / contents.METRICS).read_bytes() == before
    for i in range(2):
        Image.fromarray(np.full((20, 30, 3), 90 * i, np.uint8)).save(tmp_path / f"{i}.png")
    call(finished, "--images", tmp_path, "--out", tmp_path / "out" / "picture.png", "--block", 0)
    assert (tmp_path / "out" / "picture.png").is_file() and "0.png, 1.png" in capsys.readouterr().out


@pytest.mark.slow
def test_wrong_arguments_are_named(finished, capsys, tmp_path):
    for arguments, message in (
        ((tmp_path,), "is not a run directory"),
        ((finished, "--n", 0), "--n=0 is out of range"),
        ((finished, "--out", tmp_path / "picture"), "picture is not allowed; name a file ending in .png"),
        (
            (finished, "--block", 9),
            "--block=9 is out of range; the network has 2 blocks, so use 0 to 1, or -1 for the last one",
        ),
    ):
        with pytest.raises((SystemExit, UserError)) as refused:
            call(*arguments)
        assert refused.value.code == 2 and message in capsys.readouterr().err


def test_the_images_are_those_of_the_test_set_or_held_out_from_a_pre_training(tiny_config, tmp_path):
    ((test, indices),) = inspect_run.images_of(validate(tiny_config()))
    assert indices.tolist() == list(range(23)) == list(range(len(test))) and set(test.labels) == set(range(5))
    ((source, held),) = inspect_run.images_of(validate(tiny_config("pretrain")))
    split = splits.unlabeled(validate(tiny_config("pretrain")).data)
    assert len(source) == 40 and held.tolist() == split.val_idx[0].tolist() != []
    assert not set(held) & set(split.train_idx[0])
    none = validate(tiny_config("pretrain", **{"data.val_fraction": 0.0}))
    ((_, trained),) = inspect_run.images_of(none)
    assert sorted(trained) == list(range(40))
    for name in ("b.png", "a.png"):
        Image.new("RGB", (9, 9)).save(tmp_path / name)
    ((given, indices),) = inspect_run.images_of(none, str(tmp_path))
    assert list(given.names) == ["a.png", "b.png"] and indices.tolist() == [0, 1]
