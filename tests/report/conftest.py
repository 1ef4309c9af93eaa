"""Run directories made from a seed: a study of four fractions, as training would leave it."""

import csv
import json
import math
import zlib
from pathlib import Path

import numpy as np
import pytest

from mae_jax.report.analysis import analyze
from mae_jax.report.runs import Run, init_order, usual_arm
from mae_jax.rundir.predictions import Predictions

CLASSES = ["Basophil", "Eosinophil", "Lymphocyte", "Monocyte", "Neutrophil"]
SHARES = np.array([0.05, 0.08, 0.24, 0.06, 0.57])
ACCURACY = {  # fraction -> init -> share of images that the model knows
    0.01: {"scratch": 0.0, "mae": 0.02},
    0.1: {"scratch": 0.35, "mae": 0.78},
    0.5: {"scratch": 0.90, "mae": 0.91},
    1.0: {"scratch": 0.95, "mae": 0.945},
}


def write_run(path: Path, init: str, fraction: float, *, seed=0, rows=400, knows=None, **extra):
    """One run directory; `extra` goes into run.json, and `classes` replaces the class names."""
    classes = extra.pop("classes", CLASSES)
    columns = extra.pop("columns", None)
    knows = ACCURACY[fraction][init] if knows is None else knows
    info = {"init": init, "fraction": fraction, "seed": seed, "classes": classes}
    info |= {"n_train": round(8000 * fraction), "task": "finetune", "epochs": 20}
    info |= {"steps": round(2500 * fraction), "wall_seconds": 90.0 + seed, "data": "synthetic"}
    info |= {"commit": "0123456789abcdef", "versions": {"jax": "0.0"}, "subset_seed": 0}
    path.mkdir(parents=True)
    (path / "run.json").write_text(json.dumps(info | extra))
    for name, offset in (("predictions", 0), ("predictions_val", 1)):
        table = predictions(classes, rows, knows, offset, [seed, len(init), round(1000 * fraction)])
        if columns:
            table = [{k: row[k] for k in columns} for row in table]
        write_predictions(path / f"{name}.csv", table)
    lines = []
    for epoch in range(21):
        lift = knows * (1 - math.exp(-epoch / 5))
        line = {"step": epoch * 10, "epoch": epoch, "learning_rate": 1e-3}
        line |= {"train/loss": 1.5 - 1.4 * lift, "train/accuracy": 0.57 + 0.43 * lift}
        lines.append(line | {"val/loss": 1.55 - 1.2 * lift, "val/accuracy": 0.57 + 0.4 * lift})
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def predictions(classes, rows, knows, offset, seed):
    """Rows of a predictions CSV: the same images and labels for every model of one `offset`."""
    shares = np.resize(SHARES, len(classes)) / np.resize(SHARES, len(classes)).sum()
    labels = np.random.default_rng(offset).choice(len(classes), rows, p=shares)
    rng = np.random.default_rng([offset, *seed])
    logits = rng.normal(size=(rows, len(classes))) * (0.3 + knows) + np.log(shares) * 1.2
    if knows:
        logits[np.arange(rows), labels] += np.where(rng.random(rows) < knows, 5.0, 0.5)
    else:
        logits = np.tile(np.log(shares), (rows, 1)) + rng.normal(size=(rows, 1)) * 0
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return [
        {
            "image": f"{('test', 'val')[offset]}/{classes[label]}/{i:05d}.png",
            "group": f"slide {i % 40}",
            "label": classes[label],
            "prediction": classes[p[i].argmax()],
            "confidence": f"{p[i].max():.6f}",
        }
        | {f"p_{name}": f"{value:.6f}" for name, value in zip(classes, p[i], strict=True)}
        for i, label in enumerate(labels)
    ]


def write_external(run: Path, name: str, classes: list[str], rows: int = 90, seed: int = 0) -> None:
    """An external test set of a run, with only some of the `classes`."""
    table = [row for row in predictions(CLASSES, rows * 4, 0.7, 0, [seed, 7]) if row["label"] in classes][:rows]
    path = run / "external" / name
    path.mkdir(parents=True)
    write_predictions(path / "predictions.csv", [row | {"image": "other/" + row["image"]} for row in table])


def write_predictions(path: Path, table: list[dict]) -> None:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, table[0])
        writer.writeheader()
        writer.writerows(table)


def write_study(root: Path, *, seeds=1, rows=400, inits=("scratch", "mae"), **extra) -> list[Path]:
    """The eight cells, or more with several seeds."""
    return [
        write_run(root / f"{init}_{f}_{seed}", init, f, seed=seed, rows=rows, **extra)
        for f in ACCURACY
        for init in inits
        for seed in range(seeds)
    ]


def study_of(cells, *, images=400, labels=None, choosing=0, seed=0):
    """A Study of models with given accuracies: {(arm, fraction, init): [accuracy of each seed, or "collapsed"]}.

    Images are of five classes, 61 % of the last; wrong answers are any other class. `labels`: number of training
    images at all labels; `choosing`: number of validation images that chose the epoch.
    """
    shares = np.array([0.02, 0.07, 0.24, 0.06, 0.61])
    truth = np.repeat(np.arange(5), (shares * images).round().astype(int))
    names = tuple(f"{i:04}" for i in range(len(truth)))
    runs = []
    for (arm, fraction, init), scores in cells.items():
        for number, score in enumerate(scores):
            rng = np.random.default_rng([seed, zlib.crc32(f"{arm}{fraction}{init}".encode()), number])
            given = np.full(len(truth), 4)
            if score != "collapsed":
                wrong = rng.permutation(len(truth)) >= round(score * len(truth))
                given = np.where(wrong, (truth + rng.integers(1, 5, len(truth))) % 5, truth)
            confidence = np.clip(rng.normal(0.85, 0.1, len(truth)), 0.3, 1)
            test = Predictions(names, truth, given, confidence, None, None)
            validation = None
            if choosing:
                part = slice(0, choosing)
                names_val = tuple(f"v{i:04}" for i in range(choosing))
                validation = Predictions(names_val, truth[part], given[part], confidence[part], None, None)
            info = {"select": "best" if choosing else "last", "selected_step": 10}
            runs.append(
                Run(
                    path=Path(f"{init}{fraction}{number}{arm}"), init=init, arm=arm, fraction=fraction, seed=number,
                    classes=tuple("abcde"), test=test, validation=validation,
                    n_train=round(labels * fraction) if labels else None, info=info, log=(),
                )
            )  # fmt: skip
    usual = usual_arm(runs)
    return analyze(sorted(runs, key=lambda r: (r.arm != usual, r.fraction, init_order(r.init), r.seed)))


@pytest.fixture(scope="session")
def make():
    """The writers, as the files here are not importable modules."""

    class Make:
        run = staticmethod(write_run)
        study = staticmethod(write_study)
        external = staticmethod(write_external)
        in_memory = staticmethod(study_of)
        classes = CLASSES
        required = ("image", "label", "prediction", "confidence")

    return Make


@pytest.fixture
def study(make, tmp_path):
    """Two cells, one that is not finished, and a pre-training."""
    place = tmp_path / "study"
    for init in ("scratch", "mae"):
        make.run(place / "cells" / f"10pct-{init}-seed0", init, 0.1, rows=60)
    late = make.run(place / "cells" / "50pct-mae-seed0", "mae", 0.5, rows=60)
    (late / "predictions.csv").unlink()
    (place / "pretrain").mkdir()
    (place / "pretrain" / "run.json").write_text(json.dumps({"task": "pretrain"}))
    (place / "report" / "figures").mkdir(parents=True)
    return place
