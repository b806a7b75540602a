"""What a service refuses: who asks too often, and what no client of good will sends. Each gets a clear answer, and none stops the others."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from outlets.serving import ROW, Served, row, serving

from meguri.base.errors import SettingsError
from meguri.outlets.rest import tokens
from meguri.outlets.rest.limits import Bucket


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("limits") / "alarm") as running:
        yield running


# how often one token may ask


def test_a_bucket_fills_at_its_rate() -> None:
    now = [100.0]
    bucket = Bucket(2.5, clock=lambda: now[0])
    assert [bucket.take() for _ in range(4)] == [0, 0, 1, 1]  # 2.5 were saved, and refusals cost nothing
    now[0] += 0.2
    assert [bucket.take(), bucket.take()] == [0, 1]
    now[0] += 1000
    assert [bucket.take() for _ in range(3)] == [0, 0, 1]  # no more than a second's worth is saved
    rare = Bucket(0.05, clock=lambda: now[0])
    assert [rare.take(), rare.take()] == [0, 20]
    now[0] += 19
    assert rare.take() == 1
    now[0] += 1.001
    assert rare.take() == 0


def test_who_asks_too_often_is_told_when_to_ask_again(tmp_path: Path) -> None:
    made = Served(tmp_path / "alarm")
    given = {
        "first": {"token": "a-token-without-a-rate", "scopes": ["predict", "admin"]},
        "rare": {"token": "a-token-that-is-slow", "scopes": ["predict"], "per_second": 0.001},
    }
    file = made.outputs / "tokens.json"
    file.write_text(json.dumps(given))
    file.chmod(0o600)
    try:
        made.start()
        rare = {"authorization": f"Bearer {given['rare']['token']}"}
        assert made.ask("POST", "/predict", row("rare-1"), **rare)[0] == 200
        status, headers, problem = made.whole("POST", "/predict", row("rare-2"), **rare)
        assert (status, headers["content-type"]) == (429, "application/problem+json")
        assert 900 < int(headers["retry-after"]) <= 1000
        assert (problem["status"], problem["request"]) == (429, headers["x-request-id"])
        assert headers["retry-after"] in problem["detail"]
        assert made.ledger.find("rare-2") == []
        for number in range(5):
            assert made.ask("POST", "/predict", row(f"often-{number}"))[0] == 200
        text = made.ask("GET", "/metrics")[1]
        assert 'meguri_limited_total{token="rare"} 1.0' in text
        assert 'meguri_request_seconds_count{path="/predict",status="429"} 1.0' in text
        responses = made.ask("GET", "/openapi.json")[1]["paths"]["/predict"]["post"]["responses"]
        assert responses["429"]["headers"]["Retry-After"]["required"]
    finally:
        made.close()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"per_second": 0}, "no number above 0"),
        ({"per_second": True}, "no number above 0"),
        ({"per_second": float("inf")}, "no number above 0"),
        ({"per_secnd": 5}, "unknown key 'per_secnd'"),
        ({"scopes": ["everything"]}, "a scope beside"),
        ({"token": "short"}, "shorter than 16"),
        ({"per_second": "often"}, "cannot be read"),
        ({"scopes": None}, "cannot be read"),
    ],
)
def test_a_file_of_tokens_that_means_nothing(more: dict[str, Any], told: str, tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(json.dumps({"a": {"token": "long-enough-for-a-token", "scopes": ["predict"], **more}}))
    file.chmod(0o600)
    with pytest.raises(SettingsError, match=told) as caught:
        tokens.read(file)
    assert caught.value.fix


# what no client of good will sends


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"key": "\\u0000", "value": 1}', 422),
        (b'{"key": "k", "value": "\\u0000"}', 422),
        (b"[" * 100_000, 400),
        (b'{"key": "k", "value": 1, "a": ' * 5_000, 400),
        (b'{"key": "k", "value": 1, "known_at": 20240101}', 422),
        (b'{"key": "k", "value": 1, "source": 3}', 422),
        (b'{"prediction_id": "01a21a40-ca0d-7081-a04d-b95779c1be0d", "key": 3, "value": 1}', 422),
    ],
)
def test_labels_that_are_none(served: Served, body: bytes, expected: int) -> None:
    status, problem = served.ask("POST", "/labels", body)
    assert (status, problem["status"]) == (expected, expected)


def test_the_faults_of_labels_and_events_have_their_places(served: Served) -> None:
    def pointers(path: str, body: Any) -> set[str]:
        status, problem = served.ask("POST", path, body)
        assert status == 422
        return {error["pointer"] for error in problem["errors"]}

    wrong = {"prediction_id": "x", "value": None, "known_at": "soon", "source": 3}
    assert pointers("/labels", wrong) == {"#/prediction_id", "#/value", "#/known_at", "#/source"}
    good = {"key": "k", "value": True}
    assert pointers("/labels", [good, wrong, {"value": 1}]) >= {"#/1/value", "#/2/key"}
    assert pointers("/labels", [good, {"key": "k", "value": "perhaps"}]) == {"#/1/value"}
    _, answer = served.ask("POST", "/predict", row("kinds"))
    mixed = [
        {"key": "kinds", "value": True},
        {"key": "kinds", "value": 0},
        {"prediction_id": answer["prediction_id"], "value": True},
    ]
    assert served.ask("POST", "/labels", mixed[:2]) == (200, {"new": 1, "same": 0, "corrected": 1, "unmatched": 0})
    assert served.ask("POST", "/labels", mixed[2:])[1]["corrected"] == 1
    assert pointers("/events", {"id": 1, "at": "soon", "value": True}) == {
        "#/id",
        "#/unit",
        "#/kind",
        "#/at",
        "#/value",
    }


def test_a_text_that_no_ledger_keeps(served: Served) -> None:
    """PostgreSQL refuses U+0000, and with it everybody's answers in the same commit."""
    assert served.ask("POST", "/predict", row("a\x00b"))[0] == 422
    assert served.ask("POST", "/predict", row("a\\u0000b"))[0] == 200  # seven letters
    assert served.ask("GET", "/decisions/a%00b")[0] == 404


def test_a_body_that_is_said_to_be_something_else(served: Served) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""):
        status, headers, problem = served.whole("POST", "/predict", ROW, **{"content-type": kind})
        assert (status, problem["status"], headers["content-type"]) == (415, 415, "application/problem+json")
    for kind in ("application/json; charset=utf-8", "Application/JSON"):
        assert served.ask("POST", "/predict", row("kind"), **{"content-type": kind})[0] == 200


def test_of_a_name_that_comes_twice_the_last_counts(served: Served) -> None:
    twice = json.dumps(row("once")).encode()[:-1] + b', "flight": "twice"}'
    assert served.ask("POST", "/predict", twice)[1]["key"] == "twice"
    slowly = json.dumps(row("once", hour=3.0)).encode()[:-1] + b', "flight": "twice"}'
    assert served.ask("POST", "/predict", slowly)[1]["key"] == "twice"


def talk(served: Served, *parts: bytes) -> bytes:
    """What the service says to bytes, until it ends the connection."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as line:
        told = b""
        try:
            for part in parts:
                line.sendall(part)
            while some := line.recv(65536):
                told += some
        except ConnectionError:  # it has heard enough
            pass
        return told


def test_bytes_that_are_no_http(served: Served) -> None:
    head = f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.token}\r\n".encode()
    body = json.dumps(row("raw")).encode()
    length = b"Content-Length: %d\r\n" % len(body)
    last = b"Connection: close\r\n"
    for expected, sent in {
        b"200": head + last + length + b"\r\n" + body,
        b"400": b"\x00\x01 nothing \xff\r\n\r\n",
        b"400 ": head + length + b"Content-Length: 7\r\n\r\n" + body,
        b"400 B": head + b"Content-Length: -5\r\n\r\n12345",
        b"400 Ba": head + b"Transfer-Encoding: chunked\r\n\r\nno number\r\n" + body,
        b"400 Bad": b"GET /decisions/\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"414": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"431": b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 500 + b"\r\n",
        b"401": b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 9\r\n\r\n" + b" " * 9,
    }.items():
        assert talk(served, sent).startswith(b"HTTP/1.1 " + expected), sent[:80]
    # one request after the other on one line, and then what is none
    told = talk(served, (head + length + b"\r\n" + body) * 2 + b"GARBAGE\x00\r\n\r\n")
    assert told.count(b"HTTP/1.1 200 ") == 2
    assert told.count(b"HTTP/1.1 400 ") == 1
    assert served.ask("POST", "/predict", row("after"))[0] == 200


@pytest.mark.slow
def test_a_head_that_does_not_end(served: Served) -> None:
    """Thirty seconds, then the line is cut; meanwhile others are answered."""
    told: list[bytes] = []
    half = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "
    lines = [threading.Thread(target=lambda: told.append(talk(served, half))) for _ in range(20)]
    for line in lines:
        line.start()
    for number in range(20):
        assert served.ask("POST", "/predict", row(f"beside-{number}"))[0] == 200
    for line in lines:
        line.join()
    assert len(told) == 20
    assert not [some for some in told if some.startswith(b"HTTP/1.1 2")]
