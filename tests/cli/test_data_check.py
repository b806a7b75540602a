"""`meguri data check`, as a person uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from conftest import START, forget_project, write_project
from typer.testing import CliRunner

from meguri.base.errors import DataError
from meguri.cli import data_check
from meguri.loop.project import Project


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = write_project(tmp_path / "alarm")
    rows = pl.DataFrame(
        {
            "reading": ["r1", "r2", "r3", "r3", None],
            "at": pl.Series(
                [START + timedelta(hours=hour) for hour in (0, 1, 2, 2, 3)], dtype=pl.Datetime("us", "UTC")
            ),
            "level": [0.5, 12.0, 1.0, 1.0, float("nan")],
            "other": [1.0, 2.0, 3.0, 3.0, 4.0],
            "alarm": [True, None, False, False, True],
        }
    )
    with Project.open(root).warehouse as warehouse:
        warehouse.write("readings", rows)
        warehouse.write("good", rows.head(1))
    yield root
    forget_project()


def run(root: Path, *words: str) -> Any:
    data = typer.Typer()
    data.callback()(lambda: None)
    data_check.add_to(data)
    done = CliRunner().invoke(data, ["check", *words, "--project", str(root)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done


def test_bad_rows_are_counted_by_reason(root: Path) -> None:
    done = run(root, "readings")
    assert done.exit_code == 1
    assert [line.split() for line in done.output.splitlines()[:2]] == [["rows", "5"], ["bad", "3"]]
    assert "1   duplicated key (the same row again)" in done.output
    assert "level: in_range(-9, 9)" in done.output or "level: le(9)" in done.output


def test_a_machine_reads_the_same(root: Path) -> None:
    done = run(root, "readings", "--json")
    assert done.exit_code == 1
    told = json.loads(done.output)
    assert {name: told[name] for name in ("rows", "bad", "unasked", "ok")} == {
        "rows": 5,
        "bad": 3,
        "unasked": [],
        "ok": False,
    }
    assert told["reasons"]["reading: null"] == told["reasons"]["level: null"] == 1


def test_a_good_table_ends_well(root: Path) -> None:
    assert run(root, "good").exit_code == 0
    assert run(root, "SELECT * FROM readings WHERE other = 1", "--sql").exit_code == 0
    assert run(root, "SELECT * EXCLUDE (alarm) FROM good", "--sql", "--unlabelled").exit_code == 0


def test_the_limit_of_a_turn_may_be_borne(root: Path) -> None:
    assert run(root, "readings", "--limit").exit_code == 1
    settings = root / "hydra" / "default.yaml"
    for most in ("0.6", "3"):
        settings.write_text(settings.read_text() + f"\ndata: {{max_quarantined: {most}}}\n")
        assert run(root, "readings", "--limit").exit_code == 0
        settings.write_text(settings.read_text().rpartition("\ndata:")[0])


def test_what_cannot_be_asked_in_sql_is_said(root: Path) -> None:
    schema = root / "src" / "repository" / "schema.py"
    check = "\n    @pa.check('other')\n    def small(cls, data):\n        return data.lazyframe.select(pl.col(data.key) < 9)\n"
    schema.write_text(schema.read_text().replace("\ncontract =", f"{check}\ncontract ="))
    assert "not asked here, but of the rows when they are retrieved: other: small" in run(root, "good").output


def test_a_table_that_is_not_there(root: Path) -> None:
    with pytest.raises(DataError, match="no table 'reading'"):
        run(root, "reading")
