r"""The study's open questions: for each, arms that differ in one thing, compared on the same images with intervals.

mae-jax run --config=configs/open_questions.py:question=stain|ratio|select|cellmix|domains
  [,data=SOURCE][,scale=paper|laptop][,seeds=5][,stain=randstainna|hed|jitter]
  [,cells=DIR][,tissue=DIR][,other=DIR][,smoke=true]

All arms train on 1 and 10 % of the labels. 1 % is also trained for as many updates as 10 %. config.contrasts names the
pairs that the page compares, on the main test set and on each of data.external: for raabin_wbc and generated cells
TestB; otherwise name yours with --config.finetune.data.external=NAME=DIR. docs/open_questions.md explains each
question. smoke=true needs data=synthetic; it only shows that all parts run.
"""

from pathlib import Path

from mae_jax.config.fields import STAINS
from mae_jax.config.loading import load, one_of, parse_arg
from mae_jax.runtime.errors import UserError


def get_config(arg=None):
    places = {"cells": "", "tissue": "", "other": ""}
    known = {"question": "stain", "data": "raabin_wbc", "scale": "paper", "seeds": 5, "stain": "randstainna"}
    arg = parse_arg(arg, **known, **places, smoke=False)
    ask = QUESTIONS[one_of("question", arg.question, tuple(QUESTIONS))]
    one_of("stain", arg.stain, STAINS[1:])
    scale = "laptop" if arg.smoke else arg.scale
    seeds = 1 if arg.smoke else arg.seeds
    config = load(Path(__file__).with_name("study.py"), f"data={arg.data},scale={scale},seeds={seeds}")
    config.name = f"open_{arg.question}" + ("_smoke" if arg.smoke else "_laptop" if scale == "laptop" else "")
    config.fractions, config.evaluations, config.random_probe = (0.01, 0.1), ("finetune",), False
    if arg.data in ("raabin_wbc", "synthetic"):
        config.finetune.data.external = "TestB"
    ask(config, arg)
    if arg.smoke:
        smoke(config, arg)
    return config


def stain(config, arg):
    """Random changes of stain and color: in fine-tuning, in pre-training too, and with the original as the target."""
    change = f"data.stain={arg.stain}"
    arms(
        config,
        {
            "scratch": "scratch",
            "mae": "mae",
            "scratch-stain": f"scratch:{change}",
            "mae-stain-tuning": f"mae:finetune.{change}",
            "mae-stain-both": f"mae:{change},finetune.{change}",
            "mae-destain": f"mae:{change},target=original,finetune.{change}",
        },
        {"scratch-stain": "scratch", "mae-stain-tuning": "mae", "mae-stain-both": "mae", "mae-destain": "mae"},
    )
    config.title = f"Does augmentation of stain and color ({arg.stain}) help?"


def ratio(config, arg):
    """The mask ratios of configs/mask_sweep.py, against the one of the study."""
    sweep = load(Path(__file__).with_name("mask_sweep.py"), f"data={arg.data}")
    usual = config.pretrain.mae.mask_ratio
    others = {f"mask{100 * r:g}": f"mae:mask_ratio={r:g}" for r in sweep.mask_ratios if r != usual}
    arms(config, {"scratch": "scratch", "mae": "mae", **others}, dict.fromkeys(others, "mae"))
    config.evaluations = ("finetune", "lbfgs")
    config.pretrain.eval.mask_ratios = sweep.pretrain.eval.mask_ratios
    config.title = f"Which mask ratio? Each against {usual:g}"


def select(config, arg):
    """Which images to label first: typical ones or a core-set by the features of the pre-training, or random ones."""
    methods = {name: f"mae:finetune.data.subset={name}" for name in ("typical", "coreset")}
    random = {"scratch": "scratch:data.subset=random", "random": "mae:finetune.data.subset=random"}
    arms(config, {**random, **methods, "stratified": "mae:finetune.data.subset=stratified"}, {
        **dict.fromkeys((*methods, "stratified"), "random")
    })  # fmt: skip
    config.evaluations = ("finetune", "lbfgs")
    config.title = "Which cells to label first? Each choice against a random one"


def cellmix(config, arg):
    """CellMix in fine-tuning, and CutMix, which takes one box from another image."""
    changes = {"cellmix": "train.cellmix=batch", "cellmix-pairs": "train.cellmix=pairs", "cutmix": "train.cutmix=1.0"}
    mixing = {name: f"mae:finetune.{change}" for name, change in changes.items()}
    scratch = {"scratch": "scratch", "scratch-cellmix": "scratch:train.cellmix=batch"}
    arms(
        config,
        {**scratch, "mae": "mae", **mixing},
        {"scratch-cellmix": "scratch", **dict.fromkeys(mixing, "mae")},
    )
    config.title = "Does CellMix help?"


def domains(config, arg):
    """Pre-training on cells, on tissue, on both, and with another domain added, such as X-rays; equal images seen."""
    places = {"cells": arg.cells, "tissue": arg.tissue, "other": arg.other}
    if arg.data == "synthetic":
        fields = {"cells": "cells", "tissue": "tissue", "both": "tissue+cells", "other": "tissue+cells+xray"}
        changes = {name: f"data.synthetic_domains={kinds}" for name, kinds in fields.items()}
        config.pretrain.train.epoch_images = config.pretrain.data.synthetic_unlabelled
    else:
        changes = images_of(arg, places)
        config.pretrain.data.update(source="folder" if arg.cells else "raabin_wbc", dir=arg.cells)
        config.pretrain.train.epoch_images = 10_000
    arms(config, {"scratch": "scratch"} | {name: f"mae:{change}" for name, change in changes.items()}, {})
    config.contrasts = ("both:cells", "both:tissue", "cells:tissue") + (("other:both",) if "other" in changes else ())
    config.evaluations = ("finetune", "lbfgs")
    config.title = "Which images to pre-train on? Cells, tissue, both, and another domain"


def images_of(arg, places):
    """{arm: the fields that name its images}, from folders or prepared data sets."""
    if arg.data != "raabin_wbc" and not (arg.cells and arg.tissue):
        raise UserError(f"config arguments cells=DIR and tissue=DIR are needed with data={arg.data}; name both folders")
    sources = {"cells": ["raabin_wbc"], "tissue": ["cam16", "prcc"], "other": []}
    parts = {"cells": ["cells"], "tissue": ["tissue"], "both": ["cells", "tissue"]}
    parts |= {"other": ["cells", "tissue", "other"]} if arg.other else {}
    changes = {}
    for arm, kinds in parts.items():
        directories = [places[kind] for kind in kinds if places[kind]]
        names = [name for kind in kinds if not places[kind] for name in sources[kind]]
        names += ["folder"] if directories else []
        changes[arm] = f"data.source={'+'.join(names)},data.dir={';'.join(directories)}"
    return changes


QUESTIONS = {"stain": stain, "ratio": ratio, "select": select, "cellmix": cellmix, "domains": domains}


def arms(config, inits, contrasts):
    """Sets the arms, {name: how it starts and what it changes}, and the pairs to compare, {arm: other arm}."""
    config.inits = tuple(text if name == text else f"{name}={text}" for name, text in inits.items())
    config.contrasts = tuple(f"{arm}:{other}" for arm, other in contrasts.items())


def smoke(config, arg):
    """A network and images so small that everything runs within a minute or two, and learns nothing."""
    if arg.data != "synthetic":
        raise UserError(f"config argument smoke=true needs data=synthetic, not data={arg.data}")
    config.step_matched = 0.0
    if config.pretrain.train.epoch_images:
        config.pretrain.train.epoch_images = 100
    for part in (config.pretrain, config.finetune):
        part.data.update(synthetic_train=100, synthetic_test=50, synthetic_unlabelled=100)
        part.model.update(image_size=32, width=32, depth=2, heads=2)
        part.train.epochs = 1.0
        part.optim.warmup_epochs = 0.0
    config.pretrain.model.update(decoder_width=32, decoder_depth=1, decoder_heads=2)
    config.pretrain.eval.images = 3
