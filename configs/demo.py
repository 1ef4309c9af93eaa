"""Demo: the whole study on generated cells, in a few minutes on two CPU cores.

mae-jax run --config=configs/demo.py[:smoke=true]

smoke=true takes about a minute. It shows that all parts run, but is too short to learn anything.
"""

from pathlib import Path

from mae_jax.config.loading import load, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, smoke=False)
    config = load(Path(__file__).with_name("study.py"), "data=synthetic,protocol=paper,scale=laptop")
    config.evaluations = ("finetune", "lbfgs", "knn")
    config.name = "demo_smoke" if arg.smoke else "demo"
    config.title = "Label efficiency of a masked autoencoder, on generated cells"
    for part in (config.pretrain, config.finetune):
        part.data.update(synthetic_train=800, synthetic_test=500, synthetic_unlabelled=2500)
        part.model.update(width=96, depth=3, heads=3)
    config.pretrain.model.update(decoder_width=64, decoder_depth=2, decoder_heads=4)
    config.pretrain.train.epochs = 20.0
    config.pretrain.optim.update(base_lr=6e-3, warmup_epochs=2.0)
    config.finetune.train.batch_size = 16
    config.finetune.checkpoint.every_epochs = 5.0  # a run takes only seconds
    config.finetune.optim.base_lr = 8e-3
    if arg.smoke:
        for part in (config.pretrain, config.finetune):
            part.data.update(synthetic_train=100, synthetic_test=50, synthetic_unlabelled=100)
            part.model.update(width=32, depth=2, heads=2)
            part.train.epochs = 1.0
            part.optim.warmup_epochs = 0.0
    return config
