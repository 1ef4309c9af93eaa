"""What a run and `mae-jax check` print about images: files, and what makes scores unreliable.

Scores are unreliable for classes with few images, for classes that alone have certain groups, days or sizes, and for
images that occur twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from mae_jax.data import checking
from mae_jax.data import groups as grouping
from mae_jax.data.sources import Source
from mae_jax.rundir.class_counts import few_images
from mae_jax.runtime.text import count, shortened

ALONE = 0.9  # a class is reported if this share of its images has values that no other class has
CHANCE = 0.5  # unless shuffled labels give more than this share, because the finding is then mostly chance
DRAWS = 20  # number of shuffles
SHOWN = 5  # number of names to list
_DAY = re.compile(r"(?<!\d)((?:19|20)\d\d[-_.]?(?:0[1-9]|1[0-2])[-_.]?(?:0[1-9]|[12]\d|3[01]))(?!\d)")


def few(train: dict[str, int], validation: dict[str, int]) -> list[str]:
    """Sentences about classes with few training images, and with few validation images (see `few_images`)."""
    kinds = {"training": train, "validation": validation}
    sentences = [
        few_images({name: [n] for name, n in counts.items()}, kind)
        for kind, counts in kinds.items()
        if any(counts.values())
    ]
    return [sentence for sentence in sentences if sentence]


def of_one_class(source: Source) -> list[str]:
    """A sentence for each class whose images alone have certain groups, days or sizes.

    A network can recognize such a class by its film, microscope or day, so its recall may say nothing about the cells.
    A class is reported if at least ALONE of its images have a value that no other class has, and if shuffled labels
    would give at most CHANCE. If every class has its own groups, as with labels of patients, one sentence says so.
    """
    lines = []
    labels = np.asarray(source.labels)
    kinds = [
        ("groups", source.groups, source.kind or grouping.UNNAMED),
        ("days", [_day(name) for name in source.names], "day"),
    ]
    if source.sizes is not None:
        kinds.append(("sizes", [f"{w} x {h}" for h, w in source.sizes.tolist()], "image size"))
    reported: set[int] = set()
    for what, values, kind in kinds:
        alone = _alone(labels, values, len(source.classes))
        if what == "groups" and alone.sum() == (np.bincount(labels) > 0).sum():
            lines.append(
                f"each class has its own groups ({kind}): the network may recognize the {kind} instead of the cells, "
                f"unless the label belongs to the whole {kind}"
            )
            continue
        for label in np.flatnonzero(alone).tolist():
            if label in reported:
                continue
            reported.add(label)
            class_values = sorted({values[i] for i in np.flatnonzero(labels == label)} - {""})
            name = source.classes[label]
            lines.append(
                f"only {name} has the {kind} {shortened(class_values, SHOWN)}: the network may recognize the {kind} "
                f"instead of the cells, so the recall of {name} may be too high"
            )
    return lines


def _day(name: str) -> str:
    match = _DAY.search(name.rsplit("/", 1)[-1])
    return re.sub(r"\D", "", match[1]) if match else ""


def _alone(labels: Int[np.ndarray, " n"], values: Sequence[str], classes: int) -> np.ndarray:
    """For each class, whether at least ALONE of its images have values that no other class has, beyond chance."""
    names, value = np.unique(np.asarray(values, object).astype(str), return_inverse=True)
    known = (names != "")[value]
    present = np.bincount(labels, minlength=classes) > 0
    if not known.any() or present.sum() < 2:
        return np.zeros(classes, bool)
    rng = np.random.default_rng(0)
    shuffled = np.mean([_own_share(rng.permutation(labels), value, known, classes) for _ in range(DRAWS)], axis=0)
    return present & (_own_share(labels, value, known, classes) >= ALONE) & (shuffled <= CHANCE)


def _own_share(labels: np.ndarray, value: np.ndarray, known: np.ndarray, classes: int) -> np.ndarray:
    """The share of each class's images with a known value that no other class has."""
    table = np.zeros((value.max() + 1, classes), int)
    np.add.at(table, (value, labels), 1)
    exclusive = ((table > 0).sum(1) == 1)[value] & known
    return np.bincount(labels, exclusive, classes) / np.maximum(1, np.bincount(labels, minlength=classes))


def repeated(source: Source, validation: Int[np.ndarray, " v"]) -> dict:
    """Counts byte-identical images of `source`: all, those with two labels, and those in both training and validation.

    The first image of each set of copies is not counted. `examples` has pairs of names. {} if nothing is known.
    """
    if source.digests is None:
        return {}
    held = np.zeros(len(source), bool)
    held[validation] = True
    places: dict[int, list[int]] = {}
    for i, number in enumerate(source.digests.tolist()):
        places.setdefault(number, []).append(i)
    pairs: dict[str, list[tuple[int, int]]] = {"identical": [], "two_labels": [], "across_validation": []}
    for first, *others in (indices for indices in places.values() if len(indices) > 1):
        for i in others:
            pairs["identical"].append((first, i))
        for key, of in (("two_labels", source.labels), ("across_validation", held)):
            pairs[key] += [(first, i) for i in others if of[i] != of[first]]
    names = {
        key: [[source.names[i], source.names[j]] for i, j in index_pairs[:SHOWN]] for key, index_pairs in pairs.items()
    }
    return {key: len(index_pairs) for key, index_pairs in pairs.items()} | {"examples": names}


def repeated_in_words(repeats: dict) -> list[str]:
    """A phrase with names for each kind of `repeated` that occurs."""
    lines = []
    for key, what in (
        ("identical", "identical to another training or validation image"),
        ("two_labels", "identical to an image with another label"),
        ("across_validation", "in training or validation and identical to one on the other side"),
    ):
        if repeats.get(key):
            pairs = [" = ".join(pair) for pair in repeats["examples"][key]]
            more = ", ..." if repeats[key] > len(pairs) else ""
            lines.append(f"{count(repeats[key], 'image')} {what} ({', '.join(pairs)}{more})")
    return lines


def about_files(sources: dict[str, Source], image_size: int, labeled: bool) -> dict[str, str]:
    """Lines about skipped files, assumptions, stain normalization, and images that are large for the network.

    `sources` maps names to sources ("" prints no name). `image_size` is the network's input size in pixels; 0 without
    a network.
    """
    lines: dict[str, list[tuple[str, str]]] = {}
    for name, source in sources.items():
        assumed = ", ".join(f"{count(n, 'image')}: {phrase}" for phrase, n in source.assumed.items())
        large = checking.large(source.sizes, image_size, labeled) if image_size else ""
        for what, text in (
            ("files", skipped_files(source)),
            ("assumed", assumed),
            ("stain", source.stain),
            ("warning: large images", large),
        ):
            if text:
                lines.setdefault(what, []).append((name, text))
    return {what: "; ".join(by_text(texts)) for what, texts in lines.items()}


def by_text(texts: Iterable[tuple[str, str]]) -> list[str]:
    """Each different text once, after the names of the sets that it is about. A name may be "", which is not shown."""
    names: dict[str, list[str]] = {}
    for name, text in texts:
        names.setdefault(text, []).append(name)
    return [f"{', '.join(filter(None, of))}: {text}" if any(of) else text for text, of in names.items()]


def skipped_files(source: Source) -> str:
    """Numbers of skipped files of a source, by reason, in words; "" if none."""
    shown = {k: f" ({v[0]}{', ...' if len(v) > 1 else ''})" for k, v in source.skipped_files.items() if k != "hidden"}
    return ", ".join(f"{n} skipped: {reason}{shown.get(reason, '')}" for reason, n in source.counts.items() if n)
