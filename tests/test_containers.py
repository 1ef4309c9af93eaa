"""The recipes of containers are not built here, but what they copy and install exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECIPES = [ROOT / "containers" / "Dockerfile", ROOT / "containers" / "mae_jax.def"]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.name)
def test_a_recipe_installs_the_pins_of_its_python_and_the_package(recipe):
    text = recipe.read_text()
    python = re.search(r"^(?:FROM|From:) python:(\d+)\.(\d+)-slim$", text, re.M)
    pins = re.findall(r"requirements/py\d+\.txt", text)
    assert python and pins == [f"requirements/py{python[1]}{python[2]}.txt"] and (ROOT / pins[0]).is_file()
    assert re.search(r"pip install .*--no-deps (/opt/mae_jax|\.)$", text, re.M)
    assert 'exec mae-jax "$@"' in text or 'ENTRYPOINT ["mae-jax"]' in text


def test_what_the_docker_image_copies_is_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", "runs"} <= set(ignored) and "requirements" not in ignored and "configs" not in ignored
    for copied in re.findall(r"^COPY (\S+) ", (ROOT / "containers" / "Dockerfile").read_text(), re.M):
        assert (ROOT / copied).exists(), copied
