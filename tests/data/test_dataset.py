"""Datasets: three parts that tell nothing about each other, the same for a seed, and a test part out of reach."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pandera.polars as pa
import polars as pl
import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meguri.base.errors import DataError, SettingsError
from meguri.data.contract import Contract
from meguri.data.dataset import Dataset, split
from meguri.data.table import Frame

START = datetime(2013, 1, 1, tzinfo=UTC)
COLUMNS = {
    "id": pa.Column(int),
    "at": pa.Column(datetime),
    "plane": pa.Column(str, nullable=True),
    "x": pa.Column(float, nullable=True),
    "late": pa.Column(bool),
}
PLAIN = Contract(pa.DataFrameSchema(COLUMNS), key="id", time="at", label="late")
SLOW = Contract(pa.DataFrameSchema(COLUMNS), key="id", time="at", label="late", label_after="2d")
GROUPED = Contract(pa.DataFrameSchema(COLUMNS), key="id", time="at", label="late", group="plane")


def days(count: int, planes: int | None = None) -> pl.DataFrame:
    """One checked row a day."""
    table = pl.DataFrame(
        {
            "id": range(count),
            "at": [START + timedelta(days=i) for i in range(count)],
            "plane": [None if planes is None else f"N{i % planes}" for i in range(count)],
            "x": [float(i) if i % 3 else None for i in range(count)],
            "late": [i % 2 == 0 for i in range(count)],
        }
    )
    return PLAIN.check(table).rows


def ids(dataset: Dataset) -> list[list[int]]:
    return [part.table["id"].sort().to_list() for part in (dataset.train, dataset.valid, dataset.test)]


def parts(contract: Contract, rows: pl.DataFrame, **how: Any) -> Dataset:
    return split(rows, contract, **{"valid": 0.2, "test": 0.2, "seed": 1, "version": "v1", "frame": "polars", **how})


# --- by time


def test_by_time_the_last_rows_are_the_test() -> None:
    dataset = parts(PLAIN, days(10))
    assert ids(dataset) == [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]
    assert dataset.version == "v1"
    assert dataset.trained_until == START + timedelta(days=7)
    assert dataset.counts == {"train": 6, "valid": 2, "test": 2, "unlabelled": 0, "purged": 0, "straddling": 0}
    assert repr(dataset).startswith("<Dataset train 6, valid 2, test 2")


def test_a_duration_counts_back_from_the_last_row() -> None:
    assert ids(parts(PLAIN, days(10), valid="3d", test="2d")) == [[0, 1, 2, 3, 4], [5, 6, 7], [8, 9]]
    assert ids(parts(PLAIN, days(10), valid=0.1, test="2d")) == [[0, 1, 2, 3, 4, 5, 6], [7], [8, 9]]


def test_rows_of_one_moment_stay_together() -> None:
    rows = pl.concat([days(5), days(5).with_columns(id=pl.col("id") + 5)])
    assert ids(parts(PLAIN, rows, valid=0.1, test=0.1)) == [[0, 1, 2, 5, 6, 7], [3, 8], [4, 9]]


def test_a_row_whose_label_was_not_due_when_the_next_part_begins_is_purged() -> None:
    dataset = parts(SLOW, days(20))
    assert ids(dataset) == [list(range(11)), [12, 13, 14], [16, 17, 18, 19]]
    assert dataset.dropped == {"unlabelled": 0, "purged": 2, "straddling": 0}


def test_rows_without_a_label_are_dropped_and_counted() -> None:
    rows = days(12).with_columns(late=pl.when(pl.col("id") < 10).then("late"))
    dataset = parts(PLAIN, rows)
    assert dataset.dropped["unlabelled"] == 2
    assert ids(dataset)[2] == [8, 9]


def test_by_time_a_group_that_goes_on_is_kept_out_of_the_earlier_part() -> None:
    rows = days(10).with_columns(plane=pl.Series(["a", "a", "b", None, "c", "c", "c", None, "c", "d"]))
    dataset = parts(GROUPED, rows)
    assert ids(dataset) == [[0, 1, 2, 3], [7], [8, 9]]
    assert dataset.dropped["straddling"] == 3


# --- by group and at random


def test_a_group_is_never_in_two_parts() -> None:
    dataset = parts(GROUPED, days(100, planes=20), by="group")
    planes = [set(part.table["plane"]) for part in (dataset.train, dataset.valid, dataset.test)]
    assert [len(plane) for plane in planes] == [12, 4, 4]
    assert len(set.union(*planes)) == 20
    assert dataset.counts == {"train": 60, "valid": 20, "test": 20, "unlabelled": 0}


def test_rows_without_a_group_are_drawn_one_by_one() -> None:
    assert [len(part) for part in ids(parts(GROUPED, days(10), by="group"))] == [6, 2, 2]


def test_at_random_another_seed_gives_another_split() -> None:
    first, second = parts(PLAIN, days(50), by="random"), parts(PLAIN, days(50), by="random", seed=2)
    assert [len(part) for part in ids(first)] == [30, 10, 10]
    assert ids(first) != ids(second)


@settings(max_examples=60, deadline=None)
@given(
    by=st.sampled_from(["time", "group", "random"]),
    contract=st.sampled_from([PLAIN, SLOW, GROUPED]),
    count=st.integers(1, 60),
    planes=st.integers(1, 30),
    shares=st.tuples(st.floats(0.05, 0.45), st.floats(0.05, 0.45)),
    seed=st.integers(0, 5),
)
def test_parts_are_apart_and_do_not_depend_on_the_order_of_rows(
    by: Any, contract: Contract, count: int, planes: int, shares: tuple[float, float], seed: int
) -> None:
    rows = days(count, planes)
    how: dict[str, Any] = {"by": by, "valid": shares[0], "test": shares[1], "seed": seed}
    try:
        dataset = parts(contract, rows, **how)
    except DataError:
        return  # too few rows or groups for three parts
    assert ids(parts(contract, rows.sample(fraction=1, shuffle=True, seed=seed), **how)) == ids(dataset)
    everyone = [number for part in ids(dataset) for number in part]
    assert len(everyone) == len(set(everyone)) == count - sum(dataset.dropped.values())
    tables = [part.table for part in (dataset.train, dataset.valid, dataset.test)]
    if contract.group is not None:
        planes_seen = [plane for table in tables for plane in table["plane"].unique()]
        assert len(planes_seen) == len(set(planes_seen))
    if by == "time":
        for earlier, later in (tables[:2], tables[1:]):
            known = earlier["at"].max() + contract.label_after  # type: ignore[operator]
            assert known <= later["at"].min()
            assert earlier["at"].max() < later["at"].min()  # type: ignore[operator]


def test_a_contract_without_a_label_can_be_split() -> None:
    contract = Contract(pa.DataFrameSchema(COLUMNS), key="id", time="at")
    dataset = parts(contract, days(10))
    assert dataset.dropped["unlabelled"] == 0
    with pytest.raises(DataError, match="has no label"):
        _ = dataset.train.y


# --- wrong splits


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"valid": 0}, "valid=0 is no share"),
        ({"valid": True}, "valid=True is no share"),
        ({"test": 1.5}, "test=1.5 is no share"),
        ({"valid": 0.5, "test": 0.5}, "leave nothing to train on"),
        ({"valid": "soon"}, "is no duration"),
        ({"valid": "0d"}, "is no time at all"),
        ({"valid": "3d", "by": "random"}, "is a duration, and the split is by random"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(how: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parts(PLAIN, days(10), **how)


@pytest.mark.parametrize(
    ("contract", "rows", "how", "said"),
    [
        (PLAIN, days(2), {}, r"train would be empty: train 0, valid 1, test 1(.|\n)*more rows"),
        (PLAIN, days(10), {"test": "30d"}, r"train would be empty: train 0, valid 0, test 10"),
        (PLAIN, days(5).with_columns(late=None), {}, r"unlabelled 5(.|\n)*old enough"),
        (PLAIN, days(5).with_columns(late=None), {"by": "random"}, r"unlabelled 5(.|\n)*old enough"),
        (SLOW, days(5), {}, r"purged(.|\n)*label_after"),
        (GROUPED, days(10, planes=1), {}, r"straddling 8(.|\n)*live too long"),
        (GROUPED, days(10, planes=1), {"by": "group"}, r"would be empty"),
        (PLAIN, days(10), {"by": "group"}, "needs a group"),
    ],
)
def test_a_part_that_would_be_empty_is_an_error_with_counts(
    contract: Contract, rows: pl.DataFrame, how: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError, match=said):
        parts(contract, rows, **how)


# --- parts


@pytest.mark.parametrize(
    ("frame", "table", "column"),
    [
        ("pandas", pd.DataFrame, pd.Series),
        ("polars", pl.DataFrame, pl.Series),
        ("arrow", pyarrow.Table, pyarrow.ChunkedArray),
    ],
)
def test_parts_are_in_the_frame_that_was_asked_for(frame: Frame, table: type, column: type) -> None:
    train = parts(GROUPED, days(20, planes=20), by="group", frame=frame).train
    assert isinstance(train.rows, table)
    assert isinstance(train.X, table)
    assert isinstance(train.y, column)
    assert len(train) == len(train.X) == len(train.y) == 12
    assert pl.DataFrame(train.X).columns == ["x"]
    assert dict(train.table.schema) == GROUPED.types
    assert repr(train) == "<Part of 12 rows>"
    assert np.asarray(train.y).dtype == bool


def test_the_test_part_is_out_of_reach_of_fit() -> None:
    blind = parts(PLAIN, days(10)).without_test()
    assert [len(blind.train), len(blind.valid)] == [6, 2]
    assert blind.version == "v1"
    assert blind.trained_until == START + timedelta(days=7)
    assert "test" not in repr(blind)
    assert blind.without_test() is blind
    with pytest.raises(DataError, match="not seen by fit or early stopping"):
        _ = blind.test
    with pytest.raises(DataError, match="not seen"):
        blind.save(Path("nowhere"))
    with pytest.raises(AttributeError):
        _ = blind.tset  # type: ignore[attr-defined]
    assert not Path("nowhere").exists()


# --- on disk


@pytest.mark.parametrize("frame", ["pandas", "polars", "arrow"])
def test_a_dataset_comes_back_as_it_was_saved(tmp_path: Path, frame: Frame) -> None:
    dataset = parts(SLOW, days(20), frame=frame)
    dataset.save(tmp_path / "dataset")
    again = Dataset.load(tmp_path / "dataset", SLOW, frame)
    assert type(again.train.rows) is type(dataset.train.rows)
    assert again.test.table.equals(dataset.test.table)
    assert (again.version, again.counts) == (dataset.version, dataset.counts)
    assert [file.name for file in tmp_path.iterdir()] == ["dataset"]


def test_a_dataset_is_never_written_over(tmp_path: Path) -> None:
    dataset = parts(PLAIN, days(10))
    dataset.save(tmp_path / "dataset")
    with pytest.raises(DataError, match="never written over"):
        dataset.save(tmp_path / "dataset")


def test_a_damaged_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no whole dataset"):
        Dataset.load(tmp_path, PLAIN)
    dataset = parts(PLAIN, days(10))
    for name, spoil in {
        "changed": lambda folder: days(3).write_parquet(folder / "test.parquet"),
        "gone": lambda folder: (folder / "train.parquet").unlink(),
        "cut": lambda folder: (folder / "manifest.json").write_text('{"version"'),
        "odd": lambda folder: (folder / "manifest.json").write_text("[]"),
    }.items():
        dataset.save(tmp_path / name)
        spoil(tmp_path / name)
        with pytest.raises(
            DataError, match="changed after it was written" if name == "changed" else "no whole dataset"
        ):
            Dataset.load(tmp_path / name, PLAIN)


def test_a_dataset_of_another_contract_is_refused(tmp_path: Path) -> None:
    parts(PLAIN, days(10)).save(tmp_path / "dataset")
    other = Contract(pa.DataFrameSchema({**COLUMNS, "x": pa.Column(int)}), key="id", time="at", label="late")
    with pytest.raises(DataError, match="made under another contract"):
        Dataset.load(tmp_path / "dataset", other)
