"""Kills runs with SIGKILL at random moments, resumes them, and compares them with uninterrupted runs.

    python tools/torture.py [--only pretrain,finetune,study,save] [--moments 20] [--delays 10] [--seed 0] [--out DIR]

Each run is killed once, at a random moment of an uninterrupted run's duration, and finished by the same command. `save`
kills runs during an asynchronous save, after increasing delays. Parameters, optimizer state, metrics, predictions and
results must be bit-identical. Networks are tiny. A run that ended before its kill is started again with another
moment. If anything differs, or a run could not be killed, the exit code is 1 and DIR keeps the run directories.
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

from mae_jax.runtime.command import call
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count

ROOT = Path(__file__).resolve().parents[1]
MODEL = {"size": "custom", "image_size": 16, "patch_size": 8, "width": 16, "depth": 2, "heads": 2}
DECODER = {"decoder_width": 8, "decoder_depth": 1, "decoder_heads": 2}
DATA = {"synthetic_train": 60, "synthetic_test": 23, "synthetic_size": 32, "synthetic_unlabelled": 40, "threads": 2}
FILES = ("metrics.jsonl", "predictions.csv", "predictions_val.csv", "results.json", "reconstructions.csv")
DRAWS = 10  # moments that are tried for one kill
KINDS = ("pretrain", "finetune", "study", "save")


def fields(prefix: str, save_every: float, steps: int, autoencoder: bool) -> list[str]:
    """The flags of a tiny run of `steps` updates. `prefix` is, for example, "finetune."."""
    parts = {"model": MODEL | (DECODER if autoencoder else {}), "data": DATA}
    parts["train"] = {"batch_size": 16, "batch_per_device": 0, "accumulation": 1, "steps": steps}
    parts["log"] = {"every_steps": 3, "tensorboard": False}
    parts["checkpoint"], parts["eval"] = {"every_epochs": save_every}, {"every_epochs": 4.0}
    parts["eval"] |= {"images": 2} if autoencoder else {}
    return [f"--config.{prefix}{part}.{name}={value}" for part, of in parts.items() for name, value in of.items()]


def command(kind: str, workdir: Path, steps: int) -> list[str]:
    """The command of a run or study."""
    start = [sys.executable, "-m", "mae_jax.main", f"--workdir={workdir}"]
    if kind == "study":
        grid = ["--config.fractions=(0.5,)", "--config.inits=('scratch','mae')", "--config.finetune.train.select=best"]
        flags = [*fields("pretrain.", 1.0, steps, True), *fields("finetune.", 1.0, steps, False)]
        keep = ["--config.finetune.checkpoint.keep_optimizer=True"]  # optimizer states are compared, too
        return [*start, "--config=configs/study.py:data=synthetic,protocol=paper,scale=laptop", *grid, *keep, *flags]
    epochs = 0.01 if kind == "save" else 1.0  # every step, or every epoch
    if kind == "pretrain":
        return [*start, "--config=configs/pretrain.py:data=synthetic", *fields("", epochs, steps, True)]
    return [*start, "--config=configs/finetune.py:data=synthetic,frac=0.5", *fields("", epochs, steps, False)]


class Runs:
    """Runs of one kind below one directory, each in a separate process."""

    def __init__(self, kind: str, steps: int, out: Path):
        self.kind, self.steps, self.out = kind, steps, out

    def start(self, workdir: Path) -> subprocess.Popen:
        """Starts or resumes a run."""
        quick = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        changes = {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(self.out / "xla"), "XLA_FLAGS": quick}
        with open(workdir.with_suffix(".log"), "ab") as log:
            arguments = command(self.kind, workdir, self.steps)
            return subprocess.Popen(arguments, cwd=ROOT, env=os.environ | changes, stdout=log, stderr=log)

    def finish(self, workdir: Path) -> float:
        """Runs to the end and returns the seconds it took. Raises UserError if the exit code is not 0."""
        began = time.monotonic()
        code = self.start(workdir).wait()
        if code:
            raise UserError(f"{workdir}: the run exited with code {code}; see {workdir.with_suffix('.log')}")
        return time.monotonic() - began

    def kill_after(self, workdir: Path, seconds: float) -> bool:
        """Starts a run and kills it after `seconds`. Returns whether it was still running."""
        process = self.start(workdir)
        try:
            process.wait(seconds)
            return False
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            return process.wait() == -signal.SIGKILL

    def kill_between(self, workdir: Path, seconds: float, rng: random.Random) -> float | None:
        """Starts runs until one is killed at a random moment of [0, `seconds`].

        Returns the moment, or None if DRAWS runs have all ended before their kill. The range shrinks with each draw,
        because a run may take less time than the one that was measured.
        """
        for draw in range(DRAWS):
            moment = rng.uniform(0, seconds * 0.8**draw)
            if self.kill_after(workdir, moment):
                return moment
            shutil.rmtree(workdir)
        return None

    def kill_in_save(self, workdir: Path, number: int, delay: float | None) -> float | None:
        """Starts a run and kills it `delay` seconds after its save of step `number` began (None: when it is done).

        Returns the seconds from the start of the save to the kill, or None if the run ended before.
        """
        process = self.start(workdir)
        folder = workdir / "checkpoints"
        _wait(process, lambda: (folder / str(number)).exists() or any(folder.glob(f"{number}.saving*")))
        began = time.monotonic()
        if delay is None:
            _wait(process, (folder / str(number)).exists)
        else:
            time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        seconds = time.monotonic() - began
        return seconds if process.wait() == -signal.SIGKILL else None

    def kill_in_a_save(self, workdir: Path, delay: float | None, rng: random.Random) -> tuple[int, float] | None:
        """Starts runs until one is killed in the save of a random step, as `kill_in_save` does.

        Returns the step and the seconds, or None if DRAWS runs have all ended before their kill.
        """
        for _ in range(DRAWS):
            number = rng.randrange(2, self.steps // 2)
            seconds = self.kill_in_save(workdir, number, delay)
            if seconds is not None:
                return number, seconds
            shutil.rmtree(workdir, ignore_errors=True)
        return None


def _wait(process: subprocess.Popen, until: Callable[[], bool]) -> None:
    while process.poll() is None and not until():
        time.sleep(0.0005)


def arrays(folder: Path) -> dict[str, bytes]:
    """All arrays of a checkpoint's parameters and optimizer state, as bytes."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    saved = {}
    with ocp.StandardCheckpointer() as checkpointer:
        for name in ("params", "optimizer"):
            tree = checkpointer.restore((folder / name).absolute())
            for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
                saved[name + jax.tree_util.keystr(path)] = np.asarray(leaf).tobytes()
    return saved


def differences(one: Path, two: Path) -> list[str]:
    """The differences between two run directories, or between all runs of two studies."""
    runs = [sorted(str(p.parent.relative_to(d)) for p in d.rglob("results.json")) for d in (one, two)]
    if runs[0] != runs[1] or not runs[0]:
        return [f"finished runs: {runs[0]} and {runs[1]}"]
    different = []
    for run in runs[0]:
        for name in (*FILES, *(str(p.relative_to(one / run)) for p in (one / run).glob("best/*.npz"))):
            texts = [(d / run / name).read_bytes() if (d / run / name).is_file() else None for d in (one, two)]
            if texts[0] != texts[1]:
                different.append(f"{run}/{name}")
        different += _checkpoint_differences(one / run, two / run)
    return different


def _checkpoint_differences(one: Path, two: Path) -> list[str]:
    """Differences between the newest checkpoints, and files that the second run left behind."""
    from mae_jax.checkpoints.steps import committed_steps

    newest = [(committed_steps(d / "checkpoints") or [0])[0] for d in (one, two)]  # a probe saves none
    if newest[0] != newest[1]:
        return [f"{two}: newest checkpoint {newest[1]}, not {newest[0]}"]
    left = [p.name for p in (two / "checkpoints").iterdir() if not p.name.isdigit()]
    expected, actual = (arrays(d / "checkpoints" / str(newest[0])) if newest[0] else {} for d in (one, two))
    wrong = sorted(k for k in expected.keys() | actual.keys() if expected.get(k) != actual.get(k))
    return [f"{two}: {k}" for k in wrong] + [f"{two}: left behind: {name}" for name in left]


def torture(runs: Runs, times: int, rng: random.Random) -> tuple[int, int]:
    """Kills and resumes `times` runs. Returns how many were killed, and how many differ from an uninterrupted run."""
    kind, reference = runs.kind, runs.out / f"{runs.kind}-reference"
    runs.finish(reference)
    shutil.rmtree(reference)
    seconds = runs.finish(reference)  # this time everything is compiled
    print(f"{kind}: an uninterrupted run takes {seconds:.1f} s", flush=True)
    if kind == "save":
        timed = runs.kill_in_a_save(runs.out / "save-timed", None, rng)
        seconds = timed[1] if timed else 0.0
        print(f"save: a save takes {1000 * seconds:.0f} ms" if timed else "save: no save could be timed", flush=True)
    bad = kills = 0
    for number in range(times):
        killed = runs.out / f"{kind}-{number}"
        if kind == "save":
            hit = runs.kill_in_a_save(killed, 1.2 * seconds * number / max(1, times - 1), rng)
            when = f"killed {1000 * hit[1]:.0f} ms into the save of step {hit[0]}" if hit else ""
        else:
            moment = runs.kill_between(killed, seconds, rng)
            when = "" if moment is None else f"killed after {moment:.2f} s"
        if not when:
            print(f"{kind} {number + 1}/{times}: {DRAWS} runs ended before their kill", flush=True)
            continue
        kills += 1
        try:
            runs.finish(killed)
            wrong = differences(reference, killed)
        except UserError as error:
            wrong = [str(error)]
        bad += bool(wrong)
        print(f"{kind} {number + 1}/{times}: {when}: {'; '.join(wrong) or 'equal'}", flush=True)
        if not wrong:
            shutil.rmtree(killed)
            killed.with_suffix(".log").unlink()
    print(f"{kind}: {kills} of {times} killed", flush=True)
    return kills, bad


def main() -> int:
    """Parses the arguments and tortures each kind of run. Returns 1 if a run differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=20, help="number of runs of each kind to kill (default 20)")
    parser.add_argument("--delays", type=int, default=10, help="number of runs to kill during a save (default 10)")
    parser.add_argument("--steps", type=int, default=40, help="updates of each run, at least 6 (default 40)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments (default 0)")
    parser.add_argument("--only", default=",".join(KINDS), help=f"kinds of runs, some of {','.join(KINDS)}")
    parser.add_argument("--out", type=Path, help="directory of the runs (default: a temporary directory)")
    options = parser.parse_args()
    kinds = options.only.split(",")
    if unknown := [kind for kind in kinds if kind not in KINDS]:
        raise UserError(f"--only={options.only}: {unknown[0]!r} is not known; use some of {','.join(KINDS)}")
    if options.steps < 6:
        raise UserError(f"--steps={options.steps} is too small; use 6 or more, so that there is a save to kill")
    out = options.out or Path(tempfile.mkdtemp(prefix="torture-"))
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise UserError(f"--out={out} is not empty; name another directory")
    bad = missed = 0
    for kind in kinds:
        times = options.delays if kind == "save" else options.moments
        kills, wrong = torture(Runs(kind, options.steps, out), times, random.Random(f"{options.seed} {kind}"))
        bad, missed = bad + wrong, missed + times - kills
    if missed:
        print(f"{count(missed, 'run')} could not be killed: use more --steps", flush=True)
    print(f"{bad} runs differ; see {out}" if bad else "all equal", flush=True)
    if bad or missed:
        return 1
    if not options.out:
        shutil.rmtree(out)
    return 0


if __name__ == "__main__":
    call(main)
