"""A draft of a contract: fields and the parts they play, with remarks, written as the schema.py that a person edits."""

from __future__ import annotations

import ast
import json
import keyword
import re
from dataclasses import dataclass, field
from typing import Any

from meguri.base.errors import DataError
from meguri.data.spec import Field, Rule

# Names that a pandera model or the written file itself needs: a column of that name is written with an alias.
TAKEN = frozenset(
    "Annotated Contract Optional annotations bool contract float int pa pl str Config build_schema_ empty example from_json from_yaml "
    "get_metadata pydantic_validate strategy to_json to_json_schema to_schema to_yaml validate".split()
)
WIDTH = 120
_OWN = {"String": "str", "Int64": "int", "Float64": "float", "Boolean": "bool"}


@dataclass(frozen=True)
class Draft:
    """What is known of a contract that is still to be confirmed.

    ``remarks`` say in a few words, by the name of a column or of a part (key, time, label …), why it is as it is; the
    remarks under ``top`` stand above the model.
    """

    name: str
    fields: tuple[Field, ...]
    key: tuple[str, ...]
    time: str
    label: str | None = None
    label_after: str = "0s"
    group: str | None = None
    task: str = "binary"
    features: tuple[str, ...] | None = None
    remarks: dict[str, str] = field(default_factory=dict)
    top: tuple[str, ...] = ()

    def python(self) -> str:
        """The text of a ``schema.py`` that makes the contract.

        Raises DataError for a column that is in no contract: one named "reason", which is quarantine's own.
        """
        names = self._attributes()
        lines = [
            f'"""What a row of {_inline(self.name)} must be at every door: a draft from the data; read it and edit it."""',
            "",
        ]
        lines += ["from __future__ import annotations", ""]
        typing = ["Annotated"] if any(one.type == "Datetime" for one in self.fields) else []
        typing += ["Optional"] if not all(one.required for one in self.fields) else []
        lines += [f"from typing import {', '.join(typing)}", ""] if typing else []
        lines += ["import pandera.polars as pa"]
        if any(one.type not in _OWN for one in self.fields):
            lines += ["import polars as pl"]
        lines += ["", "from meguri import Contract", ""]
        lines += [f"# {_inline(text)}" for text in self.top] + ["", "", f"class {self.model}(pa.DataFrameModel):"]
        lines += [line for one in self.fields for line in self._lines(one, names[one.name])]
        return "\n".join([*lines, "", "", *self._contract(), ""])

    @property
    def model(self) -> str:
        """The name of the model's class."""
        words = re.findall(r"[A-Za-z0-9]+", self.name)
        made = "".join(word[:1].upper() + word[1:] for word in words) or "Row"
        return made if made.isidentifier() and made not in TAKEN else f"Row{made}"

    def _attributes(self) -> dict[str, str]:
        """A Python name for each column, its own where it can be one."""
        own = [one.name for one in self.fields]
        if "reason" in own:
            raise DataError("'reason' is the name that quarantine writes its reasons in", fix="rename that column")
        used, names = set(own), {}
        for place, name in enumerate(own, 1):
            good = name.isidentifier() and name.isascii() and not keyword.iskeyword(name) and not name.startswith("_")
            if good and name not in TAKEN and name != self.model:
                names[name] = name
                continue
            made = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()
            made = made if re.match(r"[a-z]", made) else f"column_{place}"
            while made in used or made in TAKEN or keyword.iskeyword(made) or made == self.model:
                made += "_"
            used.add(made)
            names[name] = made
        return names

    def _lines(self, one: Field, attribute: str) -> list[str]:
        kind = _OWN.get(one.type, f"pl.{one.type}")
        if one.type == "Datetime":
            kind = 'Annotated[pl.Datetime, "us", "UTC"]'
        options = ["nullable=True"] if one.nullable else []
        options += ["unique=True"] if one.unique else []
        options += ["coerce=True"] if one.coerce else []
        options += [_option(rule) for rule in one.checks]
        options += [f"default={_code(one.default)}"] if one.default is not None else []
        options += [f"alias={_code(one.name)}"] if attribute != one.name else []
        options += [f"description={_code(one.description)}"] if one.description else []
        head = f"    {attribute}: {kind if one.required else f'Optional[{kind}]'}"
        remark = _inline(self.remarks.get(one.name, ""))
        line = f"{head} = pa.Field({', '.join(options)})" if options else head
        if not remark or len(line) + len(remark) + 4 <= WIDTH:
            line += f"  # {remark}" if remark else ""
            return [line] if len(line) <= WIDTH else [f"{head} = pa.Field(", *_broken(options), "    )"]
        return [
            f"    # {remark}",
            *([line] if len(line) <= WIDTH else [f"{head} = pa.Field(", *_broken(options), "    )"]),
        ]

    def _contract(self) -> list[str]:
        key: Any = self.key[0] if len(self.key) == 1 else list(self.key)
        parts = {"key": _code(key), "time": _code(self.time), "label": _code(self.label)}
        if self.label is not None:
            parts |= {"label_after": _code(self.label_after), "task": _code(self.task)}
        if self.group is not None:
            parts["group"] = _code(self.group)
        if self.features is not None:
            parts["features"] = _code(list(self.features))
        lines = ["contract = Contract(", f"    {self.model},"]
        for part, value in parts.items():
            remark = self.remarks.get(f"{part}=")
            lines.append(f"    {part}={value}," + (f"  # {_inline(remark)}" if remark else ""))
        return [*lines, ")"]


def _option(rule: Rule) -> str:
    """A check as an argument of ``pa.Field``."""
    alone = len(rule.args) == 1 and rule.name != "str_length"  # one number would be the exact length
    value = next(iter(rule.args.values())) if alone else rule.args
    return f"{rule.name}={_code(value)}"


def _code(value: Any) -> str:
    """A plain value as Python writes it, texts in double quotes."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return f"[{', '.join(map(_code, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_code(name)}: {_code(item)}' for name, item in value.items())}}}"
    return repr(value)


def _broken(options: list[str]) -> list[str]:
    """Arguments one a line; a long list over several."""
    lines = []
    for option in options:
        if len(option) + 9 <= WIDTH or not option.endswith("]"):
            lines.append(f"        {option},")
            continue
        name, _, text = option.partition("=")
        lines += [
            f"        {name}=[",
            *(f"            {_code(item)}," for item in ast.literal_eval(text)),
            "        ],",
        ]
    return lines


def _inline(text: str) -> str:
    """``text`` as it can stand in a comment or a docstring: on one line, with no quotes or backslashes."""
    return "".join(c if c.isprintable() and c not in '"\\' else " " for c in text).strip()
