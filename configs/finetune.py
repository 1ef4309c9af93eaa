"""Fine-tuning of the whole encoder on labelled cells, from scratch or from a masked autoencoder.

python -m mae_jax.main --config=configs/finetune.py:frac=0.1[,init=scratch|mae|PATH][,seed=0][,data=SOURCE]

SOURCE: raabin_wbc (as in the study), synthetic, or folder with --config.data.dir=DIR. init=mae starts from
the default directory of configs/pretrain.py:exp=2; a PATH names the run directory of any pre-training, or a
file or folder of weights from Hugging Face, timm or facebookresearch/mae, which then says what the network is.
"""

from pathlib import Path

from mae_jax.config import default_workdir, defaults, init_of, load, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, frac=1.0, init="scratch", seed=0, data="raabin_wbc")
    config = defaults("finetune")
    config.seed = arg.seed
    config.data.source = arg.data
    config.data.fraction = arg.frac
    if arg.init != "scratch":
        config.init = "mae" if arg.init == "mae" else init_of(arg.init)
        # The study's autoencoder saw CAM16 and pRCC; on generated data it saw generated tiles.
        pretrain = load(
            Path(__file__).with_name("pretrain.py"),
            "exp=2,data=synthetic" if arg.data == "synthetic" else "exp=2",
        )
        config.init_from = default_workdir(pretrain) if arg.init == "mae" else arg.init

    # ViT-B/16 at 224, AdamW, batch 64, 20 epochs: the study's values, the same for both arms.
    config.train.epochs = 20.0
    config.train.batch_size = 64
    config.optim.base_lr = 5e-4
    config.optim.schedule = "cosine"
    config.optim.warmup_epochs = 2.0
    config.optim.weight_decay = 0.05
    config.data.crop_scale = (0.5, 1.0)  # a cell cut to a fifth is often no longer one
    config.data.mean, config.data.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # as in the pre-training
    if config.init == "weights":
        from mae_jax import interop

        interop.read(config.init_from, "init").configure(config)
    return config
