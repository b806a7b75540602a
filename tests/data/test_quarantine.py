"""Quarantine keeps every bad row once, with its reason, whoever reads it again."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import polars as pl
import pytest

from meguri.base.errors import DataError
from meguri.data.quarantine import Quarantine

AT = datetime(2013, 4, 1, tzinfo=UTC)


def bad(*keys: int, reason: str = "temp: null") -> pl.DataFrame:
    return pl.DataFrame({"id": list(keys), "temp": [None for _ in keys], "reason": [reason for _ in keys]})


def test_an_empty_quarantine_counts_nothing(tmp_path: Path) -> None:
    store = Quarantine(tmp_path / "quarantine")
    assert store.counts() == {}
    assert store.read().columns == ["id", "at", "door", "run", "reason", "row", "decision"]
    assert store.add(bad(), at=AT, door="retrieve") == 0
    assert not store.folder.exists()


def test_a_row_read_again_counts_once(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    assert store.add(bad(1, 2, 2), at=AT, door="retrieve", run="r1") == 2
    assert store.add(bad(2, 3), at=AT.replace(day=2), door="predict") == 1
    assert store.add(bad(1), at=AT, door="predict") == 0
    rows = store.read()
    assert rows["row"].str.json_decode(pl.Struct({"id": pl.Int64})).struct.field("id").to_list() == [1, 2, 3]
    assert rows["door"].to_list() == ["retrieve", "retrieve", "predict"]
    assert rows["run"].to_list() == ["r1", "r1", None]
    assert rows["at"].to_list() == [AT, AT, AT.replace(day=2)]


def test_the_same_row_with_another_reason_is_news(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    store.add(bad(1), at=AT, door="retrieve")
    assert store.add(bad(1, reason="duplicated key"), at=AT, door="retrieve") == 1


def test_counts_are_by_single_reason_most_first(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    store.add(bad(1, 2), at=AT, door="retrieve")
    store.add(bad(3, reason="temp: null; origin: null"), at=AT, door="retrieve")
    assert list(store.counts().items()) == [("temp: null", 3), ("origin: null", 1)]


def test_rows_of_different_contracts_live_together_and_can_be_read_by_a_person(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    odd = pl.DataFrame(
        {
            "x": [float("nan"), float("inf"), 1.5, None],
            "when": [date(2013, 1, 1)] * 4,
            "kind": pl.Series(["a"] * 4, dtype=pl.Categorical),
            "price": [Decimal("1.20")] * 4,
            "t": [AT] * 4,
            "reason": ["bad"] * 4,
        }
    )
    store.add(bad(1).with_columns(temp=1.5), at=AT, door="retrieve")
    assert store.add(odd, at=AT, door="retrieve") == 4
    rows = [json.loads(text) for text in store.read()["row"].to_list()[1:]]
    assert [row["x"] for row in rows] == ["NaN", "inf", "1.5", None]
    assert rows[0]["kind"] == "a"
    assert rows[0]["price"] == "1.20"
    assert rows[0]["when"] == "2013-01-01"


def test_rows_without_a_reason_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="reason"):
        Quarantine(tmp_path).add(pl.DataFrame({"id": [1]}), at=AT, door="retrieve")


def test_a_broken_file_is_said_to_be_broken(tmp_path: Path) -> None:
    store = Quarantine(tmp_path)
    store.file.write_bytes(b"no parquet")
    with pytest.raises(DataError, match="quarantine cannot be read"):
        store.counts()


ADD = """
import sys, polars as pl
from datetime import UTC, datetime
from pathlib import Path
from meguri.data.quarantine import Quarantine
for turn in range(5):
    rows = pl.DataFrame({"id": [int(sys.argv[2]), 100 + turn], "reason": ["temp: null"] * 2})
    Quarantine(Path(sys.argv[1])).add(rows, at=datetime(2013, 4, 1, tzinfo=UTC), door="retrieve")
"""


def test_processes_that_add_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", ADD, str(tmp_path), str(number)]) for number in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    assert Quarantine(tmp_path).counts() == {"temp: null": 9}
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", "quarantine.parquet"]
