"""Quick answers on the features of a frozen encoder: logistic regression or nearest neighbours, within seconds.

python -m mae_jax.main --config=configs/probe.py:frac=0.1[,kind=lbfgs|knn][,init=PATH][,seed=0][,data=SOURCE]

kind=lbfgs solves a multinomial logistic regression on standardised features by L-BFGS, kind=knn asks the nearest
neighbours by cosine similarity; penalty and number of neighbours are chosen on the validation images. The other
arguments are those of configs/finetune.py. The features are those of the class token; --config.model.pool=mean: of
the patches' mean.
"""

from pathlib import Path

from mae_jax.config.fields import QUICK, probe_of
from mae_jax.config.loading import load, one_of, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, frac=1.0, kind="lbfgs", init="scratch", seed=0, data="raabin_wbc")
    kind = one_of("kind", arg.kind, QUICK)
    given = ",".join(f"{key}={value}" for key, value in arg.items() if key != "kind")
    return probe_of(load(Path(__file__).with_name("finetune.py"), given), kind)
