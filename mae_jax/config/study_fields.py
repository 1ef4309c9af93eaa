"""The fields of a study and of a sweep, which consist of many runs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mae_jax.config.rule import SEED_RULE, Fields, Rule, field
from mae_jax.config.run_fields import RunConfig
from mae_jax.config.tasks import EVALUATIONS


def _subset_seeds() -> tuple[int, ...]:
    """The field `subset_seeds` of a study or sweep."""
    return field((), "which labels, one for each of `seeds`; empty: 0 for every seed", may_differ=True, **SEED_RULE)


def _parallel() -> str:
    """The field `parallel` of a study or sweep."""
    return field(
        "auto",
        "how many runs train at the same time, each on its own GPU or CPU cores, after the pre-training: a number, or "
        "auto: as many as there are GPUs, on CPUs as many as a short measurement shows to be faster",
        number_or_auto=True, may_differ=True, of_runs=False,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class StudyConfig(Fields):
    """A label-efficiency study: pre-training, then evaluations over a grid, then the report."""

    task: str = field("study", "what the command does", of_runs=False)
    name: str = field("", "name of the study in its default directory", may_differ=True, of_runs=False)
    title: str = field(
        "Label efficiency of masked autoencoders", "heading of the report", may_differ=True, of_runs=False
    )
    fractions: tuple[float, ...] = field(
        (0.01, 0.1, 0.5, 1.0),
        "shares of the labels to train on",
        kind=float, low=0, high=1, open="low", allowed="numbers above 0 and up to 1",
        may_be_empty=False, may_repeat=False, may_differ=True,
    )  # fmt: skip
    label_counts: tuple[int, ...] = field(
        (),
        "numbers of labeled images to train on, such as (20, 50, 100, 200), instead of `fractions`",
        kind=int, low=0, high=10**9, open="low", allowed="whole numbers above 0", may_repeat=False, may_differ=True,
    )  # fmt: skip
    inits: tuple[str, ...] = field(
        ("scratch", "mae"),
        "initial weights: [NAME=]scratch, mae, PATH of an encoder, features:FILE, histogram, nucleus, or with "
        "changed fields, such as mae:mask_ratio=0.5 or scratch:model.dropout=0.1",
        may_be_empty=False, may_repeat=False, may_differ=True,
    )  # fmt: skip
    seeds: tuple[int, ...] = field(
        (0,), "random seeds of initial weights and image order", may_be_empty=False, may_repeat=False, may_differ=True,
        **SEED_RULE,
    )  # fmt: skip
    subset_seeds: tuple[int, ...] = _subset_seeds()
    evaluations: tuple[str, ...] = field(
        ("finetune",), "how to evaluate each encoder", choices=EVALUATIONS,
        may_be_empty=False, may_repeat=False, may_differ=True,
    )  # fmt: skip
    tune: tuple[str, ...] = field(
        (),
        "fine-tuning: fields to choose for each arm and number of labels on validation images, and the values to try, "
        "such as ('optim.base_lr=5e-4;1e-3','optim.weight_decay=0.05;0.3'); all combinations run with the first seed",
        may_repeat=False,
    )
    random_probe: bool = field(
        False,
        "add a linear probe of randomly initialized weights, the baseline that every encoder must beat",
        may_differ=True,
        of_runs=False,
    )
    step_matched: float = field(
        0.0,
        "fine-tuning: also train fractions up to this one (or all label_counts) for as many updates as the largest",
        low=0, high=1, allowed="0 for none", may_differ=True,
    )  # fmt: skip
    target: float = field(
        0.0,
        "report: the macro F1 that counts as enough; 0: 0.02 below the best with the most labels",
        low=0, high=1, allowed="0 for 0.02 below the best", may_differ=True, of_runs=False,
    )  # fmt: skip
    pictures: bool = field(
        True,
        "report: show test images; False where their license forbids passing them on",
        may_differ=True,
        of_runs=False,
    )
    contrasts: tuple[str, ...] = field(
        (),
        'report: pairs of arms to compare besides each arm with the baseline; "A:B" is A minus B, by names of `inits`',
        may_repeat=False, may_differ=True, of_runs=False,
    )  # fmt: skip
    pretrain_seeds: tuple[int, ...] = field(
        (),
        "random seeds of pre-training, one for each of `seeds`; empty: one pre-training for all, with its own seed",
        **SEED_RULE,
    )
    parallel: str = _parallel()
    experiments: Mapping[str, Mapping[str, Mapping[str, Any]]] = dataclasses.field(
        default_factory=dict,
        metadata={
            "rule": Rule(
                "exp1, exp2 ...: what each changes in `pretrain`, for mae:exp=1", may_differ=True, of_runs=False
            )
        },
    )
    pretrain: RunConfig = dataclasses.field(default_factory=RunConfig)
    finetune: RunConfig = dataclasses.field(default_factory=RunConfig)


@dataclasses.dataclass(frozen=True)
class SweepConfig(Fields):
    """A sweep: pre-training over mask ratios and visible weights, then fine-tuning from each network."""

    task: str = field("sweep", "what the command does", of_runs=False)
    name: str = field("", "name of the sweep in its default directory", may_differ=True, of_runs=False)
    title: str = field("What the autoencoder learned", "heading of the report", may_differ=True, of_runs=False)
    mask_ratios: tuple[float, ...] = field(
        (0.25, 0.5, 0.75, 0.9),
        "mask ratios of the pre-training runs",
        kind=float, low=0, high=1, open="low high", allowed="numbers above 0 and below 1",
        may_be_empty=False, may_repeat=False, may_differ=True,
    )  # fmt: skip
    visible_weights: tuple[float, ...] = field(
        (0.0, 1.0),
        "values of mae.visible_weight; 0: none, as in He et al. 2022",
        kind=float, low=0, open="high", allowed="numbers of 0 and above",
        may_be_empty=False, may_repeat=False, may_differ=True,
    )  # fmt: skip
    unlabeled_counts: tuple[int, ...] = field(
        (),
        "numbers of unlabeled images of the pre-training runs, which all see equally many; 0: all; empty: all",
        kind=int, low=0, high=10**9, allowed="whole numbers, 0 for all images", may_repeat=False, may_differ=True,
    )  # fmt: skip
    seeds: tuple[int, ...] = field(
        (0,), "random seeds of fine-tuning; each autoencoder is pre-trained once",
        may_be_empty=False, may_repeat=False, may_differ=True, **SEED_RULE,
    )  # fmt: skip
    subset_seeds: tuple[int, ...] = _subset_seeds()
    parallel: str = _parallel()
    pretrain: RunConfig = dataclasses.field(default_factory=RunConfig)
    finetune: RunConfig = dataclasses.field(default_factory=RunConfig)
