"""The open questions: what the arms of each differ in, and a small complete run of each."""

from pathlib import Path

import pytest

from mae_jax import main
from mae_jax.config.loading import flatten, load
from mae_jax.data import splits
from mae_jax.runtime.errors import UserError
from mae_jax.study import cells, plan
from mae_jax.study.validation import validate_study

FILE = Path(__file__).parents[2] / "configs" / "open_questions.py"
QUESTIONS = ("stain", "ratio", "select", "cellmix", "domains")


def study(text, **fields):
    config = load(FILE, text)
    for name, value in fields.items():
        config[name] = value
    return validate_study(config)


def differing(one, two):
    one, two = flatten(one), flatten(two)
    return {key for key in one if one[key] != two[key]} - {"name", "init_name", "init_from"}


def test_arms_of_stain_differ_in_stain_alone(tmp_path):
    asked = study("question=stain,data=synthetic,scale=laptop")
    networks = {place.name: run for place, run in cells.pretrainings(asked, tmp_path)}
    assert set(networks) == {"pretrain", "pretrain-mae-stain-both", "pretrain-mae-destain"}
    assert differing(networks["pretrain"], networks["pretrain-mae-stain-both"]) == {"data.stain"}
    assert differing(networks["pretrain"], networks["pretrain-mae-destain"]) == {"data.stain", "mae.target"}
    runs = {place.name: run for place, run in cells.cells(asked, tmp_path)}
    plain, tuned, both = (runs[f"1pct-{arm}-seed0"] for arm in ("mae", "mae-stain-tuning", "mae-stain-both"))
    assert differing(plain, tuned) == {"data.stain"} and tuned.data.stain == "randstainna"
    assert plain.init_from == tuned.init_from != both.init_from
    assert differing(runs["1pct-scratch-seed0"], runs["1pct-scratch-stain-seed0"]) == {"data.stain"}
    assert tuned.data.external == "TestB" and "1pct-as10pct-mae-seed0" in runs
    assert study("question=stain,stain=hed").inits[2] == "scratch-stain=scratch:data.stain=hed"


def test_mask_ratios_are_those_of_the_sweep(tmp_path):
    asked = study("question=ratio,data=synthetic,scale=laptop")
    ratios = {place.name: run.mae.mask_ratio for place, run in cells.pretrainings(asked, tmp_path)}
    assert ratios == {"pretrain": 0.75, "pretrain-mask25": 0.25, "pretrain-mask50": 0.5, "pretrain-mask90": 0.9}
    assert asked.contrasts == ("mask25:mae", "mask50:mae", "mask90:mae")


def test_arms_of_select_differ_in_the_labeled_images_alone_and_share_the_encoder(tmp_path):
    asked = study("question=select,data=synthetic,scale=laptop")
    assert len(list(cells.pretrainings(asked, tmp_path))) == 1
    runs = {place.name: run for place, run in cells.cells(asked, tmp_path)}
    for before in ("", "lbfgs-"):
        random, typical, scratch = (runs[f"{before}1pct-{arm}-seed0"] for arm in ("random", "typical", "scratch"))
        assert differing(random, typical) == {"data.subset"} and typical.data.subset == "typical"
        assert scratch.data.subset == "random" and random.init_from == typical.init_from
    assert runs["10pct-stratified-seed0"].data.subset == "stratified"


def test_arms_of_cellmix_differ_in_how_images_are_mixed(tmp_path):
    asked = study("question=cellmix,data=synthetic,scale=laptop")
    assert len(list(cells.pretrainings(asked, tmp_path))) == 1
    runs = {place.name: run for place, run in cells.cells(asked, tmp_path)}
    for one, two, field in (
        ("mae", "cellmix", "cellmix"),
        ("scratch", "scratch-cellmix", "cellmix"),
        ("mae", "cutmix", "cutmix"),
    ):
        assert differing(runs[f"10pct-{one}-seed2"], runs[f"10pct-{two}-seed2"]) == {f"train.{field}"}


def test_domains_see_equally_many_images(tmp_path):
    asked = study("question=domains,data=synthetic,smoke=true")
    networks = dict(cells.pretrainings(asked, tmp_path))
    kinds = {place.name.removeprefix("pretrain-"): run.data.synthetic_domains for place, run in networks.items()}
    assert kinds == {"cells": "cells", "tissue": "tissue", "both": "tissue+cells", "other": "tissue+cells+xray"}
    assert asked.contrasts == ("both:cells", "both:tissue", "cells:tissue", "other:both")
    planned = plan.make(list(networks.items()), splits.DataCache(), timed=False)
    assert len({(each.resolved.steps, each.resolved.warmup_steps, each.resolved.batch_size) for each in planned}) == 1


def test_domains_of_folders_and_of_prepared_data(tmp_path):
    asked = study("question=domains,data=folder,cells=/a,tissue=/b,other=/c")
    places = {place.name: run.data.dir for place, run in cells.pretrainings(asked, tmp_path)}
    assert places == {
        "pretrain-cells": "/a", "pretrain-tissue": "/b", "pretrain-both": "/a,/b", "pretrain-other": "/a,/b,/c"
    }  # fmt: skip
    sources = {place.name: run.data.source for place, run in cells.pretrainings(study("question=domains"), tmp_path)}
    assert sources["pretrain-both"] == "raabin_wbc+cam16+prcc" and "pretrain-other" not in sources


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("question=domains,data=folder,cells=/a", "cells=DIR and tissue=DIR are needed with data=folder; name both"),
        ("question=color", "question=color is not allowed; use one of stain, "),
        ("question=stain,stain=none", "stain=none is not allowed; use one of hed, randstainna, jitter"),
        ("question=stain,smoke=true", "smoke=true needs data=synthetic, not data=raabin_wbc"),
    ],
)
def test_wrong_arguments_are_refused(text, message):
    with pytest.raises(UserError) as error:
        load(FILE, text)
    assert message in str(error.value)


@pytest.mark.parametrize("pair", ["mae:gone", "mae:mae", "mae"])
def test_a_contrast_names_two_arms(pair):
    with pytest.raises(UserError, match=r"contrasts: '.*' is not allowed; use A:B with two different names of inits: "):
        study("question=stain,data=synthetic,smoke=true", contrasts=(pair,))


@pytest.mark.slow
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_ends_in_a_page_with_its_contrasts(question, tmp_path):
    config = load(FILE, f"question={question},data=synthetic,smoke=true")
    config.parallel = "1"
    pair = config.contrasts = config.contrasts[-1:]  # one pair, to save time
    first, second = pair[0].split(":")
    config.inits = tuple(text for text in config.inits if text.split("=")[0] in (first, second))
    results = main.run(config, tmp_path)
    page = (Path(results["report"]) / "index.html").read_text()
    assert f"{first} against {second}, macro F1: at 1 %" in page
    assert "on TestB at 10 %" in page and "Arm against arm" in page
    assert (Path(results["report"]) / "contrasts.csv").is_file()
