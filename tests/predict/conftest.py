"""Images in folders, and a finished run of every task on them."""

import numpy as np
import pytest
from PIL import Image

from mae_jax.data import synthetic
from mae_jax.train import loop

CLASSES = ("Eosinophil", "Lymphocyte")


def draw(folder, n, seed):
    """Writes `n` PNG files of synthetic cells, of two classes and several sizes, below `folder`."""
    rng = np.random.default_rng(seed)
    for i in range(n):
        label = i % 2
        pixels = synthetic.draw_cell(rng, label, 24 + 4 * (i % 3))
        path = folder / CLASSES[label] / f"cell_{i:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


@pytest.fixture(scope="session")
def predict_dir(tmp_path_factory, tiny_config):
    """A directory with images in cells/Train and cells/TestA, and a finished run of every task on them."""
    top = tmp_path_factory.mktemp("predict")
    draw(top / "cells" / "Train", 40, 0)
    draw(top / "cells" / "TestA", 13, 1)
    data = {"data.source": "folder", "data.dir": str(top / "cells"), "data.val_fraction": 0.25, "model.depth": 1}
    runs = {"pretrain": tiny_config("pretrain", **data | {"train.steps": 1})}
    runs["finetune"] = tiny_config(**data | {"train.steps": 4, "train.select": "best"})
    encoder = {"init": "mae", "init_from": str(top / "pretrain")}
    runs["linear_probe"] = tiny_config("linear_probe", **data | encoder | {"train.steps": 2})
    runs["lbfgs"] = tiny_config("lbfgs", **data | encoder)
    runs["knn"] = tiny_config("knn", **data)
    for name, config in runs.items():
        loop.run(config, top / name)
    return top
