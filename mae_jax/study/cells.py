"""The cells of a study: a run directory and a config for each."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mae_jax.config.fields import probe_of
from mae_jax.config.loading import flatten, init_of
from mae_jax.config.naming import percent
from mae_jax.runtime.errors import UserError

Run = tuple[Path, ConfigDict]


@dataclasses.dataclass(frozen=True)
class Init:
    """One of a study's initialisations."""

    name: str  # as in tables
    path: str = ""  # an encoder that is there already; "": random weights, or the study's own pre-training
    changes: dict[str, Any] | None = None  # pre-training: what differs from `config.pretrain`; None: no pre-training

    @property
    def slug(self) -> str:
        """The name, for file names."""
        return re.sub(r"[^\w.=+-]", "_", self.name)


def inits(config: ConfigDict) -> list[Init]:
    """The initialisations that `config.inits` names.

    Each is scratch, mae, mae:KEY=VALUE[,KEY=VALUE] or [NAME=]PATH. KEY is a field of `pretrain.mae`, such as
    mask_ratio, or exp for one of `config.experiments`. Raises UserError for what is none of these.
    """
    found = [_init(text, config) for text in config.inits]
    slugs = [init.slug for init in found]
    for slug, text in zip(slugs, config.inits, strict=True):
        if slugs.count(slug) > 1:
            raise UserError(f"inits={tuple(config.inits)}: {text!r} comes twice; give one another NAME=")
    return found


def _init(text: Any, config: ConfigDict) -> Init:
    head, colon, rest = str(text).partition(":")
    if text in ("scratch", "mae"):
        return Init(text, changes={} if text == "mae" else None)
    if head == "mae" and colon:
        changes: dict[str, Any] = {}
        for item in rest.split(","):
            key, _, value = item.partition("=")
            changes |= _change(text, key, value, config)
        return Init(f"mae {rest}", changes=changes)
    name, equals, path = str(text).partition("=")
    path = path if equals else name
    name = name if equals else Path(path).name
    if name in ("", "scratch", "mae") or len(name) > 100 or not Path(path).exists():
        raise UserError(
            f"inits: {text!r} is not allowed; use scratch, mae, mae:KEY=VALUE (KEY: exp or one of "
            f"{', '.join(config.pretrain.mae)}), or [NAME=]PATH of a pre-training's run directory or of weights"
        )
    return Init(name, path=path)


def _change(text: str, key: str, value: str, config: ConfigDict) -> dict[str, Any]:
    """The fields of the pre-training that one KEY=VALUE sets."""
    known = [name.removeprefix("exp") for name in config.experiments]
    if key == "exp" and value in known:
        return flatten(config.experiments[f"exp{value}"])
    fields = config.pretrain.mae
    if key not in fields:
        allowed = [f"exp={v}" for v in known] + [f"{name}=..." for name in fields]
        raise UserError(f"inits: {text!r}: {key}={value} is not known; use one of {', '.join(allowed)}")
    kind = type(fields[key])
    try:
        typed = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError):
        raise UserError(f"inits: {text!r}: {key}={value} is not a valid {kind.__name__}") from None
    return {f"mae.{key}": typed}


def pretrain_dir(config: ConfigDict, workdir: Path, init: Init, number: int) -> Path:
    """Where the encoder of an initialisation lies, for the seed with that number."""
    if init.path:
        return Path(init.path)
    name = "pretrain" + init.slug.removeprefix("mae").replace("_", "-", 1)
    return workdir / (f"{name}-seed{config.pretrain_seeds[number]}" if config.pretrain_seeds else name)


def pretrainings(config: ConfigDict, workdir: Path) -> Iterator[Run]:
    """The pre-trainings that the initialisations need: one for all seeds, or one for each."""
    for init in inits(config):
        for number in range(max(1, len(config.pretrain_seeds))):
            if init.changes is None:
                continue
            cell = config.pretrain.copy_and_resolve_references()
            cell.update_from_flattened_dict(init.changes)
            cell.name = f"pre-training{init.name.removeprefix('mae')}"
            if config.pretrain_seeds:
                cell.seed = config.pretrain_seeds[number]
                cell.name += f" seed {cell.seed}"
            yield pretrain_dir(config, workdir, init, number), cell


def cells(config: ConfigDict, workdir: Path) -> Iterator[Run]:
    """Every evaluation of an encoder: fine-tuning, and what `config.evaluations` has besides.

    Those of one evaluation, seed, fraction and number of updates differ in their first weights and in nothing else,
    but that an encoder sees images on the scale of its pre-training. Frozen encoders have no step-matched runs.
    """
    subset_seeds = tuple(config.subset_seeds) or (0,) * len(config.seeds)
    labels = config.label_counts or config.fractions
    most = max(labels)
    budgets = [(n, 0) for n in labels]
    matched = most if config.label_counts else config.step_matched
    budgets += [(n, most) for n in labels if config.step_matched and n <= matched and n < most]
    seeds = list(enumerate(zip(config.seeds, subset_seeds, strict=True)))
    wanted = [(task, inits(config)) for task in config.evaluations]
    if config.random_probe and not ("scratch" in config.inits and {"lbfgs", "linear_probe"} & {*config.evaluations}):
        wanted.append(("lbfgs", [Init("scratch")]))
    for (task, starts), (number, (seed, subset_seed)), (amount, match) in itertools.product(wanted, seeds, budgets):
        if match and task != "finetune":
            continue
        for init in starts:
            cell = config.finetune.copy_and_resolve_references()
            cell = cell if task == "finetune" else probe_of(cell, task)
            cell.seed, cell.data.subset_seed = seed, subset_seed
            if config.label_counts:
                cell.data.fraction, cell.data.label_count, cell.train.match_count = 1.0, amount, match
            else:
                cell.data.fraction, cell.train.match_fraction = amount, float(match)
            if init.name != "scratch":
                cell.init = init_of(init.path) if init.path else "mae"
                cell.init_name = "" if init.name == "mae" else init.name
                cell.init_from = str(pretrain_dir(config, workdir, init, number).resolve())
            for name in ("mean", "std"):
                if f"data.{name}" in (init.changes or {}):
                    cell.data[name] = init.changes[f"data.{name}"]
            shown = partial(_labels, counted=bool(config.label_counts))
            updates = f" as {shown(match)[0]}" if match else ""
            which = f" seed {seed}" if len(config.seeds) > 1 else ""
            cell.name = f"{task} {shown(amount)[0]}{updates} {init.name}{which}"
            budget = shown(amount)[1] + (f"-as{shown(match)[1]}" if match else "")
            before = "" if task == "finetune" else f"{task}-"
            yield workdir / "cells" / f"{before}{budget}-{init.slug}-seed{seed}", cell


def _labels(amount: float, counted: bool) -> tuple[str, str]:
    """A share or a number of labels in words, and for file names."""
    return (f"{amount} labels", f"{amount}labels") if counted else (f"{amount * 100:g} %", percent(amount))


def runs(config: ConfigDict, workdir: Path) -> list[Run]:
    """All runs of a study, in the order in which they are done."""
    return [*pretrainings(config, workdir), *cells(config, workdir)]
