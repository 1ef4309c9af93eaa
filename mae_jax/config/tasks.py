"""The tasks of a run, each described once. Other code asks for the traits of a task and compares no name.

What a task does is in `mae_jax/train/`: pretrain.py, finetune.py and probe.py.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Traits:
    """The properties of a task, for code that handles several tasks."""

    objective: str  # what an update minimizes: reconstruction, classification, frozen_classification; none: no updates
    labeled: bool = True  # it learns classes from labels and ends with predictions
    decoder: bool = False  # its network is an autoencoder; else an encoder with a head
    frozen: bool = False  # the encoder keeps its initial weights
    linear: bool = False  # the head is linear, on features of the frozen encoder
    chooses: tuple[str, ...] = ()  # fields of `probe` whose value is chosen on validation images

    @property
    def updates(self) -> bool:
        """Whether it makes training steps. Without them it solves for the head, or has none."""
        return self.objective != "none"

    @property
    def fine_tunes(self) -> bool:
        """Whether labels change the encoder."""
        return self.labeled and not self.frozen

    @property
    def network(self) -> str:
        """The kind of network that `models.init` draws."""
        return "mae" if self.decoder else "vit"


TRAITS = {
    "pretrain": Traits("reconstruction", labeled=False, decoder=True),
    "finetune": Traits("classification"),
    "linear_probe": Traits("frozen_classification", frozen=True, linear=True),
    "lbfgs": Traits("none", frozen=True, linear=True, chooses=("l2",)),
    "knn": Traits("none", frozen=True, chooses=("neighbours", "temperature")),
}
TASKS = tuple(TRAITS)
EVALUATIONS = tuple(task for task, traits in TRAITS.items() if traits.labeled)  # of an encoder, each the task of a run
UNLABELED = tuple(task for task in TASKS if task not in EVALUATIONS)
TRAINED = tuple(task for task, traits in TRAITS.items() if traits.updates)  # tasks that train a network
QUICK = tuple(task for task in TASKS if task not in TRAINED)
LINEAR = tuple(task for task, traits in TRAITS.items() if traits.linear)
RANDOM_PROBE = next(task for task in LINEAR if task in QUICK)  # what `random_probe` adds to a study
USUAL = next(task for task, traits in TRAITS.items() if traits.fine_tunes)  # the default evaluation
