"""A contract asked as SQL: the same reasons as here, in DuckDB and in a real PostgreSQL."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import ibis
import polars as pl
import pytest
from data.contracts import FLIGHTS, rows
from data.servers import opened
from data.tables import DIRTY, NOW, contract_of, dirty, expected, field, told
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meguri.base.errors import ContractError
from meguri.data import pushdown
from meguri.data.contract import Contract
from meguri.data.spec_polars import TYPES
from meguri.data.spec_sql import portable
from meguri.data.warehouse import Warehouse


@pytest.fixture(scope="module", params=["duckdb", "postgres", "spark", "bigquery"])
def warehouse(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    with opened(request.param, tmp_path_factory.mktemp(request.param)) as found:
        yield found


def wrong(call: Callable[[], object]) -> str | None:
    """What is wrong with a table as a whole, without the example, which is any row's."""
    try:
        call()
    except ContractError as error:
        return re.sub(r", such as .*", "", str(error))
    return None


def contract_for(warehouse: Warehouse) -> Contract:
    """The dirty table's; BigQuery has no floats of 32 bits, and is asked nothing of such a column."""
    if "bigquery" not in warehouse.url:
        return DIRTY
    spec = DIRTY.to_spec()
    wide = [one | {"type": one["type"].replace("Float32", "Float64")} for one in spec["fields"]]
    return Contract.from_spec(spec | {"fields": wide})


def the_same(warehouse: Warehouse, table: pl.DataFrame, labelled: bool, now: Any) -> None:
    contract = contract_for(warehouse)
    warehouse.write("dirty", table)
    expr = warehouse.table("dirty")
    here, how = warehouse.read(expr), {"labelled": labelled, "now": now}
    broken = wrong(lambda: contract.check(here, **how))
    if broken is not None:
        assert wrong(lambda: pushdown.ask(warehouse, expr, contract, **how)) == broken
        return
    wanted = expected(contract, here, **how)
    rows = warehouse.read(pushdown.ask(warehouse, expr, contract, **how))
    assert told(contract, rows.drop("reason"), rows["reason"].to_list(), labelled=labelled) == wanted
    counts = pushdown.counts(warehouse, expr, contract, **how)
    assert (counts.rows, counts.bad) == (here.height, sum(why != "" for _, why in wanted))
    assert counts.reasons == Counter(why for _, all_of in wanted if all_of for why in all_of.split("; "))
    assert list(counts.reasons.values()) == sorted(counts.reasons.values(), reverse=True)
    assert counts.unasked == ()


TABLES = {"table": dirty(), "labelled": st.booleans(), "now": st.sampled_from([None, NOW])}
UNCHECKED = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


def test_sql_says_the_same(warehouse: Warehouse) -> None:
    """Of fewer tables on engines that take seconds for each."""
    count = 15 if warehouse.url.startswith(("spark", "bigquery")) else 150
    asked = settings(max_examples=count, deadline=None, suppress_health_check=UNCHECKED)
    asked(given(**TABLES)(lambda table, labelled, now: the_same(warehouse, table, labelled, now)))()


WHOLE = [-(2**63), -1, 0, 1, 2**53, 2**53 + 1, 2**63 - 1, None]
REAL = [-1e308, -1.0, -0.0, 0.1, 0.30000000000000004, 16777217.0, 1e38, 1e-44, None, float("nan"), float("inf")]
TEXT = [
    "",
    "a",
    "A",
    "ab",
    "é",
    "e\u0301",
    "日本",
    "a\n",
    "\na",
    "a\nb",
    "%",
    "_",
    "a%",
    "\\",
    "a\\b",
    "'",
    '"',
    "0",
    "٣",
    "x1",
    None,
    "ß",
    "a-b",
    "]",
    "^",
]
DAYS = [date(1969, 12, 31), date(2013, 4, 1), date(2013, 4, 2), None]
TIMES = [datetime(2013, 4, 1, hour, tzinfo=UTC) for hour in (0, 1, 23)] + [None]


def every_kind() -> list[tuple[dict[str, Any], pl.Series]]:
    """Each check on each type that it fits, with values at its edges."""
    made = []

    def add(kind: str, values: list[Any], rule: str, found: Any = None, **args: Any) -> None:
        name = f"c{len(made)}"
        column = pl.Series(name, values, dtype=found or TYPES[kind], strict=False)
        made.append((field(name, kind, (rule, args), nullable=True), column))

    for rule in ("ge", "gt", "le", "lt", "in_range"):
        for kind, values, bounds in (
            ("Int64", WHOLE, (0, 2**53, 0.5)),
            ("UInt64", [0, 1, 2**63, 2**64 - 1, None], (-1, 1, 2**63)),
            ("Int8", [-128, 0, 127, None], (-129, 0, 1000)),
            ("Float64", REAL, (0, 0.1, 0.3, float("inf"))),
            ("Float32", REAL, (0, 0.1, 16777216)),
            ("Date", DAYS, ("2013-04-01",)),
            ("Datetime", TIMES, ("2013-04-01T01:00:00+00:00", "2013-04-01T10:00:00+09:00")),
        ):
            for bound in bounds:
                if rule == "in_range":
                    add(kind, values, rule, min_value=bound, max_value=bound)
                    add(kind, values, rule, min_value=bound, max_value=bound, include_max=False)
                else:
                    add(kind, values, rule, **{"max_value" if rule[0] == "l" else "min_value": bound})
    for kind, values, some in (
        ("Int64", WHOLE, [0, 2**53 + 1]),
        ("Float64", REAL, [0.1, 0, 0.3]),
        ("Float32", REAL, [0.1, 16777217]),
        ("Boolean", [True, False, None], [True]),
        ("String", TEXT, ["", "é", "'", "\\", "a\n"]),
        ("Date", DAYS, ["2013-04-02"]),
        ("Datetime", TIMES, ["2013-04-01T23:00:00+00:00"]),
    ):
        add(kind, values, "isin", allowed_values=some)
        add(kind, values, "isin", allowed_values=[])
        add(kind, values, "isin", allowed_values=[None, *some])
        add(kind, values, "notin", forbidden_values=some)
        add(kind, values, "eq", value=some[0])
        add(kind, values, "ne", value=some[-1])
    for string in ("", "a", "%", "_", "\\", "'", "日", "\n"):
        add("String", TEXT, "str_startswith", string=string)
        add("String", TEXT, "str_endswith", string=string)
    for low, high, exact in ((1, None, None), (None, 1, None), (1, 2, None), (None, None, 2)):
        args = {"min_value": low, "max_value": high, "exact_value": exact}
        add("String", TEXT, "str_length", **{name: value for name, value in args.items() if value is not None})
    for pattern in PATTERNS:
        add("String", TEXT, "str_matches", pattern=pattern)
        add("String", TEXT, "str_contains", pattern=pattern)
    for kind, values, found in (
        ("Float64", [1, 2, None], pl.Int32),
        ("Float64", [1, 2.5, None], pl.Float32),
        ("Int64", [1.0, 2.0, float("nan"), None], pl.Float64),
        ("Boolean", [0, 1, None], pl.Int8),
        ("Int16", [True, False, None], pl.Boolean),
        (
            "Float32",
            [1e39, -1e39, 3.4028235677973366e38, 3.4028235677973362e38, 1e-46, -1e-46, 7.1e-46, 0.1],
            pl.Float64,
        ),
        ("Float64", [Decimal("0.10"), Decimal("1.25"), None], pl.Decimal(10, 2)),
        ("Int64", [Decimal("1.00"), None], pl.Decimal(10, 2)),
    ):
        low = False if kind == "Boolean" else 0.1 if kind.startswith("Float") else 0
        add(kind, values, "le", found, max_value=low)
        add(kind, values, "eq", found, value=low)
    add(
        "Datetime",
        [moment.replace(tzinfo=None) if moment else None for moment in TIMES],
        "le",
        pl.Datetime("us"),
        max_value="2013-04-01",
    )
    add("Datetime", DAYS, "gt", pl.Date, min_value="2013-04-01")
    add("Date", [datetime(2013, 4, 1), None], "eq", pl.Datetime("us"), value="2013-04-01")
    return made


PATTERNS = [
    "a",
    "^a$",
    ".",
    "^.$",
    "^.b$",
    "[a-c]+",
    "[^a]",
    r"\d",
    r"[\dx]",
    "a|b",
    "^(a|é)b?$",
    "a{1,2}",
    "(?:ab)*$",
    r"\^",
    r"[\]^]",
    "日本?",
    r"a\-b",
]


def test_each_check_of_each_type_at_its_edges(warehouse: Warehouse) -> None:
    made = every_kind()
    if "bigquery" in warehouse.url:  # the emulator's NUMERIC has three digits after the point, and so 15 before it
        made = [(one, column) for one, column in made if column.dtype != pl.UInt64 and one["type"] != "Float32"]
    longest = max(len(column) for _, column in made)
    columns = [column.extend_constant(None, longest - len(column)) for _, column in made]
    wide = 10 if "bigquery" in warehouse.url else 40  # the emulator takes minutes for a query of so many columns
    for start in range(0, len(made), wide):
        some = slice(start, start + wide)
        own = [pl.Series("id", range(longest)), pl.Series("t", [TIMES[0]] * longest)]
        contract = contract_of([field("id", "Int64"), field("t", "Datetime"), *(one for one, _ in made[some])])
        warehouse.write("edges", pl.DataFrame([*own, *columns[some]]))
        expr = warehouse.table("edges")
        rows = warehouse.read(pushdown.ask(warehouse, expr, contract)).sort("id")
        here = warehouse.read(expr).sort("id")
        checked = contract.check(here)
        left = set(pushdown.unasked(expr, contract))
        assert not {name for name in left if ": g" not in name and ": l" not in name and "in_range" not in name}
        for number, why in rows.select("id", "reason").iter_rows():
            wanted = checked.quarantined.filter(pl.col("id") == number)["reason"].to_list()
            wanted = [one for one in (wanted[0].split("; ") if wanted else []) if one not in left]
            assert (why.split("; ") if why else []) == wanted, here.row(number, named=True)


# --- what SQL is not asked


def table_of(warehouse: Warehouse, **columns: Any) -> Any:
    count = len(next(iter(columns.values())))
    warehouse.write("small", pl.DataFrame({"id": range(count), "t": [NOW] * count, **columns}))
    return warehouse.table("small")


def with_x(kind: str, *checks: tuple[str, dict[str, Any]], **more: Any) -> Contract:
    return contract_of([field("id", "Int64"), field("t", "Datetime"), field("x", kind, *checks, **more)])


@pytest.mark.parametrize(
    "pattern",
    [
        r"\w+",
        r"\bx",
        "(?i)x",
        "x*?",
        "x++",
        "[[:alpha:]]",
        "[a&&b]",
        "[a--b]",
        "x{1,400}",
        r"\p{L}",
        "x{2}{3}",
        "(?P<n>x)",
    ],
)
def test_a_pattern_that_engines_may_read_otherwise_is_left_to_polars(warehouse: Warehouse, pattern: str) -> None:
    contract = with_x("String", ("str_contains", {"pattern": pattern}), ("ne", {"value": "b"}))
    counts = pushdown.counts(warehouse, table_of(warehouse, x=["a", "b"]), contract)
    assert counts.unasked == (f"x: {contract.fields[-1].checks[0]}",)
    assert counts.reasons == {"x: ne('b')": 1}


def test_the_order_of_texts_is_a_matter_of_the_locale(warehouse: Warehouse) -> None:
    contract = with_x("String", ("ge", {"min_value": "b"}))
    counts = pushdown.counts(warehouse, table_of(warehouse, x=["a", "B", "c"]), contract)
    if "postgres" in warehouse.url:
        assert (counts.bad, counts.unasked) == (0, ("x: ge('b')",))
    else:
        assert (counts.bad, counts.unasked) == (2, ())


def test_text_that_is_to_be_read_as_numbers_is_left_to_polars(warehouse: Warehouse) -> None:
    contract = with_x("Int64", ("ge", {"min_value": 0}), coerce=True)
    expr = table_of(warehouse, x=["1", "-1", "x"])
    assert pushdown.counts(warehouse, expr, contract) == pushdown.Counts(
        3, 0, {}, ("x: to be read from String as Int64",)
    )
    rows = warehouse.read(pushdown.ask(warehouse, expr, contract))
    assert rows["reason"].null_count() == 3
    assert sorted(contract.check(rows.drop("reason")).quarantined["reason"]) == [
        "x: cannot be read as Int64; x: null",
        "x: ge(0)",
    ]


def test_numbers_of_32_bits_are_left_to_polars_where_there_are_none(warehouse: Warehouse) -> None:
    contract = with_x("Float32", ("eq", {"value": 0.1}))
    counts = pushdown.counts(warehouse, table_of(warehouse, x=[0.1, 0.2]), contract)
    assert counts.unasked == (("x: eq(0.1)",) if "bigquery" in warehouse.url else ())
    assert counts.bad == (0 if "bigquery" in warehouse.url else 1)


def test_functions_of_the_user_are_left_to_polars(warehouse: Warehouse) -> None:
    warehouse.write("flights", rows(distance=[1.0, 30_000.0]))
    counts = pushdown.counts(warehouse, warehouse.table("flights"), FLIGHTS)
    assert (counts.bad, counts.unasked) == (0, ("distance: on_this_planet", "frost at JFK"))


# --- a table that is wrong as a whole


def test_all_that_is_wrong_with_the_columns_is_said_at_once(warehouse: Warehouse) -> None:
    broken = rows(temp=["cold", "warm"]).rename({"distance": "distances"}).drop("late")
    warehouse.write("flights", broken.with_columns(id=pl.Series([1.0, 1.5])))
    expr = warehouse.table("flights")
    text = wrong(lambda: FLIGHTS.check(warehouse.read(expr)))
    assert text is not None
    assert "4 columns are wrong" in text
    assert "'distance' is gone; was it renamed to 'distances'?" in text
    for ask in (pushdown.ask, pushdown.counts):
        assert wrong(lambda ask=ask: ask(warehouse, expr, FLIGHTS)) == text
    with pytest.raises(ContractError, match=r"values that would change, such as 1\.5"):
        pushdown.ask(warehouse, expr, FLIGHTS)


def test_a_strict_contract_takes_no_other_column(warehouse: Warehouse) -> None:
    strict = contract_of([field("id", "Int64"), field("t", "Datetime"), field("x", "Int64")], strict=True)
    assert "'y': not in the contract, which is strict" in str(
        wrong(lambda: pushdown.ask(warehouse, table_of(warehouse, x=[1], y=[1]), strict))
    )


def test_a_table_without_rows_is_an_error_where_rows_are_counted(warehouse: Warehouse) -> None:
    expr = table_of(warehouse, x=[1.0])
    nothing = expr.filter(expr["id"] < 0)
    assert warehouse.read(pushdown.ask(warehouse, nothing, with_x("Float64"))).columns == ["id", "t", "x", "reason"]
    with pytest.raises(ContractError, match="the table has no rows"):
        pushdown.counts(warehouse, nothing, with_x("Float64"))


def test_columns_of_no_type_and_columns_that_are_absent(warehouse: Warehouse) -> None:
    contract = with_x("Int64", ("gt", {"min_value": 0}), default=0, required=False)
    assert pushdown.counts(warehouse, table_of(warehouse, y=[1, 2]), contract).reasons == {"x: gt(0)": 2}
    expr = table_of(warehouse, y=[1, 2]).mutate(x=ibis.null())
    assert pushdown.counts(warehouse, expr, contract).reasons == {"x: gt(0)": 2}
    assert warehouse.read(pushdown.ask(warehouse, expr, contract))["x"].to_list() == [None, None]


@pytest.mark.parametrize(
    ("pattern", "made"),
    [("^a.b$", "^a[^\n]b$"), ("(a|b)c", "(?:a|b)c"), (r"[\d]\.", None), ("", ""), ("[]a]", None), ("(", "(?:")],
)
def test_patterns_are_written_so_that_all_engines_read_them_alike(pattern: str, made: str | None) -> None:
    found = portable(pattern)
    assert found is not None and found.startswith("[0-9٠-٩") if pattern.startswith(r"[\d") else found == made
