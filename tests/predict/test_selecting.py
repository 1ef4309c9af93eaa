"""The command `mae-jax select`: its files can be filled in and trained on."""

import csv

import numpy as np
import pytest
from PIL import Image

from mae_jax.config import loading
from mae_jax.data import labeled_sets
from mae_jax.predict import selecting
from mae_jax.runtime.errors import UserError
from mae_jax.train import loop


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, tiny_config):
    """A tiny pre-training."""
    top = tmp_path_factory.mktemp("encoder")
    loop.run(tiny_config("pretrain", **{"train.steps": 1, "model.depth": 1}), top / "pretrain")
    return str(top / "pretrain")


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve images of different gray levels, and one broken file."""
    folder = tmp_path_factory.mktemp("images")
    for i in range(12):
        (folder / f"s{i % 2}").mkdir(exist_ok=True)
        Image.fromarray(np.full((30, 40, 3), 20 * i, np.uint8)).save(folder / f"s{i % 2}" / f"{i:02}.png")
    (folder / "s0" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_can_be_filled_in_and_opened_as_labels(encoder, images, tmp_path):
    out = tmp_path / "new" / "chosen.csv"
    names = selecting.select(encoder, str(images), 6, out, bad_images="skip")
    table = rows(out)
    assert [row["path"] for row in table] == names and len(set(names)) == 6
    assert [row["rank"] for row in table] == list("123456") and {row["label"] for row in table} == {""}
    with Image.open(out.with_suffix(".png")) as sheet:
        assert sheet.size == (6 * 134 + 6, 152 + 6)
    with open(out, "w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(row | {"label": "ab"[i % 2]} for i, row in enumerate(table))
    data = loading.load("configs/finetune.py", "data=folder").data
    data.update(labels=str(out), dir=str(images), test_fraction=0.4)
    sets = labeled_sets.load(data)
    assert sorted([*sets.train.names, *sets.test.names]) == sorted(names)
    second = selecting.select(encoder, str(images), 6, tmp_path / "2.csv", labeled=str(out), bad_images="skip")
    assert not set(second) & set(names)


@pytest.mark.parametrize(
    ("budget", "fields", "message"),
    [
        (0, {}, "--budget=0 is out of range; 13 images of which 0 have labels allow 1 to 13"),
        (13, {"bad_images": "skip"}, "--budget=13 is out of range; only 12 images can be read"),
        (2, {}, "broken.png"),
        (2, {"labeled": "strange.csv"}, "'s9/x.png' is not one of --images (1 such row)"),
    ],
)
def test_what_cannot_be_selected_is_refused(encoder, images, tmp_path, budget, fields, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "strange.csv").write_text("path\ns0/00.png\ns9/x.png\n")
    with pytest.raises(UserError) as error:
        selecting.select(encoder, str(images), budget, tmp_path / "out.csv", **fields)
    assert message in str(error.value) and not (tmp_path / "out.csv").exists()
