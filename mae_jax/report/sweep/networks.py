"""The networks of a sweep and their classifiers, read from run directories."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from mae_jax.report import analysis, stats
from mae_jax.report.analysis import Study
from mae_jax.report.runs import BASELINE, Run, check_same_images, is_number, read_info, read_runs
from mae_jax.rundir import metrics_rows
from mae_jax.rundir.contents import ERRORS, METRICS, RECONSTRUCTIONS, reference_ratio
from mae_jax.rundir.predictions import clean, read_rows, show
from mae_jax.runtime.disk import exists, is_file
from mae_jax.runtime.errors import UNUSABLE, UserError
from mae_jax.runtime.places import shareable

COLUMNS = tuple(name for name in ERRORS if name != "removed_pixel_borrowed")  # what the report reads
LARGEST = 1e12  # maximum value in a file; figures cannot show more


@dataclass(frozen=True)
class Network:
    """A pre-trained autoencoder and its errors: `errors[ratio]` has a row for each image and the columns COLUMNS."""

    path: Path
    mask_ratio: float  # in training
    visible_weight: float
    normalized: bool  # whether it predicts normalized patches
    images: tuple[str, ...]
    groups: tuple[str, ...]
    errors: dict[float, Float[np.ndarray, "n e"]]
    info: dict
    log: tuple[dict, ...]  # the lines of metrics.jsonl
    unlabeled: int = 0  # number of images that it was trained on; 0: all

    @property
    def name(self) -> str:
        """The name, such as `75 %, weight 1` or `75 %, weight 1, 500 images`."""
        images = f", {self.unlabeled:,} images" if self.unlabeled else ""
        return f"{100 * self.mask_ratio:g} %, weight {self.visible_weight:g}{images}"

    @property
    def line(self) -> "Line":
        """The networks that a figure joins by a line with this one."""
        return Line(self.visible_weight, self.unlabeled)

    @property
    def order(self) -> tuple[float, float, float]:
        """Sort key: by weight, then from few to all images, then by mask ratio."""
        return self.visible_weight, self.unlabeled or math.inf, self.mask_ratio


class Line(NamedTuple):
    """Networks that differ only in their mask ratio: their visible weight, and number of images (0: all)."""

    weight: float
    unlabeled: int

    def has(self, row: dict) -> bool:
        """Whether a row of a table belongs to these networks."""
        return (row["visible_weight"], row["unlabeled"]) == (self.weight, self.unlabeled)

    def name(self, counted: bool) -> str:
        """In words, with the number of images if it is `counted`."""
        images = f"{self.unlabeled:,} images" if self.unlabeled else "all images"
        return f"visible weight {self.weight:g}" + (f", {images}" if counted else "")


@dataclass(frozen=True)
class Sweep:
    """The networks of one report, and their mean errors on redrawn images.

    `draws[ratio][column]` has a row of 10,000 bootstrap draws for each network; `units` says in words what was
    resampled. `study` has the classifiers, each under its network's name; None if there are none.
    """

    networks: list[Network]
    draws: dict[float, dict[str, Float[np.ndarray, "r d"]]]
    units: str
    study: Study | None
    warnings: list[str]  # about what was resampled

    @property
    def ratios(self) -> list[float]:
        """The shares removed in evaluation."""
        return sorted(self.draws)

    @property
    def reference(self) -> float:
        """The mask ratio of the headline numbers, see `contents.reference_ratio`."""
        return reference_ratio(self.ratios)

    @property
    def weights(self) -> list[float]:
        return sorted({network.visible_weight for network in self.networks})

    @property
    def lines(self) -> list[Line]:
        """The lines of a figure, in order."""
        return list(dict.fromkeys(network.line for network in self.networks))

    @property
    def counted(self) -> bool:
        """Whether networks differ in the number of unlabeled images."""
        return len({line.unlabeled for line in self.lines}) > 1

    @property
    def most(self) -> int:
        """The largest number of unlabeled images; 0: all."""
        return max((line.unlabeled for line in self.lines), key=lambda n: n or math.inf)

    def mean(self, i: int, ratio: float, column: str) -> float:
        return float(self.networks[i].errors[ratio][:, COLUMNS.index(column)].mean())


def read_sweep(run_dirs: Sequence[Path]) -> tuple[Sweep, list[str]]:
    """The networks sorted by weight and mask ratio, their classifiers, and lines about what was left out.

    Raises UserError if there is no network, or if networks cannot be compared.
    """
    directories = [Path(d) for d in run_dirs]
    networks = [_read_network(d) for d in directories if is_file(d / RECONSTRUCTIONS)]
    if not networks:
        raise UserError(f"no run directory holds {RECONSTRUCTIONS}; give at least one finished pre-training")
    networks.sort(key=lambda network: network.order)
    first, seen = networks[0], {}
    for network in networks:
        if network.images != first.images:
            raise UserError(
                f"{network.path / RECONSTRUCTIONS}: other images than in {first.path}; measure both on the same images"
            )
        if network.name in seen:
            raise UserError(f"{network.path}: {network.name} is also in {seen[network.name]}; leave one of the two out")
        if network.normalized != first.normalized:
            raise UserError(
                f"{network.path}: mae.norm_pix_loss is {network.normalized}, and {first.normalized} in {first.path}; "
                f"their errors do not compare: report them apart"
            )
        seen[network.name] = network.path
    shared = set.intersection(*(set(network.errors) for network in networks))
    if not shared:
        raise UserError(
            f"{RECONSTRUCTIONS}: the networks share no mask ratio of evaluation; use the same eval.mask_ratios"
        )
    runs, notes = _read_classifiers([d for d in directories if not is_file(d / RECONSTRUCTIONS)], networks)
    n = len(first.images)
    # An image without a group is its own group.
    groups = [g or f"image {i}" for g, i in zip(first.groups, first.images, strict=True)] if any(first.groups) else None
    groups = groups if groups and len(set(groups)) < n else None
    units, words, warnings = analysis.redrawn(groups, n, "held-out images")
    draws = {}
    for ratio in sorted(shared):
        terms = [np.column_stack([np.ones(n), network.errors[ratio]]) for network in networks]
        redrawn = stats.bootstrap(
            terms, units, lambda sums: {c: sums[..., 1 + i] / sums[..., 0] for i, c in enumerate(COLUMNS)}
        )
        draws[ratio] = {c: stats.allow_for_few_units(values, int(units.max()) + 1) for c, values in redrawn.items()}
    return Sweep(networks, draws, words, analysis.analyze(runs) if runs else None, warnings), notes


def _read_network(path: Path) -> Network:
    info = read_info(path)
    try:
        mae = info["config"]["mae"]
        ratio, weight, normalized = (mae[key] for key in ("mask_ratio", "visible_weight", "norm_pix_loss"))
    except (KeyError, TypeError):
        raise UserError(f"{path / 'run.json'}: has no config.mae.mask_ratio and visible_weight; add them") from None
    for name, value, fits, words in (
        ("mask_ratio", ratio, is_number(ratio, 0.0, 1.0), "a number from 0 to 1"),
        ("visible_weight", weight, is_number(weight, 0.0, LARGEST), f"a number from 0 to {LARGEST:g}"),
        ("norm_pix_loss", normalized, isinstance(normalized, bool), "true or false"),
    ):
        if not fits:
            raise UserError(f"{path / 'run.json'}: config.mae.{name} is {show(value)}; it must be {words}: correct it")
    data = info["config"].get("data")
    unlabeled = data.get("unlabeled_count", 0) if isinstance(data, dict) else 0
    file = path / RECONSTRUCTIONS
    header, numbers, lines = read_rows(file)
    for column in ("image", "mask_ratio", *COLUMNS):
        if column not in header:
            raise UserError(
                f"{file}: the column {column!r} is missing; it has {show(header)}: evaluate the network again"
            )
    at = {column: header.index(column) for column in header}
    parts: dict[float, dict[str, list[float]]] = {}
    groups = {}
    for number, line in zip(numbers, lines, strict=True):
        try:
            values = [float(line[at[column]]) for column in ("mask_ratio", *COLUMNS)]
        except ValueError:
            values = [math.nan]
        if not all(is_number(value, -LARGEST, LARGEST) for value in values):
            raise UserError(
                f"{file} line {number}: {show(line)} must hold numbers of at most {LARGEST:g}; "
                "evaluate the network again"
            )
        image = line[at["image"]]
        groups[image] = line[at["group"]] if "group" in at else ""
        if image in parts.setdefault(values[0], {}):
            raise UserError(f"{file} line {number}: image {show(image)} comes twice at mask ratio {values[0]:g}")
        parts[values[0]][image] = values[1:]
    images = tuple(sorted(groups))
    if not images or any(set(part) != set(images) for part in parts.values()):
        raise UserError(f"{file}: not the same images at every mask ratio; evaluate the network again")
    errors = {value: np.array([part[image] for image in images]) for value, part in parts.items()}
    return Network(
        path,
        float(ratio),
        float(weight),
        bool(normalized),
        images,
        tuple(groups[i] for i in images),
        errors,
        info,
        metrics_rows.read_thinned(path / METRICS)[0],
        int(unlabeled) if is_number(unlabeled, 0.0, LARGEST) else 0,
    )


def _read_classifiers(directories: Sequence[Path], networks: Sequence[Network]) -> tuple[list[Run], list[str]]:
    """The classifiers, each under the name of the network it started from, and lines about those left out."""
    runs, notes = [], []
    seen: dict[tuple[str, int], Path] = {}
    for directory in directories:
        (run,), _ = read_runs([directory])
        origin = _origin(run, networks)
        if not origin:
            began = show(shareable(run.info.get("init_from") or ""))
            notes.append(f"{clean(shareable(directory))} began with {began}, which is not among the networks: left out")
            continue
        run = dataclasses.replace(run, init=origin)
        if (origin, run.seed) in seen:
            raise UserError(
                f"{directory}: {origin}, seed {run.seed} is also in {seen[origin, run.seed]}; each may come once: "
                f"leave one of the two out"
            )
        seen[origin, run.seed] = directory
        if runs:
            check_same_images(run, runs[0], directory / "predictions.csv")
            if run.level != runs[0].level:
                raise UserError(f"{directory}: {run.level} of the labels, {runs[0].level} in {runs[0].path}")
        runs.append(run)
    return sorted(runs, key=lambda run: (run.init != BASELINE, run.init, run.seed)), notes


def _origin(run: Run, networks: Sequence[Network]) -> str:
    """The name of the network that a classifier started from; "" if it is not among `networks`.

    It is the one at the path in run.json or, if all were moved together, the only one whose directory has that name.
    """
    if run.init == BASELINE:
        return BASELINE
    recorded = str(run.info.get("init_from") or "")
    if UNUSABLE.search(recorded):  # no path at all
        return ""
    path = Path(recorded)
    same = [network for network in networks if network.path.resolve() == path.resolve()]
    if not same and not exists(path):
        same = [network for network in networks if network.path.resolve().name == path.name]
    return same[0].name if len(same) == 1 else ""
