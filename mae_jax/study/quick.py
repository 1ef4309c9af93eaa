"""A quick look before a full study: linear probes of a small pre-trained encoder, or of a given one."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from mae_jax.config.fields import StudyConfig
from mae_jax.config.loading import init_of, load, remember
from mae_jax.config.validation import typed, validate
from mae_jax.data import sources, splits
from mae_jax.rundir import saved_runs
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.progress import Progress
from mae_jax.runtime.text import count
from mae_jax.study import validation
from mae_jax.study.inits import inits

COUNTS = 5  # numbers of labels to try
OF_LABELED = ("levels", "train_split", "val_split", "test_split")  # a pre-training on unlabeled images has none
PASSED_ON = ("dir", "labels", "part", "group_pattern", "columns", "bad_images", *OF_LABELED)  # to the full study


def configured(
    fields: Mapping[str, str],
    unlabeled: str = "",
    init: str = "",
    seeds: int = 3,
    steps: int = 400,
    cache: splits.DataCache | None = None,
    arms: Sequence[str] = (),
) -> ConfigDict:
    """The config of a quick look at labeled images.

    `fields` are fields of `data` that name the images: dir or labels, and others such as columns or group_pattern.
    `unlabeled`: one or more folders, joined by ","; "" pre-trains on the labeled training images. `init`: a run
    directory or a file or folder of weights to probe, instead of pre-training for `steps` updates. `arms` are further
    arms, as in `inits` of a study. Opens the images to choose the numbers of labels; `cache` keeps them for further
    calls. Raises UserError for images, weights or options that cannot be used.
    """
    config = load("configs/quick.py", f"seeds={seeds},steps={steps}")
    _name_images(config, fields, unlabeled)
    if init:
        _probe_encoder(config, init)
    config.inits = (*config.inits, *arms)
    inits(typed(config, StudyConfig))  # before images are opened
    checked = validate(config.finetune, "finetune.")
    held = splits.labeled(checked.data, Progress(10.0).counting("checking images"), cache)
    config.label_counts = label_counts(held.train.labels[held.train_idx], len(held.train.classes))
    return remember(config)  # the user sets no field by hand


def _name_images(config: ConfigDict, fields: Mapping[str, str], unlabeled: str) -> None:
    for part in (config.pretrain, config.finetune):
        part.data.update(fields)
    if not unlabeled:
        config.pretrain.data.part = "train"
        return
    config.pretrain.data.update(dir=unlabeled, labels="", columns="", levels="", part="all")
    if pattern := config.pretrain.data.group_pattern:  # which may be for the names of labeled images alone
        listed = [sources.unlabeled_folder(d, pattern=pattern, check=False) for d in unlabeled.split(",") if d]
        if not any(group for source in listed for group in source.groups):
            config.pretrain.data.group_pattern = ""


def _probe_encoder(config: ConfigDict, init: str) -> None:
    """Uses the encoder of `init`, with its network and normalization, instead of a pre-training."""
    from mae_jax.weights import encoder_fields

    init = encoder_fields.pretraining_of(init, "--init")
    if init_of(init) == "mae":
        saved_runs.trained_config_of(Path(init), "--init")
    for part in (config.pretrain, config.finetune):
        encoder_fields.follow(part, init, "--init")
    config.inits = tuple(init if text == "mae" else text for text in config.inits)


def label_counts(labels: np.ndarray, n_classes: int) -> tuple[int, ...]:
    """Up to COUNTS numbers of labels for training labels of shape (n,), in equal ratios up to all of them.

    The smallest is about four labels per class, because fewer tell little. Numbers are rounded to two digits. Raises
    UserError for fewer than two images per class on average.
    """
    n = len(labels)
    if n < 2 * n_classes:
        raise UserError(
            f"{count(n, 'training image')} for {n_classes} classes are too few for a quick look; label more"
        )
    smallest = max(n_classes, min(4 * n_classes, n // 2))
    counts = np.geomspace(smallest, n, COUNTS)
    rounded = [int(float(f"{k:.2g}")) for k in counts[:-1]]
    return tuple(dict.fromkeys([*(k for k in rounded if n_classes <= k < n), n]))


def full_study(quick: ConfigDict) -> tuple[str, ConfigDict]:
    """The full study of the same images: the arguments of `mae-jax run`, and its config."""
    config = load("configs/study.py", "data=folder,scale=laptop")
    arguments = ["--config=configs/study.py:data=folder,scale=laptop"]
    parts = {"pretrain": (config.pretrain, quick.pretrain), "finetune": (config.finetune, quick.finetune)}
    for part, (full, small) in parts.items():
        for name in PASSED_ON:
            value = small.data[name]
            used = full is config.finetune or small.data.part == "train" or name not in OF_LABELED
            if used and value != full.data[name]:
                full.data[name] = value
                arguments.append(f"--config.{part}.data.{name}={value}")
    return shlex.join(arguments), config


def what_more(quick: ConfigDict, cache: splits.DataCache | None = None) -> list[str]:
    """Lines about what the full study adds, and how long it takes here, measured on a few steps.

    `cache` holds the images of earlier calls.
    """
    from mae_jax.study import preview  # JAX, which the config does not need

    arguments, config = full_study(quick)
    planned = preview.lines(validation.check(config), Path("runs/study"), cache=cache, devices=False)
    time, disk = (
        [line.strip() for line in planned if line.strip().startswith(words)] for words in ("about", "checkpoints")
    )
    return [
        "This was a quick look: a small network, a short pre-training, and frozen encoders only, each with a logistic "
        "regression on its features.",
        "The full study fine-tunes whole networks, from scratch and from a longer pre-training, with five seeds. It "
        "also trains small label sets for as many updates as all labels get.",
        *(f"It takes {line}" for line in time),
        *(f"{line[0].upper()}{line[1:]}" for line in disk),
        f"  mae-jax run {arguments}",
    ]
