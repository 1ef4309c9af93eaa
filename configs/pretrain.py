"""Pre-training of a masked autoencoder on pathology tiles: the three experiments of the study.

mae-jax run --config=configs/pretrain.py:exp=1|2|3[,data=SOURCE][,seed=0][,init=PATH]

SOURCE is cam16+prcc (as in the study), tiles:NAME, synthetic, or folder with --config.data.dir=DIR[,DIR...]. To start
from existing weights, PATH is a run, study or bundle of mae_jax, or a file or folder of weights from other code. It
determines the network and the normalization of images.
"""

from mae_jax.config.fields import defaults
from mae_jax.config.loading import one_of, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, exp=2, data="cam16+prcc", seed=0, init="scratch")
    config = defaults("pretrain")
    config.name = f"pretrain_exp{one_of('exp', arg.exp, (1, 2, 3))}"
    config.seed = arg.seed
    config.data.source = arg.data

    # In all experiments: ViT-B/16 at 224, decoder 512/8/16, both flips, no color augmentation.
    config.train.epochs = 100.0
    config.train.batch_per_device = 48
    config.optim.b2 = 0.95
    config.optim.warmup_epochs = 10.0

    if arg.exp == 1:  # the settings of He et al. 2022; diverged in the study
        config.optim.base_lr = 1.5e-4
        config.optim.schedule = "cosine"
        config.optim.weight_decay = 0.05
        config.optim.warmup_epochs = 40.0
        config.train.accumulation = 8
        config.mae.mask_ratio = 0.75
        config.data.mean, config.data.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if arg.exp == 2:  # converged, then reached a plateau; good on removed patches
        config.optim.base_lr = 5e-5
        config.optim.schedule = "cosine"
        config.optim.weight_decay = 0.01
        config.train.accumulation = 4
        config.mae.mask_ratio = 0.75
        config.data.mean, config.data.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        config.seed = arg.seed + 1  # the study also changed the seed
    if arg.exp == 3:  # smooth loss; good on visible patches, repeats one patch where it is unsure
        config.optim.base_lr = 8e-5
        config.optim.schedule = "constant"
        config.optim.weight_decay = 0.01
        config.train.accumulation = 4
        config.mae.mask_ratio = 0.25
        config.data.crop_scale = (0.5, 1.0)  # a narrower range than (0.2, 1)
        # Inputs are normalized with ImageNet's mean and standard deviation, as in `defaults`.
    if arg.init != "scratch":
        from mae_jax.weights import encoder_fields

        encoder_fields.start_from(config, arg.init)
    return config
