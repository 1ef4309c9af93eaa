"""Groups of images: the patient, film, slide or day that an image comes from, read from its file name.

Splits and bootstrap intervals keep a group together. A field (the field of view, finer than a group) is what the
search for leaks between training and test images compares.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mae_jax.runtime.errors import UserError
from mae_jax.runtime.text import count

UNKNOWN = "not known; the same patient may be on both sides"
TILE = re.compile(r"(?:^|[/_])x(\d+)_y(\d+)\.\w+$")  # x and y of a tile in its slide, from `prepare tiles:NAME`
UNNAMED = "patient or slide"  # kind of groups that only a pattern or an unnamed column gives
WEAK = ("region",)  # kinds of group that do not distinguish patients


class Origin(NamedTuple):
    """The origin of an image; "" if not known."""

    group: str = ""
    field: str = ""
    kind: str = ""  # what the group is: film, day, slide


_KNOWN = (
    # Raabin-WBC, main form: film (a Persian date and a number; one patient), field of view, cell.
    (r"(?P<group>\d\d-(?:0?[1-9]|1[0-2])-(?:0?[1-9]|[12]\d|3[01])-\d{1,3})_\d+_\d+", "film"),
    # Raabin-WBC, basophils: time stamp of the field of view. The day is all that is known about the patient.
    (r"(?P<group>20\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))_(?:[01]\d|2[0-3])[0-5]\d[0-5]\d_\d+", "day"),
    # CAM16: a slide of CAMELYON16, one per patient (Ehteshami Bejnordi et al. 2017), then the tile in it.
    (r"(?P<group>(?:normal|tumor|test)_\d+)-\d+-\d+-\w+", "slide"),
)  # fmt: skip
_TCGA = re.compile(r"(?:^|[/_])(TCGA-[0-9A-Z]{2}-[0-9A-Z]{4})(?=[-_./]|$)")  # project, tissue source site, patient


@dataclass(frozen=True)
class Groups:
    """The groups of many images, in their order."""

    groups: tuple[str, ...]  # "": the image is its own group
    fields: tuple[str, ...] = ()  # (): the same as `groups`
    kind: str = ""  # in words: "film", or "film and day" if there are several kinds; "": not known


def origin(name: str) -> Origin:
    """The group and field of an image, from a file name in one of the published forms.

    Raabin-WBC `95-8-10-1_301_2.jpg` (film 95-8-10-1, field 95-8-10-1_301) and `20190531_113249_0.jpg` (day and time
    stamp), CAM16 `normal_002-500-2-384ver.jpg` (slide normal_002, also its field). A pRCC region
    (`3610_6089_2000.jpg`) names neither its slide nor its patient, so both are unknown. A TCGA barcode
    anywhere in the path names the patient.
    """
    stem = name.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    for pattern, kind in _KNOWN:
        if match := re.fullmatch(pattern, stem):
            group = match["group"]
            return Origin(group, group if kind == "slide" else stem.rpartition("_")[0], kind)
    if match := _TCGA.search(name):
        return Origin(match[1], match[1], "patient")
    return Origin()


def compiled(pattern: str, field: str = "data.group_pattern") -> re.Pattern[str]:
    """The regular expression of `data.group_pattern`. Raises UserError unless it is one with exactly one group."""
    try:
        expression = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"{field}={pattern!r} is not a valid regular expression: {error}; correct it") from None
    if expression.groups != 1:
        raise UserError(
            f"{field}={pattern!r} has {count(expression.groups, 'group')}; put ( ) around the one part of the name "
            f"that identifies the patient or slide, for example '(patient\\d+)_', and use (?: ) elsewhere"
        )
    return expression


def no_match(pattern: str, names: Sequence[str], where: str, field: str = "data.group_pattern") -> str:
    """The message for a pattern that matches none of the `names` of images in `where`."""
    return (
        f"{field}={pattern!r} matches none of the {count(len(names), 'name')} of images in {where}. It is searched in "
        f"the path below the folder, such as {names[0]!r}; correct the pattern"
    )


def of_names(names: Iterable[str], pattern: str = "") -> Groups:
    """The groups of images from their names: by `pattern`, searched in the whole name, or else by published forms."""
    once: dict[str, str] = {}  # the images of a group share one string
    if pattern:
        expression = compiled(pattern)
        groups = tuple((match[1] or "") if (match := expression.search(name)) else "" for name in names)
        return Groups(tuple(once.setdefault(g, g) for g in groups), kind=UNNAMED if any(groups) else "")
    origins = [origin(name) for name in names]
    return Groups(
        groups=tuple(once.setdefault(o.group, o.group) for o in origins),
        fields=tuple(once.setdefault(o.field, o.field) for o in origins),
        kind=" and ".join(dict.fromkeys(o.kind for o in origins if o.kind)),
    )


def facts(train: Sequence[str], tests: dict[str, Sequence[str]], kind: str) -> dict:
    """The facts about groups for run.json: numbers in each set, images without one, groups in training and test.

    `train` and the values of `tests` hold the group of each image. The entry `text` puts the facts in words.
    """
    ours = set(train) - {""}
    known = {"train": len(ours)} | {name: len(set(test) - {""}) for name, test in tests.items()}
    without = {"train": Counter(train)[""]} | {name: Counter(test)[""] for name, test in tests.items()}
    shared = {}
    for name, test in tests.items():
        both = ours & set(test)
        shared[name] = {"groups": len(both), "images": sum(group in both for group in test)}
    summary = {
        "known": any(known.values()),
        "kind": kind,
        "count": {name: n or None for name, n in known.items()},  # None: not known
        "images_without": without,
        "shared_with_training": shared,
    }
    return summary | {"text": in_words(summary)}


def generated(train: int, tests: dict[str, int]) -> dict:
    """`facts` of generated images. They are independent, so each is its own group."""
    count = {"train": train} | tests
    summary = {"known": True, "kind": "image", "count": count, "images_without": dict.fromkeys(count, 0)}
    nothing = {name: {"groups": 0, "images": 0} for name in tests}
    return summary | {"shared_with_training": nothing, "text": "each generated image is its own group"}


def in_words(summary: dict) -> str:
    """The sentence of `facts` for the console, run.json and the report."""
    if not summary["known"]:
        return UNKNOWN
    parts = []
    for name, n in summary["count"].items():
        part = f"{name} {n}" if n else f"{name} not known"
        both, alone = summary["shared_with_training"].get(name, {}), summary["images_without"][name]
        more = []
        if both.get("groups"):
            more.append(f"{both['groups']} also in training, with {both['images']} of its images")
        if n and alone:
            more.append(f"{count(alone, 'image')} without a group")
        part += f" ({', '.join(more)})" if more else ""
        parts.append(part)
    text = f"{summary['kind'] or UNNAMED}: {', '.join(parts)}"
    unsure = not all(summary["count"].values()) or summary["kind"] in WEAK
    return text + ("; the same patient may be on both sides" if unsure else "")
