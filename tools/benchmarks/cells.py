"""Times eight cells of a study in one process against eight processes of one cell each.

    python tools/benchmark.py cells [--config=configs/demo.py]

The cells are fine-tuning from scratch on two seeds and four fractions, followed by the report. In one process, the
cells share compiled steps and opened images. After eight processes, a ninth writes the report. They are timed twice,
starting from empty caches: with a separate compilation cache each (`starts`), and with a shared one (`cached`), which
is what users get. `ratio` is the time of the one process over that of the others. The last line is a JSON object. CPU
seconds vary less than wall time if the machine is shared.
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


def timed(commands: list[list[str]], name: str, caches: list[Path]) -> tuple[float, float]:
    """Wall and CPU seconds of commands run one after another, each with its compilation cache."""
    before, began = os.times(), time.monotonic()
    for number, (command, cache) in enumerate(zip(commands, caches, strict=True), 1):
        environment = os.environ | {"PYTHONPATH": str(ROOT), "JAX_COMPILATION_CACHE_DIR": str(cache)}
        print(f"{name}: {number} of {len(commands)}, {time.monotonic() - began:.0f} s so far", flush=True)
        subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    cpu = after.children_user - before.children_user + after.children_system - before.children_system
    return time.monotonic() - began, cpu


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmark.py cells", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--config", default="configs/demo.py", help="a study, from which the eight cells are derived")
    config = parser.parse_args().config
    fields = [f"--config={config}", "--config.inits=('scratch',)", "--config.seeds=(0,1)"]
    fields += ["--config.fractions=(0.01,0.1,0.5,1.0)", "--config.evaluations=('finetune',)"]
    fields += ["--config.random_probe=False"]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)

        def eight(name: str) -> list[list[str]]:
            cell = [sys.executable, "tools/slurm/cell.py", *fields, f"--workdir={folder / name}"]
            subprocess.run([*cell, "--count"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
            return [*([*cell, f"--number={i}"] for i in range(8)), study(name)]

        def study(name: str) -> list[str]:
            return [sys.executable, "-m", "mae_jax.main", *fields, f"--workdir={folder / name}"]

        together = timed([study("study")], "one process", [folder / "xla"])
        cached = timed(eight("cached"), "eight processes, one cache", [folder / "xla-shared"] * 9)
        starts = timed(eight("starts"), "eight processes", [folder / f"xla-{i}" for i in range(9)])
    results = {}
    for i, clock in enumerate(("wall", "cpu")):
        results[clock] = {"one_process_s": together[i]}
        for name, separate in (("starts", starts), ("cached", cached)):
            ratio = together[i] / separate[i]
            results[clock] |= {f"{name}_s": separate[i], f"ratio_{name}": ratio}
            print(f"{clock}: one process {together[i]:.0f} s, eight ({name}) {separate[i]:.0f} s, {ratio:.2f}x")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
