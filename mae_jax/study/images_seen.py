"""Pre-trainings of a study on different images see equally many of them."""

from collections.abc import Sequence
from pathlib import Path

from mae_jax.config.fields import StudyConfig, changed
from mae_jax.data import labeled_sets, splits
from mae_jax.rundir import contents
from mae_jax.study.cells import Run, pretrain_dir
from mae_jax.study.inits import Init, inits

CHOOSING = {  # fields that choose the images of a pre-training; `data.unlabeled_count` does not change its length
    f"data.{name}"
    for name in (
        *("source", "prepared_dir", "dir", "part", "labels", "columns", "levels", "train_split", "val_split"),
        *("test_fraction", "val_fraction", "bad_images"),
        *("synthetic_train", "synthetic_unlabelled", "synthetic_domains"),
    )
}
LENGTH = {"train.epochs", "train.epoch_images", "train.steps"}


def equal(
    config: StudyConfig,
    workdir: Path,
    runs: Sequence[Run],
    cache: splits.DataCache,
    on_progress: labeled_sets.OnProgress | None = None,
) -> list[Run]:
    """Sets `train.epoch_images` of each pre-training in `runs` that an arm gives other images.

    It becomes the number of images of the first arm that keeps those of `config.pretrain`, or of the first arm at all.
    So all pre-trainings have the same number of updates. An arm that sets its length keeps it, and so does a study
    whose `pretrain` sets steps or epoch_images. A run that has begun keeps its number, so no image is opened for it.
    Raises UserError for images that cannot be opened.
    """
    arms = [init for init in inits(config) if init.pretrain is not None]
    if not arms or config.pretrain.train.epoch_images or config.pretrain.train.steps:
        return list(runs)
    reference = next((arm for arm in arms if not _fields(arm) & CHOOSING), arms[0])
    other = {
        pretrain_dir(config, workdir, arm, number)
        for arm in arms
        for number in range(max(1, len(config.pretrain_seeds)))
        if arm.pretrain != reference.pretrain and _fields(arm) & CHOOSING and not _fields(arm) & LENGTH
    }
    result = []
    for place, run in runs:
        if place in other and not run.traits.labeled:
            images = _begun(place)
            if images is None:
                data = changed(config.pretrain, reference.pretrain or {}).data
                images = splits.unlabeled(data, on_progress, cache).available
            run = changed(run, {"train.epoch_images": images})
        result.append((place, run))
    return result


def _fields(arm: Init) -> set[str]:
    return {*(arm.pretrain or {})}


def _begun(place: Path) -> int | None:
    """`train.epoch_images` of the run in `place`; 0 for one from before this field, None if no run has begun."""
    saved = contents.peek_object(place / contents.CONFIG).get("config")
    if not isinstance(saved, dict):
        return None
    train = saved.get("train")
    images = train.get("epoch_images", 0) if isinstance(train, dict) else 0
    return images if isinstance(images, int) else 0
