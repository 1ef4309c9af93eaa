"""Sphinx: `python -m sphinx -W -b html docs build/docs`."""

import configparser
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext")]

import mae_jax  # noqa: E402

parsed = configparser.ConfigParser()
parsed.read(ROOT / "setup.cfg")
address = parsed["metadata"]["project_urls"].partition("=")[2].strip()  # of the repository

project = "mae_jax"
author = "mae_jax contributors"
copyright = "2026, mae_jax contributors, Apache-2.0"
version = release = mae_jax.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "generated"]
exclude_patterns = ["_ext", "_static", "data"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
nitpicky = True
nitpick_ignore_regex = [(r"py:.*", r".*")]  # types of other libraries; `:doc:`, `:ref:` and files are checked
# `python -m sphinx -b linkcheck docs build/links` asks every external link and writes build/links/output.txt.
linkcheck_ignore = [re.escape(address)] if "YOUR_" in address else []  # the placeholder has no page
linkcheck_allowed_redirects = {r"https://doi\.org/.*": r"https://.*"}  # what a DOI is for
linkcheck_anchors = True
linkcheck_timeout = 20  # seconds
linkcheck_retries = 2
linkcheck_workers = 4
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
html_theme = "furo"
html_title = "mae_jax"
html_static_path = ["_static"]
html_css_files = ["wide.css"]
html_theme_options = {"navigation_with_keys": True}
if not linkcheck_ignore:  # with an address, each page links to its source
    html_theme_options |= {"source_repository": address, "source_branch": "main", "source_directory": "docs/"}
