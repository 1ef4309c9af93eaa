"""A first answer in minutes: a small masked autoencoder, then linear probes of the frozen encoder. See `mae-jax quick`.

Linear probes of color histograms and of measurements of the nucleus are the references.

mae-jax run --config=configs/quick.py[:data=folder][,seeds=3][,steps=400] --config.finetune.data.dir=DIR
  --config.pretrain.data.dir=DIR

`mae-jax quick DIR` also checks for leaks, chooses the numbers of labels, and prints what the full study would add.
Without unlabeled images it pre-trains on the labeled training images (pretrain.data.part=train).
"""

from pathlib import Path

from mae_jax.config.fields import COMPUTED, RunConfig
from mae_jax.config.loading import load, parse_arg


def get_config(arg=None):
    arg = parse_arg(arg, data="folder", seeds=3, steps=400)
    study = f"data={arg.data},protocol=controlled,seeds={arg.seeds},scale=laptop"
    config = load(Path(__file__).with_name("study.py"), study)
    config.name = "quick"
    config.title = "A quick look at label efficiency, with frozen encoders"
    config.evaluations = ("lbfgs",)
    config.inits = (*config.inits, *COMPUTED)  # what needs no network is there for comparison
    config.fractions = (0.02, 0.05, 0.1, 0.25, 1.0)
    config.step_matched = 0.0
    for part in (config.pretrain, config.finetune):
        part.model.update(width=96, depth=3, heads=3)
        part.data.update(train_split="auto", test_split="auto")
    config.pretrain.model.update(decoder_width=64, decoder_depth=2, decoder_heads=4)
    # Not epochs, so that the time does not depend on the number of images.
    config.pretrain.train.update(steps=arg.steps, epochs=RunConfig().train.epochs)
    config.pretrain.eval.every_epochs = config.pretrain.checkpoint.every_epochs = 10.0
    config.pretrain.optim.update(base_lr=6e-3, warmup_epochs=2.0)
    return config
