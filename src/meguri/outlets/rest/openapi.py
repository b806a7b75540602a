"""The OpenAPI description of a service, made of its champion's contract: names, types, ranges, examples."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meguri.base.files import read_json
from meguri.data.spec import FLOAT32
from meguri.outlets.rest.returns import LONGEST

if TYPE_CHECKING:
    from meguri.data.contract import Contract
    from meguri.data.spec import Field
    from meguri.record.release import Release


def describe(release: Release, filled: Collection[str] = (), *, tokens: bool = True) -> dict[str, Any]:
    """The description as JSON values (OpenAPI 3.1); ``filled`` are the columns that the online table has, and
    ``tokens`` says whether one is asked for.
    """
    contract = release.contract
    row = {"$ref": "#/components/schemas/Row"}
    answer = {"$ref": "#/components/schemas/Answer"}
    many = {"type": "array", "minItems": 1}
    rows = {**many, "uniqueItems": True, "items": row, "description": "No two with the same key."}
    text = {"type": "string", "pattern": _TEXT}
    example = _example(release)
    label = next((field for field in contract.fields if field.name == contract.label), None)
    value = {} if label is None else _label(label)
    problems = _problems(tokens)

    def post(summary: str, one: Any, some: Any, given: Any, example: Any = None) -> dict[str, Any]:
        body: dict[str, Any] = {"schema": {"oneOf": [one, some]}}
        if example is not None:
            body["examples"] = {"one": {"value": example}, "many": {"value": [example]}}
        done = {"description": "Done, and durable.", "content": {"application/json": {"schema": given}}}
        failed = {status: problem for status, problem in problems.items() if status != "404"}
        return {"post": {"summary": summary, "requestBody": {"required": True, "content": {"application/json": body}}, "responses": {"200": done, **failed}}}  # fmt: skip

    def get(summary: str, kind: str, *statuses: str, needs: bool = False) -> dict[str, Any]:
        done = {
            "description": "Yes.",
            "content": {kind: {"schema": {"type": "string"} if "text" in kind else {"type": "object"}}},
        }
        found = {status: problems[status] for status in (*statuses, "500")}
        if needs:
            found |= {status: problems[status] for status in ("401", "403", "429") if status in problems}
        told = {"summary": summary, "responses": {"200": done, **dict(sorted(found.items()))}}
        return {"get": told if needs else {**told, "security": []}}

    counts = {"type": "object", "additionalProperties": {"type": "integer"}}
    labels = {
        "type": "object",
        "properties": {
            "prediction_id": {"type": "string", "format": "uuid"},
            "key": text,
            "value": value,
            "known_at": {"type": "string", "format": "date-time"},
            "source": text,
        },
        "required": ["value"],
        "anyOf": [{"required": ["prediction_id"]}, {"required": ["key"]}],
    }
    events = {
        "type": "object",
        "properties": {
            "id": {**text, "maxLength": LONGEST},
            "unit": text,
            "kind": text,
            "at": {"type": "string", "format": "date-time"},
            "value": {"type": "number"},
        },
        "required": ["id", "unit", "kind"],
    }
    waiting = get("The answers that wait for a person, oldest first.", "application/json", "503", needs=True)
    decision = get("What a person decided of an answer.", "application/json", "404", "503", needs=True)
    decision["get"]["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    waiting["get"]["responses"]["200"]["content"]["application/json"]["schema"] = {
        "type": "array",
        "items": {"type": "object"},
    }
    metrics = get("What the service counted, for Prometheus.", "text/plain", needs=True)
    return {
        "openapi": "3.1.0",
        "info": {"title": contract.name, "version": release.id, "description": f"Answers of the release {release.id}."},
        "security": [{"token": []}] if tokens else [],
        "paths": {
            "/predict": post(
                "Answer one row, or many.", row, rows, {"oneOf": [answer, {**many, "items": answer}]}, example
            ),
            "/labels": post("Tell what really happened.", labels, {**many, "items": labels}, counts),
            "/events": post("Tell what a unit did after its answer.", events, {**many, "items": events}, counts),
            "/healthz": get("Whether the process is alive.", "application/json"),
            "/readyz": get(
                "Whether a release is loaded and answers as it did when it was made.", "application/json", "503"
            ),
            "/queue": waiting,
            "/decisions/{id}": decision,
            "/metrics": metrics,
            "/openapi.json": get("This description.", "application/json", "503"),
        },
        "components": {
            **({"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}} if tokens else {}),
            "schemas": {"Row": _row(contract, filled), "Answer": _answer(release), "Problem": _PROBLEM},
        },
    }


_TEXT = "^[^\\u0000]*$"  # no ledger keeps that character


def _problems(tokens: bool) -> dict[str, Any]:
    """What each status says that is no success."""
    about_tokens = {
        "401": "There is no token, or it is not known.",
        "403": "The token may not do this.",
        "429": "The token has asked too often: ask again after `Retry-After` seconds.",
    }
    told = {
        "400": "The body is no JSON.",
        "404": "There is no such prediction.",
        "408": "The body came too slowly.",
        "413": "The body is too large, or has too many rows.",
        "415": "The body is said to be something else than JSON.",
        "422": "A value breaks the contract; `errors` names each by a JSON pointer.",
        "500": "The service failed; its log has the request's id.",
        "503": "Nothing was answered or written: ask again after `Retry-After` seconds.",
    }
    later = {"Retry-After": {"description": "Seconds.", "required": True, "schema": {"type": "integer", "minimum": 1}}}
    document = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"description": text, "content": document, **({"headers": later} if status in ("429", "503") else {})}
        for status, text in sorted((told | (about_tokens if tokens else {})).items())
    }


_PROBLEM = {
    "type": "object",
    "description": "A problem document (RFC 9457).",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "request": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"detail": {"type": "string"}, "pointer": {"type": "string"}},
                "required": ["detail", "pointer"],
            },
        },
    },
    "required": ["title", "status", "detail"],
}


def _row(contract: Contract, filled: Collection[str]) -> dict[str, Any]:
    fields = contract.asked(labelled=False)
    given = {contract.time, *filled}
    needed = [f.name for f in fields if not f.nullable and f.required and f.default is None and f.name not in given]
    row: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: _field(field) for field in fields},
        "required": needed,
    }
    for name in {*contract.key, *filter(None, [contract.group])}:
        column = row["properties"][name]
        if column["type"] == "string" and not column.keys() & {"pattern", "enum", "const"}:
            column |= {"pattern": _TEXT} | ({"maxLength": LONGEST} if name in contract.key else {})
    time = row["properties"][contract.time]
    if "anyOf" not in time:
        time |= {"anyOf": [{key: time.pop(key) for key in ("type", "format")}, {"type": "null"}]}
    time["description"] = " ".join(
        filter(None, [time.get("description"), "The moment of the prediction (default: now)."])
    )
    return row | ({"additionalProperties": False} if contract.strict else {})


def _answer(release: Release) -> dict[str, Any]:
    properties: dict[str, Any] = {
        "prediction_id": {"type": "string", "format": "uuid"},
        "key": {"type": "string"},
        "release": {"type": "string"},
        "arm": {"enum": ["champion", "challenger"]},
        "score": _field(release.contract.score),
    }
    classes = release.manifest["classes"]
    if classes is not None:
        properties["answer"] = {"enum": classes}
        if len(classes) > 2:
            properties["probabilities"] = {"type": "object", "properties": {key: {"type": "number"} for key in classes}}
    required = [name for name in properties if name != "probabilities"]
    properties["abstained"] = {
        "const": True,
        "description": "A person decides; until then the answer is no more than a hint.",
    }
    properties["decision"] = {"type": "string", "description": "Where the decision will be."}
    return {"type": "object", "properties": properties, "required": required}


def _label(field: Field) -> dict[str, Any]:
    """What may be said of a label: true and false may be 1 and 0, a number true and false, a text any of them."""
    found = _field(replace(field, nullable=False, default=None))
    if found.get("type") == "number" or found.get("type") == "integer":
        if "enum" in found:  # to JSON schema, unlike to Python, true is not 1
            found["enum"] = [*found["enum"], *(flag for flag in (False, True) if flag in found["enum"])]
        return found | {"type": [found["type"], "boolean"]}
    return {**found, "type": ["string", "number", "boolean"]} if field.type == "String" else found


def _field(field: Field) -> dict[str, Any]:
    """A column's values as a JSON schema; a check that has no form there is told in words."""
    whole = "Int" in field.type
    kind = "integer" if whole else {"String": "string"}.get(field.type, "number")
    found: dict[str, Any] = {"type": kind}
    if whole:
        bits = int(field.type.rpartition("Int")[2])
        found["minimum"] = 0 if field.type.startswith("U") else -(2 ** (bits - 1))
        found["maximum"] = 2 ** (bits if field.type.startswith("U") else bits - 1) - 1
    if field.type == "Float32":
        found |= {"minimum": -FLOAT32, "maximum": FLOAT32}
    if field.type == "Boolean":
        found = {"type": ["boolean", "integer"], "enum": [False, True, 0, 1, *([None] if field.nullable else [])]}
    if field.type in ("Date", "Datetime"):
        found = {"type": "string", "format": "date" if field.type == "Date" else "date-time"}
    words = [field.description or ""]
    for rule in field.checks:
        args = rule.args
        match rule.name:
            case "ge":
                _narrow(found, "minimum", args["min_value"])
            case "gt":
                found["exclusiveMinimum"] = args["min_value"]
            case "le":
                _narrow(found, "maximum", args["max_value"])
            case "lt":
                found["exclusiveMaximum"] = args["max_value"]
            case "in_range":
                _narrow(found, "minimum" if args.get("include_min", True) else "exclusiveMinimum", args["min_value"])
                _narrow(found, "maximum" if args.get("include_max", True) else "exclusiveMaximum", args["max_value"])
            case "isin":
                found["enum"] = [*args["allowed_values"], *([None] if field.nullable else [])]
            case "eq":
                found["const"] = args["value"]
            case "str_matches":
                found["pattern"] = args["pattern"] if args["pattern"][:1] == "^" else f"^{args['pattern']}"
            case "str_contains":
                found["pattern"] = args["pattern"]
            case _:
                words.append(f"{rule}.")
    if field.coerce and field.type != "Boolean":
        found["type"] = sorted({"string", "number", found["type"]})
    if field.nullable and "format" in found:
        found = {"anyOf": [found, {"type": "null"}]}
    elif field.nullable:
        found["type"] = [*([found["type"]] if isinstance(found["type"], str) else found["type"]), "null"]
    told = " ".join(filter(None, words))
    return (
        found
        | ({"description": told} if told else {})
        | ({"default": field.default} if field.default is not None else {})
    )


def _narrow(found: dict[str, Any], word: str, bound: Any) -> None:
    """A bound, unless the type has a tighter one."""
    if word in found and isinstance(bound, int | float):
        bound = (max if word == "minimum" else min)(found[word], bound)
    found[word] = bound


def _example(release: Release) -> dict[str, Any]:
    """A row that the release was proven with, and a key for it."""
    kept: dict[str, Any] = read_json(release.folder / "parity.json")["rows"][0]
    contract = release.contract
    types = {field.name: field.type for field in contract.fields}
    own = {name: 1 if "Int" in types[name] else "a-key" for name in contract.key}
    return {**own, **{name: kept[name] for name in contract.features if name in kept}}
