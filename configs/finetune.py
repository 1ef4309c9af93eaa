"""Fine-tuning of the whole encoder on labeled cells, from scratch or from a masked autoencoder.

mae-jax run --config=configs/finetune.py:frac=0.1[,init=scratch|mae|PATH][,seed=0][,data=SOURCE][,recipe=study|mae]

SOURCE is raabin_wbc (as in the study), synthetic, or folder with --config.data.dir=DIR. init=mae starts from the
default run directory of configs/pretrain.py:exp=2. PATH is a run, study or bundle of mae_jax, or a file or folder of
weights from Hugging Face, timm or facebookresearch/mae. It determines the network and the normalization of images.
recipe=study is the plain recipe of the study; recipe=mae is that of He et al. 2022 for ViT-B.
"""

from pathlib import Path

from mae_jax.config.fields import defaults
from mae_jax.config.loading import load, one_of, parse_arg
from mae_jax.config.naming import default_workdir


def get_config(arg=None):
    arg = parse_arg(arg, frac=1.0, init="scratch", seed=0, data="raabin_wbc", recipe="study")
    config = defaults("finetune")
    config.seed = arg.seed
    config.data.source = arg.data
    config.data.fraction = arg.frac
    # The study's values for all initial weights: ViT-B/16 at 224, AdamW, batch 64, 20 epochs.
    config.train.epochs = 20.0
    config.train.batch_size = 64
    config.optim.base_lr = 5e-4
    config.optim.schedule = "cosine"
    config.optim.warmup_epochs = 2.0
    config.optim.weight_decay = 0.05
    config.data.crop_scale = (0.5, 1.0)  # a crop of a fifth often misses the cell
    config.data.mean, config.data.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # as in the pre-training
    if one_of("recipe", arg.recipe, ("study", "mae")) == "mae":
        config.name = "finetune_recipe_mae"
        recipe_of_mae(config)
    if arg.init != "scratch":
        from mae_jax.weights import encoder_fields

        encoder_fields.start_from(config, pretraining_of(arg.data) if arg.init == "mae" else arg.init)
    return config


def pretraining_of(data):
    """The default run directory of the pre-training: on CAM16 and pRCC, or on generated tiles if `data` is."""
    pretrain = "exp=2,data=synthetic" if data == "synthetic" else "exp=2"
    return default_workdir(load(Path(__file__).with_name("pretrain.py"), pretrain))


def recipe_of_mae(config):
    """He et al. 2022, appendix A.1, with the values of FINETUNE.md in facebookresearch/mae for ViT-B.

    The paper's table differs: base rate 1e-3, layer decay 0.75, no random erasing. Epochs, batch size, crops and flips
    stay those of the study.
    """
    config.optim.update(base_lr=5e-4, warmup_epochs=5.0, min_lr=1e-6, schedule="cosine")
    config.optim.update(weight_decay=0.05, b1=0.9, b2=0.999, layer_decay=0.65)
    config.model.update(drop_path=0.1, pool="mean", head_std=2e-5)
    config.train.update(label_smoothing=0.1, mixup=0.8, cutmix=1.0)
    config.data.update(randaugment=9.0, random_erasing=0.25)  # randaugment_colour=False keeps stain colors
