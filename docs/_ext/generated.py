"""Sphinx directives whose content comes from the code: `config-fields` and `command-help`."""

import os
import subprocess
import sys
from typing import ClassVar

from docutils import nodes
from sphinx.util.docutils import SphinxDirective


def _inline(text: str) -> list[nodes.Node]:
    """Text with code between backticks; a text that begins with a backtick and has no other is all code."""
    if text.startswith("`") and text.count("`") == 1:
        return [nodes.literal(text=text[1:])]
    return [nodes.literal(text=part) if i % 2 else nodes.Text(part) for i, part in enumerate(text.split("`"))]


def _table(headings: list[str], rows: list[list[str]]) -> nodes.table:
    """A table of cells of text, see `_inline`."""
    table, group = nodes.table(), nodes.tgroup(cols=len(headings))
    table += group
    group += [nodes.colspec(colwidth=1) for _ in headings]
    for part, content in ((nodes.thead(), [headings]), (nodes.tbody(), rows)):
        for cells in content:
            row = nodes.row()
            for cell in cells:
                row += nodes.entry("", nodes.paragraph("", "", *_inline(cell)))
            part += row
        group += part
    return table


class CommandHelp(SphinxDirective):
    """What the command that is its argument prints for --help."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        self.env.note_reread()
        verb = self.arguments[0]
        command = [sys.executable, "-m", "mae_jax", *verb.split(), "--help"]
        shown = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"COLUMNS": "110"})
        if shown.returncode:
            raise self.error(f"mae-jax {verb} --help ended with {shown.returncode}: {shown.stderr[-500:]}")
        return [nodes.literal_block(text=shown.stdout.rstrip(), language="text")]


class ConfigFields(SphinxDirective):
    """A table for each section of a run's config, and those of studies and sweeps."""

    headings: ClassVar = ["field", "default", "meaning", "allowed", "may differ"]

    def run(self) -> list[nodes.Node]:
        from config_tables import sections

        self.env.note_reread()  # the page follows the code
        found = []
        for title, about, rows in sections():
            section = nodes.section(ids=[nodes.make_id(title)], names=[title.lower()])
            section += nodes.title(text=title)
            section += nodes.paragraph(text=about)
            headings = self.headings if rows[0][0].startswith("`") else rows.pop(0)
            section += _table(headings, rows)
            self.state.document.note_explicit_target(section)
            found.append(section)
        return found


def setup(app) -> dict:
    app.add_directive("command-help", CommandHelp)
    app.add_directive("config-fields", ConfigFields)
    return {"parallel_read_safe": True}
