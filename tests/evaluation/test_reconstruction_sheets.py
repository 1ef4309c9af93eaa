"""Errors (normalized and in pixels) and pictures of reconstructions, with the same fixed masks for every network."""

import csv

import numpy as np
import pytest
from PIL import Image

from mae_jax.__main__ import main
from mae_jax.data import sources
from mae_jax.evaluation import pixel_space, reconstruction_sheets
from mae_jax.rundir import contents
from mae_jax.train import loop


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
    errors = [float(row["removed_pixel"]) for row in one if row["mask_ratio"] == "0.75"]
    assert about["means"][1]["removed_pixel"] == pytest.approx(np.mean(errors), rel=1e-6)
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
    ("arguments", "message"),
    [
        (["one", "--images=x"], "--images=x is not allowed; use NAME=DIR"),
        (["one", "--images=x=nowhere"], "nowhere"),
        (["one", "--images=x=synthetic-cells", "--show=0"], "--show=0 is out of range; allowed: 1 or more"),
        (["one", "--images=x=synthetic-cells", "--mask-ratio=0.99"], "0.99 leaves 0 of 16"),
        (["none", "--images=x=synthetic-cells"], "none does not exist; name "),
        (["one", "--images=x=synthetic-cells", "--images=x=synthetic-tissue"], "the name x occurs twice"),
    ],
)
def test_wrong_arguments_give_one_line(runs, tmp_path, capsys, arguments, message):
    code = command(runs / arguments[0], *arguments[1:], f"--out={tmp_path / 'out'}")
    printed = capsys.readouterr().err
    assert code == 2 and message in printed and printed.count("\n") == 1


@pytest.mark.slow
def test_an_output_path_that_is_a_file_is_refused(runs, tmp_path, capsys):
    (tmp_path / "out").write_text("")
    code = command(runs / "one", "--images=x=synthetic-cells", f"--out={tmp_path / 'out'}")
    printed = capsys.readouterr().err
    assert code == 2 and f"--out={tmp_path / 'out'}/x.png cannot be written" in printed and printed.count("\n") == 1


def test_images_are_taken_from_each_source_in_turn():
    a, b, c = (sources.synthetic("Train", 8, 16, seed) for seed in range(3))
    held = [(a, np.array([5, 6, 7])), (b, np.array([1])), (c, np.array([], int))]
    assert reconstruction_sheets.in_turn(held, 9) == [(a, 5), (b, 1), (a, 6), (a, 7)]
    assert reconstruction_sheets.in_turn(held, 3) == [(a, 5), (b, 1), (a, 6)]
    assert reconstruction_sheets.in_turn([], 3) == []


def test_means_are_over_the_images_of_each_ratio_and_files_hold_every_row(tmp_path):
    rows = [
        {"image": name, "group": "=1+1", "mask_ratio": ratio} | dict.fromkeys(contents.ERRORS, value)
        for ratio, name, value in ((0.75, "a", 1.0), (0.75, "b", 3.0), (0.25, "a", 0.5))
    ]
    one, two = reconstruction_sheets.means(rows)
    assert (one["mask_ratio"], two["mask_ratio"]) == (0.75, 0.25)
    assert {one[name] for name in contents.ERRORS} == {2.0} and {two[name] for name in contents.ERRORS} == {0.5}
    rows[0]["spam"] = 1 / 3
    reconstruction_sheets.write_errors(tmp_path / "errors.csv", rows)
    written = table(tmp_path / "errors.csv")
    assert list(written[0]) == ["image", "group", "mask_ratio", *contents.ERRORS] and len(written) == 3
    assert written[0]["spam"] == "0.333333333" and written[0]["group"] == "'=1+1"


def test_a_sheet_has_a_column_for_each_heading_and_small_pictures_are_enlarged():
    left, right = np.zeros((2, 50, 50, 3)), np.ones((2, 50, 50, 3))
    right[1] = 0.5
    sheet = reconstruction_sheets.sheet([("a", left), ("b\nc", right)], ["a line"])
    step, top = 3 * 50 + 6, 2 * 20  # 50 pixels are enlarged to 150, at least 128; two lines of headings
    assert sheet.size == (2 * step + 6, top + 2 * step + 20 + 6)
    pixel = [sheet.getpixel((6 + x * step + 75, top + y * step + 75)) for x in (0, 1) for y in (0, 1)]
    assert pixel == [(0, 0, 0), (0, 0, 0), (255, 255, 255), (128, 128, 128)]
    assert sheet.getpixel((2, top + 10)) == (255, 255, 255)
