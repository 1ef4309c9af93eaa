"""Messages of commands name the command's own options."""

import pytest

from mae_jax.data.checking import ReadError
from mae_jax.runtime.errors import UserError
from mae_jax.runtime.option_names import in_options, replaced

OPTIONS = {"columns": "--columns", "dir": "--dir"}


def test_fields_become_options():
    text = "finetune.data.columns='x': set data.dir, data.dirs or data.source; pretrain.data.dir"
    assert in_options(text, OPTIONS) == "--columns='x': set --dir, data.dirs or data.source; --dir"


def test_an_argument_without_a_name_is_left_out_before_its_value():
    options = {"dir": "PLACE", "labels": "PLACE", "columns": "--columns"}
    assert in_options("data.dir: 'cells' is empty; set data.labels", options) == "'cells' is empty; set PLACE"
    assert in_options("data.labels=l.csv, row 2: data.columns=x", options) == "l.csv, row 2: --columns=x"


def test_errors_keep_their_type():
    with pytest.raises(ReadError, match="^--dir is wrong$"), replaced(OPTIONS):
        raise ReadError("data.dir is wrong")
    with pytest.raises(UserError, match="^other$"), replaced(OPTIONS):
        raise UserError("other")
