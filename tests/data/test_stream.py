"""A contract over a stream: the same rows and reasons as over the whole table, however it is cut."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandera.polars as pa
import polars as pl
import pyarrow
import pytest
from data.contracts import contract, small
from data.tables import DAY, DIRTY, NOW, contract_of, dirty, field
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from meguri.base.errors import ContractError
from meguri.data import stream, twice
from meguri.data.contract import Contract
from meguri.data.spool import drafts
from meguri.data.warehouse import Warehouse


def run(contract: Contract, parts: Any, **how: Any) -> tuple[pl.DataFrame, pl.DataFrame, stream.Streamed]:
    bad: list[pl.DataFrame] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        done = stream.check(parts, contract, path=path, bad=bad.append, **how)
        assert [file.name for file in Path(folder).iterdir()] == ["rows.parquet"]
        rows = pl.read_parquet(path)
    return rows, pl.concat(bad) if bad else pl.DataFrame(), done


@given(dirty(), st.lists(st.integers(0, 14), max_size=4), st.booleans(), st.sampled_from([None, NOW]))
@settings(max_examples=300)
def test_cut_anywhere_it_says_the_same(table: pl.DataFrame, cuts: list[int], labelled: bool, now: Any) -> None:
    edges = [0, *sorted(cut for cut in cuts if cut < table.height), table.height]
    parts = [table[a:b] for a, b in pairwise(edges)]
    how = {"labelled": labelled, "now": now}
    try:
        whole = DIRTY.check(table, **how)
    except ContractError:
        with pytest.raises(ContractError):
            run(DIRTY, iter(parts), **how)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream, "ROWS", 3)
        patch.setattr(stream.batches_of, "__kwdefaults__", {"rows": 3})
        patch.setattr(twice, "AT_ONCE", 2)
        rows, bad, done = run(DIRTY, iter(parts), **how)
    assert_frame_equal(rows, whole.rows)
    if whole.quarantined.height:
        assert_frame_equal(bad, whole.quarantined)
    assert (done.rows, done.quarantined) == (whole.rows.height, whole.quarantined.height)


SMALL = contract_of([field("id", "Int64"), field("t", "Datetime"), field("x", "Float64", ("ge", {"min_value": 0}))])


def numbers(count: int, start: int = 0, x: float = 1.0) -> pl.DataFrame:
    return pl.DataFrame({"id": range(start, start + count), "t": [DAY] * count, "x": [x] * count})


def sources(folder: Path) -> dict[str, Callable[[], Any]]:
    table = numbers(10)
    table.write_parquet(folder / "rows.parquet")
    arrow = table.to_arrow()
    return {
        "lazy": lambda: pl.scan_parquet(folder / "rows.parquet"),
        "reader": lambda: pyarrow.RecordBatchReader.from_batches(arrow.schema, arrow.to_batches(3)),
        "generator": lambda: (table[i : i + 2] for i in range(0, 10, 2)),
        "pandas": lambda: iter([table[:4].to_pandas(), table[4:].to_pandas()]),
        "arrow": lambda: iter(arrow.to_batches(4)),
    }


@pytest.mark.parametrize("kind", ["lazy", "reader", "generator", "pandas", "arrow"])
def test_whatever_comes_in_parts_is_a_stream(kind: str, tmp_path: Path) -> None:
    source = sources(tmp_path)[kind]
    assert stream.is_stream(source())
    parts = list(stream.batches_of(source(), rows=4))
    assert max(part.height for part in parts) <= 4
    assert pl.concat(parts)["id"].to_list() == list(range(10))
    rows, bad, done = run(SMALL, source())
    assert (rows.height, bad.height, done) == (10, 0, stream.Streamed(10, 0, {}))


def test_an_expression_streams_over_its_warehouse(tmp_path: Path) -> None:
    with Warehouse("duckdb:///tables", tmp_path) as warehouse:
        warehouse.write("rows", numbers(1000))
        table = warehouse.table("rows")
        assert stream.is_stream(table)
        for parts in (stream.batches_of(table, warehouse, rows=300), stream.batches_of(table)):
            assert pl.concat(list(parts))["id"].sort().to_list() == list(range(1000))


@pytest.mark.parametrize("table", [numbers(3), numbers(3).to_pandas(), numbers(3).to_arrow(), [numbers(3)], None])
def test_a_table_is_no_stream(table: Any) -> None:
    assert not stream.is_stream(table)


def test_reasons_are_counted_most_first() -> None:
    parts = [numbers(5), numbers(2, 5, -1.0), numbers(3, 4), numbers(2, 3)]
    _, bad, done = run(SMALL, iter(parts))
    assert done == stream.Streamed(5, 7, {"duplicated key": 4, "duplicated key (the same row again)": 3, "x: ge(0)": 2})
    assert bad.rows()[0] == (5, DAY, -1.0, "x: ge(0); duplicated key")


def test_rows_stay_as_they_came() -> None:
    """Even good ones that a later part makes bad, when the contract keeps them in another form."""
    fields = [
        field("id", "Int64"),
        field("t", "Datetime"),
        field("x", "Float32", nullable=True),
        field("y", "Int64", default=7),
    ]
    contract = contract_of(fields)
    first = pl.DataFrame({"id": [1, 2], "t": [DAY.replace(tzinfo=None)] * 2, "x": [0.1, float("nan")], "y": [None, 1]})
    again = first.with_columns(y=pl.lit(9, pl.Int64))
    whole = contract.check(pl.concat([first, again]))
    rows, bad, _ = run(contract, iter([first, again]))
    assert_frame_equal(bad, whole.quarantined)
    assert bad["x"].to_list()[0] == 0.1
    assert bad["y"].to_list() == [None, 1, 9, 9]
    assert rows.is_empty()
    assert dict(rows.schema) == contract.types


# --- limits, and what is left behind


def failing(limit: float | None, parts: Any, contract: Contract = SMALL) -> tuple[str, int]:
    seen: list[pl.DataFrame] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        path.write_text("what was there")
        with pytest.raises(ContractError) as raised:
            stream.check(parts, contract, path=path, limit=limit, bad=seen.append)
        assert path.read_text() == "what was there"
        assert list(Path(folder).iterdir()) == [path]
    return str(raised.value), sum(part.height for part in seen)


def test_a_number_of_bad_rows_stops_it_at_once() -> None:
    def parts() -> Iterator[pl.DataFrame]:
        for start in range(0, 10 * stream.ROWS, stream.ROWS):
            taken.append(start)
            yield numbers(stream.ROWS, start, -1.0)

    taken: list[int] = []
    text, seen = failing(5, parts())
    assert (
        f"{stream.ROWS} of the first {stream.ROWS} rows break the contract Dirty, more than the limit of 5 allows"
        in text
    )
    assert "most often: x: ge(0)" in text
    assert seen == stream.ROWS
    assert len(taken) <= 2


def test_a_share_is_believed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    text, seen = failing(0.2, iter([numbers(3, 0, -1.0), numbers(7, 3)]))
    assert "3 of 10 rows break" in text
    assert seen == 3
    assert run(SMALL, iter([numbers(3, 0, -1.0), numbers(12, 3)]), limit=0.2)[2].quarantined == 3
    monkeypatch.setattr(stream, "SOON", 4)
    monkeypatch.setattr(stream.batches_of, "__kwdefaults__", {"rows": 4})
    assert "4 of the first 4 rows" in failing(0.5, iter([numbers(4, 0, -1.0), numbers(90, 4)]))[0]


def test_keys_that_come_again_count_for_the_limit() -> None:
    text, seen = failing(0.5, iter([numbers(10), numbers(10), numbers(10)]))
    assert "20 of 30 rows break" in text
    assert "most often: duplicated key" in text
    assert seen == 0
    text, seen = failing(0.5, iter([numbers(10), numbers(7, 0, 2.0)]))
    assert "14 of 17 rows break" in text
    assert seen == 14


def test_a_source_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def parts() -> Iterator[pl.DataFrame]:
        yield numbers(5)
        raise OSError("the line is dead")

    with pytest.raises(OSError, match="the line is dead"):
        stream.check(parts(), SMALL, path=tmp_path / "new" / "rows.parquet")
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("parts", [[], [numbers(3).clear()]])
def test_no_rows_are_an_error(parts: list[pl.DataFrame]) -> None:
    assert "the table has no rows" in failing(None, iter(parts))[0]


def test_a_column_that_goes_half_way_is_an_error() -> None:
    assert "'x' is gone" in failing(None, iter([numbers(5), numbers(5, 5).drop("x")]))[0]


def test_a_function_of_the_user_is_asked_of_each_part_and_none_of_the_whole_table() -> None:
    def odd(data: Any) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) % 2 == 1)

    def many(data: Any) -> bool:
        return bool(data.lazyframe.collect().height > 2)

    table = small([1, 2, 3, 4])
    rows, bad, _ = run(contract(pa.Column(int, pa.Check(odd, error="odd"))), iter([table[:3], table[3:]]))
    assert rows["x"].to_list() == [1, 3]
    assert bad["reason"].to_list() == ["x: odd"] * 2
    whole = contract(pa.Column(int, pa.Check(many, error="at least three rows")))
    assert whole.check(table).rows.height == 4
    text, _ = failing(None, iter([table]), whole)
    assert "the check 'x: at least three rows' is of all rows of a table, and these come in parts" in text


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from data.test_stream import SMALL, numbers
from meguri.data import stream
def parts():
    for start in range(0, 10**6, 10**5):
        yield numbers(10**5, start)
        if start == 3 * 10**5:
            print("half-way", flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
stream.check(parts(), SMALL, path=Path(sys.argv[1]))
"""


def test_a_killed_process_leaves_no_half_file_and_the_next_tidies_up(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    command = [sys.executable, "-c", KILLED, str(path), str(Path(__file__).parents[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, "half-way\n")
    assert not path.exists()
    (left,) = tmp_path.iterdir()
    with drafts(path) as other:  # of one that is still at work
        stream.check(iter([numbers(3)]), SMALL, path=path)
        assert set(tmp_path.iterdir()) == {path, other}
    assert not left.exists()
    assert list(tmp_path.iterdir()) == [path]


def test_a_great_many_that_share_one_key_are_still_compared() -> None:
    keys = twice.Hashes(["id"])
    keys.add(pl.DataFrame({"id": [7] * 5 + [1, 2, 3, 3]}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(twice, "AT_ONCE", 2)
        lots = [lot.tolist() for lot in keys.suspects()]
    assert sorted(lots) == [[0, 1, 2, 3, 4], [7, 8]]
    assert keys.repeated() == 5
