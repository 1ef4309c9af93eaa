"""Tests lie in folders named as the code's, and each module has its test file."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PACKAGE = TESTS.parent / "mae_jax"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")


def uses(tree: ast.AST, module: str) -> bool:
    """Whether a test file imports `module`, names it as a string, or, for a command, calls it by its name."""
    command = module.removeprefix("mae_jax.commands.")
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and any(alias.name == module for alias in node.names):
            return True
        if isinstance(node, ast.ImportFrom) and (
            node.module == module or any(f"{node.module}.{alias.name}" == module for alias in node.names)
        ):
            return True
        if isinstance(node, ast.Constant) and node.value == module:
            return True
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("dispatch", "main"):
            words = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
            if command != module and command in words[:1]:
                return True
    return False


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import mae_jax.data.looks", True),
        ("from mae_jax.data.looks import look", True),
        ("from mae_jax.data import looks", True),
        ("importlib.import_module('mae_jax.data.looks')", True),
        ("from mae_jax.data import look", False),
        ("from mae_jax.data.looks2 import look", False),
    ],
)
def test_a_file_that_uses_a_module_is_told_from_one_that_does_not(code, expected):
    assert uses(ast.parse(code), "mae_jax.data.looks") == expected


def test_a_command_is_used_where_it_is_called():
    assert uses(ast.parse("dispatch(['check', 'x'])"), "mae_jax.commands.check")
    assert not uses(ast.parse("dispatch(['run', 'check'])"), "mae_jax.commands.check")


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_each_module_has_its_test_file(path):
    file = TESTS / path.parent / f"test_{path.name}"
    assert file.is_file(), f"mae_jax/{path} has no test file tests/{file.relative_to(TESTS)}"
    tree = ast.parse(file.read_text())
    assert any(isinstance(node, ast.FunctionDef) and node.name.startswith("test_") for node in tree.body)
    module = ".".join(("mae_jax", *path.with_suffix("").parts))
    assert uses(tree, module), f"{file.name} neither imports nor runs {module}"


def test_folders_of_tests_are_those_of_the_code():
    others = {"docs", "golden", "samples", "tools"}
    folders = {path.parent.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    assert {str(f) for f in folders if f.parts and f.parts[0] not in others and not (PACKAGE / f).is_dir()} == set()


def test_tests_that_the_list_of_wrong_changes_names_exist():
    named = re.findall(r"`([\w/]+\.py)::(test_\w+)`", (TESTS / "README.md").read_text())
    assert len(named) > 100
    missing = [f"{file}::{name}" for file, name in named if f"def {name}(" not in _text(TESTS / file)]
    assert not missing, missing
    modules = re.findall(r"^\| `([\w/]+\.py)` \|[^|]+\| `", (TESTS / "README.md").read_text(), re.M)
    assert not [module for module in modules if not (PACKAGE / module).is_file()]


def test_test_files_that_the_docs_name_exist():
    root = TESTS.parent
    pages = [*root.glob("*.md"), *(root / "docs").rglob("*.md")]
    named = [(page.name, *result) for page in pages for result in re.findall(
        r"`(tests/[\w/.]+\.py)(?:::(\w+))?`", page.read_text()
    ) if "NAME" not in result[0]]  # fmt: skip
    assert len(named) > 50
    missing = [
        each for each in named if not (root / each[1]).is_file() or f"def {each[2]}" not in _text(root / each[1])
    ]
    assert not missing, missing


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""
