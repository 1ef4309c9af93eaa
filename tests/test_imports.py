"""One direction: a package imports only from those before it (see docs/extending.md)."""

import ast
import importlib
from pathlib import Path

import pytest

from mae_jax.config import tasks
from mae_jax.config.tasks import TASKS

PACKAGE = Path(__file__).parents[1] / "mae_jax"
LAYERS = (
    "runtime",
    "config",
    "rundir",
    "models",
    "data",
    "step",
    "checkpoints",
    "report",
    "datasets",
    "weights",
    "evaluation",
    "train",
    "predict",
    "study",
    "main",
    "commands",
    "__main__",
)
RANK = {name: rank for rank, name in enumerate(LAYERS)}
FILES = sorted(PACKAGE.rglob("*.py"))


def top(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module(path) for path in FILES}


def imports(path: Path) -> set[str]:
    collected = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            collected |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            collected |= {f"{node.module}.{alias.name}" for alias in node.names}
    return collected


def test_every_package_has_a_layer():
    assert {top(path) for path in FILES} - {"__init__"} == set(LAYERS)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = top(path)
    for name in imports(path):
        parts = name.split(".")
        if room != "__init__" and parts[0] == "mae_jax" and parts[1:2] and parts[1] in RANK and parts[1] != room:
            assert RANK[parts[1]] < RANK[room], f"{path.name} imports {name}"
        assert parts[0] not in ("configs", "tools", "tests"), f"{path.name} imports {name}"


def test_no_module_imports_itself_through_others():
    def ours(path: Path) -> set[str]:
        names = {name if name in MODULES else name.rpartition(".")[0] for name in imports(path)}
        return (names & MODULES) - {module(path)}

    left = {module(path): ours(path) for path in FILES}
    while left:  # take away the modules that import none of the others
        done = {name for name, needed in left.items() if not needed & left.keys()}
        assert done, f"a circle of imports among {sorted(left)}"
        left = {name: needed for name, needed in left.items() if name not in done}


CONTAINERS = (tuple, list, set, frozenset, dict)
GROUPS = (
    tasks.TRAITS,
    TASKS,
    tasks.EVALUATIONS,
    tasks.UNLABELED,
    tasks.DECODING,
    tasks.TRAINED,
    tasks.QUICK,
    tasks.LINEAR,
)


def holds_task(value: object) -> bool:
    """Whether a constant is the name of a task or holds one, and is not a group that follows from the traits."""
    if any(value is group for group in GROUPS):
        return False
    return any(
        isinstance(each, str) and each in TASKS for each in (value if isinstance(value, CONTAINERS) else [value])
    )


def compared_tasks(tree: ast.AST) -> list[int]:
    """The lines of a module where something is compared with the name of a task, or with a constant that holds one.

    Constants of the module itself and those that it imports from mae_jax are followed.
    """
    sources = {
        alias.asname or alias.name: (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mae_jax")
        for alias in node.names
    }

    def imported(node: ast.AST) -> object:
        """The value of an imported constant, as NAME or as module.NAME; None for anything else."""
        if isinstance(node, ast.Name) and node.id.isupper() and node.id in sources:
            module, name = sources[node.id]
            return getattr(importlib.import_module(module), name)
        if isinstance(node, ast.Attribute) and node.attr.isupper() and isinstance(node.value, ast.Name):
            place = ".".join(sources.get(node.value.id, ()))
            return getattr(importlib.import_module(place), node.attr) if place in MODULES else None
        return None

    def named(node: ast.AST) -> bool:
        return any(
            (isinstance(each, ast.Constant) and each.value in TASKS) or holds_task(imported(each))
            for each in ast.walk(node)
        )

    constants = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and named(node.value)
        for target in node.targets
        if isinstance(target, ast.Name) and target.id.isupper()
    }
    collected = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [each for side in (node.left, *node.comparators) for each in ast.walk(side)]
            if any(named(each) or (isinstance(each, ast.Name) and each.id in constants) for each in sides):
                collected.append(node.lineno)
        elif isinstance(node, ast.match_case) and named(node.pattern):
            collected.append(node.pattern.lineno)
    return collected


@pytest.mark.parametrize(
    ("code", "lines"),
    [
        ("if task == 'pretrain': pass", [1]),
        ("a = 1\nb = config.task in ('lbfgs', 'other')", [2]),
        ("NAMES = ('knn',)\nx = [t for t in y if t not in NAMES]", [2]),
        ("match task:\n    case 'finetune': pass", [2]),
        ("from mae_jax.config.tasks import USUAL\nx = [e for e in y if e != USUAL]", [2]),
        ("from mae_jax.report.runs import USUAL as U\nx = e == U", [2]),
        ("from mae_jax.config import tasks\nx = t == tasks.RANDOM_PROBE", [2]),
        ("from mae_jax.rundir import contents\nFIRST = contents.USUAL\nx = t == FIRST", [3]),
        ("from mae_jax.report.frozen_encoders import NAMES\nx = t in NAMES", [2]),
        ("from mae_jax.config.tasks import QUICK, TRAITS\nx = t in QUICK or t in TRAITS", []),
        ("if task == 'study': pass\nfolder = {'pretrain': 1}[part]", []),
    ],
)
def test_a_comparison_with_a_task_is_found(code, lines):
    assert compared_tasks(ast.parse(code)) == lines


def test_a_task_alone_compares_its_name():
    """Other modules ask for its traits, so that a new task is one module and one row of `config.tasks`."""
    task_files = {PACKAGE / "train" / f"{name}.py" for name in ("pretrain", "finetune", "probe")}
    result = {str(path): compared_tasks(ast.parse(path.read_text())) for path in FILES if path not in task_files}
    assert not {path: lines for path, lines in result.items() if lines}, "ask for config.traits"


def test_flax_is_imported_in_models_alone():
    users = {top(p) for p in FILES if any(n.split(".")[0] == "flax" for n in imports(p))}
    assert users == {"models"}


def test_data_and_report_do_not_know_jax():
    rooms = ("config", "data", "datasets", "report")
    files = (
        "errors files hardware csv_cells disk signals command contents identity lock metrics_rows predictions".split()
    )
    for path in FILES:
        if top(path) in rooms or path.stem in files:
            assert not [n for n in imports(path) if n.split(".")[0] in ("jax", "flax", "optax", "orbax")], path


def test_report_reads_files_alone():
    for path in FILES:
        if top(path) == "report":
            ours = {n.split(".")[1] for n in imports(path) if n.startswith("mae_jax.")}
            assert ours <= {"report", "rundir", "runtime"}, path
