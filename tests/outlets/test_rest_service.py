"""The service that `meguri serve` starts, as its clients see it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from outlets.serving import AT, LATER, ROW, Served, free, row, serving, under_load
from record.releases import rows

from meguri.data.spec import Field, Rule
from meguri.outlets.rest.openapi import _label
from meguri.record.release import Release


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served") / "alarm") as running:
        yield running


def test_an_answer_is_the_release_s_and_in_the_ledger(served: Served) -> None:
    table = rows("binary", 40).drop("delay").with_columns(flight=pl.format("one-{}", pl.int_range(pl.len())))
    expected = Release.load(served.outputs / "releases" / "r-1").predict(table, ids=False).table
    asked = json.loads(table.write_json())
    status, first = served.ask("POST", "/predict", asked[0])
    assert status == 200
    status, others = served.ask("POST", "/predict", asked[1:])
    assert status == 200
    answers = [first, *others]
    assert [answer["key"] for answer in answers] == table["flight"].to_list()
    assert [answer["score"] for answer in answers] == expected["score"].to_list()
    assert [answer["answer"] for answer in answers] == expected["answer"].to_list()
    for answer, given, features in zip(answers, asked, expected["features"].to_list(), strict=True):
        (kept,) = (one._asdict() for one in served.ledger.find(answer["prediction_id"]))
        assert (kept["release"], kept["arm"], kept["propensity"], kept["outlet"]) == ("r-1", "champion", 1.0, "rest")
        assert (kept["key"], kept["unit"], kept["score"]) == (given["flight"], given["flight"], answer["score"])
        assert kept["time"] == datetime.fromisoformat(given["at"]).replace(tzinfo=UTC)
        assert kept["due"] == kept["time"] + timedelta(hours=6)
        assert json.loads(kept["features"]) == features


def test_a_row_that_breaks_the_contract_is_told_by_its_field(served: Served) -> None:
    status, headers, problem = served.whole("POST", "/predict", row("bad", hour=24, origin="KIX"))
    assert (status, headers["content-type"]) == (422, "application/problem+json")
    assert {error["pointer"] for error in problem["errors"]} == {"#/hour", "#/origin"}
    assert problem["request"] == headers["x-request-id"]
    assert served.ask("POST", "/predict", [row("fine"), row("bad", hour=None)])[0] == 422
    assert served.ledger.find("fine") == []  # all or none
    problem = served.whole("POST", "/predict", row("far", **{"dist ance": 1e300}))[2]
    bound = "dist ance: in_range(-3.4028235e+38, 3.4028235e+38)"
    assert problem["errors"] == [{"detail": bound, "pointer": "#/dist ance"}]
    assert served.ledger.find("far") == []


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/nowhere", None, 404),
        ("GET", "/predict", None, 405),
        ("POST", "/healthz", b"", 405),
        ("POST", "/predict", b"{", 400),
        ("POST", "/predict", b"", 400),
        ("POST", "/predict", b'{"hour": NaN}', 400),
        ("POST", "/predict", b"\xff\xfe", 400),
        ("POST", "/predict", b"[]", 422),
        ("POST", "/predict", b"[" * 50_000, 400),
        ("POST", "/predict", b" " * (2**20 + 1), 413),
        ("POST", "/predict", b"[" + b"{}," * 1000 + b"{}]", 413),
        ("POST", "/labels", b'{"value": 1}', 422),
        ("POST", "/labels", b'{"prediction_id": "x", "value": 1}', 422),
        ("POST", "/labels", b'{"key": 3, "value": 1}', 422),
        ("POST", "/labels", b'{"key": "k"}', 422),
        ("POST", "/labels", b'{"key": "k", "value": "perhaps"}', 422),
        ("POST", "/labels", b'{"key": "k", "value": 1, "known_at": "soon"}', 422),
        ("POST", "/labels", b"[3]", 422),
        ("POST", "/labels", b'{"key": "k", "value": NaN}', 400),
        ("POST", "/labels", b'{"key": "k", "value": 1, "known_at": "0001-01-01T00:00:00+03:00"}', 422),
        ("POST", "/labels", b'{"key": "\\ud800", "value": 1}', 400),
        ("POST", "/labels", b'{"key": "k", "value": ' + b"9" * 400 + b"}", 422),
        ("POST", "/labels", b'{"key": "k", "value": {}}', 422),
        ("POST", "/labels", b'{"key": "k", "value": [1]}', 422),
        ("POST", "/labels", b'[{"key": "k", "value": 1}, {"value": 1}]', 422),
        ("POST", "/events", b'{"unit": "u", "kind": "buy"}', 422),
        ("POST", "/events", b'{"id": "e", "unit": "u", "kind": "buy", "value": "much"}', 422),
        ("POST", "/events", b'{"id": "e", "unit": "u", "kind": "buy", "value": 1e999}', 422),
        ("POST", "/events", b"x", 400),
    ],
)
def test_what_is_wrong_is_told(served: Served, method: str, path: str, body: bytes | None, expected: int) -> None:
    status, headers, problem = served.whole(method, path, body)
    assert status == expected, problem
    assert headers["content-type"] == "application/problem+json"
    assert problem["status"] == expected
    assert problem["detail"]


def test_who_may_do_what(served: Served) -> None:
    assert served.ask("GET", "/healthz", authorization="")[0] == 200
    status, headers, _ = served.whole("POST", "/predict", row("no"), authorization="")
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    for wrong in ("Bearer wrong", "Basic abc", "Bearer", f"Bearer {served.token}x"):
        assert served.ask("POST", "/predict", row("no"), authorization=wrong)[0] == 401
    assert served.ask("GET", "/metrics", authorization="")[0] == 401
    assert served.ledger.find("no") == []
    assert (served.outputs / "tokens.json").stat().st_mode & 0o777 == 0o600
    assert served.token not in served.log()


def test_labels_come_back_and_count_once(served: Served) -> None:
    _, answer = served.ask("POST", "/predict", row("labelled"))
    label = {"prediction_id": answer["prediction_id"], "value": True}
    assert served.ask("POST", "/labels", label) == (200, {"new": 1, "same": 0, "corrected": 0, "unmatched": 0})
    assert served.ask("POST", "/labels", [label, {"key": "never", "value": 0}]) == (
        200,
        {"new": 0, "same": 1, "corrected": 0, "unmatched": 1},
    )
    both = {**label, "key": "labelled"}  # the id says which one is meant
    assert served.ask("POST", "/labels", both)[1]["same"] == 1
    (kept,) = served.ledger.find("labelled")
    assert (kept.label, kept.source) == (1.0, "first")  # the token's name


def test_events_count_once(served: Served) -> None:
    events = [{"id": f"e{i}", "unit": "u", "kind": "buy", "value": 2.5, "at": "2024-03-01T00:00:00Z"} for i in range(3)]
    assert served.ask("POST", "/events", events[0]) == (200, {"new": 1})
    assert served.ask("POST", "/events", events) == (200, {"new": 2})
    assert served.ledger.events(since=AT, until=LATER)["value"].to_list() == [2.5] * 3


def test_its_description_has_the_contract(served: Served) -> None:
    status, told = served.ask("GET", "/openapi.json")
    assert status == 200
    row_schema = told["components"]["schemas"]["Row"]
    assert row_schema["properties"]["origin"]["enum"] == ["JFK", "LGA", "EWR"]
    assert (row_schema["properties"]["hour"]["minimum"], row_schema["properties"]["hour"]["maximum"]) == (0, 23)
    assert row_schema["properties"]["wind"]["description"] == "Knots."
    assert "at" not in row_schema["required"]
    body = told["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert served.ask("POST", "/predict", body["examples"]["one"]["value"])[0] == 200


def test_a_label_of_1_may_be_true_in_the_description_as_well() -> None:
    late = Field("late", "Int64", nullable=True, checks=(Rule("isin", {"allowed_values": [0, 1]}),))
    assert json.dumps(_label(late)["enum"]) == "[0, 1, false, true]"
    stars = Field("stars", "Int64", checks=(Rule("isin", {"allowed_values": [1, 2, 3]}),))
    assert json.dumps(_label(stars)["enum"]) == "[1, 2, 3, true]"
    assert _label(Field("minutes", "Float64"))["type"] == ["number", "boolean"]


def test_what_it_counts(served: Served) -> None:
    served.ask("POST", "/predict", [row("c1"), row("c2")])
    status, text = served.ask("GET", "/metrics")
    assert status == 200
    assert 'meguri_answers_total{arm="champion",release="r-1"}' in text
    assert 'meguri_request_seconds_count{path="/predict",status="200"}' in text
    assert "meguri_ledger_commits_total" in text


def test_a_request_id_is_kept(served: Served) -> None:
    assert served.whole("GET", "/healthz", **{"x-request-id": "abc-1"})[1]["x-request-id"] == "abc-1"
    assert (
        served.whole("GET", "/healthz", **{"x-request-id": "no spaces please"})[1]["x-request-id"] != "no spaces please"
    )


def test_several_workers_and_a_stop(tmp_path: Path) -> None:
    with serving(tmp_path / "alarm", "--workers", "2", "--no-token") as running:
        stop, threads, got, failed = under_load(running)
        running.until(lambda: len(got) > 100)
        stop.set()
        for thread in threads:
            thread.join()
        assert not failed
        kept = running.ledger.joined(as_of=LATER)["prediction_id"].to_list()
        assert sorted(kept) == sorted(got)
        status, text = running.ask("GET", "/metrics")
        assert status == 200
        assert "meguri_answers_total" in text
        told = running.ask("GET", "/openapi.json")[1]
        assert (told["security"], "securitySchemes" in told["components"]) == ([], False)
        assert not {"401", "403", "429"} & told["paths"]["/predict"]["post"]["responses"].keys()
        assert running.stop() == 0


def test_a_worker_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    with serving(tmp_path / "alarm") as served:
        assert served.process is not None
        served.process.kill()
        served.process.wait()
        served.process = None
        served.until(lambda: not listens(served.port))
        served.start()
        assert served.ask("POST", "/predict", row("again"))[0] == 200


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def test_a_slow_client_is_told(tmp_path: Path) -> None:
    served = Served(tmp_path / "alarm", "outlets: {rest: {seconds: 0.3}}")
    try:
        served.start()
        with socket.create_connection(("127.0.0.1", served.port), timeout=30) as slow:
            head = f"POST /predict HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {served.token}\r\nContent-Length: 100\r\n\r\n"
            slow.sendall(head.encode() + b'{"flight": ')
            assert slow.recv(4096).startswith(b"HTTP/1.1 408 ")
        assert served.ask("POST", "/predict", ROW)[0] == 200
    finally:
        served.close()


def test_nothing_is_ready_before_something_is_live(tmp_path: Path) -> None:
    served = Served(tmp_path / "alarm")
    (served.outputs / "ledger.db").unlink()
    for more in served.outputs.glob("ledger.db-*"):
        more.unlink()
    with (served.root / "serve.log").open("wb") as log:
        command = [sys.executable, "-m", "meguri", "serve", "--port", str(served.port), "--no-token"]
        served.process = subprocess.Popen(command, cwd=served.root, stderr=log, stdout=log, start_new_session=True)
    try:
        served.until(lambda: served.ask("GET", "/healthz")[0] == 200)
        status, problem = served.ask("GET", "/readyz")
        assert status == 503
        assert "nothing is live" in problem["detail"]
        assert served.ask("POST", "/predict", ROW)[0] == 503
    finally:
        served.close()


def test_what_cannot_be_served(tmp_path: Path) -> None:
    served = Served(tmp_path / "alarm")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for options, told in (
            (["--port", port], "cannot be listened on"),
            (["--certificate", "c.pem"], "both --certificate and --key"),
            (["--tokens", "none.json"], "the tokens cannot be read"),
        ):
            command = [sys.executable, "-m", "meguri", "serve", "--port", str(free()), *options]
            done = subprocess.run(command, cwd=served.root, capture_output=True, text=True, check=False)
            assert done.returncode == 1
            assert told in done.stderr
    served.close()


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks(task: str, tmp_path: Path) -> None:
    served = Served(tmp_path / "alarm", task=task)
    try:
        served.start()
        table = rows(task, 20).drop("delay")
        expected = Release.load(served.outputs / "releases" / "r-1").predict(table, ids=False).table
        for asked in (json.loads(table.write_json()), json.loads(table.head(1).write_json())):
            status, answers = served.ask("POST", "/predict", asked)
            assert status == 200
            assert [answer["score"] for answer in answers] == expected["score"].head(len(asked)).to_list()
            if task == "multiclass":
                assert [answer["answer"] for answer in answers] == expected["answer"].head(len(asked)).to_list()
                told = [json.loads(text) for text in expected["probabilities"].head(len(asked))]
                assert [answer["probabilities"] for answer in answers] == told
            else:
                assert "answer" not in answers[0]
                answer = served.ask("GET", "/openapi.json")[1]["components"]["schemas"]["Answer"]
                assert answer["properties"]["score"] == {"type": "number", "description": "In minutes, or late."}
    finally:
        served.close()


# answers that are left to a person, and features that a row leaves out


def test_an_unsure_answer_waits_for_a_person(tmp_path: Path) -> None:
    served = Served(tmp_path / "alarm", "outlets: {rest: {abstain: {below: 0.75, slices: {carrier: [DL]}}}}")
    try:
        served.start()
        asked = json.loads(rows("binary", 60).drop("delay").write_json())
        status, answers = served.ask("POST", "/predict", asked)
        assert status == 200
        unsure = [a for a in answers if "abstained" in a]
        wanted = [
            a["key"]
            for a, row in zip(answers, asked, strict=True)
            if max(a["score"], 1 - a["score"]) < 0.75 or row["carrier"] == "DL"
        ]
        assert 0 < len(unsure) < 60
        assert [a["key"] for a in unsure] == wanted
        assert served.ask("GET", "/queue")[1][0]["prediction_id"] == unsure[0]["prediction_id"]
        status, decision = served.ask("GET", unsure[0]["decision"])
        assert (status, decision["status"], decision["key"]) == (200, "waiting", wanted[0])
        label = {"prediction_id": unsure[0]["prediction_id"], "value": 1, "source": "ann"}
        assert served.ask("POST", "/labels", label)[0] == 200
        _, decision = served.ask("GET", unsure[0]["decision"])
        assert (decision["status"], decision["value"], decision["by"]) == ("decided", 1.0, "ann")
        assert [one["key"] for one in served.ask("GET", "/queue")[1]] == wanted[1:]
        assert served.ask("GET", "/decisions/none")[0] == 404
        assert served.ask("GET", "/decisions/")[0] == 404
        assert served.ask("GET", "/queue", authorization="")[0] == 401
    finally:
        served.close()


FEATURES = """
from datetime import UTC, datetime
import polars as pl
from meguri import Events

seen = pl.DataFrame({"origin": ["JFK", "LGA"], "at": [datetime(2024, 1, 1, tzinfo=UTC)] * 2, "wind": [3.5, 40.0], "stops": [1, 2]})
sources = {"seen": seen}
towers = Events("seen", by="origin", at="at", known="0s")
features = {"wind": towers.last("wind"), "score": lambda wind, hour: wind / (hour + 1)}
"""


def test_a_row_may_leave_out_what_the_online_table_has(tmp_path: Path) -> None:
    from meguri.data.online import materialize, open_online

    served = Served(tmp_path / "alarm")
    (served.root / "src" / "features.py").write_text(FEATURES)
    space: dict[str, Any] = {}
    exec(FEATURES, space)
    materialize(
        {"wind": space["features"]["wind"]},
        space["sources"],
        open_online("sqlite:///outputs/online.db", served.root),
        now=AT,
    )
    try:
        served.start()
        short = {name: value for name, value in ROW.items() if name not in ("wind", "score")} | {
            "origin": "LGA",
            "hour": 4,
        }
        status, one = served.ask("POST", "/predict", short | {"flight": "short"})
        assert status == 200, one
        status, whole = served.ask("POST", "/predict", [short | {"flight": "whole", "wind": 40.0, "score": 8.0}])
        assert status == 200
        assert one["score"] == whole[0]["score"]
        kept = [json.loads(served.ledger.find(key)[0].features or "") for key in ("short", "whole")]
        assert kept[0] == kept[1]
        gone = {name: value for name, value in short.items() if name != "origin"}
        status, problem = served.ask("POST", "/predict", [gone | {"flight": "gone"}])
        assert (status, problem["errors"][0]["pointer"]) == (422, "#/0")
        assert "origin" in problem["errors"][0]["detail"]
        schema = served.ask("GET", "/openapi.json")[1]["components"]["schemas"]["Row"]
        assert not {"wind", "score"} & set(schema["required"])
        assert "hour" in schema["required"]
    finally:
        served.close()
