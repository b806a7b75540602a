"""The online table: on SQLite, PostgreSQL and Redis, and what a request reads from it."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from data.contracts import FLIGHTS, NOON, rows
from data.servers import PASSWORD, free_port, postgres

from meguri.base.errors import DataError, SettingsError
from meguri.data.features import Events, Features
from meguri.data.online import Online, OnlineTable, key_of, materialize, open_online
from meguri.testing.features import OnlineTableCase, differences

WEATHER = Events("weather", by="origin", at="hour", known="1h")
NOW = NOON + timedelta(days=9)


@contextmanager
def redis_server() -> Iterator[str]:
    """The URL of an empty Redis of its own; skips the test where none is installed."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("no Redis server is installed (Debian: redis-server)")
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        place = ["--bind", "127.0.0.1", "--port", str(port), "--dir", folder]
        command = [program, *place, "--save", "", "--requirepass", "sesame"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8")
        try:
            assert server.stdout is not None
            while "Ready to accept connections" not in (line := server.stdout.readline()):
                assert line, "the server ended"
            yield f"redis://:sesame@127.0.0.1:{port}/0"
        finally:
            server.terminate()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()


@pytest.fixture(scope="module")
def postgres_url() -> Iterator[str]:
    with postgres() as url:
        yield url


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with redis_server() as url:
        yield url


@contextmanager
def opened(url: str, root: Path) -> Iterator[Sequence[OnlineTable]]:
    first = open_online(url, root)
    with closing(first), closing(open_online(url, root)) as second:
        yield first, second


def named(request: pytest.FixtureRequest) -> str:
    """A table of its own for each test."""
    return f"t{abs(hash(request.node.nodeid))}"


class TestSqlite(OnlineTableCase):
    @pytest.fixture
    def tables(self, tmp_path: Path) -> Iterator[Sequence[OnlineTable]]:
        with opened("sqlite:///outputs/online.db", tmp_path) as found:
            yield found


class TestPostgres(OnlineTableCase):
    @pytest.fixture
    def tables(self, postgres_url: str, request: pytest.FixtureRequest) -> Iterator[Sequence[OnlineTable]]:
        with opened(f"{postgres_url}#{named(request)}", Path()) as found:
            yield found


class TestRedis(OnlineTableCase):
    @pytest.fixture
    def tables(self, redis_url: str, request: pytest.FixtureRequest) -> Iterator[Sequence[OnlineTable]]:
        with opened(f"{redis_url}#{named(request)}", Path()) as found:
            yield found


KILLED = """
import os, sys
from pathlib import Path
from meguri.data.online import open_online
table = open_online(sys.argv[1])
def entries():
    for number in range(20_000):
        yield f"k{number}", "new"
    os.kill(os.getpid(), 9)
table.replace(entries(), head="new", at=2)
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_a_writer_that_is_killed_leaves_what_was_there(
    kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    url = f"sqlite:////{tmp_path}/online.db" if kind == "sqlite" else str(request.getfixturevalue(f"{kind}_url"))
    url = f"{url}#{named(request)}"
    with opened(url, Path()) as (table, _):
        table.replace([("k1", "old"), ("k2", "old")], head="old", at=1)
        done = subprocess.run([sys.executable, "-c", KILLED, url], check=False)
        assert done.returncode == -9
        assert table.read(["k1", "k2", "k3"]) == ("old", ["old", "old", None])
        assert table.replace([("k1", "newer")], head="newer", at=3)
        assert table.read(["k1", "k2"]) == ("newer", ["newer", None])


@pytest.mark.parametrize("kind", ["postgres", "redis"])
def test_a_server_that_is_gone_is_told_without_its_password(kind: str) -> None:
    secret = PASSWORD if kind == "postgres" else "sesame"
    with (postgres if kind == "postgres" else redis_server)() as url:
        table = open_online(url)
        table.replace([("a", "1")], head="h", at=1)
    with pytest.raises(DataError, match="the online table cannot be used") as caught:
        table.read(["a"])
    assert secret not in str(caught.value)
    with pytest.raises(DataError, match="the online table cannot be used") as caught:
        open_online(url)
    assert secret not in str(caught.value)
    table.close()
    table.close()


def test_a_connection_that_was_lost_is_opened_again(postgres_url: str, request: pytest.FixtureRequest) -> None:
    import psycopg

    with opened(f"{postgres_url}#{named(request)}", Path()) as (table, _):
        table.replace([("a", "1")], head="h", at=1)
        with psycopg.connect(postgres_url, autocommit=True) as other:
            mine = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'postgres'"
            other.execute(mine)
        with pytest.raises(DataError):
            table.read(["a"])
        assert table.read(["a"]) == ("h", ["1"])


def test_a_file_that_is_no_table_is_told(tmp_path: Path) -> None:
    (tmp_path / "online.db").write_bytes(b"this is no database at all, but some text that is long enough" * 9)
    with pytest.raises(DataError, match="not a database") as caught:
        open_online("sqlite:///online.db", tmp_path)
    assert "meguri features materialize" in str(caught.value)
    (tmp_path / "folder.db").mkdir()
    with pytest.raises(DataError, match="cannot be used"):
        open_online("sqlite:///folder.db", tmp_path)


@pytest.mark.parametrize("url", ["online.db", "mysql://u:sesame@h/d", "sqlite:///a.db#not a name"])
def test_what_names_no_table_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="names no online table") as caught:
        open_online(url)
    assert "sesame" not in str(caught.value)


def test_one_database_holds_several_tables(tmp_path: Path) -> None:
    with opened("sqlite:///o.db#one", tmp_path) as (one, _), opened("sqlite:///o.db#two", tmp_path) as (two, _):
        one.replace([("a", "1")], head="h", at=1)
        assert two.read(["a"]) == (None, [None])


# what a request gets

COUNT = 100
HOURS = pl.datetime_range(NOON, NOON + timedelta(hours=COUNT - 1), "1h", time_unit="us", time_zone="UTC", eager=True)
TABLE = pl.DataFrame(
    {
        "origin": [("JFK", "EWR", "巡")[i % 3] for i in range(COUNT)],
        "hour": HOURS,
        "temp": [None if i % 7 == 0 else i / 7 for i in range(COUNT)],
        "sky": [("clear", "rain", None)[i % 4 % 3] for i in range(COUNT)],
        "dark": [i % 2 == 0 for i in range(COUNT)],
    }
)
FEATURES: Features = {
    "temp": WEATHER.last("temp"),
    "sky": WEATHER.last("sky", within="4h"),
    "dark": WEATHER.last("dark"),
    "mean": WEATHER.mean("temp", over="1d"),
    "spread": WEATHER.std("temp", over="1d"),
    "darkness": WEATHER.mean("dark", over="1d"),
    "hours": WEATHER.count(over="1d"),
    "total": WEATHER.sum("temp", over="1d"),
    "under": WEATHER.by("origin", "sky").age(),
    "rel": lambda temp, mean: temp / mean - 0.1,
    "far": lambda distance, rel: (distance > 500) & (rel > 0),
}


@pytest.fixture
def table(tmp_path: Path) -> Iterator[OnlineTable]:
    with closing(open_online("sqlite:///online.db", tmp_path)) as found:
        yield found


def question(**columns: Any) -> dict[str, Any]:
    return {"id": 1, "origin": "JFK", "sky": "rain", "distance": 800.0, **columns}


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "redis"])
def test_offline_is_online(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = f"sqlite:////{tmp_path}/online.db" if kind == "sqlite" else str(request.getfixturevalue(f"{kind}_url"))
    origins = ["JFK", "EWR", "巡", "LGA"] * 25
    asked = rows(time=list(HOURS), distance=[10.0 * i for i in range(COUNT)], origin=origins).drop("temp")
    asked = asked.with_columns(sky=pl.Series(["clear", "rain", None, "snow"] * 25))
    features = {name: found for name, found in FEATURES.items() if name != "sky"}
    with opened(f"{url}#{named(request)}", Path()) as (table, _):
        found = differences(asked, features, {"weather": TABLE}, table, contract=FLIGHTS, now=NOW, moments=12, each=30)
    assert found.is_empty()
    assert found.columns == ["moment", "row", "feature", "offline", "online"]


def test_the_kit_finds_what_differs(table: OnlineTable) -> None:
    """A source that changes between the two, and functions that see how many rows there are."""

    class Moving(dict[str, pl.DataFrame]):
        reads = 0

        def __getitem__(self, name: str) -> pl.DataFrame:
            self.reads += 1
            return TABLE.with_columns(pl.col("temp") + (self.reads > 1))

    asked = rows(time=list(HOURS), distance=[1.0] * COUNT, origin=["JFK"] * COUNT).drop("temp")
    features: Features = {"temp": WEATHER.last("temp"), "few": lambda distance: [len(distance)] * len(distance)}
    found = differences(asked, features, Moving(weather=TABLE), table, contract=FLIGHTS, now=NOW, moments=3, each=5)
    assert set(found["feature"]) == {"temp", "few"}
    later = NOW + timedelta(days=1)
    materialize(features, {"weather": TABLE}, table, now=later)
    found = differences(asked, features, {"weather": TABLE}, table, contract=FLIGHTS, now=NOW, moments=1, each=1)
    assert "the moment" in found["feature"].to_list()


def test_an_entity_that_was_never_seen_has_what_build_gives(table: OnlineTable) -> None:
    features = {name: found for name, found in FEATURES.items() if name != "sky"}
    online = Online(features, table, types=FLIGHTS.types)
    nothing = {name: 0 if name in ("hours", "total") else None for name in features}
    before = online.get(question())
    assert before.at is None
    assert before.values == nothing
    assert materialize(features, {"weather": TABLE}, table, now=NOW).written
    assert online.get(question(origin="SFO")).values == nothing
    assert online.get(question(origin=None)).at == NOW
    assert online.get(question(sky=None)).values["under"] is None
    seen = online.get(question()).values
    assert seen["hours"] == 0
    assert seen["temp"] is not None
    assert seen["far"] is None


def test_a_writer_that_was_overtaken_changes_nothing(table: OnlineTable) -> None:
    features: Features = {"temp": WEATHER.last("temp")}
    assert materialize(features, {"weather": TABLE}, table, now=NOW).written
    late = materialize(features, {"weather": TABLE}, table, now=NOON + timedelta(hours=5))
    assert not late.written
    assert late.entities == 3
    assert Online(features, table).get(question()).at == NOW


def test_a_request_without_its_entity_is_told(table: OnlineTable) -> None:
    online = Online(FEATURES, table)
    with pytest.raises(DataError, match="no column 'origin'"):
        online.get({"distance": 3.0})
    features: Features = {"temp": WEATHER.last("temp"), "far": lambda distance: distance > 3}
    with pytest.raises(DataError, match="'far' asks for 'distance'"):
        Online(features, table).get({"origin": "JFK"})


def test_a_table_of_other_features_is_told(table: OnlineTable) -> None:
    materialize({"temp": WEATHER.last("temp")}, {"weather": TABLE}, table, now=NOW)
    with pytest.raises(DataError, match="does not have the feature 'sky'"):
        Online({"sky": WEATHER.last("sky")}, table).get(question())
    assert Online({"temp": WEATHER.last("temp")}, table).get(question()).values["temp"] is not None


def test_values_that_json_cannot_hold_are_refused(table: OnlineTable) -> None:
    with pytest.raises(DataError, match="cannot keep"):
        materialize({"when": WEATHER.last("hour")}, {"weather": TABLE}, table, now=NOW)
    endless = TABLE.with_columns(temp=pl.lit(float("inf")))
    with pytest.raises(DataError, match="'temp' is infinite"):
        materialize({"temp": WEATHER.last("temp")}, {"weather": endless}, table, now=NOW)
    assert table.read([]) == (None, [])


def test_keys_do_not_meet() -> None:
    assert key_of(["a", "b"], ["1", "2"]) == '["a","b","1","2"]'
    assert key_of(["a"], [1]) == key_of(["a"], ["1"])
    assert key_of(["a", "b"], ["1", None]) is None
    assert key_of(["a"], ['","']) != key_of(["a", "b"], ["", ""])


def test_functions_alone_need_no_materialization(table: OnlineTable) -> None:
    features: Features = {"far": lambda distance: distance > 3}
    assert Online(features, table).get({"distance": 5.0}).values == {"far": True}
    assert materialize(features, {}, table, now=NOW).entities == 0


def test_a_damaged_head_is_no_surprise(tmp_path: Path, table: OnlineTable) -> None:
    materialize({"temp": WEATHER.last("temp")}, {"weather": TABLE}, table, now=NOW)
    with closing(sqlite3.connect(tmp_path / "online.db")) as other, other:
        other.execute("DROP TABLE features")
    with pytest.raises(DataError, match="no such table"):
        Online({"temp": WEATHER.last("temp")}, table).get(question())
