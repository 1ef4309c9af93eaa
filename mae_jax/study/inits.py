"""The arms of a study: how `inits` names initial weights, and the config fields that an arm changes."""

import dataclasses
import itertools
import re
from typing import Any

from mae_jax.config.fields import COMPUTED, FEATURE_FILES, WITHOUT_NETWORK, RunConfig, StudyConfig, as_dict, rules
from mae_jax.config.loading import flatten, init_of
from mae_jax.config.validation import ENCODER, NORMALIZATION
from mae_jax.runtime.disk import exists
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.places import local

OF_THE_ENCODER = tuple(f"model.{name}" for name in ENCODER) + tuple(f"data.{name}" for name in NORMALIZATION)
OF_THE_PROBES = ("data.subset", "data.subset_from", "model.family")  # fields of the fine-tuning that its probes share
TUNABLE = (  # besides the fields of optim
    *("train.label_smoothing", "train.mixup", "train.cutmix", "model.drop_path", "model.dropout"),
)
SEPARATOR = ";"  # of the values of a list, because "," separates fields
BY_THE_STUDY = {  # fields that the study sets in each of its runs
    *("task", "name", "seed", "init", "init_from", "init_name", "init_seen", "tuned"),
    *("data.fraction", "data.label_count", "data.subset_seed", "train.match_fraction", "train.match_count"),
}
_FINETUNE = "finetune."


@dataclasses.dataclass(frozen=True)
class Init:
    """One way to initialize the encoder in a study, with the fields in which its runs differ from the others."""

    name: str  # its name in tables
    path: str = ""  # an existing encoder or file of features; "": random weights, or a pre-training of this study
    start: str = ""  # the `init` of its runs; "": scratch, or that of its path
    seen: str = ""  # data sets that the encoder at `path` was trained on, joined by ","
    pretrain: dict[str, Any] | None = None  # changes to `config.pretrain`; None: no pre-training
    finetune: dict[str, Any] = dataclasses.field(default_factory=dict)  # changes to `config.finetune`
    unnamed: bool = True  # named after its fields, not by the user

    @property
    def has_network(self) -> bool:
        """Whether a network computes its features."""
        return self.start not in WITHOUT_NETWORK

    @property
    def trained(self) -> bool:
        """Whether an encoder is read, rather than drawn at random."""
        return bool(self.path) or self.pretrain is not None

    @property
    def slug(self) -> str:
        """The name as part of a file name."""
        return re.sub(r"[^\w.=+-]", "_", self.name)


def inits(config: StudyConfig) -> list[Init]:
    """Parses `config.inits`.

    Each entry is [NAME=]scratch[:FIELD=VALUE,...], [NAME=]mae[:FIELD=VALUE,...], [NAME=]PATH[,seen=DATA],
    [NAME=]features:FILE[,seen=DATA], [NAME=]histogram or [NAME=]nucleus. FIELD is a dotted field of the pre-training, a
    field of `pretrain.mae` such as mask_ratio, exp to select one of `config.experiments`, init for an encoder to
    continue from, seen for the data that it was trained on, or "finetune." and a field of the fine-tuning. Without
    pre-training, "finetune." can be left out. The values of a list, and the names in DATA, are separated by ";". Raises
    UserError for anything else.
    """
    parsed = [_init(str(text), config) for text in config.inits]
    for kind in ("name", "slug"):
        names = [getattr(init, kind) for init in parsed]
        for name, text in zip(names, config.inits, strict=True):
            if names.count(name) > 1:
                raise UserError(f"inits={config.inits}: {text!r} appears twice; give one of them another NAME=")
    return parsed


def _init(text: str, config: StudyConfig) -> Init:
    match = re.fullmatch(r"(?:([^=:/]*)=)?(scratch|mae)(?::(.*))?", text)
    if match:
        given, kind, changes = match.groups()
        init = _with_changes(text, kind, changes, config)
        if given is None:
            return init
        _check_name(given, text, config, allowed=kind)
        return dataclasses.replace(init, name=given, unnamed=given == kind)
    match = re.fullmatch(rf"(?:([^=:/]*)=)?({'|'.join(COMPUTED)})", text)
    if match:
        name = match[1] if match[1] is not None else match[2]
        _check_name(name, text, config)
        return Init(name, start=match[2], unnamed=False)
    match = re.fullmatch(r"(?:([^=:/]*)=)?(?:(features):)?(.*?)(?:,seen=([^,]*))?", text, re.DOTALL)
    assert match
    given, start, path, seen = match.groups()
    place = local(path, "inits")
    if not exists(place):
        if start:
            raise UserError(
                f"inits: {text!r}: {path} does not exist; name a file of features, or a folder of such files"
            )
        raise _not_allowed(text, config)
    name = given if given is not None else place.stem if place.suffix.lower() in FEATURE_FILES else place.name
    _check_name(name, text, config)
    named = (seen or "").replace(SEPARATOR, ",")
    return Init(name, path=str(place), start=start or "", seen=named, unnamed=False)


def _check_name(name: str, text: str, config: StudyConfig, allowed: str = "") -> None:
    """Raises UserError for the name of an arm that is empty, too long or taken. `allowed` is scratch, mae or ""."""
    if name != allowed and (name in ("", "scratch", "mae") or len(name) > 100):
        raise _not_allowed(text, config)


def _not_allowed(text: str, config: StudyConfig) -> UserError:
    return UserError(
        f"inits: {text!r} is not allowed; use scratch, mae, mae:FIELD=VALUE (FIELD: exp, one of "
        f"{', '.join(as_dict(config.pretrain.mae))}, or a dotted field of the config), scratch:FIELD=VALUE, "
        "features:FILE, histogram, nucleus, or PATH of a pre-training's run directory or of weights; NAME= in front "
        "sets the name in tables"
    )


def _with_changes(text: str, kind: str, changes: str | None, config: StudyConfig) -> Init:
    """An arm that starts from `kind`, scratch or mae, with the changes "FIELD=VALUE,...", or None."""
    pretrain: dict[str, Any] = {}
    finetune: dict[str, Any] = {}
    for item in changes.split(",") if changes is not None else ():
        key, _, value = item.partition("=")
        if kind == "scratch" or key.startswith(_FINETUNE):
            finetune |= _field(text, key.removeprefix(_FINETUNE), value, config.finetune)
        else:
            pretrain |= _pretraining_change(text, key, value, config)
    name = kind if changes is None else f"{kind} {changes}"
    return Init(name, pretrain=pretrain if kind == "mae" else None, finetune=finetune)


def _pretraining_change(text: str, key: str, value: str, config: StudyConfig) -> dict[str, Any]:
    """The changes to the pre-training config that one FIELD=VALUE makes."""
    if key == "init":
        return {"init": init_of(value), "init_from": str(local(value, "inits").resolve())}
    if key == "seen":
        return {"init_seen": value.replace(SEPARATOR, ",")}
    if key == "exp":
        known = [name.removeprefix("exp") for name in config.experiments]
        if value not in known:
            raise UserError(f"inits: {text!r}: exp={value} is not known; use one of {', '.join(known)}")
        return flatten(config.experiments[f"exp{value}"])
    return _field(text, key if "." in key else f"mae.{key}", value, config.pretrain)


def grid(config: StudyConfig) -> list[dict[str, Any]]:
    """All combinations of the values in `config.tune`, as changes to the fine-tuning; [] without tuning.

    Each entry is FIELD=VALUE;VALUE... Every arm gets the same combinations. Raises UserError for a field that is not
    numeric, or would change the network or the training length, or that an arm of `inits` sets itself.
    """
    choices: dict[str, list[Any]] = {}
    for text in config.tune:
        key, _, listed = text.partition("=")
        if not (key.startswith("optim.") or key in TUNABLE):
            raise UserError(f"tune: {text!r}: {key} cannot be tuned; use a field of optim, or {', '.join(TUNABLE)}")
        values = [_field(text, key, value, config.finetune, "tune")[key] for value in listed.split(SEPARATOR)]
        if key in choices or len(set(values)) < len(values) or any(type(v) not in (int, float) for v in values):
            raise UserError(f"tune: {text!r} is not allowed; name each field of numbers, and each value, once")
        choices[key] = values
    for text, init in zip(config.inits, inits(config), strict=True):
        if both := [key for key in choices if key in init.finetune]:
            raise UserError(f"inits: {text!r} sets {both[0]}, which tune={config.tune} chooses; leave it out of one")
    return (
        [dict(zip(choices, values, strict=True)) for values in itertools.product(*choices.values())] if choices else []
    )


def in_words(changes: dict[str, Any]) -> str:
    """Changes of numbers, such as "optim.base_lr=0.001, optim.weight_decay=0.05"."""
    return ", ".join(f"{key}={value:g}" for key, value in changes.items())


def _field(text: str, key: str, value: str, config: RunConfig, where: str = "inits") -> dict[str, Any]:
    """A changed field of a run, with its value in the type of the field."""
    known = rules(RunConfig)
    if key not in known:
        raise UserError(
            f"{where}: {text!r}: {key.removeprefix('mae.')} is not known; use exp, one of "
            f"{', '.join(as_dict(config.mae))}, or a dotted field that `--help` lists, such as model.decoder_depth"
        )
    if key in BY_THE_STUDY:
        raise UserError(f"{where}: {text!r}: the study sets {key} in each of its runs; use another field")
    like = known[key][0]
    try:
        if isinstance(like, tuple):
            kind = type(like[0]) if like else str
            return {key: tuple(kind(each) for each in value.split(SEPARATOR))}
        if isinstance(like, bool):
            return {key: {"true": True, "false": False}[value.lower()]}
        return {key: type(like)(value.replace(SEPARATOR, ",") if isinstance(like, str) else value)}
    except (ValueError, KeyError):
        raise UserError(f"{where}: {text!r}: {key}={value} is not a valid {type(like).__name__}") from None
