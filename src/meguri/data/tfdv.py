"""TensorFlow Data Validation's schema.pbtxt: read as a draft of a contract, and written from one."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

from meguri.base.errors import DataError
from meguri.data.contract import Contract
from meguri.data.draft import Draft
from meguri.data.spec import Field, Rule
from meguri.data.spec_polars import TYPES
from meguri.data.textproto import Message, Word, parse, write

TAG = "meguri:"  # what TFDV has no field for stands in a feature's annotation, as a tag
_STAMPS = ("UNIX_DAYS", "UNIX_SECONDS", "UNIX_MILLISECONDS", "UNIX_MICROSECONDS", "UNIX_NANOSECONDS")
_BEYOND = ("natural_language_domain", "image_domain", "audio_domain", "video_domain", "mid_domain", "url_domain")
_UNREAD = ("skew_comparator", "drift_comparator", "distribution_constraints", "unique_constraints", *_BEYOND)


def export(contract: Contract) -> tuple[str, list[str]]:
    """The contract as a schema.pbtxt (tensorflow_metadata.proto.v0.Schema), and what of it TFDV cannot say.

    Key, time, label, group and a number's width are kept as tags of the feature's annotation, which TFDV passes over.
    """
    lost = [f"{text}: a check that is a function" for text in contract.to_spec()["custom"]]
    lost += [f"{', '.join(names)}: unique together" for names in contract.to_spec()["unique"]]
    lost += [f"key={'|'.join(contract.key)}: that a key comes once"]
    lost += ["value: what an answer is worth"] if contract.value else []
    lost += ["other columns are an error (strict)"] if contract.to_spec()["strict"] else []
    features = [_feature(field, contract, lost) for field in contract.fields]
    environments = ["TRAINING", "SERVING"] if contract.label else []
    whole = {"string_domain": contract.name, "label_after": contract.to_spec()["label_after"], "task": contract.task}
    tags = [f"{TAG}name={whole['string_domain']}"]
    tags += [f"{TAG}{name}={whole[name]}" for name in ("label_after", "task")] if contract.label else []
    schema: Message = {"feature": features, "default_environment": environments, "annotation": [{"tag": tags}]}
    return write(schema), lost


def _feature(field: Field, contract: Contract, lost: list[str]) -> Message:
    kind, domain = _domain(field, lost)
    presence: Message = {"min_fraction": [1.0]} if not field.nullable and field.required else {}
    presence |= {"min_count": [1]} if field.required else {}
    one: Message = {"name": [field.name], "type": [Word(kind)], "value_count": [{"min": [1], "max": [1]}]}
    one |= {"presence": [presence]} if presence else {}
    one |= domain
    tags = [f"type={field.type}"]
    parts = {"time": contract.time, "label": contract.label, "group": contract.group}
    tags += [f"key={contract.key.index(field.name)}"] if field.name in contract.key else []
    tags += [part for part, name in parts.items() if name == field.name]
    usual = field.name not in (*contract.key, contract.time, contract.label, contract.group)
    tags += ["feature"] if field.name in contract.features and not usual else []
    tags += ["no feature"] if usual and field.name not in contract.features else []
    one["annotation"] = [
        {"tag": [TAG + tag for tag in tags]} | ({"comment": [field.description]} if field.description else {})
    ]
    one |= {"not_in_environment": ["SERVING"]} if field.name == contract.label else {}
    if field.default is not None:
        lost.append(f"{field.name}: the default {field.default!r}, so that missing values stay missing")
    lost += [f"{field.name}: unique"] if field.unique else []
    lost += [f"{field.name}: coerce (text that is read as {field.type})"] if field.coerce else []
    return one


def _domain(field: Field, lost: list[str]) -> tuple[str, Message]:
    """TFDV's type and the domain that says what it can of the checks."""
    if field.type == "Boolean":
        lost += [f"{field.name}: {rule}" for rule in field.checks]
        return "INT", {"bool_domain": [{}]}
    if field.type in ("Date", "Datetime"):
        lost += [f"{field.name}: {rule}" for rule in field.checks]
        stamp = "UNIX_DAYS" if field.type == "Date" else "UNIX_MICROSECONDS"
        return "INT", {"time_domain": [{"integer_format": [Word(stamp)]}]}
    if field.type == "String":
        lists = [rule for rule in field.checks if rule.name == "isin"]
        lost += [f"{field.name}: {rule}" for rule in field.checks if rule not in lists[:1]]
        return "BYTES", {"string_domain": [{"value": list(lists[0].args["allowed_values"])}]} if lists else {}
    whole = not field.is_float
    low, high = -math.inf, math.inf
    for rule in field.checks:
        ends = _ends(rule, whole=whole)
        if ends is None:
            lost.append(f"{field.name}: {rule}")
            continue
        low, high = max(low, ends[0]), min(high, ends[1])
    domain: Message = {name: [end] for name, end in (("min", low), ("max", high)) if math.isfinite(end)}
    if not whole:
        lost += [
            f"{field.name}: {name} {end[0]!r} exactly (a float_domain has 32 bits)"
            for name, end in domain.items()
            if not _in_32_bits(end[0])
        ]
        return "FLOAT", {"float_domain": [{**domain, "disallow_inf": [True]}]}
    return "INT", {"int_domain": [domain]} if domain else {}


def _ends(rule: Rule, *, whole: bool) -> tuple[float, float] | None:
    """The closed range that a check asks for; None when it is none."""
    args = rule.args
    if rule.name == "ge":
        low, high = args["min_value"], math.inf
    elif rule.name == "le":
        low, high = -math.inf, args["max_value"]
    elif rule.name == "eq":
        low = high = args["value"]
    elif rule.name == "in_range" and args.get("include_min", True) and args.get("include_max", True):
        low, high = args["min_value"], args["max_value"]
    elif whole and rule.name == "gt":
        low, high = math.floor(args["min_value"]) + 1, math.inf
    elif whole and rule.name == "lt":
        low, high = -math.inf, math.ceil(args["max_value"]) - 1
    elif (
        whole
        and rule.name == "isin"
        and sorted(args["allowed_values"])
        == list(range(min(args["allowed_values"], default=0), max(args["allowed_values"], default=-1) + 1))
    ):
        low, high = min(args["allowed_values"], default=0), max(args["allowed_values"], default=-1)
    else:
        return None
    if whole:
        return (math.ceil(low) if math.isfinite(low) else low), (math.floor(high) if math.isfinite(high) else high)
    return float(low), float(high)


def _in_32_bits(value: float) -> bool:
    try:
        return bool(struct.unpack("f", struct.pack("f", value))[0] == value)
    except OverflowError:
        return False


def draft(
    text: str, name: str = "row", *, key: Sequence[str] = (), time: str | None = None, label: str | None = None
) -> Draft:
    """A draft contract of a schema.pbtxt; what it says and a contract cannot is told in the draft's remarks.

    Key, time and label are read from Meguri's own tags; ``key``, ``time`` and ``label`` are for schemas that have none.
    Raises DataError for text that is no schema, or one that leaves key or time open.
    """
    schema = parse(text)
    if not schema.get("feature"):
        raise DataError("this is no schema of TFDV: it has no feature", where=name, fix="give a schema.pbtxt")
    try:
        return _draft(schema, name, tuple(key), time, label)
    except (TypeError, AttributeError, ValueError, KeyError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"this is no schema of TFDV: {error}", where=name, fix="give a schema.pbtxt") from error


def _draft(schema: Message, name: str, key: tuple[str, ...], time: str | None, label: str | None) -> Draft:
    shared = {
        one["name"][0]: (kind, one)
        for kind in ("string_domain", "int_domain", "float_domain")
        for one in schema.get(kind, [])
        if "name" in one
    }
    whole = _tags(schema)
    fields, remarks, top = list[Field](), dict[str, str](), []
    parts: dict[str, list[tuple[str, str]]] = {}
    for one in schema["feature"]:
        column = str(one["name"][0])
        tags = _tags(one)
        if reason := _left_out(one):
            top.append(f"Left out: {column}, {reason}.")
            continue
        field, said = _field(one, column, tags, shared)
        fields.append(field)
        if said:
            remarks[column] = "; ".join(said)
        for part, value in tags.items():
            parts.setdefault(part, []).append((value, column))
        if one.get("not_in_environment") == ["SERVING"]:
            parts.setdefault("seems a label", []).append(("", column))
    top += [
        f"Not taken over: {kind}."
        for kind in ("sparse_feature", "weighted_feature", "dataset_constraints")
        if kind in schema
    ]
    known = {field.name: field for field in fields}
    own = {part: found[0][1] for part, found in parts.items()}
    label = label or own.get("label") or own.get("seems a label")
    time = time or own.get("time") or next((f.name for f in fields if f.type in ("Datetime", "Date")), None)
    key = key or tuple(column for _, column in sorted(parts.get("key", [])))
    for part, names in (("key", key), ("time", [time] if time else []), ("label", [label] if label else [])):
        if not names and part != "label":
            fix = f"say which column it is: --{part} COLUMN (it has {', '.join(known)})"
            raise DataError(f"TFDV's schema does not say what the {part} is", where=name, fix=fix)
        for column in names:
            if column not in known:
                raise DataError(f"the schema has no feature '{column}'", where=name, fix=f"it has {', '.join(known)}")
    if time and known[time].type not in ("Datetime", "Date"):
        remarks[time] = f"{known[time].type} in TFDV's schema; read as a date and time"
        known[time] = Field(time, "Datetime", coerce=known[time].type == "String")
    usual = [n for n in known if n not in (*key, time, label, own.get("group"))]
    chosen = [n for n in usual if n not in {c for _, c in parts.get("no feature", [])}]
    chosen += [column for _, column in parts.get("feature", [])]
    if not chosen:
        raise DataError("no column is left to be a feature", where=name, fix="name other columns as key, time or label")
    features = None if chosen == usual else tuple(n for n in known if n in chosen)
    task = whole.get("task") or ("binary" if label is None or known[label].type != "String" else "multiclass")
    return Draft(
        whole.get("name", name),
        tuple(known.values()),
        key,
        str(time),
        label,
        whole.get("label_after", "0s"),
        own.get("group"),
        task,
        features,
        remarks,
        tuple(top),
    )


def _tags(message: Message) -> dict[str, str]:
    """Meguri's own tags of a message, each with what stands after its "=" sign."""
    found = [tag for note in message.get("annotation", []) for tag in note.get("tag", []) if str(tag).startswith(TAG)]
    split = [str(tag).removeprefix(TAG).partition("=") for tag in found]
    return {name: value for name, _, value in split}


def _left_out(one: Message) -> str | None:
    stage = one.get("lifecycle_stage", [""])[0]
    if one.get("deprecated") == [Word("true")] or stage in ("DEPRECATED", "DISABLED", "PLANNED", "DEBUG_ONLY"):
        return f"which is {stage.lower() or 'deprecated'}"
    if one.get("type") == ["STRUCT"] or "struct_domain" in one:
        return "a structure with features of its own"
    counts = one.get("value_count", [{}])[0]
    if counts.get("max", [1])[0] != 1 or one.get("value_counts"):
        return "a list of values, not one a row"
    size = [dim.get("size", [1])[0] for shape in one.get("shape", []) for dim in shape.get("dim", [])]
    return "an array, not one value a row" if math.prod(size) != 1 else None


def _field(
    one: Message, column: str, tags: dict[str, str], shared: dict[str, tuple[str, Message]]
) -> tuple[Field, list[str]]:
    presence = one.get("presence", [{}])[0]
    required = bool(presence)
    nullable = presence.get("min_fraction", [0])[0] < 1
    said = [f"TFDV's {name} is not taken over" for name in _UNREAD if name in one]
    fraction = presence.get("min_fraction", [1])[0]
    said += [f"at least {fraction:.4g} of the rows should have it"] if 0 < fraction < 1 else []
    domains: dict[str, Message] = {
        kind: one[kind][0]
        for kind in ("string_domain", "int_domain", "float_domain", "bool_domain", "time_domain")
        if kind in one
    }
    if one.get("domain"):
        kind, found = shared.get(str(one["domain"][0]), ("", {}))
        domains |= {kind: found} if kind else {}
    native = {"INT": "Int64", "FLOAT": "Float64", "BYTES": "String"}.get(str(one.get("type", ["BYTES"])[0]), "String")
    if "bool_domain" in domains:
        native = "Boolean"
        names = [
            str(domains["bool_domain"][end][0])
            for end in ("true_value", "false_value")
            if domains["bool_domain"].get(end)
        ]
        said += [f"written as {' and '.join(names)} in TFDV's data"] if names else []
    if "time_domain" in domains:
        stamp = str(domains["time_domain"].get("integer_format", [""])[0])
        native = "Date" if stamp == "UNIX_DAYS" else "Datetime"
        if tags.get("type") is None:
            said.append(f"a time as {stamp if stamp in _STAMPS else 'text'} in TFDV's data")
    kind = tags["type"] if tags.get("type") in TYPES else native
    checks = _checks(domains, kind)
    notes = [str(text) for note in one.get("annotation", []) for text in note.get("comment", [])]
    return Field(
        column, kind, nullable=nullable, required=required, checks=tuple(checks), description=" ".join(notes) or None
    ), said


def _checks(domains: dict[str, Message], kind: str) -> list[Rule]:
    if kind == "String" and domains.get("string_domain", {}).get("value"):
        return [Rule("isin", {"allowed_values": [str(value) for value in domains["string_domain"]["value"]]})]
    whole = "Int" in kind
    domain = domains.get("int_domain" if whole else "float_domain", {}) if whole or "Float" in kind else {}
    made = int if whole else float
    ends: list[tuple[str, str, Any]] = [("ge", "min_value", domain.get("min")), ("le", "max_value", domain.get("max"))]
    return [Rule(rule, {name: made(found[0])}) for rule, name, found in ends if found and math.isfinite(found[0])]
