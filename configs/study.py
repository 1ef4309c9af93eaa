r"""The label-efficiency study: pre-training, then scratch against MAE at 1, 10, 50 and 100 % of the labels.

python -m mae_jax.main \
  --config=configs/study.py[:data=SOURCE][,protocol=controlled|paper][,scale=paper|laptop][,exp=2][,recipe=study|mae]

protocol=paper is the study as published: one seed, 20 epochs, the last one tested; beside it a linear probe on random
weights, which tells what a table's numbers must beat (config.random_probe). protocol=controlled says how
sure the result is: three seeds, each with labels and first weights of its own; the epoch with the best macro F1 on
validation images is tested; up to 10 % of the labels are also trained for as many updates as 100 %; and a linear
probe and nearest neighbours tell what the frozen encoders know (config.evaluations; linear_probe may be added).
scale=paper is ViT-B/16 at 224. scale=laptop is a small ViT at 64 px. recipe is that of configs/finetune.py.

With data=folder name the images: --config.finetune.data.dir=DIR for those with labels, and
--config.pretrain.data.dir=DIR[,DIR...] for those without. More initialisations side by side:
--config.inits="('scratch','mae','mae:mask_ratio=0.5','mae:exp=3','NAME=RUN_DIR')".
"""

from pathlib import Path

from ml_collections import ConfigDict

from mae_jax.config.fields import study_defaults
from mae_jax.config.loading import flatten, load, one_of, parse_arg

EXPERIMENTS = (1, 2, 3)


def get_config(arg=None):
    arg = parse_arg(arg, data="raabin_wbc", protocol="controlled", scale="paper", exp=2, recipe="study")
    one_of("protocol", arg.protocol, ("controlled", "paper"))
    one_of("scale", arg.scale, ("paper", "laptop"))
    pretrain = pretraining(arg, arg.exp)
    finetune = load(Path(__file__).with_name("finetune.py"), f"data={arg.data},recipe={arg.recipe}")
    # Both arms and the pre-training see images on the same scale.
    finetune.data.mean, finetune.data.std = pretrain.data.mean, pretrain.data.std
    if arg.scale == "laptop":
        laptop(finetune)
        # A smaller batch than the study's 64: with few labels it makes more of the 20 epochs.
        finetune.train.batch_size = 32
        finetune.optim.base_lr = 4e-3
    config = study_defaults(pretrain, finetune)
    config.name = f"study_{arg.protocol}_exp{arg.exp}" + ("_laptop" if arg.scale == "laptop" else "")
    config.name += "_recipe_mae" if arg.recipe == "mae" else ""
    for exp in EXPERIMENTS:
        config.experiments[f"exp{exp}"] = changes(pretrain, pretraining(arg, exp))
    config.random_probe = True
    if arg.protocol == "controlled":
        config.seeds, config.subset_seeds = (0, 1, 2), (10, 11, 12)
        config.step_matched = 0.1
        config.evaluations = ("finetune", "lbfgs", "knn")
        finetune.train.select = "macro_f1"
    return config


def pretraining(arg, exp):
    """The study's pre-training, by one of its experiments."""
    unlabelled = "cam16+prcc" if arg.data == "raabin_wbc" else arg.data
    config = load(Path(__file__).with_name("pretrain.py"), f"exp={exp},data={unlabelled}")
    if arg.scale == "laptop":
        laptop(config)
        config.model.update(decoder_width=128, decoder_depth=2, decoder_heads=4)
        config.train.update(epochs=150.0, batch_size=64)
        config.optim.update(base_lr=4e-3, warmup_epochs=10.0, weight_decay=0.05)
        config.eval.every_epochs = config.checkpoint.every_epochs = 5.0
    return config


def laptop(config):
    """A small ViT at 64 px."""
    config.model.update(size="custom", image_size=64, patch_size=8, width=192, depth=6, heads=3)
    config.train.update(batch_per_device=0, accumulation=1)


def changes(config, other):
    """What `other` sets otherwise, but for name and seed."""
    ours, theirs = flatten(config), flatten(other)
    found = {}
    for key, value in theirs.items():
        if value != ours[key] and key not in ("name", "seed"):
            section, _, field = key.partition(".")
            found.setdefault(section, {})[field] = value
    return ConfigDict(found)
