"""The service that `meguri serve` starts, as its clients see it."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from outlets.serving import AT, ROW, Served, free, serving
from record.releases import rows

from meguri.record import rollout
from meguri.record.release import Release

LATER = datetime(2100, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("served") / "alarm") as running:
        yield running


def row(name: str, **more: Any) -> dict[str, Any]:
    return {**ROW, "flight": name, **more}


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
        (kept,) = served.ledger.find(answer["prediction_id"]).iter_rows(named=True)
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
    assert served.ledger.find("fine").is_empty()  # all or none


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
    assert served.ledger.find("no").is_empty()
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
    (kept,) = served.ledger.find("labelled").iter_rows(named=True)
    assert (kept["label"], kept["source"]) == (1.0, "first")  # the token's name


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
    assert "at" not in row_schema["required"]
    body = told["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    assert served.ask("POST", "/predict", body["examples"]["one"]["value"])[0] == 200


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


# rollouts: each test has a service of its own


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "alarm") as running:
        yield running


def released(served: Served, names: list[str]) -> dict[str, str]:
    status, answers = served.ask("POST", "/predict", [row(name) for name in names])
    assert status == 200, answers
    return {answer["key"]: answer["release"] for answer in answers}


def test_a_challenger_gets_its_share_and_keeps_its_units(alone: Served) -> None:
    units = [f"unit{i}" for i in range(900)]
    assert set(released(alone, units).values()) == {"r-1"}
    alone.roll("r-1", challengers={"r-2": 0.2})
    alone.until(lambda: "r-2" in released(alone, units).values())
    first = released(alone, units)
    assert 120 < list(first.values()).count("r-2") < 240
    assert released(alone, units) == first
    alone.roll("r-1", challengers={"r-2": 0.5})
    alone.until(lambda: list(released(alone, units).values()).count("r-2") > 300)
    second = released(alone, units)
    assert {unit for unit in units if first[unit] == "r-2"} <= {unit for unit in units if second[unit] == "r-2"}
    kept = alone.ledger.joined(as_of=LATER).filter(pl.col("arm") == "challenger")
    assert set(kept["propensity"]) == {0.2, 0.5}
    rollout.promote(alone.ledger, "rest", "r-2", at=AT + timedelta(days=1), why="better", by="test")
    alone.until(lambda: set(released(alone, units).values()) == {"r-2"})
    rollout.rollback(alone.ledger, "rest", at=AT + timedelta(days=2), why="worse", by="test")
    alone.until(lambda: set(released(alone, units).values()) == {"r-1"})


def test_a_shadow_is_asked_and_never_answers(alone: Served) -> None:
    alone.roll("r-1", shadow=["r-2"])
    alone.until(lambda: released(alone, ["s"]) == {"s": "r-1"} and alone.ledger.find("s").filter(arm="shadow").height)
    kept = alone.ledger.find("s")
    assert set(kept["release"]) == {"r-1", "r-2"}
    assert kept.filter(arm="shadow")["propensity"].to_list()[0] == 0.0


def test_a_broken_release_is_refused_and_the_old_one_goes_on(alone: Served) -> None:
    model = alone.outputs / "releases" / "r-2" / "model.onnx"
    whole = model.read_bytes()
    model.write_bytes(whole[: len(whole) // 2])
    alone.roll("r-2")
    alone.until(lambda: "model.onnx was changed" in str(alone.ask("GET", "/readyz")[1]["refused"]))
    assert released(alone, ["on"]) == {"on": "r-1"}
    alone.roll("none")
    alone.until(lambda: "no release 'none'" in str(alone.ask("GET", "/readyz")[1]["refused"]))
    model.write_bytes(whole)
    alone.roll("r-2")
    alone.until(lambda: released(alone, ["on"]) == {"on": "r-2"})
    assert alone.ask("GET", "/readyz")[1]["refused"] is None
    (alone.outputs / "releases" / "r-2" / "model.onnx").write_bytes(b"")  # what is loaded does not need its file
    assert released(alone, ["on"]) == {"on": "r-2"}


def hammer(served: Served, stop: threading.Event, name: str, got: list[str], failed: list[Any]) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        try:
            status, answer = served.ask("POST", "/predict", row(f"{name}-{number}"))
        except OSError:
            return  # it was killed
        (got if status == 200 else failed).append(answer["prediction_id"] if status == 200 else answer)


def under_load(served: Served) -> tuple[threading.Event, list[threading.Thread], list[str], list[Any]]:
    stop, got, failed = threading.Event(), list[str](), list[Any]()
    threads = [threading.Thread(target=hammer, args=(served, stop, f"t{i}", got, failed)) for i in range(4)]
    for thread in threads:
        thread.start()
    return stop, threads, got, failed


def test_kill_9_loses_no_answer_that_was_given(alone: Served) -> None:
    for _ in range(3):
        _, threads, got, failed = under_load(alone)
        alone.until(lambda got=got: len(got) > 50)  # type: ignore[misc]
        alone.kill()
        for thread in threads:
            thread.join()
        assert not failed
        kept = alone.ledger.joined(as_of=LATER)["prediction_id"].to_list()
        assert set(got) <= set(kept)
        assert len(kept) == len(set(kept))
        alone.start()


def test_rollouts_under_load_fail_no_request(alone: Served) -> None:
    stop, threads, got, failed = under_load(alone)
    for champion in ("r-2", "r-1", "r-2"):
        alone.roll(champion, challengers={"r-1" if champion == "r-2" else "r-2": 0.3})
        alone.until(lambda champion=champion: alone.ask("GET", "/readyz")[1]["release"] == champion)
    stop.set()
    for thread in threads:
        thread.join()
    assert got
    assert not failed


def test_a_ledger_that_cannot_be_written_refuses(alone: Served) -> None:
    assert released(alone, ["before"])
    with sqlite3.connect(alone.outputs / "ledger.db") as db:
        db.execute("CREATE TRIGGER full BEFORE INSERT ON predictions BEGIN SELECT RAISE(ABORT, 'no space'); END")
    status, headers, problem = alone.whole("POST", "/predict", row("lost"))
    assert (status, headers["retry-after"]) == (503, "1")
    assert "could not be written down" in problem["detail"]
    with sqlite3.connect(alone.outputs / "ledger.db") as db:
        db.execute("DROP TRIGGER full")
    db.close()
    assert released(alone, ["after"])
    assert alone.ledger.find("lost").is_empty()
    assert "no space" in alone.log()


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
        assert running.stop() == 0


def test_nothing_is_ready_before_something_is_live(tmp_path: Path) -> None:
    served = Served(tmp_path / "alarm")
    (served.outputs / "ledger.db").unlink()
    for more in served.outputs.glob("ledger.db-*"):
        more.unlink()
    import subprocess
    import sys

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
    import socket
    import subprocess
    import sys

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
        kept = [json.loads(served.ledger.find(key)["features"][0]) for key in ("short", "whole")]
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
