"""Files that are read once before a start: what a run reports of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import checking
from mae_jax.step import sharding
from mae_jax.train.build import build


def save(path: Path, side: int, seed: int, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(small).resize((side + 20, side)).save(path, **options)
    return path


@pytest.mark.parametrize(("side", "reported"), [(159, False), (160, True)])
def test_large_images_are_those_of_ten_times_the_side_that_is_seen(side, reported):
    sizes = np.array([[side, 9000], [9000, side], [side, side], [16, 16], [9000, 9000]], np.int32)
    text = checking.large(sizes, 16, labeled=False)
    assert bool(text) == reported
    if reported:
        assert "the shorter side of 160 pixels (median) becomes 16, so that structures below 10 pixels" in text
        assert "tools/prepare_data.py tiles:NAME --source DIR --assume_mpp MPP --tile 64" in text
        assert "tiles:NAME" not in checking.large(sizes, 16, labeled=True)
    assert checking.large(None, 16, labeled=False) == ""


@pytest.mark.parametrize("task", ["pretrain", "finetune"])
def test_a_start_reports_large_images_and_what_is_assumed(tmp_path, tiny_config, task):
    places = [(split, name, i) for split in ("Train", "TestA") for name in ("ant", "bee") for i in range(6)]
    for seed, (split, name, i) in enumerate(places):
        save(tmp_path / split / name / f"{i}.png", 170 if split == "Train" else 60, seed)
    frames = [Image.new("RGB", (170, 170), color) for color in ("red", "lime")]
    frames[0].save(tmp_path / "Train" / "ant" / "film.gif", save_all=True, append_images=frames[1:])
    config = tiny_config(task)
    config.data.update(source="folder", dir=str(tmp_path if task == "finetune" else tmp_path / "Train"))
    built = build(config, sharding.make_mesh(1))
    prefix = "Train: " if task == "finetune" else ""
    assert built.about["assumed"] == f"{prefix}1 image: an animation: the first frame is used"
    large = f"{prefix}the shorter side of 170 pixels (median) becomes 16"
    assert built.about["warning: large images"].startswith(large)
    assert built.assumed() == {"train": {"an animation: the first frame is used": 1}}
