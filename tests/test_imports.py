"""One direction: a module imports only from its left (see the layout in README)."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mae_jax"
LAYERS = [
    {"errors", "spreadsheets", "files"},
    {"signals"},
    {"cli"},
    {"config"},
    {"grid"},
    {"checks"},
    {"data"},
    {"models"},
    {"probes", "losses", "mixing", "pixels", "spam"},
    {"optim"},
    {"sharding", "machine"},
    {"state"},
    {"rundir"},
    {"progress", "metrics", "digests"},
    {"datasets", "autoencoders"},
    {"best", "checkpoints", "evaluate", "writers"},
    {"features", "interop", "pictures", "thumbnails", "divergence"},
    {"network"},
    {"tasks"},
    {"plan", "inspection"},
    {"train"},
    {"report"},
    {"export"},
    {"inspect_run"},
    {"study"},
    {"sweep"},
    {"main"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def top(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    own = top(path)
    if own == "__init__":
        return
    assert own in RANK, f"mae_jax/{own} has no place in LAYERS"
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "mae_jax" and parts[1] in RANK and parts[1] != own:
            assert RANK[parts[1]] < RANK[own], f"{path.name} imports {name}"
        assert parts[0] not in ("configs", "tools", "tests"), f"{path.name} imports {name}"


def test_flax_is_imported_in_models_alone():
    users = {top(p) for p in FILES if any(n.split(".")[0] == "flax" for n in imports(p))}
    assert users == {"models"}


def test_data_and_report_do_not_know_jax():
    for path in FILES:
        if top(path) in ("data", "datasets", "report", "checks", "config", "grid", "errors", "metrics", "rundir"):
            assert not [n for n in imports(path) if n.split(".")[0] in ("jax", "flax", "optax", "orbax")], path


def test_report_reads_files_alone():
    for path in FILES:
        if top(path) == "report":
            ours = {n.split(".")[1] for n in imports(path) if n.startswith("mae_jax.")}
            assert ours <= {"report", "errors", "spreadsheets", "cli", "files", "signals"}, path


def test_the_loop_stays_readable():
    assert len((PACKAGE / "train.py").read_text().splitlines()) <= 350
    assert len((PACKAGE / "main.py").read_text().splitlines()) <= 70
