"""Mask sweep: how mask ratio and a loss on visible patches change reconstructions and classifiers.

mae-jax run --config=configs/mask_sweep.py[:data=SOURCE][,scale=paper|laptop][,exp=2][,smoke=true]

It pre-trains once for each of config.mask_ratios x config.visible_weights (0: He et al. 2022) x
config.unlabeled_counts (numbers of unlabeled images, at equally many updates; empty: all images) and measures
all autoencoders on the same held-out images with the same masks. From each of them, and from scratch, it trains a
classifier on 10 % of the labels for each seed. The arguments are those of configs/study.py. smoke=true needs
data=synthetic; it only shows that all parts run.
"""

from pathlib import Path

from mae_jax.config.fields import sweep_defaults
from mae_jax.config.loading import load, parse_arg
from mae_jax.runtime.errors import UserError


def get_config(arg=None):
    arg = parse_arg(arg, data="raabin_wbc", scale="paper", exp=2, smoke=False)
    scale = "laptop" if arg.smoke else arg.scale
    study = load(Path(__file__).with_name("study.py"), f"data={arg.data},scale={scale},exp={arg.exp}")
    config = sweep_defaults(study.pretrain, study.finetune)
    config.name = "mask_sweep" + ("_smoke" if arg.smoke else "_laptop" if scale == "laptop" else "")
    config.seeds, config.subset_seeds = study.seeds, study.subset_seeds
    config.finetune.data.fraction = 0.1
    config.pretrain.eval.mask_ratios = (0.25, 0.5, 0.75, 0.9)
    config.pretrain.eval.images = 6
    if arg.smoke:
        if arg.data != "synthetic":
            raise UserError(f"config argument smoke=true needs data=synthetic, not data={arg.data}")
        config.mask_ratios, config.seeds, config.subset_seeds = (0.5, 0.75), (0,), ()
        for part in (config.pretrain, config.finetune):
            part.data.update(synthetic_train=100, synthetic_test=50, synthetic_unlabelled=100)
            part.model.update(image_size=32, width=32, depth=2, heads=2)
            part.train.epochs = 2.0
            part.optim.warmup_epochs = 0.0
        config.pretrain.model.update(decoder_width=32, decoder_depth=1, decoder_heads=2)
        config.pretrain.eval.images = 3
    return config
