"""A task is data, a network with its loss, and what is evaluated: pretrain, finetune, linear_probe, lbfgs, knn.

The loop in `train` knows nothing of them.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from mae_jax import (
    evaluate,
    machine,
    metrics,
    network,
    pictures,
    probes,
    rundir,
    sharding,
    thumbnails,
)
from mae_jax.config import QUICK, Resolved, defaults, resolve
from mae_jax.data import duplicates, loaders, splits, subsets
from mae_jax.data.augment import RandAugment, RandomErasing
from mae_jax.data.sources import Source
from mae_jax.data.transforms import Decode, RandomFlip, RandomResizedCrop
from mae_jax.errors import UserError
from mae_jax.features import Features
from mae_jax.models import Params
from mae_jax.state import Spec, TrainState, feature_step
from mae_jax.writers import Writers


@dataclasses.dataclass
class Task:
    """What the loop needs."""

    config: ConfigDict
    spec: Spec
    resolved: Resolved
    sources: tuple[Source, ...]
    indices: tuple[Int[np.ndarray, "_"], ...]
    about: dict[str, Any]  # what the run prints at its start
    evaluate: Callable[[Params], Iterator[tuple[str, float]]]
    finish: Callable[[Params, Path], dict[str, Any]]  # writes the run's results and returns them
    show: Callable[[Params, int, Writers], None] = lambda params, step, writers: None
    initialise: Callable[[TrainState], TrainState] = lambda state: state
    classes: tuple[str, ...] = ()
    subset: dict[str, Any] | None = None  # what subset.json says
    mixture: tuple[str, ...] = ()  # names of the sources, where there are several
    leaks: dict[str, Any] = dataclasses.field(default_factory=dict)  # what test sets share with training
    seen_before: dict[str, Any] = dataclasses.field(default_factory=dict)  # and with the pre-training
    tests: dict[str, Source] = dataclasses.field(default_factory=dict)  # the test sets, by name
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)  # more that run.json says of the data

    def batches(self, start: int) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows of the endless stream of batches, from number `start` on."""
        d = self.config.data
        real = range(self.resolved.batch_size)[sharding.local_rows(self.resolved.rows)]
        transforms = [
            Decode(),
            RandomResizedCrop(self.spec.shape.image_size, tuple(d.crop_scale), tuple(d.crop_ratio)),
        ]
        if d.flips:
            transforms.append(RandomFlip())
        if d.randaugment:
            transforms.append(RandAugment(d.randaugment, d.randaugment_colour))
        if d.random_erasing:
            transforms.append(RandomErasing(d.random_erasing))
        stream = loaders.train_batches(
            self.sources,
            self.indices,
            transforms,
            rows=real,
            start=start,
            threads=d.threads,
            workers=d.workers,
            prefetch=d.prefetch,
            **self._order(),
        )
        missing = self.resolved.rows // jax.process_count() - len(real)
        with contextlib.closing(stream):
            for batch in stream:
                batch = {k: batch[k] for k in ("image", "label", "index")}
                batch["mask"] = np.ones(len(real), np.float32)
                yield {k: np.pad(v, [(0, missing)] + [(0, 0)] * (v.ndim - 1)) for k, v in batch.items()}

    def _order(self) -> dict[str, Any]:
        return {
            "batch_size": self.resolved.batch_size,
            "seed": self.config.seed,
            "weights": tuple(self.config.data.weights),
        }

    def epoch_images(self, step: int) -> dict[str, float]:
        """Of a mixture: images seen of each source in the epoch that ends with update `step`."""
        if not self.mixture:
            return {}
        sizes, batch = [len(chosen) for chosen in self.indices], self.resolved.batch_size
        start = max(0, step - self.resolved.steps_per_epoch)
        counts = loaders.drawn(sizes, tuple(self.config.data.weights), start * batch, step * batch)
        return {f"epoch_images/{name}": float(n) for name, n in zip(self.mixture, counts, strict=True)}

    def position(self, step: int) -> dict[str, Any]:
        """Where the stream is after `step` updates, and what it is made of."""
        tests = {name: source.fingerprint for name, source in self.tests.items()}
        return loaders.position(step, self.sources, self.indices, **self._order()) | {"tests": tests}

    def passed_over(self) -> dict[str, dict[str, int]]:
        """How many files were not used, by source or test set, and reason."""
        names = self.mixture or ("train",)
        every = dict(zip(names, self.sources, strict=True)) | self.tests
        return {name: source.counts for name, source in every.items() if source.counts}


def predictor(config: ConfigDict, spec: Spec) -> Callable[..., dict[str, np.ndarray]]:
    """`evaluate.per_image` of (params, source, indices), the rest from the config."""
    options = {"batch_size": config.eval.batch_size, "threads": config.data.threads, "seed": config.eval.mask_seed}
    return partial(evaluate.per_image, spec, **options)


def passed_over(source: Source) -> str:
    """What was not used of a source, in words; "" where nothing."""
    shown = {k: f" ({v[0]}{', ...' if len(v) > 1 else ''})" for k, v in source.passed_over.items() if k != "hidden"}
    return ", ".join(f"{n} passed over: {reason}{shown.get(reason, '')}" for reason, n in source.counts.items() if n)


def build(config: ConfigDict, mesh: Mesh, report: splits.Report | None = None, opened: dict | None = None) -> Task:
    """Opens the data of a config and makes its task. Raises UserError where they cannot be used."""
    m, shape = config.model, network.shape_of(config)
    if m.dtype == "bfloat16" and jax.default_backend() == "cpu":
        raise UserError(
            "model.dtype=bfloat16 takes half as long again as float32 on a CPU, and is less exact; use float32, or "
            "auto, which is float32 on CPUs and bfloat16 where that is faster"
        )
    if m.attention == "cudnn" and shape.attention != "cudnn":
        reason = machine.no_cudnn(shape.dtype, shape.head_sizes)
        raise UserError(f"model.attention=cudnn is not possible here: {reason}; use auto, or xla")
    make = pretrain if config.task == "pretrain" else probe if config.task in QUICK else classify
    return make(config, mesh, report, opened)


def pretrain(config: ConfigDict, mesh: Mesh, report: splits.Report | None, opened: dict | None) -> Task:
    """Masked autoencoding of unlabelled images (He et al. 2022)."""
    first = network.first_weights(config)
    data = splits.unlabelled(config.data, report, opened)
    sizes, weights = [len(i) for i in data.train_idx], tuple(config.data.weights)
    resolved = resolve(config, sum(sizes), mesh.size)
    spec = network.spec_of(config, resolved, mesh)
    predict = predictor(config, spec)
    expected = loaders.epoch_counts(sizes, weights)
    notes = list(filter(None, map(passed_over, data.sources)))

    held = list(zip(data.sources, data.val_idx, strict=True))

    def held_out(params: Params) -> dict[str, np.ndarray]:
        parts = [predict(params, source, indices) for source, indices in held if len(indices)]
        return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]} if parts else {}

    def evaluators(params: Params) -> Iterator[tuple[str, float]]:
        values = held_out(params)
        if values:
            yield from ((f"val/{name}", value) for name, value in evaluate.autoencoder(values))

    def show(params: Params, step: int, writers: Writers) -> None:
        if any(map(len, data.val_idx)):
            rows = pictures.rows(spec, params, held, config.eval.images, config.eval.mask_seed)
            writers.images(step, "reconstruction", rows)

    def finish(params: Params, workdir: Path) -> dict[str, Any]:
        pictures.finish(spec, params, held, config, workdir, jax.process_index() == 0)
        return {**dict(evaluators(params)), "n_train": resolved.n_train}

    about = {
        "images": f"{resolved.n_train} for training, {sum(map(len, data.val_idx))} held out",
        "images per epoch and source": ", ".join(f"{k} {n:.0f}" for k, n in zip(data.names, expected, strict=True)),
        "mask ratio": config.mae.mask_ratio,
    }
    if notes:
        about["files"] = "; ".join(notes)
    return Task(
        config,
        spec,
        resolved,
        data.sources,
        data.train_idx,
        about,
        evaluators,
        finish,
        show,
        initialise=lambda state: dataclasses.replace(state, params=first(spec, state.params)),
        mixture=data.names if len(data.names) > 1 else (),
    )


def resolve_finetune(config: ConfigDict, data: splits.Labelled, devices: int) -> Resolved:
    """Steps from the labels that are used, or from those of `train.match_fraction`."""
    if config.train.select == "best" and not len(data.val_idx):
        raise UserError(
            "train.select=best needs validation images, and no class has an image to spare: add images, or set last"
        )
    share, n = config.train.match_fraction, config.train.match_count
    matched = sum(subsets.subset_sizes(data.subset["train"].values(), share, n)) if share or n else 0
    return resolve(config, len(data.train_idx), devices, matched)


def classify(config: ConfigDict, mesh: Mesh, report: splits.Report | None, opened: dict | None) -> Task:
    """Classification, from scratch or from a masked autoencoder: fine-tuning and linear probing."""
    first = network.first_weights(config)
    data = splits.labelled(config.data, report, opened)
    classes = data.train.classes
    resolved = resolve_finetune(config, data, mesh.size)
    spec = network.spec_of(config, resolved, mesh, len(classes))
    predict = predictor(config, spec)

    def evaluators(params: Params) -> Iterator[tuple[str, float]]:
        if len(data.val_idx):
            values = predict(params, data.train, data.val_idx)
            labels = data.train.labels[data.val_idx]
            yield from ((f"val/{name}", value) for name, value in evaluate.classifier(values, labels))

    def finish(params: Params, workdir: Path) -> dict[str, Any]:
        return classified(data, lambda source, i: predict(params, source, i)["probabilities"], workdir)

    def initialise(state: TrainState) -> TrainState:
        return dataclasses.replace(state, params=first(spec, state.params))

    more = told(config, data, opened)
    return Task(config, spec, resolved, evaluate=evaluators, finish=finish, initialise=initialise, **more)


def probe(config: ConfigDict, mesh: Mesh, report: splits.Report | None, opened: dict | None) -> Task:
    """Logistic regression or nearest neighbours on features of the frozen encoder: no update, only an end.

    The features are those of evaluation's crops. They are computed once for each encoder and image, for all runs that
    share `opened`.
    """
    first = network.first_weights(config)
    data = splits.labelled(config.data, report, opened)
    classes, p = data.train.classes, config.probe
    resolved = dataclasses.replace(resolve(config, len(data.train_idx), mesh.size), steps=0, warmup_steps=0)
    spec = network.spec_of(config, resolved, mesh, len(classes))
    spec = dataclasses.replace(spec, task="probe")  # one for both kinds
    kept = Features() if opened is None else opened.setdefault("features", Features())
    # Weights that are read do not depend on the seed; of the head nothing is used.
    drawn = config.seed if config.init == "scratch" else None
    encoder = (config.init, config.init_from, drawn, spec.shape, spec.mean, spec.std)

    def finish(params: Params, workdir: Path) -> dict[str, Any]:
        read: list[Params] = []

        def encode(source: Source, indices: Int[np.ndarray, "_"]) -> Float[np.ndarray, "n d"]:
            read.extend([first(spec, params)] if not read else [])
            return predictor(config, spec)(read[0], source, indices, step=feature_step)["features"]

        def known(source: Source, indices: Int[np.ndarray, "_"]) -> Float[np.ndarray, "n d"]:
            return kept.of(encoder, source, indices, encode)

        labels = data.train.labels
        train = known(data.train, data.train_idx), labels[data.train_idx], len(classes)
        validation = known(data.train, data.val_idx), labels[data.val_idx]
        if config.task == "lbfgs":
            found, chosen = probes.fit_logistic(*train, p.l2, validation)
        else:
            found, chosen = probes.fit_neighbours(*train, p.neighbours, p.temperature, validation)
        results = classified(data, lambda source, indices: found.probabilities(known(source, indices)), workdir)
        return results | {"chosen": chosen}

    more = told(config, data, opened)
    return Task(config, spec, resolved, evaluate=lambda params: iter(()), finish=finish, **more)


def classified(
    data: splits.Labelled,
    predict: Callable[[Source, Int[np.ndarray, "_"]], Float[np.ndarray, "n classes"]],
    workdir: Path,
) -> dict[str, Any]:
    """Writes the predictions of a classifier for every image that it was not trained on, and returns its scores.

    `predict` gives probabilities of the images with these numbers.
    """
    classes, leader = data.train.classes, jax.process_index() == 0

    def write(path: Path, source: Source, indices: Int[np.ndarray, "_"]) -> np.ndarray:
        found = predict(source, indices)
        if not np.isfinite(found).all():
            raise UserError(
                f"{path} is not written: predictions are not finite (nan or inf), so training diverged; try a lower "
                f"optim.base_lr or more optim.warmup_epochs in another --workdir"
            )
        if leader:
            path.parent.mkdir(parents=True, exist_ok=True)
            names, groups = ([every[i] for i in indices] for every in (source.names, source.groups))
            rundir.write_predictions(path, names, groups, source.labels[indices], found, classes)
        return found

    def scores(path: Path, source: Source) -> tuple[np.ndarray, dict[str, Any]]:
        found = write(path, source, np.arange(len(source)))
        return found, metrics.classification(source.labels, found.argmax(1), classes)

    test, results = scores(workdir / rundir.PREDICTIONS, data.test)
    if leader:
        thumbnails.write(workdir / "thumbnails", data.test, test)
    if len(data.val_idx):
        write(workdir / rundir.VALIDATION, data.train, data.val_idx)
    beside = workdir / rundir.EXTERNAL
    external = {name: scores(beside / name / rundir.PREDICTIONS, s)[1] for name, s in data.external.items()}
    counts = {"n_train": len(data.train_idx), "n_test": len(data.test), "n_validation": len(data.val_idx)}
    return counts | results | {"external": external}


def told(config: ConfigDict, data: splits.Labelled, opened: dict | None) -> dict[str, Any]:
    """The fields of a classifier's Task that follow from its images alone; with what it says of them at its start."""
    counts = data.subset["actual"]
    about = {
        "classes": ", ".join(f"{name} {n}" for name, n in counts.items()),
        "images": f"{len(data.train_idx)} for training ({100 * data.subset['fraction']:.4g} % of the labels), "
        f"{len(data.val_idx)} for validation, {len(data.test)} for test",
    }
    if data.external:
        about["further test sets"] = ", ".join(f"{name} {len(source)}" for name, source in data.external.items())
    about |= data.sets.about | {"groups": data.groups["text"]}
    tests = {data.sets.test_name: data.test, **data.external}
    before = {}
    if config.init == "mae":
        saved = defaults("pretrain")
        saved.update(network.saved_pretraining(Path(config.init_from), "init_from"))  # fields of now, for older runs
        before = splits.seen_before(config.data, tests, saved.data, opened)
    for who, leaks in (("training", data.leaks), ("pre-training", before)):
        shared = {name: duplicates.in_words(found, who) for name, found in leaks.items()}
        if any(shared.values()):
            said = "; ".join(f"{name} has {text}" for name, text in shared.items() if text)
            about[f"warning: test images that {who} saw"] = f"{said}; see {rundir.RUN} and tools/check_data.py"
    every = {data.sets.train_name: data.train, **tests}
    if data.warnings:
        about["warning"] = "; ".join(data.warnings)
    notes = [f"{name}: {text}" for name, source in every.items() if (text := passed_over(source))]
    if notes:
        about["files"] = "; ".join(notes)
    return {
        "sources": (data.train,),
        "indices": (data.train_idx,),
        "about": about,
        "classes": data.train.classes,
        "subset": data.subset,
        "leaks": data.leaks,
        "seen_before": before,
        "tests": tests,
        "facts": {
            "test_split": data.sets.test_name,
            "groups": data.groups,
            "repeated": data.repeated,
            "data_warnings": list(data.warnings),
            "fraction": data.subset["fraction"],
            "label_count": config.data.label_count,
        },
    }
