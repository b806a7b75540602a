"""The OpenAPI description of a service, made of its champion's contract: names, types, ranges, examples."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from meguri.base.files import read_json

if TYPE_CHECKING:
    from meguri.data.contract import Contract
    from meguri.data.spec import Field
    from meguri.record.release import Release


def describe(release: Release, filled: Collection[str] = ()) -> dict[str, Any]:
    """The description as JSON values (OpenAPI 3.1); ``filled`` are the columns that the online table has."""
    contract = release.contract
    row = {"$ref": "#/components/schemas/Row"}
    answer = {"$ref": "#/components/schemas/Answer"}
    many = {"type": "array", "minItems": 1}
    example = _example(release)
    label = next((field for field in contract.fields if field.name == contract.label), None)
    value = {} if label is None else _field(label)
    problems = {
        status: {
            "description": told,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status, told in (
            ("400", "The body is no JSON."),
            ("401", "There is no token, or it is not known."),
            ("403", "The token may not do this."),
            ("404", "There is no such prediction."),
            ("408", "The body came too slowly."),
            ("413", "The body is too large, or has too many rows."),
            ("422", "A value breaks the contract; `errors` names each by a JSON pointer."),
            ("503", "Nothing was answered or written: ask again after `Retry-After` seconds."),
        )
    }

    def post(summary: str, one: Any, given: Any, example: Any = None) -> dict[str, Any]:
        body: dict[str, Any] = {"schema": {"oneOf": [one, {**many, "items": one}]}}
        if example is not None:
            body["examples"] = {"one": {"value": example}, "many": {"value": [example]}}
        done = {"description": "Done, and durable.", "content": {"application/json": {"schema": given}}}
        return {"post": {"summary": summary, "requestBody": {"required": True, "content": {"application/json": body}}, "responses": {"200": done, **problems}}}  # fmt: skip

    def get(summary: str, kind: str, *statuses: str) -> dict[str, Any]:
        done = {
            "description": "Yes.",
            "content": {kind: {"schema": {"type": "string"} if "text" in kind else {"type": "object"}}},
        }
        return {
            "get": {
                "summary": summary,
                "security": [],
                "responses": {"200": done, **{s: problems[s] for s in statuses}},
            }
        }

    counts = {"type": "object", "additionalProperties": {"type": "integer"}}
    labels = {
        "type": "object",
        "properties": {
            "prediction_id": {"type": "string", "format": "uuid"},
            "key": {"type": "string"},
            "value": value,
            "known_at": {"type": "string", "format": "date-time"},
            "source": {"type": "string"},
        },
        "required": ["value"],
        "anyOf": [{"required": ["prediction_id"]}, {"required": ["key"]}],
    }
    events = {
        "type": "object",
        "properties": {
            "id": {"type": "string"},
            "unit": {"type": "string"},
            "kind": {"type": "string"},
            "at": {"type": "string", "format": "date-time"},
            "value": {"type": "number"},
        },
        "required": ["id", "unit", "kind"],
    }
    waiting = get("The answers that wait for a person, oldest first.", "application/json", "401", "403", "503")
    decision = get("What a person decided of an answer.", "application/json", "401", "403", "404", "503")
    decision["get"]["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    waiting["get"]["responses"]["200"]["content"]["application/json"]["schema"] = {
        "type": "array",
        "items": {"type": "object"},
    }
    metrics = get("What the service counted, for Prometheus.", "text/plain", "401", "403")
    for one in (metrics, waiting, decision):
        del one["get"]["security"]
    return {
        "openapi": "3.1.0",
        "info": {"title": contract.name, "version": release.id, "description": f"Answers of the release {release.id}."},
        "security": [{"token": []}],
        "paths": {
            "/predict": post("Answer one row, or many.", row, {"oneOf": [answer, {**many, "items": answer}]}, example),
            "/labels": post("Tell what really happened.", labels, counts),
            "/events": post("Tell what a unit did after its answer.", events, counts),
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
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Row": _row(contract, filled), "Answer": _answer(release), "Problem": _PROBLEM},
        },
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
    fields = [field for field in contract.fields if field.name != contract.label]
    given = {contract.time, *filled}
    needed = [f.name for f in fields if not f.nullable and f.required and f.default is None and f.name not in given]
    row: dict[str, Any] = {
        "type": "object",
        "properties": {field.name: _field(field) for field in fields},
        "required": needed,
    }
    time = row["properties"][contract.time]
    time["description"] = " ".join(
        filter(None, [time.get("description"), "The moment of the prediction (default: now)."])
    )
    return row | ({"additionalProperties": False} if contract.strict else {})


def _answer(release: Release) -> dict[str, Any]:
    score = (
        {"type": "number"} if release.contract.task == "regression" else {"type": "number", "minimum": 0, "maximum": 1}
    )
    properties: dict[str, Any] = {
        "prediction_id": {"type": "string", "format": "uuid"},
        "key": {"type": "string"},
        "release": {"type": "string"},
        "arm": {"enum": ["champion", "challenger"]},
        "score": score,
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


def _field(field: Field) -> dict[str, Any]:
    """A column's values as a JSON schema; a check that has no form there is told in words."""
    kind = "integer" if "Int" in field.type else {"Boolean": "boolean", "String": "string"}.get(field.type, "number")
    found: dict[str, Any] = {"type": kind}
    if field.type in ("Date", "Datetime"):
        found = {"type": "string", "format": "date" if field.type == "Date" else "date-time"}
    words = [field.description or ""]
    for rule in field.checks:
        args = rule.args
        match rule.name:
            case "ge":
                found["minimum"] = args["min_value"]
            case "gt":
                found["exclusiveMinimum"] = args["min_value"]
            case "le":
                found["maximum"] = args["max_value"]
            case "lt":
                found["exclusiveMaximum"] = args["max_value"]
            case "in_range":
                found["minimum" if args.get("include_min", True) else "exclusiveMinimum"] = args["min_value"]
                found["maximum" if args.get("include_max", True) else "exclusiveMaximum"] = args["max_value"]
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
    if field.nullable:
        found["type"] = [found["type"], "null"]
    told = " ".join(filter(None, words))
    return (
        found
        | ({"description": told} if told else {})
        | ({"default": field.default} if field.default is not None else {})
    )


def _example(release: Release) -> dict[str, Any]:
    """A row that the release was proven with, and a key for it."""
    kept: dict[str, Any] = read_json(release.folder / "parity.json")["rows"][0]
    contract = release.contract
    types = {field.name: field.type for field in contract.fields}
    own = {name: 1 if "Int" in types[name] else "a-key" for name in contract.key}
    return {**own, **{name: kept[name] for name in contract.features if name in kept}}
