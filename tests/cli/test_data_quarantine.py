"""`meguri data quarantine`, as a person uses it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
import typer
from conftest import START, forget_project, write_project
from typer.testing import CliRunner

from meguri.base.errors import DataError
from meguri.cli import data_quarantine
from meguri.loop.project import Project

Call = Callable[..., str]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield write_project(tmp_path / "alarm")
    forget_project()


@pytest.fixture
def call(root: Path) -> Call:
    data = typer.Typer()
    data.callback()(lambda: None)
    data_quarantine.add_to(data)

    def run(*words: str) -> str:
        done = CliRunner().invoke(data, ["quarantine", *words, "--project", str(root)])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    return run


def readings(**changed: list[object]) -> pl.DataFrame:
    rows = {
        "reading": ["r1", "r2", "r3"],
        "at": [START + timedelta(hours=hour) for hour in range(3)],
        "level": [0.5, 12.0, -30.0],
        "other": [1.0, 2.0, 3.0],
        "alarm": [True, False, None],
    }
    return pl.DataFrame(rows | changed)


def fill(root: Path) -> None:
    project = Project.open(root)
    bad = project.contract.check(readings()).quarantined
    project.quarantine.add(bad, at=datetime(2024, 3, 2, tzinfo=UTC), door="retrieve", run="20240302-x")


def test_what_is_there_is_counted_by_reason(call: Call, root: Path) -> None:
    assert "no row was quarantined" in call()
    fill(root)
    said = call("--rows", "5")
    assert "level: greater_than_or_equal_to(-9)" in said or "level: ge(-9)" in said
    assert "2024-03-02 00:00, retrieve of 20240302-x" in said
    assert '"reading":"r3"' in said
    one = json.loads(call("--json", "--rows", "5", "--reason", "le(9)"))
    assert list(one["reasons"].values()) == [1]
    assert json.loads(one["rows"][0]["row"])["reading"] == "r2"
    assert "no row was quarantined with a reason like 'humid'" in call("--reason", "humid")
    assert json.loads(call("--json"))["rows"] == []


def test_a_row_is_released_and_another_corrected(call: Call, root: Path) -> None:
    fill(root)
    first, second = (row["id"] for row in json.loads(call("--json", "--rows", "2"))["rows"])
    who = ["--by", "mika", "--why", "the sensor was right"]
    assert "released 1" in call("release", first, *who)
    assert json.loads(call("correct", second, "--set", "level=-3", *who, "--json"))["corrected"]["level"] == "-3"
    assert "corrected: it stands in" in call("correct", second, "--set", "level=-3.5", *who)
    assert json.loads(call("release", first, *who, "--json")) == {"released": 1}
    assert f"{first}  2024-03-02 00:00, retrieve of 20240302-x, released" in call("--rows", "2")
    assert json.loads(call("--json"))["decided"] == {"released": 1, "corrected": 1}
    contract = Project.open(root).contract
    found = Project.open(root).quarantine.settle(contract.check(readings(alarm=[True, False, True])), contract)
    assert found.rows.select("reading", "level", "alarm").rows() == [
        ("r1", 0.5, True),
        ("r2", 12.0, False),
        ("r3", -3.5, True),
    ]


def test_what_cannot_be_decided_is_an_error(call: Call, root: Path) -> None:
    fill(root)
    with pytest.raises(DataError, match="'level' sets nothing"):
        call("correct", "a", "--set", "level", "--by", "mika", "--why", "so")
    with pytest.raises(DataError, match="no quarantined row"):
        call("release", "zzz", "--by", "mika", "--why", "so")
