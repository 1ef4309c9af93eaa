"""The config.json next to a weight file, which is untrusted: each field is checked when it is read."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mae_jax.runtime.errors import UserError
from mae_jax.weights.arrays import read_config
from mae_jax.weights.encoders import CLIP, IMAGENET

Scale = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of the images' channels, in 0..1
_WHOSE: dict[Scale, str] = {IMAGENET: "ImageNet's", CLIP: "CLIP's"}


@dataclasses.dataclass(frozen=True)
class ConfigFile:
    """Fields of the config.json of `path`. Errors name `field`, the user's argument."""

    fields: dict[str, Any]
    path: Path
    field: str

    def get(self, name: str, default: Any = None) -> Any:
        """The unchecked value of `name`."""
        return self.fields.get(name, default)

    def section(self, name: str) -> "ConfigFile":
        """The object `name`; empty if it is missing."""
        return ConfigFile(self._checked(name, lambda v: isinstance(v, dict), "an object") or {}, self.path, self.field)

    def count(self, name: str) -> int:
        """A positive integer; 0 if it is missing."""
        return self._checked(name, lambda v: type(v) is int and 0 < v < 2**31, "a whole number above 0") or 0

    def epsilon(self, name: str) -> float:
        """A number between 0 and 1; 0 if it is missing."""
        return float(self._checked(name, lambda v: _finite(v) and 0 < v < 1, "a number between 0 and 1") or 0)

    def _checked(self, name: str, fits: Callable[[Any], bool], words: str) -> Any:
        value = self.fields.get(name)
        if value is not None and not fits(value):
            shown = repr(value)[:100]
            raise UserError(f"{self.field}: the config.json of {self.path}: {name} is {shown}; it should be {words}")
        return value


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e30 < value < 1e30


def scale(config: ConfigFile, defaults: Scale) -> tuple[Scale, list[str]]:
    """Mean and standard deviation of the images that the network expects, and notes on those that are assumed.

    They are `defaults` if no file states them. timm's older config.json has them at its top level. Raises UserError if
    they are not three numbers each.
    """
    preprocessor = read_config(config.path, config.field, "preprocessor_config.json")
    timm, saved = config.section("pretrained_cfg"), config.section("mae_jax")
    values, assumed = [], []
    for ours, theirs, default in zip(("mean", "std"), ("image_mean", "image_std"), defaults, strict=True):
        value = saved.get(ours) or preprocessor.get(theirs) or timm.get(ours) or config.get(ours)
        if not value:
            value = default
            assumed.append(ours)
        ok = isinstance(value, list | tuple) and len(value) == 3
        if not ok or not all(_finite(v) and (ours == "mean" or v > 0) for v in value):
            raise UserError(
                f"{config.field}: in the files next to {config.path}, {theirs} is {value!r}; it should be three "
                f"numbers{'' if ours == 'mean' else ' above 0'}. Correct it, or remove it and set data.{ours}"
            )
        values.append(tuple(float(v) for v in value))
    whose = _WHOSE.get(defaults, "0.5, as in Google's code,")
    words = " and ".join({"mean": "mean", "std": "standard deviation"}[name] for name in assumed)
    notes = [f"no file states the images' {words}; {whose} is assumed, or set data.mean and data.std"] if words else []
    return (values[0], values[1]), notes


def class_names(config: ConfigFile, n_classes: int) -> tuple[str, ...]:
    """The names of `n_classes` classes; () if the files do not have as many. timm's folders have `label_names`."""
    labels = config.section("id2label").fields
    listed = config.section("mae_jax").get("classes") or config.get("label_names")
    classes = tuple(map(str, listed)) if isinstance(listed, list) else ()
    classes = classes or tuple(str(labels[k]) for k in sorted(labels, key=_number))
    return classes if len(classes) == n_classes else ()


def _number(text: str) -> tuple[int, str]:
    return (int(text), text) if str(text).isascii() and str(text).isdecimal() else (0, str(text))
