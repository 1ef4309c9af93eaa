"""The tasks of a run, each described once. Other code asks for the traits of a task and compares no name.

A task's objective is in `mae_jax/step/objectives/`. Its data, evaluation and results are in `mae_jax/train/`:
pretrain.py, finetune.py and probe.py.
"""

import dataclasses

_CLASSIFICATION = "mae_jax.step.objectives.classification:Classification"


@dataclasses.dataclass(frozen=True)
class Traits:
    """The properties of a task, for code that handles several tasks."""

    words: str  # what messages call it
    objective: str  # "module:class" of its `step.spec.Objective`; as text, because configs are read without JAX
    updates: bool = True  # it makes training steps; without updates, the head is fitted directly, or there is no head
    labeled: bool = True  # it learns classes from labels and ends with predictions; else it pre-trains an encoder
    decoder: bool = False  # its network is a masked autoencoder (`models.mae`), whose reconstructions can be shown
    frozen: bool = False  # the encoder keeps its initial weights
    linear: bool = False  # the head is linear, on features of the frozen encoder
    fit: str = ""  # "module:function" that fits the head where updates do not; see `train.probe`
    chooses: tuple[str, ...] = ()  # fields of `probe` whose value is chosen on validation images, as `fit` takes them

    @property
    def fine_tunes(self) -> bool:
        """Whether labels change the encoder."""
        return self.labeled and not self.frozen

    @property
    def trains_head(self) -> bool:
        """Whether updates change the head alone. It then receives batch-normalized features."""
        return self.updates and self.frozen

    @property
    def network(self) -> str:
        """The kind of its weights for other code: mae, with a decoder, or vit."""
        return "mae" if self.decoder else "vit"


TRAITS = {
    "pretrain": Traits(
        "pre-training", "mae_jax.step.objectives.reconstruction:Reconstruction", labeled=False, decoder=True
    ),
    "finetune": Traits("fine-tuning", _CLASSIFICATION),
    "linear_probe": Traits(
        "linear probe",
        "mae_jax.step.objectives.frozen_classification:FrozenClassification",
        frozen=True,
        linear=True,
    ),
    "lbfgs": Traits(
        "logistic regression",
        _CLASSIFICATION,
        updates=False,
        frozen=True,
        linear=True,
        fit="mae_jax.evaluation.probes:fit_logistic",
        chooses=("l2",),
    ),
    "knn": Traits(
        "nearest neighbors",
        _CLASSIFICATION,
        updates=False,
        frozen=True,
        fit="mae_jax.evaluation.probes:fit_neighbours",
        chooses=("neighbours", "temperature"),
    ),
}
TASKS = tuple(TRAITS)
OF_SEVERAL_RUNS = {"study": "study", "sweep": "mask sweep"}  # tasks that make runs of the others, in words
EVALUATIONS = tuple(task for task, traits in TRAITS.items() if traits.labeled)  # of an encoder, each the task of a run
UNLABELED = tuple(task for task in TASKS if task not in EVALUATIONS)
DECODING = tuple(task for task, traits in TRAITS.items() if traits.decoder)  # tasks whose networks can reconstruct
TRAINED = tuple(task for task, traits in TRAITS.items() if traits.updates)  # tasks that train a network
QUICK = tuple(task for task in TASKS if task not in TRAINED)
LINEAR = tuple(task for task, traits in TRAITS.items() if traits.linear)
RANDOM_PROBE = next(task for task in LINEAR if task in QUICK)  # what `random_probe` adds to a study
USUAL = next(task for task, traits in TRAITS.items() if traits.fine_tunes)  # the default evaluation


def in_words(task: str) -> str:
    """What messages call a task, such as "fine-tuning"; an unknown name stays as it is."""
    return ({name: traits.words for name, traits in TRAITS.items()} | OF_SEVERAL_RUNS).get(task, task)
