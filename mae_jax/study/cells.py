"""The cells of a study: a run directory and a config for each."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mae_jax.config.fields import RunConfig, StudyConfig, as_dict, changed, probe_of
from mae_jax.config.loading import flatten, init_of
from mae_jax.config.naming import percent
from mae_jax.config.validation import typed
from mae_jax.runtime.errors import UserError

Run = tuple[Path, RunConfig]


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


def inits(config: StudyConfig) -> list[Init]:
    """The initialisations that `config.inits` names.

    Each is scratch, mae, mae:KEY=VALUE[,KEY=VALUE] or [NAME=]PATH. KEY is a field of `pretrain.mae`, such as
    mask_ratio, or exp for one of `config.experiments`. Raises UserError for what is none of these.
    """
    found = [_init(text, config) for text in config.inits]
    slugs = [init.slug for init in found]
    for slug, text in zip(slugs, config.inits, strict=True):
        if slugs.count(slug) > 1:
            raise UserError(f"inits={config.inits}: {text!r} comes twice; give one another NAME=")
    return found


def _init(text: Any, config: StudyConfig) -> Init:
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
            f"{', '.join(_mae_fields(config))}), or [NAME=]PATH of a pre-training's run directory or of weights"
        )
    return Init(name, path=path)


def _mae_fields(config: StudyConfig) -> dict[str, Any]:
    """The fields of `pretrain.mae`, with their values."""
    return as_dict(config.pretrain.mae)


def _change(text: str, key: str, value: str, config: StudyConfig) -> dict[str, Any]:
    """The fields of the pre-training that one KEY=VALUE sets."""
    known = [name.removeprefix("exp") for name in config.experiments]
    if key == "exp" and value in known:
        return flatten(config.experiments[f"exp{value}"])
    fields = _mae_fields(config)
    if key not in fields:
        allowed = [f"exp={v}" for v in known] + [f"{name}=..." for name in fields]
        raise UserError(f"inits: {text!r}: {key}={value} is not known; use one of {', '.join(allowed)}")
    kind = type(fields[key])
    try:
        typed = {"true": True, "false": False}[value.lower()] if kind is bool else kind(value)
    except (ValueError, KeyError):
        raise UserError(f"inits: {text!r}: {key}={value} is not a valid {kind.__name__}") from None
    return {f"mae.{key}": typed}


def pretrain_dir(config: StudyConfig, workdir: Path, init: Init, number: int) -> Path:
    """Where the encoder of an initialisation lies, for the seed with that number."""
    if init.path:
        return Path(init.path)
    name = "pretrain" + init.slug.removeprefix("mae").replace("_", "-", 1)
    return workdir / (f"{name}-seed{config.pretrain_seeds[number]}" if config.pretrain_seeds else name)


def pretrainings(config: StudyConfig, workdir: Path) -> Iterator[Run]:
    """The pre-trainings that the initialisations need: one for all seeds, or one for each."""
    for init in inits(config):
        for number in range(max(1, len(config.pretrain_seeds))):
            if init.changes is None:
                continue
            name = f"pre-training{init.name.removeprefix('mae')}"
            changes = {**init.changes, "name": name}
            if config.pretrain_seeds:
                seed = config.pretrain_seeds[number]
                changes |= {"seed": seed, "name": f"{name} seed {seed}"}
            yield pretrain_dir(config, workdir, init, number), changed(config.pretrain, changes)


def cells(config: StudyConfig, workdir: Path) -> Iterator[Run]:
    """Every evaluation of an encoder: fine-tuning, and what `config.evaluations` has besides.

    Those of one evaluation, seed, fraction and number of updates differ in their first weights and in nothing else,
    but that an encoder sees images on the scale of its pre-training. Frozen encoders have no step-matched runs.
    """
    subset_seeds = config.subset_seeds or (0,) * len(config.seeds)
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
            start = config.finetune if task == "finetune" else typed(probe_of(config.finetune, task), RunConfig)
            changes: dict[str, Any] = {"seed": seed, "data.subset_seed": subset_seed}
            if config.label_counts:
                changes |= {"data.fraction": 1.0, "data.label_count": amount, "train.match_count": match}
            else:
                changes |= {"data.fraction": float(amount), "train.match_fraction": float(match)}
            if init.name != "scratch":
                changes["init"] = init_of(init.path) if init.path else "mae"
                changes["init_name"] = "" if init.name == "mae" else init.name
                changes["init_from"] = str(pretrain_dir(config, workdir, init, number).resolve())
            scale = ("data.mean", "data.std")  # of the images that the encoder saw
            changes |= {key: value for key, value in (init.changes or {}).items() if key in scale}
            shown = partial(_labels, counted=bool(config.label_counts))
            updates = f" as {shown(match)[0]}" if match else ""
            which = f" seed {seed}" if len(config.seeds) > 1 else ""
            changes["name"] = f"{task} {shown(amount)[0]}{updates} {init.name}{which}"
            cell = changed(start, changes)
            budget = shown(amount)[1] + (f"-as{shown(match)[1]}" if match else "")
            before = "" if task == "finetune" else f"{task}-"
            yield workdir / "cells" / f"{before}{budget}-{init.slug}-seed{seed}", cell


def _labels(amount: float, counted: bool) -> tuple[str, str]:
    """A share or a number of labels in words, and for file names."""
    return (f"{amount} labels", f"{amount}labels") if counted else (f"{amount * 100:g} %", percent(amount))


def runs(config: StudyConfig, workdir: Path) -> list[Run]:
    """All runs of a study, in the order in which they are done."""
    return [*pretrainings(config, workdir), *cells(config, workdir)]
