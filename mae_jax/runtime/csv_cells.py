"""Escapes text in CSV files so that no spreadsheet runs it as a formula, and removes the escapes again."""

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # the start of a formula, also after quote marks


def cell(value: object) -> object:
    """What to write for `value`: text that a spreadsheet would take for a formula gets a leading apostrophe."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def text(written: str) -> str:
    """Undoes `cell`. Text from files without these marks is returned unchanged."""
    return written[1:] if written.startswith("'") and _FORMULA.match(written) else written
