"""Names the options of a command in messages that name config fields."""

import contextlib
import re
from collections.abc import Iterator, Mapping

from mae_jax.runtime.errors import UserError


@contextlib.contextmanager
def replaced(options: Mapping[str, str]) -> Iterator[None]:
    """Inside this context, a UserError about `data.FIELD` names the option `options[FIELD]` of the command instead."""
    try:
        yield
    except UserError as error:
        error.args = (in_options(str(error), options), *error.args[1:])
        raise


def in_options(text: str, options: Mapping[str, str]) -> str:
    """`text` with the option of each field in `options`. Other fields stay as they are.

    A field that is an argument without a name, such as PLACE, is left out before its value or a message.
    """

    def named(match: re.Match[str]) -> str:
        option, then = options.get(match[1], ""), match[2]
        if not option:
            return match[0]
        return "" if then and not option.startswith("-") else f"{option}{then}"

    return re.sub(r"\b(?:finetune\.|pretrain\.)?data\.(\w+)(=(?=[^\s'])|: |)", named, text)
