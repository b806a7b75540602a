"""What a person decides about quarantined rows: some go through as they are, others corrected, and nothing is forgotten."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pytest
from data.contracts import FLIGHTS, NOON, contract, rows, small
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meguri.base.errors import DataError
from meguri.data.contract import Checked, Contract
from meguri.data.quarantine import Quarantine

AT = datetime(2013, 4, 2, tzinfo=UTC)
WHO: dict[str, Any] = {"by": "mika", "why": "seen in the log", "at": AT}


def kept(store: Quarantine, table: pl.DataFrame, model: Contract = FLIGHTS) -> list[str]:
    """The ids of the table's bad rows, once they are in quarantine."""
    store.add(model.check(table).quarantined, at=AT, door="retrieve", run="r1")
    return store.read()["id"].to_list()


def settled(store: Quarantine, table: pl.DataFrame, model: Contract = FLIGHTS, **how: Any) -> Checked:
    return store.settle(model.check(table, **how), model)


def test_an_id_says_which_row_and_stays(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    first = kept(store, rows(distance=[-1.0, -2.0, 100.0]))
    assert len(set(first)) == 2
    assert kept(store, rows(distance=[-1.0, 100.0, 100.0], temp=[20.0, 90.0, 20.0]))[:2] == first
    assert store.read()["decision"].to_list() == [None] * 3


def test_a_file_of_before_is_read_as_it_is(tmp_path: Path) -> None:
    old = pl.DataFrame(
        {"at": [AT], "door": ["retrieve"], "run": ["r1"], "reason": ["temp: null"], "row": ['{"id":1}']},
        schema_overrides={"at": pl.Datetime("us", "UTC")},
    )
    old.write_parquet(tmp_path / "quarantine.parquet")
    assert Quarantine(tmp_path).read().select("door", "reason", "row").row(0) == ("retrieve", "temp: null", '{"id":1}')


def test_a_released_row_goes_through_when_it_comes_again(tmp_path: Path) -> None:
    store, table = Quarantine(tmp_path), rows(distance=[30_000.0, 100.0, 40_000.0])
    far = kept(store, table)
    assert settled(store, table).rows["id"].to_list() == [1]
    assert store.release([far[0][:6]], FLIGHTS, **WHO) == 1
    found = settled(store, table)
    assert found.rows["id"].to_list() == [1, 0]
    assert found.rows.schema == FLIGHTS.check(table).rows.schema
    assert found.quarantined["id"].to_list() == [2]
    assert store.read()["decision"].to_list() == ["released", None]


def test_another_row_and_another_reason_are_not_released(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    store.release(kept(store, rows(distance=[30_000.0])), FLIGHTS, **WHO)
    assert settled(store, rows(distance=[30_001.0])).rows.is_empty()
    assert settled(store, rows(distance=[30_000.0], temp=[90.0])).rows.is_empty()


def test_a_row_is_the_same_when_its_label_has_come_or_is_not_read(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    store.release(kept(store, rows(distance=[30_000.0], late=[None])), FLIGHTS, **WHO)
    assert settled(store, rows(distance=[30_000.0], late=[True])).rows["late"].to_list() == [True]
    asked = settled(store, rows(distance=[30_000.0]).drop("late"), labelled=False)
    assert asked.rows.columns == ["id", "time", "origin", "distance", "temp"]


def test_a_number_is_the_same_whether_pandas_made_it_a_float(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    store.release(kept(store, rows(distance=[30_000])), FLIGHTS, **WHO)
    assert settled(store, rows(distance=[30_000.0])).rows.height == 1


@pytest.mark.parametrize(
    ("column", "value", "says"),
    [(pa.Column(int), None, "x has no value"), (pa.Column(int, coerce=True), "many", "'many' cannot be read as Int64")],
)
def test_a_row_without_a_value_of_the_type_cannot_be_released(
    tmp_path: Path, column: Any, value: Any, says: str
) -> None:
    store, model = Quarantine(tmp_path), contract(column)
    (bad,) = kept(store, small([value] if value is None else [value, "5"]), model)
    with pytest.raises(DataError, match=says) as refused:
        store.release([bad], model, **WHO)
    assert f"meguri data quarantine correct {bad}" in str(refused.value)
    assert store.decisions().is_empty()


def test_a_key_never_comes_twice(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    twice = rows(id=[1, 1, 2], distance=[100.0, 200.0, 50.0])  # nobody can say which is right
    ids = kept(store, twice)
    store.release([ids[1]], FLIGHTS, **WHO)
    assert sorted(settled(store, twice).rows.select("id", "distance").iter_rows()) == [(1, 200.0), (2, 50.0)]
    store.release([ids[0]], FLIGHTS, **WHO)
    found = settled(store, twice)
    assert found.rows["id"].is_unique().all()
    assert found.rows.height + found.quarantined.height == 3


def test_a_repeat_is_no_row_to_release(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    with pytest.raises(DataError, match="among the good rows"):
        store.release(kept(store, rows(id=[1, 1])), FLIGHTS, **WHO)


def test_a_default_fills_what_a_released_row_has_not(tmp_path: Path) -> None:
    model = Contract(
        pa.DataFrameSchema(
            {
                "id": pa.Column(int),
                "t": pa.Column(datetime),
                "x": pa.Column(float, pa.Check.gt(0)),
                "y": pa.Column(int, required=False, default=7),
                "seen": pa.Column(bool, nullable=True, required=False),
            },
            name="Small",
        ),
        key="id",
        time="t",
        label="seen",
    )
    store = Quarantine(tmp_path)
    store.release(kept(store, small([-1.0, 1.0]), model), model, **WHO)
    assert settled(store, small([-1.0, 1.0]), model).rows.sort("id").select("y", "seen").rows() == [(7, None)] * 2


def test_a_corrected_row_stands_in(tmp_path: Path) -> None:
    store, table = Quarantine(tmp_path), rows(distance=[-100.0, 100.0], temp=[20.0, 21.0])
    (bad,) = kept(store, table)
    said = store.correct(bad, {"distance": "100", "temp": ""}, FLIGHTS, **WHO)
    assert (said["distance"], said["temp"]) == ("100", None)
    found = settled(store, table)
    assert found.rows.sort("id").select("id", "distance", "temp").row(0) == (0, 100.0, None)
    assert found.quarantined.is_empty()
    assert store.read()["row"].str.contains("-100").all()  # what came is still here


def test_every_type_can_be_corrected(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    (bad,) = kept(store, rows(distance=[-100.0]))
    values = {"id": "9", "time": "2013-04-01T06:00Z", "origin": "JFK", "distance": "1e3", "late": "true"}
    store.correct(bad, values, FLIGHTS, **WHO)
    expected = (9, NOON - timedelta(hours=6), "JFK", 1000.0, 20.0, True)
    assert settled(store, rows(distance=[-100.0])).rows.row(0) == expected
    days = contract(pa.Column(pl.Date, pa.Check.ge(datetime(2013, 1, 1).date())))
    other = Quarantine(tmp_path / "days")
    table = small([datetime(2012, 1, 1).date()])
    other.correct(kept(other, table, days)[0], {"x": "2013-02-03"}, days, **WHO)
    assert settled(other, table, days).rows["x"].to_list() == [datetime(2013, 2, 3).date()]


def test_the_label_that_comes_later_goes_with_the_corrected_row(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    (bad,) = kept(store, rows(distance=[-1.0], late=[None]))
    store.correct(bad, {"distance": "1"}, FLIGHTS, **WHO)
    assert settled(store, rows(distance=[-1.0], late=[True])).rows["late"].to_list() == [True]
    asked = settled(store, rows(distance=[-1.0]).drop("late"), labelled=False)
    assert asked.rows["distance"].to_list() == [1.0]
    store.correct(bad, {"distance": "1", "late": "false"}, FLIGHTS, **WHO)
    assert settled(store, rows(distance=[-1.0], late=[True])).rows["late"].to_list() == [False]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"distance": "-5"}, "distance: greater_than|distance: gt"),
        ({"distance": "far"}, "'far' cannot be read as Float64"),
        ({"late": "perhaps"}, "'perhaps' cannot be read as Boolean"),
        ({"id": "1.5"}, "'1.5' cannot be read as Int64"),
        ({"temperature": "5"}, "no column 'temperature'"),
        ({}, "nothing is corrected"),
        ({"distance": ""}, "distance: null"),
    ],
)
def test_a_correction_is_held_against_the_contract(tmp_path: Path, values: dict[str, str], says: str) -> None:
    store = Quarantine(tmp_path)
    (bad,) = kept(store, rows(distance=[-100.0]))
    with pytest.raises(DataError, match=says):
        store.correct(bad, values, FLIGHTS, **WHO)
    assert store.decisions().is_empty()


def test_a_correction_that_breaks_a_later_contract_waits(tmp_path: Path) -> None:
    store, table = Quarantine(tmp_path), small([-1])
    old, new = contract(pa.Column(int, pa.Check.ge(0))), contract(pa.Column(int, pa.Check.ge(0), pa.Check.le(3)))
    new = contract(pa.Column(int, [pa.Check.ge(0), pa.Check.le(3)]))
    store.correct(kept(store, table, old)[0], {"x": "5"}, old, **WHO)
    assert settled(store, table, old).rows["x"].to_list() == [5]
    assert settled(store, table, new).quarantined.height == 1


def test_the_last_decision_counts_and_all_are_kept(tmp_path: Path) -> None:
    store, table = Quarantine(tmp_path), rows(distance=[30_000.0])
    (bad,) = kept(store, table)
    store.release([bad, bad], FLIGHTS, **WHO)
    store.correct(bad, {"distance": "3"}, FLIGHTS, **WHO | {"why": "a typing error"})
    assert settled(store, table).rows["distance"].to_list() == [3.0]
    assert store.decisions().select("id", "decision", "by", "why").rows() == [
        (bad, "released", "mika", "seen in the log"),
        (bad, "corrected", "mika", "a typing error"),
    ]
    assert json.loads(store.decisions()["instead"][1])["distance"] == "3"


def test_what_cannot_be_decided_is_said(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    first, _ = kept(store, rows(distance=[-1.0, -2.0]))
    with pytest.raises(DataError, match="no quarantined row has the id 'zz'"):
        store.release(["zz"], FLIGHTS, **WHO)
    with pytest.raises(DataError, match="begins 2 ids"):
        store.release([""], FLIGHTS, **WHO)
    with pytest.raises(DataError, match="who made it and why"):
        store.release([first], FLIGHTS, **WHO | {"why": " "})
    (tmp_path / "decisions.parquet").write_bytes(b"none")
    with pytest.raises(DataError, match="cannot be read"):
        store.release([first], FLIGHTS, **WHO)


@given(values=st.lists(st.floats(allow_nan=True, allow_infinity=True) | st.none(), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_comes_in_goes_on_or_stays_and_never_both(tmp_path_factory: Any, values: list[float | None]) -> None:
    store, model = Quarantine(tmp_path_factory.mktemp("q")), contract(pa.Column(float, pa.Check.ge(0), nullable=True))
    table = small(values)
    bad = kept(store, table, model)
    assert store.release(bad, model, **WHO) == len(bad)
    found = settled(store, table, model)
    assert found.rows["id"].sort().to_list() == table["id"].to_list()
    assert found.quarantined.is_empty()
    assert store.settle(found, model).rows.equals(found.rows)


RELEASE = """
import sys, polars as pl
from datetime import UTC, datetime
from pathlib import Path
from meguri.data.contract import Contract
from meguri.data.quarantine import Quarantine
import json
store, number = Quarantine(Path(sys.argv[1])), int(sys.argv[2])
contract = Contract.from_spec(json.loads(sys.argv[3]))
ids = store.read()["id"].to_list()
for id in ids[number::3]:
    store.release([id], contract, by="p", why="w", at=datetime(2013, 4, 1, tzinfo=UTC))
"""


def test_people_who_decide_at_once_lose_no_decision(tmp_path: Path) -> None:
    model = contract(pa.Column(int, pa.Check.ge(0)))
    store = Quarantine(tmp_path)
    ids = kept(store, small(list(range(-12, 0))), model)
    words = [sys.executable, "-c", RELEASE, str(tmp_path)]
    workers = [subprocess.Popen([*words, str(number), json.dumps(model.to_spec())]) for number in range(3)]
    assert [worker.wait() for worker in workers] == [0] * 3
    assert sorted(store.decisions()["id"]) == sorted(ids)
