"""The expected time of a study on several devices like the measured one, with both ways to use them."""

import math
from collections.abc import Sequence

from mae_jax.config.fields import changed
from mae_jax.data import splits
from mae_jax.runtime.progress import rough
from mae_jax.runtime.text import count as count_of
from mae_jax.study import plan, side_by_side
from mae_jax.study.plan import Planned

DEVICES = (1, 5, 8)


def lines(planned: Sequence[Planned], cache: splits.DataCache) -> list[str]:
    """Expected times with one classifier per device, and with each run split over all devices.

    Both start with the pre-training on all devices. A split step is as fast as one with the rows of one device, which
    is measured here; the time of communication is not known and not counted, so these times are lower bounds.
    """
    todo = [k for k, run in enumerate(planned) if run.seconds]
    later = [k for k in todo if planned[k].config.traits.labeled]
    if len(later) < 2:
        return []
    jobs = side_by_side.jobs(planned, later)
    table = ["  expected time by number of devices (as fast as this one; communication is not included):"]
    for count in DEVICES:
        shares = _shares([planned[k] for k in todo], count, cache)
        split = {k: planned[k].seconds * shares[planned[k].config.task] for k in todo}
        first = sum(seconds for k, seconds in split.items() if k not in later)
        side = first + side_by_side.makespan(planned, jobs, min(count, len(jobs)))
        line = f"    {count_of(count, 'device')}: about {rough(side)}"
        if count > 1:
            line += f" with one classifier per device, {rough(sum(split.values()))} with each run over all devices"
        table.append(line)
    return table


def _shares(runs: Sequence[Planned], count: int, cache: splits.DataCache) -> dict[str, float]:
    """The time of a run that is split over `count` devices, as a share of that on one, by task."""
    longest = {run.config.task: run for run in sorted(runs, key=lambda run: run.seconds)}
    return {task: _share(run, count, cache) for task, run in longest.items()}


def _share(run: Planned, count: int, cache: splits.DataCache) -> float:
    """1 / `count` if the devices share images, or get more of them per update; measured if a batch is split."""
    t = run.config.train
    if count == 1 or not run.step_seconds or not t.batch_size:
        return 1 / count
    rows = max(t.accumulation, math.ceil(t.batch_size / count))
    return plan.step_seconds(changed(run.config, {"train.batch_size": rows}), cache) / run.step_seconds
