"""Kills runs by SIGKILL at random moments, lets the same command finish them, and compares with unbroken ones.

    python tools/torture.py [--moments 20] [--delays 10] [--seed 0] [--only pretrain,finetune,study,save] [--out DIR]

Each run is killed once, at a moment drawn over the whole of an unbroken run's time, and finished by the same command.
`save` kills during an asynchronous save, at delays from its beginning on. Parameters, optimiser state, metrics,
predictions and results must be the same bits. Networks are tiny. Ends with 1 where anything differs; DIR then keeps
the run directories.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mae_jax import cli
from mae_jax.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
MODEL = {"size": "custom", "image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2}
DECODER = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
DATA = {"synthetic_train": 60, "synthetic_test": 23, "synthetic_size": 32, "synthetic_unlabelled": 40, "threads": 2}
STEPS = 40
FILES = ("metrics.jsonl", "predictions.csv", "predictions_val.csv", "results.json", "reconstructions.csv")
KINDS = ("pretrain", "finetune", "study", "save")


def fields(prefix: str, save_every: float) -> list[str]:
    """The flags of one tiny run; `prefix` as in "finetune."."""
    parts = {"model": MODEL | DECODER, "data": DATA}
    parts["train"] = {"batch_size": 16, "batch_per_device": 0, "accumulation": 1, "steps": STEPS}
    parts["log"] = {"every_steps": 3, "tensorboard": False}
    parts["checkpoint"], parts["eval"] = {"every_epochs": save_every}, {"every_epochs": 4.0, "images": 2}
    return [f"--config.{prefix}{part}.{name}={value}" for part, of in parts.items() for name, value in of.items()]


def command(kind: str, workdir: Path) -> list[str]:
    """The command of a run or study."""
    start = [sys.executable, "-m", "mae_jax.main", f"--workdir={workdir}"]
    if kind == "study":
        grid = ["--config.fractions=(0.5,)", "--config.inits=('scratch','mae')", "--config.finetune.train.select=best"]
        both = [*fields("pretrain.", 1.0), *fields("finetune.", 1.0)]
        return [*start, "--config=configs/study.py:data=synthetic,protocol=paper,scale=laptop", *grid, *both]
    every = 0.01 if kind == "save" else 1.0  # every step, or every epoch
    if kind == "pretrain":
        return [*start, "--config=configs/pretrain.py:data=synthetic", *fields("", every)]
    return [*start, "--config=configs/finetune.py:data=synthetic,frac=0.5", *fields("", every)]


def start(kind: str, workdir: Path, cache: Path) -> subprocess.Popen:
    """Starts a run in a process of its own."""
    quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(cache), "XLA_FLAGS": quick}
    log = open(workdir.with_suffix(".log"), "ab")
    with log:
        return subprocess.Popen(command(kind, workdir), cwd=ROOT, env=environment, stdout=log, stderr=log)


def finish(kind: str, workdir: Path, cache: Path) -> float:
    """Runs to the end; seconds. Raises UserError where it does not end well."""
    began = time.monotonic()
    code = start(kind, workdir, cache).wait()
    if code:
        raise UserError(f"{workdir}: ended with exit code {code}; see {workdir.with_suffix('.log')}")
    return time.monotonic() - began


def kill_after(kind: str, workdir: Path, cache: Path, seconds: float) -> bool:
    """Starts a run and kills it; whether it was still running."""
    process = start(kind, workdir, cache)
    try:
        process.wait(seconds)
        return False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.wait() == -signal.SIGKILL


def kill_in_save(workdir: Path, cache: Path, number: int, delay: float | None) -> float:
    """Starts a run and kills it `delay` seconds after its save of step `number` began, or when that is done.

    Gives the seconds from the save's beginning to the kill. Raises UserError where the run ends before.
    """
    process = start("save", workdir, cache)
    folder = workdir / "checkpoints"
    _wait(process, lambda: (folder / str(number)).exists() or any(folder.glob(f"{number}.saving*")))
    began = time.monotonic()
    if delay is None:
        _wait(process, (folder / str(number)).exists)
    else:
        time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    seconds = time.monotonic() - began
    if process.wait() != -signal.SIGKILL:
        raise UserError(f"{workdir}: the run ended before its save of step {number} could be killed")
    return seconds


def _wait(process: subprocess.Popen, until: Callable[[], bool]) -> None:
    while process.poll() is None and not until():
        time.sleep(0.0005)


def arrays(folder: Path) -> dict[str, bytes]:
    """Every array of a checkpoint's parameters and optimiser state."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    found = {}
    with ocp.StandardCheckpointer() as checkpointer:
        for name in ("params", "optimizer"):
            tree = checkpointer.restore((folder / name).absolute())
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
                found[name + jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return found


def differences(one: Path, two: Path) -> list[str]:
    """What two run directories, or all those of two studies, do not have in common."""
    runs = [sorted(str(p.parent.relative_to(d)) for p in d.rglob("results.json")) for d in (one, two)]
    if runs[0] != runs[1] or not runs[0]:
        return [f"finished runs: {runs[0]} and {runs[1]}"]
    found = []
    for run in runs[0]:
        for name in (*FILES, *(str(p.relative_to(one / run)) for p in (one / run).glob("best/*.npz"))):
            texts = [(d / run / name).read_bytes() if (d / run / name).is_file() else None for d in (one, two)]
            if texts[0] != texts[1]:
                found.append(f"{run}/{name}")
        found += _checkpoint_differences(one / run, two / run)
    return found


def _checkpoint_differences(one: Path, two: Path) -> list[str]:
    """Of the newest checkpoint, and what is left behind by the second."""
    from mae_jax.checkpoints import committed_steps

    newest = [committed_steps(d / "checkpoints")[0] for d in (one, two)]
    if newest[0] != newest[1]:
        return [f"{two}: newest checkpoint {newest[1]}, not {newest[0]}"]
    left = [p.name for p in (two / "checkpoints").iterdir() if not p.name.isdigit()]
    expected, got = (arrays(d / "checkpoints" / str(newest[0])) for d in (one, two))
    wrong = sorted(k for k in expected.keys() | got.keys() if expected.get(k) != got.get(k))
    return [f"{two}: {k}" for k in wrong] + [f"{two}: left behind: {name}" for name in left]


def torture(kind: str, times: int, rng: random.Random, out: Path) -> int:
    """Kills and finishes `times` runs of a kind; how many differ from an unbroken one."""
    cache, whole = out / "xla", out / f"{kind}-whole"
    finish(kind, whole, cache)
    shutil.rmtree(whole)
    seconds = finish(kind, whole, cache)  # the second time everything is compiled
    print(f"{kind}: unbroken in {seconds:.1f} s", flush=True)
    if kind == "save":
        save_seconds = kill_in_save(out / "save-timed", cache, STEPS // 2, None)
        print(f"save: one takes {1000 * save_seconds:.0f} ms", flush=True)
    bad = 0
    for number in range(times):
        broken = out / f"{kind}-{number}"
        if kind == "save":
            step = rng.randrange(2, STEPS // 2)
            delay = kill_in_save(broken, cache, step, 1.2 * save_seconds * number / max(1, times - 1))
            when = f"killed {1000 * delay:.0f} ms into the save of step {step}"
        else:
            moment = rng.uniform(0, seconds)
            killed = kill_after(kind, broken, cache, moment)
            when = f"{'killed' if killed else 'had ended'} after {moment:.2f} s"
        try:
            finish(kind, broken, cache)
            wrong = differences(whole, broken)
        except UserError as error:
            wrong = [str(error)]
        bad += bool(wrong)
        said = "; ".join(wrong) or "equal"
        print(f"{kind} {number + 1}/{times}: {when}: {said}", flush=True)
        if not wrong:
            shutil.rmtree(broken)
            broken.with_suffix(".log").unlink()
    return bad


def main() -> int:
    """The command line; 1 where a run differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20, help="runs to kill, of each kind")
    parser.add_argument("--delays", type=int, default=10, help="runs to kill in a save")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", default=",".join(KINDS), help=f"some of {','.join(KINDS)}")
    parser.add_argument("--out", type=Path, help="where the runs go; else a temporary directory")
    options = parser.parse_args()
    kinds = options.only.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(f"--only={options.only}: {unknown[0]!r} is not known; use some of {','.join(KINDS)}")
    out = options.out or Path(tempfile.mkdtemp(prefix="torture-"))
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise UserError(f"--out={out} is not empty; name another")
    bad = 0
    for kind in kinds:
        times = options.delays if kind == "save" else options.moments
        bad += torture(kind, times, random.Random(f"{options.seed} {kind}"), out)
    print(f"{bad} differ; see {out}" if bad else "all equal", flush=True)
    if not bad and not options.out:
        shutil.rmtree(out)
    return 1 if bad else 0


if __name__ == "__main__":
    cli.call(main)
