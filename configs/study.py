"""The label-efficiency study: pre-training, then scratch against MAE at 1, 10, 50 and 100 % of the labels.

python -m mae_jax.main --config=configs/study.py[:data=SOURCE][,protocol=controlled|paper][,scale=paper|laptop][,exp=2]

protocol=paper is the study as published: one seed, 20 epochs, the last one tested. protocol=controlled says how
sure the result is: three seeds, each with labels and first weights of its own, and the epoch that is best on
validation images tested. scale=paper is ViT-B/16 at 224. scale=laptop is a small ViT at 64 px; one seed of it
ends in about an hour on two CPU cores. With data=folder name the images: --config.finetune.data.dir=DIR for
those with labels, and --config.pretrain.data.dir=DIR[,DIR...] for those without.
"""

from pathlib import Path

from mae_jax.config import load, one_of, parse_arg, study_defaults


def get_config(arg=None):
    arg = parse_arg(arg, data="raabin_wbc", protocol="controlled", scale="paper", exp=2)
    one_of("protocol", arg.protocol, ("controlled", "paper"))
    one_of("scale", arg.scale, ("paper", "laptop"))
    here = Path(__file__)
    unlabelled = "cam16+prcc" if arg.data == "raabin_wbc" else arg.data
    pretrain = load(here.with_name("pretrain.py"), f"exp={arg.exp},data={unlabelled}")
    finetune = load(here.with_name("finetune.py"), f"data={arg.data}")
    # Both arms and the pre-training see images on the same scale.
    finetune.data.mean, finetune.data.std = pretrain.data.mean, pretrain.data.std
    config = study_defaults(pretrain, finetune)
    config.name = f"study_{arg.protocol}_exp{arg.exp}" + ("_laptop" if arg.scale == "laptop" else "")
    if arg.protocol == "controlled":
        config.seeds, config.subset_seeds = (0, 1, 2), (10, 11, 12)
        finetune.train.select = "best"
    if arg.scale == "laptop":
        for part in (pretrain, finetune):
            part.model.update(size="custom", image_size=64, patch_size=8, width=192, depth=6, heads=3)
            part.train.update(batch_per_device=0, accumulation=1)
        pretrain.model.update(decoder_width=128, decoder_depth=2, decoder_heads=4)
        pretrain.train.update(epochs=150.0, batch_size=64)
        pretrain.optim.update(base_lr=4e-3, warmup_epochs=10.0, weight_decay=0.05)
        pretrain.eval.every_epochs = pretrain.checkpoint.every_epochs = 5.0
        # A smaller batch than the study's 64: with few labels it makes more of the 20 epochs.
        finetune.train.batch_size = 32
        finetune.optim.base_lr = 4e-3
    return config
