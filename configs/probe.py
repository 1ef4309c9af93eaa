"""Quick probe of a frozen encoder, within seconds: logistic regression or nearest neighbors on its features.

mae-jax run --config=configs/probe.py:frac=0.1[,kind=lbfgs|knn][,init=scratch|mae|PATH][,seed=0][,data=SOURCE]

kind=lbfgs fits a multinomial logistic regression to standardized features with L-BFGS. kind=knn lets the nearest
neighbors by cosine similarity vote. The penalty and the number of neighbors are selected on the validation images. The
other arguments are those of configs/finetune.py. Features come from the class token; set --config.model.pool=mean to
average the patch tokens.
"""

from pathlib import Path

from mae_jax.config.fields import QUICK, probe_of
from mae_jax.config.loading import load, one_of, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, frac=1.0, kind="lbfgs", init="scratch", seed=0, data="raabin_wbc")
    kind = one_of("kind", arg.kind, QUICK)
    given = ",".join(f"{key}={value}" for key, value in arg.items() if key != "kind")
    return probe_of(load(Path(__file__).with_name("finetune.py"), given), kind)
