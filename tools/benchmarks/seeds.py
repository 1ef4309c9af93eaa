"""Times the seeds of a classifier trained in one step against one after the other.

    python tools/benchmark.py seeds [--seeds 3] [--rounds 7] [--devices 1]

In one step, `jax.vmap` maps the training step over the seeds: their states, batches and seeds have a leading axis. The
losses are compared with those of separate steps, and both sides are timed in turns. `ratio` is the time of the separate
steps over that of the one step: above 1, one step is faster. The cases are the demo's classifier and a study's with
scale=laptop. With --devices N, the batch is split over N virtual CPU devices. The last line is a JSON object.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

CASES = {
    "demo": ("configs/demo.py", ""),
    "laptop": ("configs/study.py", "data=synthetic,scale=laptop"),
}
STEPS = 10  # in a turn


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmark.py seeds", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds (default 3)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each side after the warm-up (default 7)")
    parser.add_argument("--devices", type=int, default=1, help="virtual CPU devices (default 1)")
    options = parser.parse_args()
    if options.devices > 1:
        flag = f"--xla_force_host_platform_device_count={options.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
    results = {}
    for name in CASES:
        results[name] = measure(name, options.seeds, options.rounds)
        print(name, *(f"{key} {value:.4g}" for key, value in results[name].items()), sep="  ", flush=True)
    print(json.dumps(results))


def measure(name: str, seeds: int, rounds: int) -> dict[str, float]:
    """Times one case. Raises AssertionError if the losses differ."""
    import jax
    import numpy as np

    from mae_jax.config.fields import RunConfig
    from mae_jax.config.loading import load
    from mae_jax.config.schedule import resolve
    from mae_jax.config.validation import typed
    from mae_jax.runtime import machine
    from mae_jax.step import from_config, sharding, state, train_step

    machine.keep_memory()
    config = typed(load(*CASES[name]).finetune, RunConfig)
    mesh = sharding.make_mesh()
    resolved = resolve(config, 1000, mesh.size)
    spec = from_config.spec_of(config, resolved, mesh, n_classes=5)
    rows, side = resolved.rows, config.model.image_size

    def batch_of(seed: int) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)
        return {
            "image": rng.integers(0, 256, (rows, side, side, 3), np.uint8),
            "label": rng.integers(0, 5, rows).astype(np.int32),
            "index": np.arange(rows, dtype=np.int32),
            "mask": np.ones(rows, np.float32),
        }

    rate = np.float32(1e-4)
    batches = [sharding.put_batch(batch_of(seed), mesh) for seed in range(seeds)]
    numbers = np.arange(seeds, dtype=np.int32)
    stack = lambda trees: jax.tree.map(lambda *leaves: jax.numpy.stack(leaves), *trees)  # noqa: E731
    update = lambda current, batch, seed: train_step.train_step(spec, current, batch, seed, rate)  # noqa: E731
    one = jax.jit(jax.vmap(update), donate_argnums=0)
    apart = [state.init_state(spec, seed) for seed in range(seeds)]
    together, stacked = stack([state.init_state(spec, seed) for seed in range(seeds)]), stack(batches)

    def separate(steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            for k in range(seeds):
                apart[k], metrics = train_step.train_step(spec, apart[k], batches[k], numbers[k], rate)
                losses.append(metrics["loss"])
        return [float(loss) for loss in losses[-seeds:]]

    def mapped(steps: int) -> list[float]:
        nonlocal together
        metrics: dict[str, Any] = {}
        for _ in range(steps):
            together, metrics = one(together, stacked, numbers)
        return [float(loss) for loss in metrics["loss"]]

    np.testing.assert_allclose(separate(3), mapped(3), rtol=1e-4)

    def timed(call: Callable[[int], list[float]]) -> float:
        began = time.perf_counter()
        call(STEPS)
        return (time.perf_counter() - began) / STEPS

    turns = [(timed(separate), timed(mapped)) for _ in range(rounds)]
    separately, at_once = (statistics.median(turn[k] for turn in turns) for k in (0, 1))
    return {"separate_s": separately, "one_step_s": at_once, "ratio": separately / at_once}


if __name__ == "__main__":
    main()
