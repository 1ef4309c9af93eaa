"""The runs of a study: pre-trainings and cells of the grid, each with its run directory and config."""

import dataclasses
import itertools
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from mae_jax.config.fields import RunConfig, StudyConfig, as_dict, changed, probe_of
from mae_jax.config.loading import flatten, init_of
from mae_jax.config.naming import percent_slug
from mae_jax.config.tasks import LINEAR, RANDOM_PROBE, TRAITS
from mae_jax.config.validation import typed
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import local
from mae_jax.runtime.text import count

Run = tuple[Path, RunConfig]


@dataclasses.dataclass(frozen=True)
class Init:
    """One way to initialize the encoder in a study."""

    name: str  # its name in tables
    path: str = ""  # an existing encoder; "": random weights, or a pre-training of this study
    changes: dict[str, Any] | None = None  # changes to `config.pretrain`; None: no pre-training

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return re.sub(r"[^\w.=+-]", "_", self.name)


def inits(config: StudyConfig) -> list[Init]:
    """Parses `config.inits`.

    Each entry is scratch, mae, mae:KEY=VALUE[,KEY=VALUE] or [NAME=]PATH. KEY is a field of `pretrain.mae`, such as
    mask_ratio, or exp to select one of `config.experiments`. Raises UserError for anything else.
    """
    parsed = [_init(text, config) for text in config.inits]
    slugs = [init.slug for init in parsed]
    for slug, text in zip(slugs, config.inits, strict=True):
        if slugs.count(slug) > 1:
            raise UserError(f"inits={config.inits}: {text!r} appears twice; give one of them another NAME=")
    return parsed


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
    place = local(path if equals else name, "inits")
    name = name if equals else place.name
    if name in ("", "scratch", "mae") or len(name) > 100 or not place.exists():
        raise UserError(
            f"inits: {text!r} is not allowed; use scratch, mae, mae:KEY=VALUE (KEY: exp or one of "
            f"{', '.join(_mae_fields(config))}), or [NAME=]PATH of a pre-training's run directory or of weights"
        )
    return Init(name, path=str(place))


def _mae_fields(config: StudyConfig) -> dict[str, Any]:
    """The fields of `pretrain.mae` with their values."""
    return as_dict(config.pretrain.mae)


def _change(text: str, key: str, value: str, config: StudyConfig) -> dict[str, Any]:
    """The changes to the pre-training config that one KEY=VALUE makes."""
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
    """The directory of the encoder of `init`, for the seed with index `number`."""
    if init.path:
        return Path(init.path)
    name = "pretrain" + init.slug.removeprefix("mae").replace("_", "-", 1)
    return workdir / (f"{name}-seed{config.pretrain_seeds[number]}" if config.pretrain_seeds else name)


def pretrainings(config: StudyConfig, workdir: Path) -> Iterator[Run]:
    """The pre-trainings of the study: for each init one for all seeds, or one per seed."""
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
    """The evaluations of the study: `config.evaluations` x seeds x fractions x inits, and step-matched runs.

    Cells with the same evaluation, seed, fraction and number of updates differ only in their initial weights, except
    that each encoder sees images normalized as in its pre-training. Only fine-tuning has step-matched runs.
    """
    subset_seeds = config.subset_seeds or (0,) * len(config.seeds)
    labels = config.label_counts or config.fractions
    most = max(labels)
    budgets = [(n, 0) for n in labels]
    matched = most if config.label_counts else config.step_matched
    budgets += [(n, most) for n in labels if config.step_matched and n <= matched and n < most]
    seeds = list(enumerate(zip(config.seeds, subset_seeds, strict=True)))
    wanted = [(task, inits(config)) for task in config.evaluations]
    if config.random_probe and not ("scratch" in config.inits and {*LINEAR} & {*config.evaluations}):
        wanted.append((RANDOM_PROBE, [Init("scratch")]))
    for (task, starts), (number, (seed, subset_seed)), (amount, match) in itertools.product(wanted, seeds, budgets):
        frozen = TRAITS[task].frozen
        if match and frozen:
            continue
        for init in starts:
            start = typed(probe_of(config.finetune, task), RunConfig) if frozen else config.finetune
            changes: dict[str, Any] = {"seed": seed, "data.subset_seed": subset_seed}
            if config.label_counts:
                changes |= {"data.fraction": 1.0, "data.label_count": amount, "train.match_count": match}
            else:
                changes |= {"data.fraction": float(amount), "train.match_fraction": float(match)}
            if init.name != "scratch":
                changes["init"] = init_of(init.path) if init.path else "mae"
                changes["init_name"] = "" if init.name == "mae" else init.name
                changes["init_from"] = str(pretrain_dir(config, workdir, init, number).resolve())
            scale = ("data.mean", "data.std")  # the normalization of the encoder's pre-training
            changes |= {key: value for key, value in (init.changes or {}).items() if key in scale}
            shown = partial(_labels, counted=bool(config.label_counts))
            updates = f" as {shown(match)[0]}" if match else ""
            which = f" seed {seed}" if len(config.seeds) > 1 else ""
            changes["name"] = f"{task} {shown(amount)[0]}{updates} {init.name}{which}"
            cell = changed(start, changes)
            budget = shown(amount)[1] + (f"-as{shown(match)[1]}" if match else "")
            before = f"{task}-" if frozen else ""
            yield workdir / "cells" / f"{before}{budget}-{init.slug}-seed{seed}", cell


def _labels(amount: float, counted: bool) -> tuple[str, str]:
    """A fraction or number of labels, in words and for file names."""
    return (count(amount, "label"), f"{amount}labels") if counted else (f"{amount * 100:g} %", percent_slug(amount))


def runs(config: StudyConfig, workdir: Path) -> list[Run]:
    """All runs of a study, in the order in which they run."""
    return [*pretrainings(config, workdir), *cells(config, workdir)]
