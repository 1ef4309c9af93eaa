"""Names of others in CSV files: no spreadsheet takes one for a formula, and all read back as they were."""

import re

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")  # what a cell that is computed begins with; marks before it count too


def cell(value: object) -> object:
    """What to write for `value`: a text that a spreadsheet would compute gets a ' in front of it."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def text(written: str) -> str:
    """What `cell` was given. Files of others, which have no such marks, are read as they are."""
    return written[1:] if written.startswith("'") and _FORMULA.match(written) else written
