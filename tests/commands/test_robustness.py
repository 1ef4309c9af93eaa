"""Arguments of `mae-jax robustness`."""

import argparse
from pathlib import Path

import pytest

from mae_jax.commands import robustness
from mae_jax.evaluation import perturbations
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.parser import Parser


def options(places: list[str], *arguments: str) -> argparse.Namespace:
    parser = Parser(prog="mae-jax robustness")
    robustness.add_arguments(parser)
    return parser.parse_args([*places, *arguments])


def test_the_names_of_the_changes_are_stated_as_they_are():
    assert tuple(each.name for each in perturbations.ALL) == robustness.CHANGES


def test_an_unknown_change_is_refused_with_those_that_exist():
    with pytest.raises(UserError, match="'contrast' is not known; use some of hematoxylin, eosin, hue"):
        robustness.main(options(["runs/cells"], "--changes", "hue,contrast"))


def test_several_directories_need_a_place_for_the_tables():
    with pytest.raises(UserError, match="--out is missing: with several directories"):
        robustness.main(options(["one", "two"]))


def test_a_study_without_fine_tuned_classifiers_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"is not the directory of a run or study"):
        robustness.main(options([str(tmp_path)]))
