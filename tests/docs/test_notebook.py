"""notebooks/quickstart.ipynb: it is valid, uses the public API, and runs on a real kernel."""

import ast
import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "quickstart.ipynb"
PUBLIC = {"mae_jax", "mae_jax.config", "mae_jax.main", "mae_jax.data", "mae_jax.evaluation", "mae_jax.weights.own_run"}


def cells(kind: str) -> list[str]:
    return ["".join(c["source"]) for c in json.loads(NOTEBOOK.read_text())["cells"] if c["cell_type"] == kind]


def test_the_notebook_is_valid_and_has_no_outputs():
    nbformat = pytest.importorskip("nbformat", reason="the extra [docs] is not installed")
    nbformat.validate(nbformat.read(NOTEBOOK, 4))
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        assert not cell.get("outputs") and not cell.get("execution_count")
    assert "colab.research.google.com/github/" in cells("markdown")[0]


def test_the_notebook_uses_the_public_api_alone():
    modules = set()
    for node in ast.walk(ast.parse("\n".join(cells("code")))):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_") or node.attr.startswith("__"), node.attr
    ours = {module for module in modules if module.partition(".")[0] == "mae_jax"}
    assert "mae_jax.main" in ours or "mae_jax" in ours
    assert ours <= PUBLIC, ours - PUBLIC


@pytest.mark.slow
def test_the_notebook_runs_on_a_kernel(tmp_path, monkeypatch, quick_xla):
    nbclient = pytest.importorskip("nbclient", reason="the extra [docs] is not installed")
    nbformat = pytest.importorskip("nbformat", reason="the extra [docs] is not installed")
    monkeypatch.setenv("MAE_JAX_SMOKE", "1")
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", quick_xla)
    notebook = nbformat.read(NOTEBOOK, 4)
    client = nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()
    shown = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    red = [o["text"] for o in shown if o.get("name") == "stderr"]
    assert not red, "libraries write into the notebook"
    pictures = sum("image/png" in o.get("data", {}) for o in shown)
    assert pictures >= 4, "cells, curves, reconstructions and attention are shown"
    assert (tmp_path / "runs/quickstart/report/index.html").is_file()
