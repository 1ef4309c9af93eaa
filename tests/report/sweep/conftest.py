"""Run directories of a sweep: four pre-trained networks, and classifiers of two seeds that start from each."""

import csv
import json

import numpy as np
import pytest

from mae_jax.report.sweep.networks import read_sweep
from mae_jax.report.sweep.page import write_sweep

RATIOS = (0.25, 0.75)


def _write_network(path, ratio, weight, *, images=40, groups=None, norm_pix=True, drop=None, unlabeled=0):
    """A pre-training whose errors follow from its ratio and weight: 1 leaves 30 % of the visible error and adds
    5 % to the removed one."""
    path.mkdir(parents=True)
    config = {"mae": {"mask_ratio": ratio, "visible_weight": weight, "norm_pix_loss": norm_pix}}
    config |= {"data": {"unlabeled_count": unlabeled}} if unlabeled else {}
    (path / "run.json").write_text(json.dumps({"task": "pretrain", "init": "scratch", "seed": 0, "config": config}))
    log = [{"step": e, "epoch": e, "val/loss": 1 / e, "val/visible_loss": 2 / e, "val/spam": 0.1} for e in (1, 2, 4)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    rows = []
    for at in (0.5, 0.75):
        errors = np.random.default_rng(3).uniform(0.5, 1.5, images)  # the images are the same for every network
        for i, e in enumerate(errors):
            removed = e * (1 + abs(ratio - 0.75)) * (1 + 0.05 * weight) * at
            visible = e * (0.5 + ratio) * (1 - 0.7 * weight)
            rows.append(
                {"image": f"{i:03}.png", "group": f"g{i // 4}" if groups else "", "mask_ratio": at}
                | {"removed_normalised": removed, "visible_normalised": visible, "removed_pixel": removed / 100}
                | {"visible_pixel": visible / 100, "removed_pixel_borrowed": 0.001, "removed_pixel_no_network": 0.01}
                | {"spam": 0.2 + 0.1 * weight}
            )
    rows = [{k: v for k, v in row.items() if k != drop} for row in rows]
    with open(path / "reconstructions.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return path


@pytest.fixture(scope="session")
def write_network():
    """The writer of one network's run directory."""
    return _write_network


@pytest.fixture(scope="session")
def directories(tmp_path_factory, make, write_network):
    folder = tmp_path_factory.mktemp("sweep")
    networks = [
        write_network(folder / "pretrain" / f"mask{100 * r:g}-visible{w:g}", r, w, groups=True)
        for w in (0, 1)
        for r in RATIOS
    ]
    cells = []
    for seed in (0, 1):
        cells.append(make.run(folder / "cells" / f"scratch-{seed}", "scratch", 0.1, seed=seed))
        for network in networks:
            knows = 0.8 if "75" in network.name else 0.5
            cells.append(
                make.run(
                    folder / "cells" / f"{network.name}-{seed}", "mae", 0.1,
                    seed=seed, knows=knows, init_from=f"/elsewhere/{network.name}",
                )
            )  # fmt: skip
    return networks, cells


@pytest.fixture(scope="session")
def written(directories, tmp_path_factory):
    networks, cells = directories
    return write_sweep([*networks, *cells], tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="session")
def table():
    """The rows of a CSV file next to a written page."""

    def read(written, name):
        with open(written.page.parent / name) as file:
            return list(csv.DictReader(file))

    return read


@pytest.fixture(scope="session")
def sweep(directories):
    """The networks and classifiers, read."""
    networks, cells = directories
    return read_sweep([*cells, *networks])[0]
