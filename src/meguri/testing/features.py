"""Offline = online: a kit that compares what training read with what a request would get, and one for online tables."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from meguri.base.clock import moment
from meguri.data.build import compute
from meguri.data.features import Features
from meguri.data.online import Online, OnlineTable, materialize
from meguri.data.sources import MOMENT, Sources
from meguri.data.table import to_polars

if TYPE_CHECKING:
    from meguri.data.contract import Contract

DIFFERENT = {
    "moment": MOMENT,
    "row": pl.String(),
    "feature": pl.String(),
    "offline": pl.String(),
    "online": pl.String(),
}


def differences(
    rows: Any,
    features: Features,
    sources: Sources,
    table: OnlineTable,
    *,
    contract: Contract,
    now: datetime,
    moments: int = 20,
    each: int = 50,
    seed: int = 0,
) -> pl.DataFrame:
    """The values that are not the same offline and online: none, when all is well.

    Samples so many ``moments`` of the rows, materializes the features at each, in order, into the empty ``table``, reads
    them for ``each`` sampled row, and compares with what ``build`` gives for the same rows at that moment. Columns:
    moment, row, feature, offline, online, the last four as JSON text.
    """
    dice = random.Random(seed)
    given = to_polars(rows).drop(features, strict=False)
    times = sorted(moment(time) for time in given[contract.time].drop_nulls() if moment(time) <= now)
    chosen = sorted(dice.choices(times, k=moments))
    parts = [given.sample(each, with_replacement=True, seed=dice.randrange(2**32)) for _ in chosen]
    stamped = [
        part.with_columns(pl.lit(at).cast(MOMENT).alias(contract.time)) for part, at in zip(parts, chosen, strict=True)
    ]
    offline = compute(pl.concat(stamped), features, sources, time=contract.time, now=now)
    online = Online(features, table, types=contract.types | dict(given.schema))
    found: list[tuple[Any, ...]] = []
    asked = offline.drop(features).iter_rows(named=True)
    expected = offline.select(list(features)).iter_rows(named=True)
    for place, (row, values) in enumerate(zip(asked, expected, strict=True)):
        at = chosen[place // each]
        if not place % each:
            materialize(features, sources, table, now=at)
        got = online.get(row)
        if got.at != at:
            found.append((at, _text(row), "the moment", _text(at), _text(got.at)))
        for name, value in values.items():
            other = got.values[name]
            if other != value and _text(other) != _text(value):  # not a number is no difference
                found.append((at, _text(row), name, _text(value), _text(other)))
    return pl.DataFrame(found, schema=DIFFERENT, orient="row")


def _text(value: Any) -> str:
    return json.dumps(value, default=str, ensure_ascii=False)


class OnlineTableCase:
    """What every online table must do. ``tables`` gives two connections to one empty table, closed by the fixture."""

    @pytest.fixture
    def tables(self) -> Any:
        """Two doors to one table; each subclass gives its own."""
        raise NotImplementedError

    def test_an_empty_table_has_nothing(self, tables: Sequence[OnlineTable]) -> None:
        """No head, and no value, for any key."""
        assert tables[0].read(["a", "b"]) == (None, [None, None])
        assert tables[0].read([]) == (None, [])

    def test_what_is_written_is_read(self, tables: Sequence[OnlineTable]) -> None:
        """In the order of the keys; a key twice is answered twice; any text is a key and a value."""
        strange = "巡り \"'\\\t\n;--%s{}"
        assert tables[0].replace([("a", "1"), (strange, strange)], head="h", at=1)
        assert tables[1].read([strange, "gone", "a", "a"]) == ("h", [strange, None, "1", "1"])
        assert tables[1].read([]) == ("h", [])

    def test_all_is_replaced(self, tables: Sequence[OnlineTable]) -> None:
        """Nothing of the earlier entries stays."""
        tables[0].replace([("a", "1"), ("b", "1")], head="one", at=1)
        assert tables[1].replace([("b", "2"), ("c", "2")], head="two", at=2)
        assert tables[0].read(["a", "b", "c"]) == ("two", [None, "2", "2"])

    def test_later_entries_are_kept(self, tables: Sequence[OnlineTable]) -> None:
        """A writer that was overtaken changes nothing; one of the same moment may write again."""
        tables[0].replace([("a", "2")], head="two", at=2)
        assert not tables[1].replace([("a", "1"), ("b", "1")], head="one", at=1)
        assert tables[0].read(["a", "b"]) == ("two", ["2", None])
        assert tables[1].replace([("a", "3")], head="again", at=2)
        assert tables[0].read(["a"]) == ("again", ["3"])

    def test_a_writer_that_fails_changes_nothing(self, tables: Sequence[OnlineTable]) -> None:
        """The entries come from a computation, which may break off."""
        tables[0].replace([("a", "1")], head="one", at=1)

        def broken() -> Any:
            yield "a", "2"
            raise RuntimeError("out of power")

        with pytest.raises(RuntimeError, match="out of power"):
            tables[1].replace(broken(), head="two", at=2)
        assert tables[0].read(["a"]) == ("one", ["1"])
        assert tables[1].replace([("a", "3")], head="three", at=3)
        assert tables[0].read(["a"]) == ("three", ["3"])

    def test_no_entries_are_entries(self, tables: Sequence[OnlineTable]) -> None:
        """A moment before anything happened."""
        tables[0].replace([("a", "1")], head="one", at=1)
        assert tables[0].replace([], head="none", at=2)
        assert tables[1].read(["a"]) == ("none", [None])

    def test_a_reader_never_sees_two_materializations(self, tables: Sequence[OnlineTable]) -> None:
        """While one door writes, the other reads the head and all keys of the same one."""
        import threading

        keys = [f"k{i}" for i in range(300)]
        tables[0].replace([(key, "0") for key in keys], head="0", at=0)
        seen, stop, errors = set(), threading.Event(), []

        def write() -> None:
            try:
                for number in range(1, 40):
                    tables[1].replace([(key, str(number)) for key in keys], head=str(number), at=number)
            except Exception as error:
                errors.append(error)
            finally:
                stop.set()

        writer = threading.Thread(target=write)
        writer.start()
        while not stop.is_set():
            head, values = tables[0].read(keys)
            assert set(values) == {head}
            seen.add(head)
        writer.join()
        assert not errors
        assert tables[0].read(keys[:1]) == ("39", ["39"])
