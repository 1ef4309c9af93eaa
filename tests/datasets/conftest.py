"""Small trees in the published layouts, and the data sets prepared from them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CELLS = ("Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil")


def write(path: Path, seed: int, size: tuple[int, int] = (20, 24)) -> Path:
    """A JPEG of smooth noise, another for each seed; `size` is height and width."""
    path.parent.mkdir(parents=True, exist_ok=True)
    small = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    Image.fromarray(small).resize(size[::-1], Image.Resampling.BICUBIC).save(path, quality=90)
    return path


def raabin(root: Path) -> Path:
    """Two films with two cells of one field of view each, for every class and split; TestB has two classes."""
    seed = 0
    for split, classes in (("Train", CELLS), ("TestA", CELLS), ("TestB", ("Lymphocyte", "Neutrophil"))):
        for name in classes:
            for i in range(4):
                month = {"Train": 8, "TestA": 9, "TestB": 10}[split]
                film = f"95-{month}-{10 + CELLS.index(name)}-{i // 2}"
                write(root / split / name / f"{film}_300_{i % 2}.jpg", seed)
                seed += 1
    return root


def cam16(root: Path) -> Path:
    """Three slides of one, two and one tiles, for every class and split."""
    seed = 0
    for split, first in (("train", 0), ("val", 10), ("test", 20)):
        for name in ("normal", "tumor"):
            for slide, x in ((first, 0), (first + 1, 0), (first + 1, 384), (first + 2, 0)):
                write(root / split / "data" / name / f"{name}_{slide:03}-{x}-2-384ver.jpg", seed)
                seed += 1
    return root


@pytest.fixture(scope="session")
def trees(tmp_path_factory) -> Path:
    """raabin_wbc/, cam16/ and prcc/ (two regions of 200 x 200 pixels), with files that are not images."""
    top = tmp_path_factory.mktemp("published")
    raabin(top / "raabin_wbc")
    train = top / "raabin_wbc" / "Train"
    (train / "Neutrophil" / ".DS_1.jpg").write_bytes(b"junk")
    (train / "Neutrophil" / "95-8-14-0_300_9.jpg").write_bytes(b"<html>not found</html>")
    undamaged = (train / "Monocyte" / "95-8-13-0_300_0.jpg").read_bytes()
    (train / "Monocyte" / "95-8-13-0_300_7.jpg").write_bytes(undamaged[:-100])
    cam16(top / "cam16")
    write(top / "prcc" / "3610_6089_2000.jpg", 0, (200, 200))
    write(top / "prcc" / "1" / "12_34_2000.jpg", 1, (200, 200))
    write(top / "prcc" / "small.jpg", 2, (40, 200))
    return top


@pytest.fixture(scope="session")
def prepared_sets(trees, tmp_path_factory) -> tuple[Path, dict[str, list[str]]]:
    """The folder where raabin_wbc, cam16 and prcc:tile50 are prepared, and the lines printed for each."""
    from mae_jax.datasets.prepare import prepare

    top, text = tmp_path_factory.mktemp("prepared"), {}
    for name in ("raabin_wbc", "cam16", "prcc:tile50"):
        prepare(name, trees / name.partition(":")[0], top, text.setdefault(name, []).append)
    return top, text
