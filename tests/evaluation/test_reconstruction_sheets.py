"""Errors (normalized and in pixels) and pictures of reconstructions, with the same fixed masks for every network."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mae_jax.__main__ import main
from mae_jax.evaluation import pixel_space, reconstruction
from mae_jax.evaluation.reconstruction import at_ratio
from mae_jax.models.patches import patchify
from mae_jax.models.vit import ViTConfig
from mae_jax.rundir import contents
from mae_jax.step import eval_step, sharding, state
from mae_jax.step.optimizer import Optimizer
from mae_jax.step.spec import StepSpec
from mae_jax.train import loop

SHAPE = ViTConfig(16, 4, 16, 1, 2, decoder_width=8, decoder_depth=1, decoder_heads=2)
INDEX = np.arange(4, dtype=np.int32)


@pytest.fixture(scope="module")
def spec():
    grid = np.array(jax.devices()[:1]).reshape(1, 1)
    optimizer = Optimizer(0.9, 0.95, 0.1, r"(^|/)(bias|scale)$", 0.0, 1.0)
    return StepSpec(
        "reconstruction", SHAPE, optimizer, (0.5, 0.4, 0.6), (0.25, 0.2, 0.3), 8, 1, 0.5, True, 0.0,
        jax.sharding.Mesh(grid, ("data", "fsdp")),
    )  # fmt: skip


@pytest.fixture(scope="module")
def params(spec):
    return state.init_state(spec, 0).params


def batch_of(images, spec):
    batch = {"image": images, "index": INDEX, "label": INDEX, "mask": np.ones(4, np.float32)}
    return sharding.put_batch(batch, spec.mesh)


@pytest.mark.slow
@pytest.mark.parametrize("norm_pix", [True, False])
def test_pictures_show_input_and_paste_visible_patches(norm_pix, images, spec, params):
    spec = dataclasses.replace(spec, norm_pix=norm_pix)
    rows = np.asarray(reconstruction.reconstruct(spec, params, images, INDEX, np.int32(0)))
    original, masked, made, pasted = rows
    np.testing.assert_allclose(original, images / 255, atol=1e-5)
    hidden = np.abs(masked - 0.5).max(-1) < 1e-4
    assert 0.45 < hidden.mean() < 0.6  # half of the patches are gray
    np.testing.assert_allclose(pasted[~hidden], original[~hidden], atol=1e-5)
    np.testing.assert_allclose(pasted[hidden], made[hidden], atol=1e-6)  # two programs, rounded apart in JAX 0.12
    # The error in pixels matches the picture.
    found = reconstruction.compare(spec, params, batch_of(images, spec), np.int32(0))
    for name, where in (("removed_pixel", hidden), ("visible_pixel", ~hidden)):
        errors = [np.square(made[i] - original[i])[where[i]].mean() for i in range(4)]
        np.testing.assert_allclose(found[name], errors, rtol=1e-4)


def test_a_picture_does_not_reveal_removed_patches(images, spec, params):
    def made(pixel_values, how):
        return np.asarray(reconstruction.reconstruct(spec, params, pixel_values, INDEX, np.int32(0), how))

    hidden = np.abs(made(images, pixel_space.NEIGHBOURS)[1] - 0.5).max(-1, keepdims=True) < 1e-4
    other = np.where(hidden, 255 - images, images)
    np.testing.assert_array_equal(made(images, pixel_space.NEIGHBOURS)[2], made(other, pixel_space.NEIGHBOURS)[2])
    assert np.abs(made(images, pixel_space.BORROWED)[2] - made(other, pixel_space.BORROWED)[2]).max() > 0.1


def test_errors_agree_with_the_losses_of_evaluation(images, spec, params):
    batch = batch_of(images, spec)
    found = reconstruction.compare(spec, params, batch, np.int32(3))
    values = eval_step.eval_step(spec, params, batch, np.int32(3))
    np.testing.assert_allclose(found["removed_normalised"], values["loss"], rtol=1e-5)
    np.testing.assert_allclose(found["visible_normalised"], values["visible_loss"], rtol=1e-5)
    np.testing.assert_allclose(found["spam"], values["spam"], rtol=1e-5)
    assert set(found) == set(contents.ERRORS)


def test_errors_of_a_pixel_network_are_in_units_of_each_patch_s_standard_deviation(spec, images, params, monkeypatch):
    spec = dataclasses.replace(spec, norm_pix=False, label_smoothing=0.25)  # compiled by no other test
    mean, deviation = [], []

    def half(spec, params, images, index, seed):
        patches = patchify(images, spec.shape.patch_size)
        own = pixel_space.own_statistics(patches)
        mean.append(own[0])
        deviation.append(own[1])
        return patches + 0.5 * own[1], jnp.ones(patches.shape[:2]).at[:, ::2].set(0)

    monkeypatch.setattr(reconstruction, "predict_removed", half)
    found = reconstruction.compare(spec, params, batch_of(images, spec), np.int32(0))
    np.testing.assert_allclose(found["removed_normalised"], 0.25, rtol=1e-4)
    np.testing.assert_allclose(found["removed_pixel"], found["removed_pixel_borrowed"], rtol=1e-6)


def test_what_a_smaller_ratio_removes_a_larger_one_removes_too(images, spec, params):
    hidden = []
    for ratio in (0.25, 0.5, 0.75):
        masked = reconstruction.reconstruct(at_ratio(spec, ratio), params, images, INDEX, np.int32(0))[1]
        hidden.append(np.abs(np.asarray(masked) - 0.5).max(-1) < 1e-4)
    assert (hidden[0] <= hidden[1]).all() and (hidden[1] <= hidden[2]).all()
    np.testing.assert_allclose([h.mean() for h in hidden], [0.25, 0.5, 0.75], atol=0.01)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two pre-training runs with different seeds."""
    from mae_jax.config.fields import defaults

    folder = tmp_path_factory.mktemp("runs")
    for seed, name in enumerate(("one", "two")):
        config = defaults("pretrain")
        config.seed = seed
        config.data.update(source="synthetic", synthetic_unlabelled=40, synthetic_size=32, threads=2)
        config.model.update(
            size="custom", image_size=16, patch_size=4, width=16, depth=1, heads=2,
            decoder_width=8, decoder_depth=1, decoder_heads=2,
        )  # fmt: skip
        config.train.update(steps=2, batch_size=16)
        config.eval.update(batch_size=10, images=3, mask_ratios=(0.25, 0.75))
        config.log.tensorboard = False
        loop.run(config, folder / name)
    return folder


def table(path):
    with open(path) as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_pretraining_ends_with_its_reconstructions(runs):
    one, two = (table(runs / name / contents.RECONSTRUCTIONS) for name in ("one", "two"))
    # Images and ratios are equal. Errors without a network are equal, too, because the masks are.
    for key in ("image", "mask_ratio", "removed_pixel_no_network"):
        assert [row[key] for row in one] == [row[key] for row in two]
    assert len(one) == 2 * 4 and {row["mask_ratio"] for row in one} == {"0.25", "0.75"}
    about = contents.read_json(runs / "one" / "reconstructions.json")
    own = [float(row["removed_pixel"]) for row in one if row["mask_ratio"] == "0.75"]
    assert about["means"][1]["removed_pixel"] == pytest.approx(np.mean(own), rel=1e-6)
    assert about["images"] == 4 and len(about["shown"]) == 3 and "visible patches around" in about["statistics"]
    with Image.open(runs / "one" / "reconstructions.png") as sheet:
        assert sheet.width >= 7 * 128 and sheet.height >= 3 * 128  # original, and three panels for each ratio


def command(*arguments):
    with pytest.raises(SystemExit) as end:
        main(["reconstruct", *map(str, arguments)])
    return end.value.code


@pytest.mark.slow
def test_networks_are_compared_side_by_side(runs, tmp_path, capsys):
    images = ["--images=tissue=synthetic-tissue", "--images=cells=synthetic-cells"]
    two = runs / "one", runs / "two"
    assert command(*two, *images, f"--out={tmp_path}", "--show=2", "--measure=5") == 0
    for name in ("tissue", "cells"):
        rows = table(tmp_path / f"{name}.csv")
        assert [row["network"] for row in rows] == ["one"] * 5 + ["two"] * 5
        assert all(row["image"].startswith(name) for row in rows)
        with Image.open(tmp_path / f"{name}.png") as sheet:
            assert sheet.width >= 6 * 128
        assert contents.read_json(tmp_path / f"{name}.json")["picture"] == pixel_space.WORDS[pixel_space.NEIGHBOURS]
    assert "cells, two: normalized error " in capsys.readouterr().out
    dotted = ["--images=v1.0=synthetic-cells", "--images=v1.5=synthetic-tissue", f"--out={tmp_path / 'dotted'}"]
    command(runs / "one", *dotted, "--show=1", "--measure=1")
    kinds = [f"v1.{number}.{kind}" for number in "05" for kind in ("csv", "json", "png")]
    assert sorted(path.name for path in (tmp_path / "dotted").iterdir()) == kinds
    command(runs / "one", images[0], f"--out={tmp_path}", "--show=1", "--measure=1", "--statistics=borrowed")
    assert "leaks the answer" in contents.read_json(tmp_path / "tissue.json")["picture"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["one", "--images=x"], "--images=x is not allowed; use NAME=DIR"),
        (["one", "--images=x=nowhere"], "nowhere"),
        (["one", "--images=x=synthetic-cells", "--show=0"], "--show=0 is not allowed"),
        (["one", "--images=x=synthetic-cells", "--mask-ratio=0.99"], "0.99 leaves 0 of 16"),
        (["none", "--images=x=synthetic-cells"], "is not a run directory"),
        (["one", "--images=x=synthetic-cells", "--images=x=synthetic-tissue"], "the name x occurs twice"),
    ],
)
def test_wrong_arguments_give_one_line(runs, tmp_path, capsys, arguments, said):
    code = command(runs / arguments[0], *arguments[1:], f"--out={tmp_path / 'out'}")
    told = capsys.readouterr().err
    assert code == 2 and said in told and told.count("\n") == 1


@pytest.mark.slow
def test_an_output_path_that_is_a_file_is_refused(runs, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    code = command(runs / "one", "--images=x=synthetic-cells", f"--out={tmp_path / 'out'}")
    told = capsys.readouterr().err
    assert code == 2 and f"--out={tmp_path / 'out'}/x.png cannot be written" in told and told.count("\n") == 1
