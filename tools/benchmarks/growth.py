"""CPU seconds and peak memory against size, with fitted exponents: images, near-duplicates, splits, reports, logs.

    python tools/benchmark.py growth [--only start looks ...] [--small]

Each row is one process of its own. `cpu_s` are the CPU seconds of the measured call, in all threads; `mib` is what the
call added to the process's peak memory. `exponent` is the slope of a straight line through the logarithms: 1 means
twice the size takes twice as long. `--small` takes a tenth of each size.

    start       decoding, checks and leaks for n training images of 64 px and 1 or 3 external test sets of n / 10
    looks       the search for near-duplicates among n looks of different images, without shifted copies
    splits      validation split and subset of n images, 100 groups, 10 classes
    rows        the report on 8 runs with n test images and 5 classes
    classes     the report on 8 runs with 2,000 test images and n classes
    log         reading n lines of metrics.jsonl
    finished    the same study again when its n runs are finished, with images in a folder
    predict     `mae-jax predict` with a tiny network on n images of 32 px
    help        `mae-jax report --help`

The column of opened images counts the files that Python opens: each image once, if none is read twice.
"""

import argparse
import dataclasses
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
IMAGES = f"{os.sep}images{os.sep}"  # in the path of every drawn image
SIZES: dict[str, tuple[int, ...]] = {
    "start": (1000, 2000, 4000),
    "looks": (1000, 10_000, 100_000),
    "splits": (10_000, 100_000, 1_000_000),
    "rows": (500, 5000, 50_000),
    "classes": (5, 40, 200),
    "log": (8000, 80_000, 800_000),
    "finished": (4, 8),
    "predict": (1000, 10_000, 100_000),
    "help": (1,),
}


@dataclasses.dataclass
class Cost:
    """What a call took."""

    cpu_s: float
    mib: float
    reads: int


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def peak() -> float:
    """The highest resident memory so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(call: Callable[[], Any]) -> Cost:
    """CPU seconds, growth of the peak memory, and the number of images that are opened during `call`."""
    reads = [0]

    def count(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and IMAGES in str(arguments[0]):
            reads[0] += 1

    sys.addaudithook(count)
    before, began = peak(), cpu()
    call()
    return Cost(cpu() - began, peak() - before, reads[0])


def draw(folder: Path, n: int, side: int, seed: int = 0, distinct: int = 0) -> None:
    """`n` images of noise as PNG in two class folders; beyond `distinct` ones, if given, hard links to these."""
    from PIL import Image

    for name in "ab":
        (folder / name).mkdir(parents=True, exist_ok=True)
    for i in range(n):
        path = folder / "ab"[i % 2] / f"{i:06}.png"
        if distinct and i >= distinct:
            os.link(folder / "ab"[i % distinct % 2] / f"{i % distinct:06}.png", path)
        else:
            pixels = np.random.default_rng((seed, i)).integers(0, 256, (side, side, 3), np.uint8)
            Image.fromarray(pixels).save(path, compress_level=1)


def start(n: int, folder: Path, tests: int) -> Cost:
    from mae_jax.config.fields import DataFields
    from mae_jax.data import splits

    draw(folder / "images" / "Train", n, 64)
    names = [f"Test{k}" for k in "ABCD"[: tests + 1]]
    for seed, name in enumerate(names, 1):
        draw(folder / "images" / name, n // 10, 64, seed)
    data = DataFields(source="folder", dir=str(folder / "images"), external=",".join(names[1:]), fraction=0.5)
    return measured(lambda: splits.labeled(data))


def looks(n: int, folder: Path) -> Cost:
    from mae_jax.data import duplicates
    from mae_jax.data.looks import SIDE

    rng = np.random.default_rng(0)
    waves = rng.normal(size=(n, 12)) @ rng.normal(size=(12, SIDE * SIDE)) * 20 + rng.normal(size=(n, SIDE * SIDE)) * 20
    drawn = np.clip(waves, -127, 127).astype(np.int8)
    return measured(lambda: sum(1 for _ in duplicates.near(drawn)))


def split(n: int, folder: Path) -> Cost:
    from mae_jax.data import subsets

    labels = np.random.default_rng(0).integers(0, 10, n).astype(np.int32)
    groups = [f"slide {i}" for i in np.random.default_rng(1).integers(0, 100, n)]

    def call() -> None:
        kept, _ = subsets.split_validation(labels, groups, 0.1, 0)
        subsets.nested_subset(labels[kept], 0.1, 0, tuple("abcdefghij"), 0)

    return measured(call)


def report(rows: int, classes: int, folder: Path) -> Cost:
    from mae_jax.report.page import write_report
    from mae_jax.rundir.predictions import write_predictions

    names = [f"class {i:03}" for i in range(classes)]
    labels = np.random.default_rng(0).integers(0, classes, rows).astype(np.int32)
    runs = []
    for fraction in (0.01, 0.1, 0.5, 1.0):
        for init in ("scratch", "mae"):
            run = folder / f"{init}{fraction}"
            run.mkdir(parents=True)
            logits = np.random.default_rng((len(init), round(100 * fraction))).normal(size=(rows, classes))
            logits[np.arange(rows), labels] += 2 + fraction
            p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
            groups = [f"slide {i % 40}" for i in range(rows)]
            for split, name in (("test", "predictions.csv"), ("val", "predictions_val.csv")):
                images = [f"{split}/{i:06}.png" for i in range(rows)]
                write_predictions(run / name, images, groups, labels, p.astype(np.float32), names)
            info = {"init": init, "fraction": fraction, "seed": 0, "classes": names, "task": "finetune", "epochs": 20}
            info |= {"n_train": round(8000 * fraction), "steps": 100, "wall_seconds": 60.0, "data": "drawn"}
            (run / "run.json").write_text(json.dumps(info))
            lines = [{"step": k, "epoch": k, "train/loss": 1 / (k + 1), "val/accuracy": k / 20} for k in range(20)]
            (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
            runs.append(run)
    return measured(lambda: write_report(runs, folder / "report"))


def log(n: int, folder: Path) -> Cost:
    from mae_jax.rundir import metrics_rows

    with open(folder / "metrics.jsonl", "w") as file:
        for step in range(n):
            file.write(json.dumps({"step": step, "train/loss": 1 / (step + 1), "learning_rate": 1e-3}) + "\n")
    return measured(lambda: metrics_rows.read_thinned(folder / "metrics.jsonl"))


def tiny(folder: Path) -> dict[str, Any]:
    fields: dict[str, Any] = {"size": "custom", "image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
    fields |= {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
    more = {"data.source": "folder", "data.dir": str(folder), "train.steps": 1, "train.batch_size": 16}
    return {f"model.{key}": value for key, value in fields.items()} | more | {"log.tensorboard": False}


def finished(n: int, folder: Path) -> Cost:
    from mae_jax import main
    from mae_jax.config.fields import defaults, study_defaults

    for seed, name in enumerate(("Train", "TestA")):
        draw(folder / "images" / name, 40, 32, seed)

    def study() -> None:
        pretrain, finetune = defaults("pretrain"), defaults("finetune")
        for part in (pretrain, finetune):
            part.update_from_flattened_dict(tiny(folder / "images"))
        pretrain.data.part = "train"
        config = study_defaults(pretrain, finetune)
        config.fractions, config.seeds = (0.5, 1.0), tuple(range(n // 4))
        main.run(config, folder / "study")

    study()
    return measured(study)


def predict(n: int, folder: Path) -> Cost:
    from mae_jax.config.fields import defaults
    from mae_jax.config.validation import validate
    from mae_jax.predict import files
    from mae_jax.train import loop

    for seed, name in enumerate(("Train", "TestA")):
        draw(folder / "images" / name, 40, 32, seed)
    draw(folder / "images" / "new", n, 32, 7, distinct=min(n, 500))
    config = defaults("finetune")
    config.update_from_flattened_dict(tiny(folder / "images"))
    loop.run(validate(config), folder / "run")
    files.predict(str(folder / "run"), str(folder / "images" / "Train"), folder / "first.csv")  # compiles
    return measured(lambda: files.predict(str(folder / "run"), str(folder / "images" / "new"), folder / "new.csv"))


def help_of_report(n: int, folder: Path) -> Cost:
    code = "import sys; from mae_jax.__main__ import dispatch\ntry: dispatch(['report', '--help'])\nfinally: "
    code += "print(len({m.partition('.')[0] for m in sys.modules} & {'numpy', 'scipy', 'matplotlib', 'jax'}))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0", "report --help imports libraries"
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, 0)


KINDS: dict[str, Callable[[int, Path], Cost]] = {
    "start": lambda n, folder: start(n, folder, 1),
    "start, 3 external": lambda n, folder: start(n, folder, 3),
    "looks": looks,
    "splits": split,
    "rows": lambda n, folder: report(n, 5, folder),
    "classes": lambda n, folder: report(2000, n, folder),
    "log": log,
    "finished": finished,
    "predict": predict,
    "help": help_of_report,
}


def exponent(sizes: list[int], values: list[float]) -> float:
    """The slope of the line through the logarithms of sizes and values; nan for fewer than two."""
    if len(sizes) < 2 or min(values) <= 0:
        return math.nan
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def row(kind: str, n: int) -> Cost:
    """Measures in a new process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", kind, str(n)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"error: {kind} with {n} failed; see its message above")
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmark.py growth", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="*", choices=tuple(SIZES), default=tuple(SIZES), help="what to measure")
    parser.add_argument("--small", action="store_true", help="a tenth of each size, at least 2")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.worker:
        kind, n = arguments.worker
        with tempfile.TemporaryDirectory(prefix="mae_jax-growth-") as folder:
            cost = KINDS[kind](int(n), Path(folder))
        print(json.dumps(dataclasses.asdict(cost)))
        return
    print("| what | size | CPU seconds | MiB added | images opened | exponent of time | of memory |")
    print("|---|---|---|---|---|---|---|")
    for kind in KINDS:
        name = kind.partition(",")[0]
        if name not in arguments.only:
            continue
        sizes, costs = [], []
        for n in SIZES[name]:
            sizes.append(max(4 if name == "finished" else 2, n // 10) if arguments.small else n)
            costs.append(row(kind, sizes[-1]))
            slopes = [exponent(sizes, [getattr(cost, key) for cost in costs]) for key in ("cpu_s", "mib")]
            shown = ["" if math.isnan(slope) else f"{slope:.2f}" for slope in slopes]
            c = costs[-1]
            print(
                f"| {kind} | {sizes[-1]:,} | {c.cpu_s:.2f} | {c.mib:.0f} | {c.reads} | {shown[0]} | {shown[1]} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
