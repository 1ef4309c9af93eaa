"""Stain normalization: the values of the library, images without stain, the typical target, and whole data sets."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torchstain
from PIL import Image

from mae_jax.data import findings, prepared
from mae_jax.data.decode import load_image
from mae_jax.datasets import prepare as preparing
from mae_jax.datasets import stain_normalization
from mae_jax.datasets.stain_normalization import Normalization, Target, Unsuitable, typical
from mae_jax.runtime.errors import UserError
from mae_jax.train import loop

ROOT = Path(__file__).parents[2]
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])  # hematoxylin and eosin (Ruifrok and Johnston 2001)


def tissue(seed: int, gain: tuple[float, float] = (1.0, 1.0), side: int = 64) -> np.ndarray:
    """Drawn tissue: smooth random amounts of two stains, times `gain`."""
    amounts = np.random.default_rng(seed).gamma(1.0, 1.0, (8, 8, 2))
    smooth = [np.asarray(Image.fromarray(a).resize((side, side), 3)) for a in np.moveaxis(amounts, 2, 0)]
    density = (np.maximum(np.stack(smooth, 2), 0.05) * gain) @ STAINS
    return np.clip(240 * np.exp(-density), 0, 255).astype(np.uint8)


def normalization(method: str, target: np.ndarray) -> Normalization:
    return Normalization(method, Target("target.png", target))


@pytest.mark.parametrize("method", stain_normalization.METHODS)
def test_values_are_those_of_the_library(method):
    target, image = tissue(0), tissue(1, (1.6, 0.6))
    make = {"macenko": torchstain.normalizers.MacenkoNormalizer, "reinhard": torchstain.normalizers.ReinhardNormalizer}
    reference = make[method](backend="numpy")
    reference.fit(target)
    expected = reference.normalize(image)
    expected = expected[0] if method == "macenko" else expected
    result = normalization(method, target)(image)
    assert result.dtype == np.uint8 and (result == expected).all()


def test_macenko_recovers_another_amount_of_the_same_stains():
    """The same tissue, stained more and less: normalized to the first, both are the first."""
    target, image = tissue(2), tissue(2, (0.6, 1.5))
    assert np.abs(image.astype(int) - target).mean() > 15
    assert np.abs(normalization("macenko", target)(image).astype(int) - target).mean() < 5


@pytest.mark.parametrize("method", stain_normalization.METHODS)
@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (np.full((64, 64, 3), 255, np.uint8), stain_normalization.WITHOUT_TISSUE),
        (np.where(np.arange(64)[:, None, None] < 3, tissue(3), np.uint8(245)), stain_normalization.WITHOUT_TISSUE),
        (np.full((64, 64, 3), 120, np.uint8), stain_normalization.NO_ESTIMATE),
        (np.full((64, 64, 3), 120, np.uint8) + tissue(3) // 64, stain_normalization.NO_ESTIMATE),
    ],
    ids=["white", "a strip of tissue", "gray", "nearly flat"],
)
def test_images_whose_stain_cannot_be_estimated_are_refused(method, image, reason):
    with pytest.raises(Unsuitable, match=reason):
        normalization(method, tissue(0))(image)


@pytest.mark.parametrize("method", stain_normalization.METHODS)
def test_a_target_without_stain_is_refused(method):
    with pytest.raises(UserError, match=r"--stain_target target\.png: less than 5% of the pixels are stained; name an"):
        normalization(method, np.full((64, 64, 3), 250, np.uint8))


def test_the_typical_image_is_in_the_middle_and_is_not_white():
    gains = (0.4, 0.9, 1.0, 1.1, 2.0)
    images = [tissue(4, (gain, gain)) for gain in gains] + [np.full((64, 64, 3), 255, np.uint8)] * 9
    target = typical([f"{gain}" for gain in gains] + ["white"] * 9, images)
    assert target.name in ("0.9", "1.0", "1.1") and target.drawn_from == 5
    with pytest.raises(UserError, match=r"--stain: none of 9 training images .* name a target image, --stain_target"):
        typical(["white"] * 9, images[5:])


def test_pytorch_is_not_imported():
    code = (
        "import sys; from mae_jax.datasets import stain_normalization; stain_normalization.library(); "
        "sys.exit(bool({'torch', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(ROOT)}).returncode == 0


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchstain.numpy", None)
    with pytest.raises(UserError, match=r'--stain needs torchstain .*python -m pip install "mae_jax\[stain\]"'):
        Normalization("macenko")


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    """CAM16's folders with drawn tissue; one image of each split is white."""
    top, seed = tmp_path_factory.mktemp("cam16"), 100
    for split, first in (("train", 0), ("val", 10), ("test", 20)):
        for name in ("normal", "tumor"):
            for slide in range(first, first + 4):
                path = top / split / "data" / name / f"{name}_{slide:03}-0-2-384ver.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                white = name == "tumor" and slide == first + 3
                pixels = np.full((64, 64, 3), 255, np.uint8) if white else tissue(seed, (0.6 + 0.1 * (seed % 9), 1.0))
                Image.fromarray(pixels).save(path, quality=95)
                seed += 1
    return top


@pytest.fixture(scope="module")
def normalized(tiles, tmp_path_factory):
    """The folder where these images are prepared with `--stain macenko`, and the lines that were printed."""
    top, lines = tmp_path_factory.mktemp("normalized"), []
    preparing.prepare("cam16", tiles, top, lines.append, stain="macenko")
    return top, lines


def test_every_image_of_a_data_set_is_normalized_and_white_ones_are_counted(tiles, normalized):
    top, lines = normalized
    place = prepared.locate("cam16", top)
    about = json.loads((place / "prepared.json").read_text())["stain"]
    assert about["method"] == "macenko" and about["library"].startswith("torchstain 1.")
    assert about["target_drawn_from"] == 7 and about["target"].startswith("train/data/")
    white = about["unchanged"][stain_normalization.WITHOUT_TISSUE]
    assert white["images"] == len(white["names"]) == 3 and len(about["unchanged"]) == 1
    text = "\n".join(lines)
    assert f"stain: normalized by macenko to {about['target']}, typical of 7 training images; the target" in text
    assert "not normalized, because less than 5% of the pixels are stained: 3 images (" in text

    target = np.asarray(Image.open(place / "stain_target.png"))
    normalize = normalization("macenko", target)
    for split in ("train", "test"):  # test images have the target of the training images
        source = prepared.labeled("cam16", split, top)
        for i, name in enumerate(source.names):
            pixels, original = load_image(source.encoded(i)), tiles / name
            if name in white["names"]:
                assert source.encoded(i) == original.read_bytes()
            else:
                assert np.abs(pixels.astype(int) - normalize(load_image(original.read_bytes()))).mean() < 3
                assert np.abs(pixels.astype(int) - load_image(original.read_bytes())).max() > 5


def test_runs_say_which_normalization_they_have(normalized):
    source = prepared.labeled("cam16", "train", normalized[0])
    assert source.stain.startswith("normalized by macenko to ")
    assert findings.about_files({"train": source}, 0, labeled=True) == {"stain": f"train: {source.stain}"}


@pytest.mark.slow
def test_a_killed_start_is_repeated_with_the_same_bytes(tiles, normalized, tmp_path):
    pausing = (
        "import time; from mae_jax.data import prepared; prepared.make_index = lambda e: (print('here', flush=True), "
        "time.sleep(60)); from mae_jax.datasets.prepare import prepare; "
        f"prepare('cam16', {str(tiles)!r}, {str(tmp_path)!r}, lambda line: None, stain='macenko')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", pausing], env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "here\n"  # all records are written
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert prepared.versions("cam16", tmp_path) == []
    preparing.prepare("cam16", tiles, tmp_path, lambda line: None, stain="macenko")
    places = [prepared.locate("cam16", top) for top in (tmp_path, normalized[0])]
    kept = [{p.name: p.read_bytes() for p in place.iterdir() if ".array_record" in p.name} for place in places]
    assert kept[0] == kept[1] and len(kept[0]) == 3
    assert (places[0] / "prepared.json").read_bytes() == (places[1] / "prepared.json").read_bytes()


def test_another_stain_in_the_same_folder_is_refused(tiles, normalized, tmp_path):
    top, place = normalized[0], prepared.locate("cam16", normalized[0])
    for stain in ("reinhard", ""):
        with pytest.raises(UserError, match="prepared normalized by macenko to .* use another --data_dir, or remove"):
            preparing.prepare("cam16", tiles, top, print, stain=stain)
    Image.fromarray(tissue(9)).save(tmp_path / "other.png")
    with pytest.raises(UserError, match="cam16 is already prepared normalized by macenko"):
        preparing.prepare("cam16", tiles, top, print, stain="macenko", stain_target=tmp_path / "other.png")
    again: list[str] = []
    preparing.prepare("cam16", tiles, top, again.append, stain="macenko")
    target = place / "stain_target.png"
    same = preparing.prepare("cam16", tiles, top, again.append, stain="macenko", stain_target=target)
    assert same == place and [line.split(";")[0] for line in again] == ["cam16 is already prepared"] * 2


def test_a_plain_data_set_is_not_taken_for_a_normalized_one(trees, prepared_sets):
    with pytest.raises(UserError, match="cam16 is already prepared without stain normalization, in "):
        preparing.prepare("cam16", trees / "cam16", prepared_sets[0], print, stain="macenko")
    assert prepared.unlabeled("cam16", prepared_sets[0]).stain == ""


def test_tiles_cut_here_are_normalized_to_a_given_target(trees, tmp_path):
    """Regions are cut first; the target is a file."""
    Image.fromarray(tissue(9)).save(tmp_path / "target.png")
    lines: list[str] = []
    preparing.prepare(
        "prcc:tile50", trees / "prcc", tmp_path, lines.append, stain="reinhard", stain_target=tmp_path / "target.png"
    )
    source = prepared.unlabeled("prcc:tile50", tmp_path)
    assert source.stain == f"normalized by reinhard to {tmp_path}/target.png"
    unchanged = prepared.stain_of(prepared.locate("prcc:tile50", tmp_path))["unchanged"]
    left = {name for reason in unchanged.values() for name in reason["names"]}
    means = np.array([load_image(source.encoded(i)).mean((0, 1)) for i, n in enumerate(source.names) if n not in left])
    assert len(means) > 16 and np.abs(means - tissue(9).mean((0, 1))).mean() < 10


@pytest.mark.parametrize(("content", "message"), [(None, "No such file"), (b"text", r"other\.png")])
def test_a_target_that_cannot_be_read_is_named(trees, tmp_path, content, message):
    path = tmp_path / "other.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"^--stain_target .*{message}"):
        preparing.prepare("cam16", trees / "cam16", tmp_path, print, stain="macenko", stain_target=path)


def test_a_run_records_the_normalization(tiny_config, normalized, tmp_path):
    config = tiny_config()
    prepared_data = {
        "source": "cam16",
        "prepared_dir": str(normalized[0]),
        "train_split": "train",
        "test_split": "test",
    }
    config.data.update(prepared_data)
    loop.run(config, tmp_path / "run")
    about = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(about["stain"]) == {"train", "test"} and about["stain"]["test"].startswith("normalized by macenko to ")
