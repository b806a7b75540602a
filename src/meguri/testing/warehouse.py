"""The conformance kit of warehouses: subclass ``WarehouseCase``, give it a ``warehouse`` fixture, and pytest does the rest."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from meguri.base.errors import ContractError, DataError
from meguri.data import pushdown
from meguri.data.contract import Contract
from meguri.data.warehouse import Warehouse

DAY = datetime(2013, 4, 1, tzinfo=UTC)
TEXTS = ["", "a", "日本", 'a "quoted", text', "two\nlines", "back\\slash", "it's", "ß%_"]


def some_rows(count: int, start: int = 0) -> pl.DataFrame:
    """``count`` rows of every type that all engines have; each sixth row has nulls."""
    numbers = range(start, start + count)
    table = pl.DataFrame(
        {
            "id": list(numbers),
            "amount": [i / 7 for i in numbers],
            "name": [TEXTS[i % len(TEXTS)] for i in numbers],
            "good": [i % 2 == 0 for i in numbers],
            "day": [date(2013, 4, 1) + timedelta(days=i % 100) for i in numbers],
            "at": [DAY + timedelta(seconds=i, microseconds=i) for i in numbers],
        },
        schema_overrides={"id": pl.Int64, "amount": pl.Float64, "at": pl.Datetime("us", "UTC")},
    )
    sixth = pl.col("id") % 6 == 5
    return table.with_columns(pl.when(~sixth).then(pl.exclude("id")).name.keep())


def a_contract(**more: Any) -> Contract:
    """What ``some_rows`` keep to, with a key, a pattern, ranges and a unique column."""

    def field(name: str, kind: str, *rules: tuple[str, dict[str, Any]], **parts: Any) -> dict[str, Any]:
        checks = [{"name": rule, "args": args, "message": None} for rule, args in rules]
        return {"name": name, "type": kind, "nullable": True, "checks": checks, **parts}

    fields = [
        field("id", "Int64"),
        field("amount", "Float64", ("in_range", {"min_value": 0, "max_value": 1e6})),
        field("name", "String", ("str_length", {"max_value": 20}), ("str_contains", {"pattern": "^[^x]*$"})),
        field("good", "Boolean"),
        field("day", "Date", ("ge", {"min_value": "2013-01-01"})),
        field("at", "Datetime", ("lt", {"max_value": "2014-01-01T00:00:00+00:00"}), unique=True),
    ]
    spec = {
        "format": 1,
        "name": "Some",
        "key": ["id"],
        "time": "at",
        "label": "good",
        "label_after": "0s",
        "group": None,
    }
    spec |= {"features": ["amount"], "task": "binary", "strict": False, "unique": [], "fields": fields}
    return Contract.from_spec({**spec, **more})


class WarehouseCase:
    """What every warehouse must do. ``warehouse`` is an empty one, or one in which nobody minds the tables ``kit_…``."""

    @pytest.fixture
    def warehouse(self) -> Any:
        """An open warehouse; each subclass gives its own."""
        raise NotImplementedError

    def read(self, warehouse: Warehouse, name: str) -> pl.DataFrame:
        """All rows of a table, in the order of their ids: a table of SQL has none."""
        return warehouse.read(warehouse.table(name)).sort("id")

    def test_rows_come_back_as_they_were_written(self, warehouse: Warehouse) -> None:
        """Every type, nulls, and texts that SQL and CSV have a meaning for."""
        rows = some_rows(50)
        assert warehouse.write("kit_rows", rows) == 50
        assert "kit_rows" in warehouse.names()
        assert warehouse.names() == sorted(warehouse.names())
        assert_frame_equal(self.read(warehouse, "kit_rows"), rows)

    def test_floats_that_are_no_numbers(self, warehouse: Warehouse) -> None:
        """NaN and the infinities are no nulls."""
        rows = pl.DataFrame({"id": [1, 2, 3, 4], "x": [float("nan"), float("inf"), -float("inf"), None]})
        warehouse.write("kit_floats", rows)
        assert_frame_equal(self.read(warehouse, "kit_floats"), rows)
        warehouse.write("kit_floats", rows.filter(pl.col("x").is_infinite().not_()))  # no extremes to tell of NaN
        table = warehouse.table("kit_floats")
        assert warehouse.read(table.filter(table["x"].isnan()))["id"].to_list() == [1]
        assert warehouse.read(table.select("id", nan=table["x"].isnan())).filter("nan")["id"].to_list() == [1]

    def test_no_rows_have_columns(self, warehouse: Warehouse) -> None:
        """An empty table, and a query that finds nothing."""
        warehouse.write("kit_none", some_rows(3).clear())
        table = warehouse.table("kit_none")
        found = list(warehouse.batches(table))
        assert [part.height for part in found] == [0]
        assert found[0].schema == some_rows(3).schema

    def test_a_table_is_replaced_whole_or_not_at_all(self, warehouse: Warehouse) -> None:
        """A source that fails half-way leaves what was there; batches are written as they come."""
        warehouse.write("kit_swap", some_rows(3))

        def failing() -> Iterator[pl.DataFrame]:
            yield some_rows(5)
            raise RuntimeError("the source is gone")

        with pytest.raises((DataError, RuntimeError), match="the source is gone"):
            warehouse.write("kit_swap", failing())
        assert self.read(warehouse, "kit_swap").height == 3
        assert warehouse.write("kit_swap", (some_rows(10, start) for start in range(0, 40, 10))) == 40
        assert_frame_equal(self.read(warehouse, "kit_swap"), some_rows(40))
        with pytest.raises(DataError, match="not one batch"):
            warehouse.write("kit_swap", iter([]))

    def test_batches_are_small_and_all_there(self, warehouse: Warehouse) -> None:
        """No batch is much larger than asked; together they are the table."""
        rows = some_rows(25_000)
        warehouse.write("kit_many", rows)
        parts = list(warehouse.batches(warehouse.table("kit_many"), rows=4_000))
        assert len(parts) > 1
        assert max(part.height for part in parts) <= 8_192
        assert_frame_equal(pl.concat(parts).sort("id"), rows)

    def test_questions_may_be_asked_while_rows_come(self, warehouse: Warehouse) -> None:
        """Two streams at once, one of them given up, and another query between."""
        warehouse.write("kit_two", some_rows(9_000))
        table = warehouse.table("kit_two")
        one, other = (warehouse.batches(table, rows=2_000) for _ in range(2))
        first, second = next(one), next(other)
        assert warehouse.read(table.count().as_table()).item() == 9_000
        del other
        assert first.height + sum(part.height for part in one) == 9_000
        assert second.columns == first.columns

    def test_expressions_and_sql(self, warehouse: Warehouse) -> None:
        """The same answer either way."""
        warehouse.write("kit_asked", some_rows(60))
        table = warehouse.table("kit_asked")
        late = table.filter(table["id"] >= 50).aggregate(rows=table["id"].count(), most=table["amount"].max())
        assert warehouse.read(late).row(0) == pytest.approx((10, 58 / 7))
        query = warehouse.sql("SELECT id, name FROM kit_asked WHERE id < 3")
        assert warehouse.read(query).sort("id").rows() == [(0, ""), (1, "a"), (2, "日本")]
        joined = query.join(table, "id").select("id", "good")
        assert warehouse.read(joined).height == 3

    def test_what_is_not_there_is_named(self, warehouse: Warehouse) -> None:
        """The nearest right name for a table; the engine's own words for SQL."""
        warehouse.write("kit_here", some_rows(1))
        with pytest.raises(DataError, match="no table 'kit_heer'") as error:
            warehouse.table("kit_heer")
        assert "did you mean 'kit_here'?" in str(error.value)
        with pytest.raises(DataError, match=r"SQL|rows"):
            warehouse.read(warehouse.sql("SELECT nothing FROM kit_here"))
        with pytest.raises(DataError, match="no name for a table"):
            warehouse.write("../kit", some_rows(1))

    def test_a_contract_is_asked_where_the_data_is(self, warehouse: Warehouse) -> None:
        """The reasons of ``Contract.check``, by row, and their counts."""
        good = some_rows(12).filter(pl.col("at").is_not_null())
        wrong = [
            good[1].with_columns(amount=pl.lit(5.0)),
            good[2],
            good[3].with_columns(id=pl.lit(100, pl.Int64), amount=pl.lit(float("inf")), name=pl.lit("xyz")),
            good[4].with_columns(id=pl.lit(101, pl.Int64), at=pl.lit(None, pl.Datetime("us", "UTC"))),
            good[5].with_columns(id=pl.lit(None, pl.Int64), day=pl.lit(date(1999, 1, 1)), amount=pl.lit(float("nan"))),
        ]
        warehouse.write("kit_dirty", pl.concat([good, *wrong]))
        table, contract = warehouse.table("kit_dirty"), a_contract()
        here = contract.check(warehouse.read(table), now=DAY)
        asked = warehouse.read(pushdown.ask(warehouse, table, contract, now=DAY))
        assert sorted(asked["reason"].drop_nulls()) == sorted(here.quarantined["reason"])
        again = contract.check(asked.filter(pl.col("reason").is_null()), now=DAY)
        assert_frame_equal(again.rows.sort("id"), here.rows.sort("id"))
        counts = pushdown.counts(warehouse, table, contract, now=DAY)
        assert (counts.rows, counts.bad, counts.unasked) == (15, here.quarantined.height, ())
        reasons = here.quarantined["reason"].str.split("; ").explode().value_counts()
        assert counts.reasons == dict(reasons.rows())

    def test_a_broken_table_is_an_error(self, warehouse: Warehouse) -> None:
        """A column gone or of another type, and no row at all."""
        warehouse.write("kit_broken", some_rows(9).drop("day").with_columns(amount=pl.lit("much")))
        with pytest.raises(ContractError) as error:
            pushdown.ask(warehouse, warehouse.table("kit_broken"), a_contract())
        assert "'amount': expected Float64, found String, such as 'much'" in str(error.value)
        assert "'day' is gone" in str(error.value)
        warehouse.write("kit_empty", some_rows(1).clear())
        with pytest.raises(ContractError, match="no rows"):
            pushdown.counts(warehouse, warehouse.table("kit_empty"), a_contract())

    def test_it_may_be_closed_twice_and_asked_again(self, warehouse: Warehouse) -> None:
        """The next question opens it anew."""
        warehouse.write("kit_closed", some_rows(2))
        warehouse.close()
        warehouse.close()
        assert self.read(warehouse, "kit_closed").height == 2
