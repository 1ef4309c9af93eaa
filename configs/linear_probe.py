"""Linear probing: a linear classifier on the frozen encoder, with the recipe of He et al. 2022, appendix A.1.

mae-jax run --config=configs/linear_probe.py:frac=0.1[,init=scratch|mae|PATH][,seed=0][,data=SOURCE]

The arguments are those of configs/finetune.py. The head reads the class token; set --config.model.pool=mean to average
the patch tokens. For an answer within seconds, see configs/probe.py.
"""

from pathlib import Path

from mae_jax.config.fields import probe_of
from mae_jax.config.loading import load, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, frac=1.0, init="scratch", seed=0, data="raabin_wbc")
    given = ",".join(f"{key}={value}" for key, value in arg.items())
    config = probe_of(load(Path(__file__).with_name("finetune.py"), given), "linear_probe")

    # LARS without weight decay, 90 epochs, 10 of them warm-up, cosine schedule, only random crops and flips.
    config.optim.update(name="lars", b1=0.9, weight_decay=0.0, warmup_epochs=10.0, schedule="cosine")
    config.train.epochs = 90.0
    # The paper's peak rate, 6.4 = 0.1 * 16384 / 256, with a batch size for a few thousand images. A LARS update moves
    # the head by 0.001 * rate * its norm, so with a rate of 0.1 it would hardly leave its initial weights.
    config.optim.base_lr = 6.4
    config.train.batch_size = 256
    return config
