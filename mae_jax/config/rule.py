"""What a config field means and allows, and groups of fields."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from mae_jax.runtime.ranges import INF, Range

SEEDS = 2**31  # seeds are smaller
SEED_RULE = {"kind": int, "low": 0, "high": SEEDS, "open": "high", "allowed": "whole numbers of 0 and above"}

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Rule:
    """What a field means and allows. A number lies in [low, high]; ends named in `open` are excluded."""

    meaning: str
    choices: tuple[Any, ...] = ()
    low: float = -INF
    high: float = INF
    open: str = ""  # "low", "high" or "low high": excluded ends
    may_differ: bool = False  # whether a resumed run may change it, because it does not affect results
    kind: type | None = None  # type of each value in a list
    allowed: str = ""  # allowed values in a list, in words
    may_be_empty: bool = True  # for a list
    may_repeat: bool = True  # for the values in a list
    number_or_auto: bool = False  # for text: a whole number above 0, or "auto"
    augments: bool = False  # randomly changes training images, besides crops and flips; off in probes
    used: str = ""  # names of CONDITIONS in `config.unused`: a run that does not fulfill all of them does not read it
    of_runs: bool = True  # of a study or sweep: whether its runs depend on it
    path: str = ""  # for a path of the user: "one", "several" joined by ",", or "named", [NAME=]PATH joined by ","

    @property
    def has_range(self) -> bool:
        return (self.low, self.high) != (-INF, INF)

    def holds(self, value: float) -> bool:
        """Whether a number is within the range."""
        return Range(self.low, self.high, self.open).holds(value)

    @property
    def range(self) -> str:
        """The range as an interval, such as "[0, 1)"."""
        return str(Range(self.low, self.high, self.open))


def field(default: T, meaning: str, **rule: Any) -> T:
    """A dataclass field with its `Rule`; `rule` are further attributes of the Rule."""
    return dataclasses.field(default=default, metadata={"rule": Rule(meaning, **rule)})


@dataclasses.dataclass(frozen=True)
class Fields:
    """Base class of all groups of fields. The metadata of a group may have `used`, as in Rule, for all its fields."""


C = TypeVar("C", bound=Fields)


def rules(fields: type[Fields], prefix: str = "") -> dict[str, tuple[Any, Rule]]:
    """{dotted name: (default, Rule)} for all fields, such as "data.fraction"."""
    by_name: dict[str, tuple[Any, Rule]] = {}
    for each in dataclasses.fields(fields):
        if "rule" in each.metadata:
            default = each.default if each.default is not dataclasses.MISSING else {}
            by_name[prefix + each.name] = default, each.metadata["rule"]
        elif isinstance(each.default_factory, type) and issubclass(each.default_factory, Fields):
            inner = rules(each.default_factory, f"{prefix}{each.name}.")
            used = each.metadata.get("used", "")
            by_name |= {
                name: (default, dataclasses.replace(rule, used=f"{used} {rule.used}".strip()))
                for name, (default, rule) in inner.items()
            }
    return by_name


def changed(config: C, changes: Mapping[str, Any]) -> C:
    """A copy of `config` with the given {dotted name: value} changes."""
    here = {key: value for key, value in changes.items() if "." not in key}
    for section in dict.fromkeys(key.partition(".")[0] for key in changes if "." in key):
        inner = {key.partition(".")[2]: value for key, value in changes.items() if key.startswith(f"{section}.")}
        here[section] = changed(getattr(config, section), inner)
    return dataclasses.replace(config, **here)


def as_dict(config: Fields) -> dict[str, Any]:
    """The fields as nested dicts."""
    return dataclasses.asdict(config)
