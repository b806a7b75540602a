"""No feature of the flights depends on what was learned after its moment, and no label is seen before its flight has landed."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest

from meguri.data.build import build

FLIGHTS = Path(__file__).parents[2] / "examples/flights"
NOW = datetime(2014, 6, 1, tzinfo=UTC)

MOMENTS = [
    datetime(2013, 2, 9, 2, 0, tzinfo=UTC),  # the night of a blizzard: most flights are cancelled
    datetime(2013, 3, 10, 16, 30, tzinfo=UTC),  # the clocks go forward
    datetime(2013, 7, 10, 22, 17, tzinfo=UTC),  # thunderstorms
    datetime(2013, 11, 3, 11, 5, tzinfo=UTC),  # the clocks go back
    datetime(2013, 12, 31, 13, 0, tzinfo=UTC),  # a day without weather
]


@pytest.fixture(scope="module")
def flights_project() -> Iterator[None]:
    """The example's modules, for as long as this file runs: other projects have a ``src``, too."""
    kept = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "src"}
    sys.path.insert(0, str(FLIGHTS))
    yield
    sys.path.remove(str(FLIGHTS))
    for name in [name for name in sys.modules if name.split(".")[0] == "src"]:
        del sys.modules[name]
    sys.modules.update(kept)


@pytest.fixture(scope="module")
def manager(flights_project: None) -> ModuleType:
    return importlib.import_module("src.repository.data_manager")


@pytest.fixture(scope="module")
def with_features(manager: ModuleType) -> Callable[[dict[str, Any], pl.DataFrame], pl.DataFrame]:
    features = importlib.import_module("src.features").features
    contract = importlib.import_module("src.repository.schema").contract
    return lambda tables, rows: build(rows, features, tables, contract=contract, now=NOW)


@pytest.fixture(scope="module")
def world(manager: ModuleType) -> tuple[pl.DataFrame, pl.DataFrame]:
    return manager.source()


@pytest.fixture(scope="module")
def cache(manager: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    manager.read(folder, MOMENTS[0], MOMENTS[0], MOMENTS[0])
    return folder


def another_future(flights: pl.DataFrame, moment: datetime, dice: random.Random) -> pl.DataFrame:
    """The same flights up to ``moment``; whatever was learned later, cancellations too, is drawn anew or taken away."""
    ahead = flights.select(((pl.lit(moment) - pl.col("due")).dt.total_minutes()).alias("past"), "planned_minutes")
    leaves, lands = [], []
    for past, planned in ahead.iter_rows():
        leaves.append(None if dice.random() < 0.3 else past + dice.randint(1, 900))
        lands.append(None if dice.random() < 0.3 else past - planned + dice.randint(1, 900))
    not_left = pl.col("left_at").is_null() | (pl.col("left_at") > moment)
    not_landed = pl.col("landed_at").is_null() | (pl.col("landed_at") > moment)
    return flights.with_columns(
        dep_delay=pl.when(not_left).then(pl.Series(leaves, dtype=pl.Int64)).otherwise("dep_delay"),
        arr_delay=pl.when(not_landed).then(pl.Series(lands, dtype=pl.Int64)).otherwise("arr_delay"),
        dep_time=pl.when(~not_left).then("dep_time"),
        arr_time=pl.when(~not_landed).then("arr_time"),
        air_time=pl.when(~not_landed).then("air_time"),
        tailnum=pl.when(~not_left).then("tailnum"),
    )


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_features_are_the_same_whatever_the_future_brings(
    manager: ModuleType, world: tuple[pl.DataFrame, pl.DataFrame], with_features: Any, moment: datetime
) -> None:
    flights, weather = world
    near = flights.filter(pl.col("due").is_between(moment - timedelta(days=33), moment + timedelta(days=1)))
    changed = another_future(near, moment, random.Random(7))
    later = pl.col("time_hour") + timedelta(hours=1) > moment
    sky = ["temp", "humid", "wind_speed", "precip", "visib"]
    storm = weather.with_columns(pl.when(later).then(pl.col(c) * 0 + 9).otherwise(c).alias(c) for c in sky)
    tables = manager.made(near, weather)
    others = manager.made(manager.moments(changed.rename({"number": "flight"})), storm)
    real, other = (with_features(t, t["schedule"].drop("landed_at", "late")) for t in (tables, others))

    known = pl.col("asked_at").is_between(moment - timedelta(days=1), moment)
    assert real.filter(known).height > 100
    assert real.filter(known).equals(other.filter(known))
    after = pl.col("asked_at") > moment + timedelta(hours=3)
    for name in ("origin_delay", "carrier_delay", "arrival_delay", "dest_delay"):  # such a change would show a leak
        assert not real.filter(after)[name].equals(other.filter(after)[name]), name


def test_features_mean_what_their_names_say(
    manager: ModuleType, world: tuple[pl.DataFrame, pl.DataFrame], with_features: Any, cache: Path
) -> None:
    flights, weather = world
    since, until = datetime(2013, 7, 10, 12, tzinfo=UTC), datetime(2013, 7, 11, tzinfo=UTC)
    rows = with_features(manager.tables(cache), manager.read(cache, since, until, until).sample(25, seed=3))
    for row in rows.iter_rows(named=True):
        at, there = row["asked_at"], flights.filter(pl.col("origin") == row["origin"])
        left = there.filter((pl.col("left_at") > at - timedelta(hours=2)) & (pl.col("left_at") <= at))
        assert row["origin_delay"] == pytest.approx(left["dep_delay"].clip(-60, 180).mean(), abs=0.006)
        seen = weather.filter(
            (pl.col("origin") == row["origin"]) & (pl.col("time_hour") <= at - timedelta(hours=1))
        ).sort("time_hour")
        assert row["temp"] == seen["temp"][-1]


def test_flights_land_where_and_when_the_source_says(world: tuple[pl.DataFrame, pl.DataFrame]) -> None:
    landed = world[0].drop_nulls("landed_at")
    taxi = landed.select((pl.col("landed_at") - pl.col("left_at")).dt.total_minutes() - pl.col("air_time")).to_series()
    assert taxi.min() >= 0
    assert taxi.max() < 240
    by_airport = landed.with_columns(taxi=taxi).group_by("dest").agg(pl.col("taxi").median())
    assert by_airport["taxi"].max() < 60


@pytest.mark.parametrize("moment", MOMENTS, ids=str)
def test_a_label_is_seen_only_after_landing(
    manager: ModuleType, world: tuple[pl.DataFrame, pl.DataFrame], cache: Path, moment: datetime
) -> None:
    since, until = moment - timedelta(days=2), moment + timedelta(days=1)
    rows = manager.read(cache, since, until, moment)
    asked = pl.col("asked_at").is_between(since, until, closed="left")
    truth = world[0].filter(asked).sort("asked_at", "carrier", "number", "origin")
    assert rows["asked_at"].equals(truth["asked_at"])
    expected = truth.select(pl.when(pl.col("landed_at") <= moment).then("late").alias("late"))["late"]
    assert rows["late"].equals(expected)
    assert 0 < rows["late"].null_count() < rows.height
    assert not {"landed_at", "left_at", "dep_delay", "arr_delay"} & set(rows.columns)


def test_the_tables_are_built_once_and_whole(manager: ModuleType, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manager, "source", lambda: pytest.fail("the tables were built again"))
    rows = manager.read(
        cache, datetime(2012, 1, 1, tzinfo=UTC), datetime(2015, 1, 1, tzinfo=UTC), datetime(2015, 1, 1, tzinfo=UTC)
    )
    assert rows.height == rows["flight"].n_unique() == 336_776
    kept = sorted(file.stem for file in (cache / f"flights-{manager.VERSION}").iterdir())
    assert kept == ["departed", "landed", "schedule", "weather"]
