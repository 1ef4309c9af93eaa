"""Chooses whether the runs of a study train side by side, and trains them so."""

import pickle
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from mae_jax.config.fields import StudyConfig, SweepConfig
from mae_jax.data.looks import Kept
from mae_jax.data.splits import DataCache
from mae_jax.runtime import hardware, peers, signals
from mae_jax.runtime.disk import naming
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.progress import Progress, rough
from mae_jax.study.plan import Planned
from mae_jax.study.team import Job, Place, Team, gpu_names, shares

IMAGES = "images.pickle"
WORTH_SECONDS = 90.0  # shorter studies are not measured: starting the workers would take too large a part
WORTH_GAIN = 1.1  # minimum speed-up over one process at which workers are used


def gpus(config: StudyConfig | SweepConfig) -> list[str]:
    """The GPUs that get one worker each; [] if this process does the computation.

    If there are any, JAX is restricted to the CPU in this process, so that the memory of the GPUs is left to the
    workers. Call this before JAX starts. Raises UserError where several processes share each run.
    """
    asked = 0 if config.parallel == "auto" else int(config.parallel)
    if peers.expected():
        if asked > 1:
            raise UserError(
                f"parallel={asked}, but several processes share each run already; use parallel=1 or start one process"
            )
        return []
    if asked == 1 or not (asked or signals.of_a_command()):
        return []
    names = gpu_names()[: asked or None]
    if len(names) < 2:
        return []
    jax.config.update("jax_platforms", "cpu")
    return names


def places(config: StudyConfig | SweepConfig, planned: Sequence[Planned], todo: Sequence[Job]) -> list[Place]:
    """The CPU cores of each worker; [] if one process computes."""
    if config.parallel != "auto":
        count = min(int(config.parallel), len(todo))
    elif not _measurable(planned, todo):
        return []
    else:
        resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes
        free = hardware.available_memory()
        count = min(hardware.cores(), len(todo), len(todo) if free is None else 1 + free // resident)
    return shares(hardware.core_numbers(), count) if count > 1 else []


def _measurable(planned: Sequence[Planned], todo: Sequence[Job]) -> bool:
    """Whether workers on the cores of this machine may be faster, and the runs last so long that it matters."""
    one_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1 and not peers.expected()
    updates = any(planned[number].step_seconds for job in todo for number in job)
    total = sum(seconds(planned, job) for job in todo)
    return signals.of_a_command() and one_cpu and updates and total > WORTH_SECONDS


def jobs(planned: Sequence[Planned], numbers: Sequence[int]) -> list[Job]:
    """The runs `numbers`, the longest first. Probes that share the features of an encoder are one job."""
    together: dict[tuple, Job] = {}
    for number in numbers:
        run = planned[number].config
        key = (
            (number,)
            if run.traits.updates
            else ("features", run.init_from or (run.seed if run.has_network else run.init))
        )
        together.setdefault(key, []).append(number)
    return sorted(together.values(), key=lambda job: -seconds(planned, job))


def seconds(planned: Sequence[Planned], numbers: Sequence[int]) -> float:
    """The expected seconds of these runs, one after the other."""
    return sum(planned[number].seconds for number in numbers)


def makespan(planned: Sequence[Planned], todo: Sequence[Job], count: int) -> float:
    """The expected seconds of all jobs in `count` workers, each as fast as the process that was measured."""
    loads = [0.0] * count
    for job in todo:
        loads[loads.index(min(loads))] += seconds(planned, job)
    return max(loads)


def chosen(
    config: StudyConfig | SweepConfig, team: Team, planned: Sequence[Planned], todo: Sequence[Job], progress: Progress
) -> bool:
    """Whether the workers of `team` are used: if the user asked for them, or they are faster. Prints the decision.

    The time of an update of the longest run is measured in all workers at once.
    """
    workers = len(team.workers)
    if config.parallel != "auto":
        progress.say(f"{workers} runs at once")
        return True
    longest = max((number for job in todo for number in job), key=lambda number: planned[number].seconds)
    alone = planned[longest].step_seconds
    each = team.seconds_per_update(planned[longest].config)
    faster = workers * alone / each > WORTH_GAIN
    total = rough(makespan(planned, todo, workers) * each / alone)
    progress.say(
        f"an update takes {alone:.2g} s alone, {each:.2g} s with {workers} runs at once: "
        + (f"{workers} runs at once, about {total} for the classifiers" if faster else "one run at a time")
    )
    return faster


class _Pickler(pickle.Pickler):
    """Also keeps the perceptual hashes, with which a worker looks for test images that its pre-training has seen."""

    def reducer_override(self, value: Any) -> Any:
        return (Kept, (value.hashes,)) if isinstance(value, Kept) else NotImplemented


def keep(cache: DataCache, folder: str) -> str:
    """Saves what was read of the images in `folder` for the workers. Returns the path."""
    path = images_in(folder)
    with naming(path), open(path, "wb") as file:
        _Pickler(file).dump(cache)
    return path


def images_in(folder: str) -> str:
    """The path of what `keep` saves in `folder`."""
    return str(Path(folder) / IMAGES)
