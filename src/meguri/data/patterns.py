"""Regular expressions as polars reads them, without it: the same engine is in pydantic, which every install has.

Python's own ``re`` reads some otherwise ($, \\s, \\w, case), and a text that someone sends can make it search for hours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from meguri.base.errors import ContractError
from meguri.base.extras import need


def pattern(text: str) -> Callable[[Any], bool]:
    """Whether a text holds the pattern somewhere. Raises ContractError for what is no pattern of Rust's ``regex``."""
    core = need("pydantic_core")
    schema = core.core_schema.str_schema(pattern=text, regex_engine="rust-regex", strict=True)
    try:
        search: Callable[[Any], bool] = core.SchemaValidator(schema).isinstance_python
    except core.SchemaError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        what = f"the pattern {text!r} cannot be read: {lines[-1].removeprefix('error: ')}"
        raise ContractError(
            what, fix="write it as Rust's regex takes it: no look-around, no back-references"
        ) from error
    return search
