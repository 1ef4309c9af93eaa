r"""The label-efficiency study: pre-training, then scratch against MAE at 1, 10, 50 and 100 % of the labels.

mae-jax run --config=configs/study.py[:data=SOURCE][,protocol=controlled|paper|author]
  [,seeds=5][,scale=paper|laptop][,exp=2][,recipe=study|mae][,fractions=few|many][,pretrain_seeds=true]

protocol=controlled shows how certain the result is. Each of five seeds has its own labels and initial weights. The
epoch with the best validation score is tested. Each fraction is also trained for as many updates as 100 %. A linear
probe and nearest neighbors show what the frozen encoders have learned (config.evaluations; you can add
linear_probe). seeds=3 takes three fifths of the time; with fewer, you cannot tell how much seeds differ.
protocol=paper is the study as described: one seed, 20 epochs, the last one tested. protocol=author is the study with
the settings that its author published, see author() below. All protocols add a linear probe of random weights, the
baseline that every encoder must beat (config.random_probe).
fractions=few is 1, 10, 50 and 100 %; fractions=many is 1, 2, 5, 10, 25, 50 and 100 %. pretrain_seeds=true pre-trains
once for each seed, so that intervals cover that, too; mae-jax plan says how long it takes.
scale=paper is ViT-B/16 at 224. scale=laptop is a small ViT at 64 px. recipe is that of configs/finetune.py.

With data=folder, --config.finetune.data.dir=DIR names the labeled images and --config.pretrain.data.dir=DIR[,DIR...]
the unlabeled ones. You can compare more initial weights:
--config.inits="('scratch','mae','mae:mask_ratio=0.5','mae:exp=3','deep=mae:model.decoder_depth=4','NAME=RUN_DIR')".
"""

from pathlib import Path

from ml_collections import ConfigDict

from mae_jax.config.fields import study_defaults
from mae_jax.config.loading import flatten, load, one_of, parse_arg
from mae_jax.runtime.errors import UserError

EXPERIMENTS = (1, 2, 3)
FRACTIONS = {"few": (0.01, 0.1, 0.5, 1.0), "many": (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)}


def get_config(arg=None):
    known = {"data": "raabin_wbc", "protocol": "controlled", "seeds": 0, "scale": "paper", "exp": 2, "recipe": "study"}
    arg = parse_arg(arg, **known, fractions="few", pretrain_seeds=False)
    one_of("protocol", arg.protocol, ("controlled", "paper", "author"))
    one_of("scale", arg.scale, ("paper", "laptop"))
    pretrain = pretraining(arg, arg.exp)
    finetune = load(Path(__file__).with_name("finetune.py"), f"data={arg.data},recipe={arg.recipe}")
    # Pre-training and all classifiers use the same normalization.
    finetune.data.mean, finetune.data.std = pretrain.data.mean, pretrain.data.std
    if arg.scale == "laptop":
        laptop(finetune)
        # Smaller than the study's 64, so that few labels get more updates in 20 epochs.
        finetune.train.batch_size = 32
        finetune.optim.base_lr = 4e-3
    config = study_defaults(pretrain, finetune)
    config.name = f"study_{arg.protocol}_exp{arg.exp}" + ("_laptop" if arg.scale == "laptop" else "")
    config.name += "_recipe_mae" if arg.recipe == "mae" else ""
    for exp in EXPERIMENTS:
        config.experiments[f"exp{exp}"] = changes(pretrain, pretraining(arg, exp))
    config.random_probe = True
    if arg.seeds < 0:
        raise UserError(
            f"config argument seeds={arg.seeds} is negative; give the number of seeds, or 0 for the default"
        )
    seeds = arg.seeds or (5 if arg.protocol == "controlled" else 1)
    if seeds > 1:
        config.seeds, config.subset_seeds = tuple(range(seeds)), tuple(range(10, 10 + seeds))
    config.fractions = FRACTIONS[one_of("fractions", arg.fractions, tuple(FRACTIONS))]
    if arg.pretrain_seeds:
        config.pretrain_seeds = tuple(range(seeds))
    if arg.protocol == "author":
        author(finetune)
        config.inits = ("scratch=scratch:model.dropout=0.1", "mae")
    if arg.protocol == "controlled":
        config.step_matched = 1.0
        config.evaluations = ("finetune", "lbfgs", "knn")
        finetune.train.select = "macro_f1"
    return config


def author(config):
    """Fine-tuning with the author's published settings, as far as there are fields for them.

    Inputs have mean and std 0.5, also in pre-training. Only training from scratch has dropout, so that the two arms
    differ in more than their initial weights.
    """
    config.train.update(batch_size=63, epochs=20.0, select="loss")
    config.optim.update(base_lr=2e-4 * 256 / 63, schedule="linear", warmup_epochs=0.0, min_lr=0.0, weight_decay=0.0)
    config.data.update(crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0), flips=True)  # no crops, only flips


def pretraining(arg, exp):
    """The pre-training config of experiment `exp`."""
    unlabeled = "cam16+prcc" if arg.data == "raabin_wbc" else arg.data
    config = load(Path(__file__).with_name("pretrain.py"), f"exp={exp},data={unlabeled}")
    if arg.protocol == "author":
        config.data.mean = config.data.std = (0.5, 0.5, 0.5)
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
    """The fields that `other` sets differently from `config`, except name and seed."""
    ours, theirs = flatten(config), flatten(other)
    differing = {}
    for key, value in theirs.items():
        if value != ours[key] and key not in ("name", "seed"):
            section, _, field = key.partition(".")
            differing.setdefault(section, {})[field] = value
    return ConfigDict(differing)
