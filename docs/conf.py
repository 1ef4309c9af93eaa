"""Sphinx: `python -m sphinx -W -b html docs build/docs`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

import mae_jax  # noqa: E402

project = "mae_jax"
author = "the mae_jax maintainers"
copyright = "the mae_jax maintainers, Apache-2.0"
version = release = mae_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated"]
exclude_patterns = ["_ext", "_static", "data"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r".*")]  # types of other libraries; `:doc:`, `:ref:` and files are checked
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "mae_jax"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_theme_options = {"navigation_with_keys": True}
