"""The plan of a run, study or sweep, for `mae-jax plan`."""

from pathlib import Path

from mae_jax.config.fields import AnyConfig, StudyConfig, SweepConfig
from mae_jax.data import labeled_sets
from mae_jax.data.splits import DataCache
from mae_jax.runtime.progress import Progress
from mae_jax.study import cells, forecast, images_seen, label_study, mask_sweep, plan
from mae_jax.study.cells import Run
from mae_jax.train import loop


def runs(
    config: AnyConfig,
    workdir: Path,
    cache: DataCache | None = None,
    on_progress: labeled_sets.OnProgress | None = None,
) -> list[Run]:
    """All runs of `config`, in order. Raises UserError for initial weights or images that cannot be used."""
    if isinstance(config, StudyConfig):
        planned = cells.runs(config, workdir)
        return label_study.configured(images_seen.equal(config, workdir, planned, cache or DataCache(), on_progress))
    if isinstance(config, SweepConfig):
        networks = mask_sweep.pretrainings(config, workdir)
        return [*networks, *mask_sweep.classifiers(config, workdir, networks)]
    return [(workdir, config)]


def lines(
    config: AnyConfig, workdir: Path, timed: bool = True, cache: DataCache | None = None, devices: bool = True
) -> list[str]:
    """The plan as lines of text: what each run trains on and, if `timed`, the expected time.

    `devices`: also for several devices, which takes some more steps to measure. `cache` keeps the images for further
    calls. Raises UserError.
    """
    cache = cache or DataCache()
    on_progress = loop.checking(Progress(10.0))
    planned = plan.make(runs(config, workdir, cache, on_progress), cache, on_progress, timed)
    return plan.describe(planned) + (forecast.lines(planned, cache) if timed and devices else [])
