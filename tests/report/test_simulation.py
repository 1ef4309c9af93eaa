"""The intervals of the report on simulated studies: a short form of tools/simulate_studies.py."""

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "simulate_studies.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("simulate_studies", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("groups", [0, 10], ids=["images", "groups"])
@pytest.mark.parametrize("deviation", [0.0, 1.3, 5.0])
def test_three_seeds_cover_images_and_seeds(tool, deviation, groups):
    simulated = tool.study(
        tool.Setting(seeds=3, deviation=deviation, groups=groups), studies=400, draws=1000, oracle=4000
    )
    # 400 studies measure a coverage of 0.95 to within about 0.02 (two standard errors)
    assert simulated["difference"].coverage >= 0.94 and simulated["accuracy"].coverage >= 0.91
    assert simulated["difference"].width <= 2.0  # of an oracle's; 1.9 with 1,000 studies, of which 400 are off by 0.1
    assert simulated["difference"].claims <= 0.08
    assert tool.any_claim(simulated["difference"].p) <= 0.1  # of 100 families of four fractions


def test_one_seed_covers_its_own_models_but_not_others(tool):
    simulated = tool.study(tool.Setting(seeds=1, deviation=5.0), studies=200, draws=1000, oracle=1000)
    assert simulated["these models"].coverage >= 0.92
    assert simulated["difference"].coverage < 0.5  # why one seed makes no claim about pre-training


def test_a_gain_is_found(tool):
    simulated = tool.study(tool.Setting(seeds=5, deviation=0.0, gain=3.0), studies=100, draws=1000, oracle=1000)
    assert simulated["difference"].claims > 0.6 and simulated["difference"].coverage >= 0.92


@pytest.mark.slow
def test_headlines_seldom_claim_what_is_not_so(tool):
    result = tool.false_sentences(seeds=3, deviation=1.3, updates=False, studies=60, draws=400)
    assert max(result.values()) <= 0.1  # 60 studies measure 0.05 to within 0.06
