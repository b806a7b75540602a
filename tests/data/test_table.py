"""Tables come in from every library that speaks Arrow, and go out in the frame that was asked for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from meguri.base.errors import DataError
from meguri.data.table import Frame, from_polars, to_polars

ROWS = pl.DataFrame(
    {
        "n": [1, 2],
        "x": [0.5, None],
        "s": ["a", None],
        "b": [True, False],
        "t": pl.Series([datetime(2013, 1, 1, tzinfo=UTC)] * 2, dtype=pl.Datetime("us", "UTC")),
    }
)


@pytest.mark.parametrize("frame", ["pandas", "polars", "arrow"])
def test_a_table_comes_back_as_it_went(frame: Frame) -> None:
    assert to_polars(from_polars(ROWS, frame)).equals(ROWS)


@pytest.mark.parametrize(("frame", "kind"), [("pandas", pd.DataFrame), ("polars", pl.DataFrame), ("arrow", pa.Table)])
def test_jobs_get_the_frame_they_ask_for(frame: Frame, kind: type) -> None:
    assert isinstance(from_polars(ROWS, frame), kind)


def test_lazy_frames_and_anything_with_an_arrow_stream_come_in() -> None:
    class Stream:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return ROWS.__arrow_c_stream__(requested_schema)

    assert to_polars(ROWS.lazy()).equals(ROWS)
    assert to_polars(Stream()).equals(ROWS)
    assert to_polars(pa.RecordBatch.from_pydict({"n": [1]})).equals(pl.DataFrame({"n": [1]}))


def test_the_index_of_pandas_is_no_column_and_its_nan_is_null() -> None:
    table = to_polars(pd.DataFrame({"x": [1.0, float("nan")]}, index=pd.Index([7, 8], name="id")))
    assert table.to_dict(as_series=False) == {"x": [1.0, None]}


def test_nanoseconds_become_microseconds_and_the_zone_stays() -> None:
    times = pd.to_datetime(["2013-01-01"]).as_unit("ns")
    table = to_polars(pd.DataFrame({"naive": times, "zoned": times.tz_localize("Asia/Tokyo")}))
    assert table.schema == {"naive": pl.Datetime("us"), "zoned": pl.Datetime("us", "Asia/Tokyo")}


@pytest.mark.parametrize(
    "value",
    [None, {"a": [1]}, [1], "text", pd.Series([1]), pl.Series([1]), pa.chunked_array([[1]])],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_table_is_named(value: Any) -> None:
    with pytest.raises(DataError, match=type(value).__name__) as error:
        to_polars(value)
    assert error.value.fix


@pytest.mark.parametrize(
    "value",
    [
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.DataFrame({"a": [1, "x"]}),
        pa.table([[1], [2]], names=["a", "a"]),
    ],
    ids=["pandas twice a name", "pandas mixed", "arrow twice a name"],
)
def test_a_table_that_arrow_cannot_hold_is_a_data_error(value: Any) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        to_polars(value)
