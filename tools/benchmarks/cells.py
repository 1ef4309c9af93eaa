"""Eight cells of a study in one process, against eight processes of one cell each.

    python tools/benchmark.py cells [--config=configs/demo.py]

Fine-tuning from scratch on two seeds and four fractions, each side with a compilation cache of its own that is empty
at first. In one process the cells share compiled steps and opened images. The last line is one JSON object; the CPU
seconds are less shaken by other work on the machine than the wall time.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def timed(commands: list[list[str]], folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds of commands, one after another, on a compilation cache of their own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(folder / "xla")}
    before, began = os.times(), time.monotonic()
    for number, command in enumerate(commands, 1):
        print(f"{folder.name}: {number} of {len(commands)}, {time.monotonic() - began:.0f} s so far", flush=True)
        subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return time.monotonic() - began, cpu


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmark.py cells", description=__doc__.split("\n")[0])
    parser.add_argument("--config", default="configs/demo.py", help="a study; its eight cells are made of it")
    config = parser.parse_args().config
    with tempfile.TemporaryDirectory() as scratch:
        one, eight = Path(scratch) / "one process", Path(scratch) / "eight processes"
        fields = [f"--config={config}", "--config.inits=('scratch',)", "--config.seeds=(0,1)"]
        fields += ["--config.fractions=(0.01,0.1,0.5,1.0)", "--config.evaluations=('finetune',)"]
        study = [sys.executable, "-m", "mae_jax.main", *fields, f"--workdir={one / 'study'}"]
        cell = [sys.executable, "tools/slurm/cell.py", *fields, f"--workdir={eight / 'study'}"]
        subprocess.run([*cell, "--count"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        together = timed([study], one)
        apart = timed([[*cell, f"--number={i}"] for i in range(8)], eight)
    names = ("one_process_s", "eight_processes_s", "ratio")
    wall, cpu = ((a, b, a / b) for a, b in zip(together, apart, strict=True))
    for what, values in (("wall", wall), ("CPU", cpu)):
        print(f"{what}: one process {values[0]:.0f} s, eight {values[1]:.0f} s, {values[2]:.2f}x")
    print(json.dumps({"wall": dict(zip(names, wall, strict=True)), "cpu": dict(zip(names, cpu, strict=True))}))


if __name__ == "__main__":
    main()
