"""The table of tested versions agrees with setup.cfg, the pinned requirements and the docs."""

import configparser
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mae_jax.runtime import tested

ROOT = Path(__file__).parents[2]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
REQUIRED = [line for line in SETUP["options"]["install_requires"].splitlines() if line and not line.startswith("#")]
REQUIREMENTS = {r.name: r for r in map(Requirement, (line.partition("  #")[0] for line in REQUIRED))}
LOCKS = sorted((ROOT / "requirements").glob("py*.txt"))


def pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.M))


@pytest.mark.parametrize(
    ("version", "newest", "expected"),
    [
        ("0.12.0.1", "0.12", False), ("0.12", "0.12", False), ("0.7.2", "0.12", False), ("0.13.0", "0.12", True),
        ("1.0", "0.12", True), ("0.13.0rc1", "0.12", True), ("2.5.5+cpu", "2.5", False), ("3.14.0a1", "3.13", True),
    ],
)  # fmt: skip
def test_only_a_later_minor_release_is_newer(version, newest, expected):
    assert tested.newer(version, newest) is expected


def test_each_tested_package_is_required_and_not_older_than_its_lower_bound():
    for name, newest in tested.PACKAGES.items():
        if name == "jaxlib":  # required by jax
            continue
        assert REQUIREMENTS[name].specifier.contains(newest + ".999"), name


def test_the_pinned_versions_are_those_that_count_as_tested():
    pinned = [pins(path) for path in LOCKS]
    assert [path.stem for path in LOCKS] == ["py311", "py312", "py313"]
    for name, newest in tested.PACKAGES.items():
        versions = [lock[name] for lock in pinned if name in lock]
        assert versions, f"{name} is pinned nowhere"
        assert not [v for v in versions if tested.newer(v, newest)], f"{name}: the pins are newer than tested.PACKAGES"
        assert [v for v in versions if v.startswith(f"{newest}.")], f"{name}: no pin is of {newest}"
    for lock in pinned:
        for name, requirement in REQUIREMENTS.items():
            if name in lock:
                assert requirement.specifier.contains(lock[name]), name


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_everything_that_the_package_and_its_tests_require_is_pinned(path):
    """Run requirements/make.sh after a change of setup.cfg."""
    lines = REQUIRED + SETUP["options.extras_require"]["test"].splitlines()
    python = f"{path.stem[2]}.{path.stem[3:]}"
    here = {"python_version": python, "sys_platform": "linux", "platform_machine": "x86_64"}
    needed = [Requirement(line.partition("  #")[0]) for line in lines if line and not line.startswith("#")]
    pinned = {canonicalize_name(name) for name in pins(path)}
    assert not [r.name for r in needed if not (r.marker and not r.marker.evaluate(here)) and r.name not in pinned]


def test_the_docs_and_the_pins_name_the_newest_python():
    assert f"py{tested.PYTHON.replace('.', '')}" in [path.stem for path in LOCKS]
    for page in ("README.md", "docs/reference/installation.md"):
        assert re.search(rf"Python 3\.11, 3\.12 or {re.escape(tested.PYTHON)}\b", (ROOT / page).read_text()), page
