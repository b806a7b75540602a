"""The log of a service: a line of JSON for each refusal, with the request's id, and nothing of what a client sent."""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from data.servers import PASSWORD, postgres_server
from outlets.serving import Served, row, serving
from outlets.test_rest_limits import talk

from meguri.outlets.rest import logs
from meguri.outlets.rest.app import App
from meguri.outlets.rest.options import Options
from meguri.record.ledger import open_ledger

SECRET = "s3cr3t-that-nobody-may-see"


def lines(served: Served) -> dict[str, dict[str, Any]]:
    """What the log says of each request, by its id; every line but the command's own is JSON."""
    first, *others = served.log().splitlines()
    assert first.startswith("serving on ")
    told = [json.loads(line) for line in others]
    return {one["request"]: one for one in told if "request" in one}


def test_each_refusal_has_a_line_and_none_has_a_secret(tmp_path: Path) -> None:
    with serving(tmp_path / "alarm") as served:
        asked: list[tuple[str, str, Any, dict[str, str], int]] = [
            ("GET", f"/{SECRET}?token={SECRET}", None, {}, 404),
            ("GET", f"/decisions/{SECRET}", None, {}, 404),
            ("DELETE", "/predict", None, {"x-secret": SECRET}, 405),
            ("POST", "/predict", row(SECRET), {"authorization": f"Bearer {SECRET}"}, 401),
            ("POST", "/predict", row(SECRET), {"authorization": SECRET, "cookie": SECRET}, 401),
            ("POST", f"/predict?key={SECRET}", row("q", carrier=SECRET, hour=24, origin=SECRET), {}, 422),
            ("POST", "/predict", [row("a"), {**row("b"), SECRET: SECRET, "hour": SECRET}], {}, 422),
            ("POST", "/predict", f'{{"flight": "{SECRET}'.encode(), {}, 400),
            ("POST", "/predict", [SECRET], {}, 422),
            ("POST", "/predict", row(SECRET), {"content-type": SECRET}, 415),
            ("POST", "/labels", {"key": SECRET, "value": SECRET}, {}, 422),
            ("POST", "/labels", {"prediction_id": SECRET, "value": 1, "known_at": SECRET}, {}, 422),
            ("POST", "/events", {"id": SECRET, "unit": SECRET, "kind": SECRET, "at": SECRET}, {}, 422),
            ("POST", "/predict", row(SECRET), {}, 200),
        ]
        for number, (method, path, body, headers, expected) in enumerate(asked):
            status, told, _ = served.whole(method, path, body, **{"x-request-id": f"ask-{number}", **headers})
            assert (status, told["x-request-id"]) == (expected, f"ask-{number}"), (path, body)
        talk(served, f"GET /{SECRET} HTTP/1.1\r\n{SECRET}\x00: {SECRET}\r\n\r\n".encode())
        assert served.stop() == 0
        found = lines(served)
        for number, (_, path, _, _, expected) in enumerate(asked):
            if expected != 200:
                line = found.pop(f"ask-{number}")
                address = path.partition("?")[0]
                assert line["status"] == expected
                assert line["path"] in (address, "other", "/decisions")
                assert line["level"] == "INFO"
        assert not found  # an answer that was given has no line
        assert SECRET not in served.log()
        assert served.token not in served.log()


def test_a_ledger_that_is_away_is_told_without_its_password(tmp_path: Path) -> None:
    served = Served(tmp_path / "alarm")
    try:
        with postgres_server() as server, closing(open_ledger(server.url)) as ledger:
            served.ledger.close()
            served.ledger = ledger
            served.roll("r-1")
            with (served.root / "hydra" / "default.yaml").open("a") as settings:
                settings.write(f"\nledger: {server.url}\n")
            served.start()
            assert served.ask("POST", "/predict", row("kept"))[0] == 200
            server.stop()
            body, headers = row(SECRET, wind=12345.678), {"x-request-id": "away-1"}
            status, told, problem = served.whole("POST", "/predict", body, **headers)
            assert (status, told["retry-after"]) == (503, "1")
            assert served.ask("POST", "/labels", {"key": SECRET, "value": 1}, **{"x-request-id": "away-2"})[0] == 503
            assert served.ask("GET", "/queue", **{"x-request-id": "away-3"})[0] == 503
            server.start()
            served.until(lambda: served.ask("POST", "/predict", row("again"))[0] == 200)
            served.stop()
            found = lines(served)
            assert {"away-1", "away-2", "away-3"} <= found.keys()
            assert {found[name]["level"] for name in ("away-1", "away-2", "away-3")} == {"WARNING"}
            assert "the ledger cannot be used" in found["away-1"]["message"]
            for secret in (SECRET, "12345.678", PASSWORD, served.token):
                assert secret not in served.log()
            assert PASSWORD not in json.dumps(problem)
    finally:
        served.close()


def test_a_fault_of_the_service_s_own_has_its_place_and_not_its_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tmp_path / "alarm")
    root, meguri = logging.getLogger(), logging.getLogger("meguri")
    before = root.handlers, root.level, meguri.level
    logs.begin()
    app = App(Options(ledger=served.url, releases=str(served.outputs / "releases"), tokens=None))

    async def fails(body: bytes) -> Any:
        try:
            raise KeyError(body.decode())
        except KeyError as error:
            raise ValueError(f"wrong: {body.decode()}") from error

    monkeypatch.setattr(app.service, "predict", fails)
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": SECRET.encode()}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [(b"x-request-id", b"ask-1")]}
    try:
        asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
        logging.getLogger("another library").error("a task failed", exc_info=ValueError(SECRET))
        logging.getLogger("other").warning("password=%s", SECRET)
        told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    finally:
        root.handlers = before[0]
        root.setLevel(before[1])
        meguri.setLevel(before[2])
        asyncio.run(app.service.close())
        served.close()
    assert sent[0]["status"] == 500
    first, *others = told
    assert (first["level"], first["request"], first["status"]) == ("ERROR", "ask-1", 500)
    assert [text.split(" ")[0] for text in first["error"]] == ["ValueError", "KeyError"]
    assert "test_rest_logs.py" in first["error"][0]
    assert [one["message"] for one in others] == ["a task failed", "password=***"]
    assert SECRET not in json.dumps(told)
    assert SECRET not in sent[1]["body"].decode()
