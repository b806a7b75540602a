"""Batches: what comes like before goes on, what is broken stops, and why is said in words."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandera.polars as pa
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meguri.base.errors import DataError
from meguri.data.batch_stats import hash_of, measure
from meguri.data.batches import Batches, Finding, Rules, compare, judge, learning, orphans
from meguri.data.contract import Contract

DAY = timedelta(days=1)
BEGIN = datetime(2024, 1, 1, tzinfo=UTC)


class Ride(pa.DataFrameModel):
    id: int
    at: datetime
    city: str
    plate: str = pa.Field(nullable=True)
    shared: bool
    km: float
    minutes: int = pa.Field(nullable=True)
    fare: float = pa.Field(nullable=True)
    paid: date
    day: int
    tip: float = pa.Field(nullable=True)


RIDE = Contract(Ride, key="id", time="at", label="tip", label_after="1d", task="regression")


def rides(day: int, count: int = 400, seed: int = 0) -> pl.DataFrame:
    """The rides of one day; some are cancelled, and have neither minutes nor fare."""
    chance = np.random.default_rng((abs(day), count, seed + (day < 0)))
    km = np.round(chance.gamma(2, 4, count) + 0.5, 1)
    minutes = np.round(km * 2.5 + chance.normal(0, 1, count) + 3).astype(int)
    start = BEGIN + day * DAY
    at = [start + timedelta(seconds=int(s)) for s in np.sort(chance.normal(14, 2.5, count).clip(0, 23.9) * 3600)]
    cancelled = pl.Series(chance.random(count) < 0.05)
    plate = [f"{chance.choice(['AB', 'CD'])}-{n:03d}" for n in chance.integers(0, 60, count)]
    city = chance.choice(["Kyoto", "Nara", "Osaka"], count, p=[0.3, 0.1, 0.6])
    table = pl.DataFrame(
        {
            "id": np.arange(count) + day * 100_000,
            "at": pl.Series(at, dtype=pl.Datetime("us", "UTC")),
            "city": city,
            "plate": plate,
            "shared": chance.random(count) < 0.3,
            "km": km,
            "minutes": minutes,
            "fare": np.round(4 + 2 * km + 0.3 * minutes, 2),
            "paid": [(start + 3 * DAY).date()] * count,
            "day": [start.day] * count,
            "tip": np.round(chance.exponential(2, count), 2),
        }
    )
    lost = [pl.when(~cancelled).then(name).alias(name) for name in ("minutes", "fare", "tip")]
    return table.with_columns(lost)


def until(day: int) -> datetime:
    return BEGIN + (day + 1) * DAY


def stats(table: pl.DataFrame, day: int) -> dict[str, Any]:
    return json.loads(json.dumps(measure(RIDE.check(table).rows, RIDE, now=until(day))))


@pytest.fixture(scope="module")
def history() -> list[dict[str, Any]]:
    return [stats(rides(day), day) for day in range(-20, 20)]


def found(table: pl.DataFrame, history: list[dict[str, Any]], day: int = 20, **rules: Any) -> list[Finding]:
    return judge(RIDE.check(table).rows, RIDE, history, Rules(**rules), now=until(day))


def stops(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.stop]


def text(findings: list[Finding]) -> str:
    return "\n".join(map(str, findings))


def test_a_batch_like_those_before_has_nothing_odd(history: list[dict[str, Any]]) -> None:
    assert found(rides(20), history) == []


@pytest.mark.parametrize(("odd", "told"), [(20, False), (50, True)])
def test_of_a_first_table_the_earlier_half_teaches(odd: int, told: bool, tmp_path: Path) -> None:
    days = [rides(day, 100).with_columns(pl.col("km") * (1000 if day == odd else 1)) for day in range(62)]
    found = Batches(tmp_path).take(pl.concat(days), RIDE, door="retrieve", now=until(61), every=DAY)
    assert [(finding.batch, finding.stop) for finding in found][:1] == ([(BEGIN + odd * DAY, True)] if told else [])


def test_nothing_is_judged_before_enough_is_learned(history: list[dict[str, Any]]) -> None:
    broken = rides(20).with_columns(km=pl.col("km") * 1000)
    assert found(broken, history[:6]) == []
    assert stops(found(broken, history[:6], learn=5))
    assert learning(history[:6]) == "6 of 14 batches are known: until then a batch is only learned from"
    assert learning(history) is None
    assert found(broken, []) == []


def shuffle(table: pl.DataFrame, *names: str) -> pl.DataFrame:
    return table.with_columns(table.select(names).sample(fraction=1, shuffle=True, seed=1))


# what is broken: how, and what is said of it
BROKEN: dict[str, tuple[Callable[[pl.DataFrame], pl.DataFrame], str]] = {
    "miles": (lambda t: t.with_columns(km=(pl.col("km") / 1.609).round(3)), "km"),
    "metres": (lambda t: t.with_columns(km=pl.col("km") * 1000), "km: 50% of the values are up to"),
    "seconds": (lambda t: t.with_columns(minutes=pl.col("minutes") * 60), "minutes"),
    "swapped": (lambda t: t.with_columns(km=pl.col("fare").fill_null(1), fare=pl.col("km")), "fare"),
    "constant": (lambda t: t.with_columns(city=pl.lit("Nara")), "city: .* other values than usual"),
    "gone": (lambda t: t.filter(pl.col("city") != "Kyoto"), "city: no row with 'Kyoto'"),
    "renamed": (lambda t: t.with_columns(city=pl.col("city").replace({"Nara": "Uji"})), "city: .* never seen before"),
    "blank": (lambda t: t.with_columns(city=pl.col("city") + " "), "city: .* form of text never seen"),
    "garbage": (lambda t: t.with_columns(plate=pl.col("plate").str.replace("A", "Ã")), "plate: .* form of text"),
    "lost": (
        lambda t: t.with_columns(fare=pl.lit(None, pl.Float64)),
        "fare and minutes: null in .* rows in which minutes is",
    ),
    "zeros": (lambda t: t.with_columns(fare=pl.col("fare").fill_null(0)), "minutes and fare: null in .* rows"),
    "half": (lambda t: t.filter(pl.int_range(pl.len()) % 2 == 0), "200 rows; expected"),
    "cut": (lambda t: t.head(180), "180 rows; expected"),
    "clipped": (lambda t: t.with_columns(km=pl.col("km").clip(upper_bound=8)), "km: .* are the highest one"),
    "rounded": (lambda t: t.with_columns(fare=(pl.col("fare") / 10).round() * 10), "fare"),
    "flipped": (lambda t: t.with_columns(km=-pl.col("km")), "km: below 0 in 100.0% of the rows; expected"),
    "shuffled": (lambda t: shuffle(t, "km"), "km and fare: go together with"),
    "copied": (lambda t: t.with_columns(fare=pl.col("km")), "km and fare: the same in 100.0%"),
    "zone": (lambda t: t.with_columns(pl.col("at") - pl.duration(hours=9)), "other hours than usual"),
    "year": (lambda t: t.with_columns(pl.col("at").dt.offset_by("-1y")), "at: the .* is 36.\\.. days before now"),
    "calendar": (lambda t: t.with_columns(day=pl.col("day") + 3), "day: is the day of 0.0% of the rows' times"),
    "future": (
        lambda t: t.with_columns(pl.col("at") + pl.duration(days=2)),
        "at: 100.0% of the times are still to come",
    ),
    "paid": (lambda t: t.with_columns(paid=pl.lit(date(1970, 1, 1))), "paid"),
    "emptied": (lambda t: t.with_columns(plate=pl.lit(None, pl.String)), "plate: null in 100.0% of the rows"),
    "whole": (lambda t: t.with_columns(fare=pl.col("fare").round(0)), "fare: 0.0% of the values have more than"),
    "capped": (lambda t: t.with_columns(fare=pl.col("fare").clip(upper_bound=32)), "fare: .* are the highest one"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_batch_stops_and_says_why(kind: str, history: list[dict[str, Any]]) -> None:
    change, says = BROKEN[kind]
    stopped = stops(found(change(rides(20)), history))
    assert stopped
    assert pl.Series([text(stopped)]).str.contains(says).item(), text(stopped)
    assert found(change(rides(20)), history, stop=False)
    assert not stops(found(change(rides(20)), history, stop=False))


def test_yesterdays_batch_again_is_known_under_new_dates_and_ids(history: list[dict[str, Any]]) -> None:
    again = rides(19).with_columns(pl.col("at") + DAY, paid=pl.col("paid") + DAY, day=pl.lit(21))
    assert "100.0% of the rows came before" in text(stops(found(again, history)))


@settings(max_examples=12, deadline=None)
@given(count=st.integers(1, 900), seed=st.integers(1, 10_000), known=st.integers(7, 12))
def test_batches_of_one_kind_are_not_stopped_however_small(count: int, seed: int, known: int) -> None:
    before = [stats(rides(day, count, seed), day) for day in range(known)]
    assert not stops(found(rides(known, count, seed), before, known)), count


class Sale(pa.DataFrameModel):
    at: datetime
    shop: str
    till: str
    net: float
    tax: float
    gross: float = pa.Field(nullable=True)


SALE = Contract(Sale, key=["at", "till"], time="at", label="gross", label_after="1d", task="regression")


def sales(day: int) -> pl.DataFrame:
    """A till belongs to a shop, and a price is the sum of two others."""
    chance = np.random.default_rng(day)
    till = chance.integers(0, 40, 500)
    net = np.round(chance.gamma(3, 10, 500) + 0.01, 2)
    tax = np.round(net * chance.choice([0.08, 0.1, 1.1], 500), 2)
    second = pl.Series(np.arange(500) * 100 + 3_600)
    return pl.DataFrame(
        {
            "at": pl.Series([BEGIN + day * DAY] * 500, dtype=pl.Datetime("us", "UTC")) + second * timedelta(seconds=1),
            "shop": [f"shop {n % 8}" for n in till],
            "till": [f"till {n}" for n in till],
            "net": net,
            "tax": tax,
            "gross": np.round(net + tax, 2),
        }
    )


@pytest.mark.parametrize(
    ("made", "says"),
    [
        ({"net": pl.col("tax"), "tax": pl.col("gross"), "gross": pl.col("net")}, "gross: is net \\+ tax in"),
        (
            {"shop": pl.col("shop").replace({"shop 1": "shop 2", "shop 2": "shop 1"})},
            "shop and till: never seen together",
        ),
    ],
)
def test_what_belongs_together_is_known_from_the_batches_before(made: dict[str, pl.Expr], says: str) -> None:
    past = [measure(SALE.check(sales(day)).rows, SALE, now=until(day)) for day in range(15)]
    assert not stops(judge(SALE.check(sales(15)).rows, SALE, past, now=until(15)))
    stopped = stops(judge(SALE.check(sales(15).with_columns(**made)).rows, SALE, past, now=until(15)))
    assert pl.Series([text(stopped)]).str.contains(says).item(), text(stopped)


def test_labels_that_have_not_come_are_no_fault(history: list[dict[str, Any]]) -> None:
    awaited = rides(20).with_columns(tip=pl.when(pl.int_range(pl.len()) % 50 == 0).then(9_999.0))
    assert not stops(found(awaited, history))
    assert stops(found(rides(20).with_columns(tip=9_999.0), history))


def test_a_change_that_was_accepted_once_is_accepted(tmp_path: Path) -> None:
    store = Batches(tmp_path)
    for day in range(20):
        assert not stops(store.take(rides(day), RIDE, door="retrieve", now=until(day)))
    metres = [rides(day).with_columns(km=pl.col("km") * 1000) for day in (20, 21)]
    assert stops(store.take(metres[0], RIDE, door="retrieve", now=until(20)))
    assert len(store.read("retrieve")) == 20
    assert store.take(metres[0], RIDE, door="retrieve", now=until(20), rules=Rules(stop=False))
    assert len(store.read("retrieve")) == 21
    assert not stops(store.take(metres[1], RIDE, door="retrieve", now=until(21)))


def test_doors_know_nothing_of_each_other(tmp_path: Path) -> None:
    store = Batches(tmp_path)
    for day in range(8):
        store.take(rides(day), RIDE, door="retrieve", now=until(day), run=f"r{day}")
    assert store.read("requests") == []
    assert [batch["run"] for batch in store.read("retrieve")] == [f"r{day}" for day in range(8)]
    assert store.take(rides(9, 40), RIDE, door="requests", now=until(9)) == []


def test_a_first_table_teaches_and_is_judged_part_by_part(tmp_path: Path) -> None:
    store = Batches(tmp_path)
    table = pl.concat([rides(day) for day in range(20)])

    def take(table: pl.DataFrame, day: int) -> list[Finding]:
        return store.take(table, RIDE, door="retrieve", now=until(day), every=DAY)

    assert take(table, 19) == []
    assert len(store.read("retrieve")) == 19  # the first may have been cut off
    assert take(table, 19) == []
    assert len(store.read("retrieve")) == 19
    more = pl.concat([table, rides(20), rides(21, 150), rides(22)])
    stopped = take(more, 22)
    assert [finding.batch for finding in stops(stopped)][:1] == [BEGIN + 21 * DAY]
    assert text(stopped).startswith("2024-01-22 00:00: 150 rows; expected")
    assert len(store.read("retrieve")) == 20
    mended = pl.concat([table, rides(20), rides(21), rides(22), rides(23).head(100)])
    assert take(mended, 22) == []  # the last day is not over
    assert len(store.read("retrieve")) == 22


def test_what_a_person_has_set_is_asked_from_the_first_batch_on() -> None:
    table = RIDE.check(rides(0)).rows
    (stale,) = judge(table, RIDE, [], Rules(fresh="3d"), now=until(8))
    assert stale.stop
    assert str(stale).endswith("; expected one not older than 3d")
    assert judge(table, RIDE, [], Rules(fresh="3d"), now=until(1)) == []
    (few,) = judge(table, RIDE, [], Rules(rows=(500, 900)), now=until(0))
    assert str(few) == "400 rows; expected 500 to 900"
    assert judge(table, RIDE, [], Rules(rows=(1, 400)), now=until(0)) == []


def test_every_value_is_in_the_column_that_it_refers_to() -> None:
    table = RIDE.check(rides(0).with_columns(plate=pl.when(pl.col("id") > 1).then("plate"))).rows
    known = {"city": pl.Series("cities.name", ["Kyoto", "Osaka", None]), "plate": table["plate"]}
    checked = orphans(table, known)
    assert set(checked.quarantined["city"]) == {"Nara"}
    assert set(checked.quarantined["reason"]) == {"city: not in cities.name"}
    assert checked.rows.height + checked.quarantined.height == 400
    assert orphans(checked.rows, known).quarantined.columns == [*table.columns, "reason"]
    (orphaned,) = judge(table, RIDE, [], now=until(0), references=known)
    assert str(orphaned) == f"city: {checked.quarantined.height} rows not in cities.name; expected none"


def test_odd_tables_have_statistics_too() -> None:
    one = stats(rides(0, 1), 0)
    assert one["rows"] == 1
    empty = rides(0).with_columns(pl.lit(None, pl.String).alias("plate"), pl.lit(None, pl.Int64).alias("minutes"))
    batch = stats(empty, 0)
    assert batch["values"]["plate"]["keys"] == []
    assert "minutes" not in batch["quantiles"]
    keys = Contract(
        pa.DataFrameSchema({"id": pa.Column(int), "t": pa.Column(pl.Date), "x": pa.Column(bool)}), key="id", time="t"
    )
    table = pl.DataFrame({"id": [1], "t": [date(2024, 1, 1)], "x": [True]})
    assert measure(keys.check(table).rows, keys, now=BEGIN)["content"] is None


def test_what_is_kept_is_small_and_the_same_everywhere(history: list[dict[str, Any]]) -> None:
    assert len(json.dumps(history[0])) < 60_000
    code = "from meguri.data.batch_stats import hash_of; print(hash_of('Kyoto'))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (
        int(other.stdout)
        == hash_of("Kyoto")
        == int(next(k for k, v in history[0]["names"]["city"].items() if v == "Kyoto"))
    )
    assert stats(rides(3).sample(fraction=1, shuffle=True, seed=1).sort("at"), 3)["content"] == history[23]["content"]


def test_only_the_latest_are_kept_and_other_formats_left_out(tmp_path: Path) -> None:
    store = Batches(tmp_path)
    store.add("retrieve", *({"format": 1, "n": n} for n in range(130)))
    assert [batch["n"] for batch in store.read("retrieve")] == list(range(10, 130))
    (tmp_path / "retrieve.json").write_text('[{"format": 0}, {"format": 1}]')
    assert store.read("retrieve") == [{"format": 1}]


@pytest.mark.parametrize("broken", ["{", "[1]", "[{}]", "3"])
def test_a_broken_memory_is_said_to_be_broken(tmp_path: Path, broken: str) -> None:
    (tmp_path / "retrieve.json").write_text(broken)
    with pytest.raises(DataError, match="cannot be read"):
        Batches(tmp_path).read("retrieve")


ADD = """
import sys
from pathlib import Path
from meguri.data.batches import Batches
for turn in range(10):
    Batches(Path(sys.argv[1])).add("retrieve", {"format": 1, "who": sys.argv[2], "turn": turn})
"""


def test_processes_that_add_at_once_lose_nothing(tmp_path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", ADD, str(tmp_path), str(number)]) for number in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    kept = Batches(tmp_path).read("retrieve")
    assert sorted((batch["who"], batch["turn"]) for batch in kept) == [(str(w), t) for w in range(4) for t in range(10)]
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "retrieve.json"]


def test_batches_before_the_window_are_forgotten(history: list[dict[str, Any]]) -> None:
    odd, thousand = (stats(rides(20, seed=n).with_columns(km=pl.col("km") * 1000), 20) for n in (1, 2))
    assert stops(compare(thousand, RIDE, [odd, *history], Rules(history=20), now=until(20)))
    assert not stops(compare(thousand, RIDE, [*history, odd], Rules(), now=until(20)))
