"""How sentences name an initialization: pre-training, training from scratch, an encoder, or features."""

from typing import NamedTuple

from mae_jax.report.analysis import Study
from mae_jax.report.runs import BASELINE
from mae_jax.rundir.contents import has_network

MAE = "mae"  # the value of `init` for a pre-training of the same study, and the usual name of one


class Start(NamedTuple):
    """An initialization in words.

    `phrase` says how models began, as in "with pre-training". `noun` is what helps or not, as in "pre-training".
    `model` has a place for "model" or "models". `name` tells the initialization from others of its kind; "" where none
    is needed, or where the other words have it.
    """

    phrase: str
    noun: str
    model: str
    name: str = ""

    @property
    def named_noun(self) -> str:
        """`pre-training (mae90)`."""
        return self.noun + self._in_parentheses

    def models(self, several: bool = True) -> str:
        """`pre-trained models (mae90)`, or `pre-trained model (mae90)`."""
        return self.model.format("models" if several else "model") + self._in_parentheses

    @property
    def _in_parentheses(self) -> str:
        return f" ({self.name})" if self.name else ""


def start_of(study: Study, init: str) -> Start:
    """The words for one of a study's initializations.

    A pre-training of the study is named unless it is "mae" and nothing else is compared. A training from scratch is
    named unless it is "scratch".
    """
    kinds = {
        config.get("init")
        for run in study.runs
        if run.init == init and isinstance(config := run.info.get("config"), dict)
    }
    if init == MAE or MAE in kinds:
        name = "" if init == MAE and len(study.compared) < 2 else init
        return Start("with pre-training", "pre-training", "pre-trained {}", name)
    if init == BASELINE or BASELINE in kinds:
        return Start("from scratch", "training from scratch", "{} from scratch", "" if init == BASELINE else init)
    literal = init.replace("{", "{{").replace("}", "}}")
    if not all(map(has_network, kinds)):
        return Start(f"with {init} as features", f"using {init} as features", f"{{}} with {literal} as features")
    return Start(f"from {init}", f"starting from {init}", f"{{}} from {literal}")


def question(study: Study) -> str:
    """The question that a study answers. It asks about pre-training only if a pre-trained encoder is compared."""
    asked = "The question: how well does a classifier do with few labels when it starts from scratch (random weights)"
    nouns = {start_of(study, init).noun.partition(" ")[0] for init in study.compared}
    if not nouns & {"pre-training", "starting"}:
        return f"{asked}?"
    how = f" ({MAE}: as a masked autoencoder)" if MAE in study.inits else ""
    return f"{asked}, and how much better does it do when it is first pre-trained on images without labels{how}?"
