"""``meguri features``: what there is, whether it sees the future, and the online table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer
from conftest import forget_project, write_project
from typer.testing import CliRunner

from meguri.base.errors import DataError, JobError, MeguriError
from meguri.cli import features as commands
from meguri.data.features import Events
from meguri.loop import features as glue
from meguri.loop.project import Project

START = datetime(2024, 3, 1, tzinfo=UTC)
NOW = "2024-03-05T00:00Z"

FILES = {
    "src/repository/schema.py": """
        from datetime import datetime
        from typing import Annotated
        import pandera.polars as pa
        import polars as pl
        from meguri import Contract

        class Reading(pa.DataFrameModel):
            reading: str
            at: Annotated[pl.Datetime, "us", "UTC"]
            sensor: int
            level: float
            alarm: bool = pa.Field(nullable=True)

        contract = Contract(Reading, key="reading", time="at", label="alarm", label_after="6h")
    """,
    "src/features.py": """
        import polars as pl
        from meguri.data.features import Events

        heat = Events("heat", by="sensor", at="at", known="10m")

        def above(level, mean_heat):
            return level > mean_heat

        features = {
            "last_heat": heat.last("heat", within="1d"),
            "mean_heat": heat.mean("heat", over="6h"),
            "above": above,
        }

        def sources(settings, contract, now):
            assert settings.seed == 7
            assert contract.time == "at"
            return {"heat": pl.scan_parquet(settings.source.path)}
    """,
}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A project with features, its source, and the rows of an earlier retrieve."""
    root = write_project(tmp_path / "heat", FILES)
    source = root / "heat.parquet"
    text = (root / "hydra/default.yaml").read_text().replace("data/readings.parquet", str(source))
    (root / "hydra/default.yaml").write_text(text)
    times = [START + timedelta(hours=i) for i in range(96)]
    heat = pl.DataFrame({"sensor": [i % 2 for i in range(96)], "at": times, "heat": [float(i % 13) for i in range(96)]})
    heat.with_columns(pl.col("at").cast(pl.Datetime("us", "UTC"))).write_parquet(source)
    rows = heat.select("sensor", pl.col("at").cast(pl.Datetime("us", "UTC")), level=pl.col("heat") + 1)
    rows = rows.with_columns(reading=pl.format("r{}", pl.int_range(pl.len())), alarm=pl.lit(None, pl.Boolean))
    (root / "data").mkdir()
    rows.write_parquet(root / "data/rows.parquet")
    yield root
    forget_project()


def run(root: Path, *words: str) -> str:
    """What ``meguri features …`` prints; an error is raised."""
    group = typer.Typer()
    commands.add_to(group)
    done = CliRunner().invoke(group, [*words, "-p", str(root)], catch_exceptions=False, standalone_mode=False)
    return done.output


def as_json(root: Path, *words: str) -> Any:
    return json.loads(run(root, *words, "--json"))


def test_list(root: Path) -> None:
    found = as_json(root, "list")
    assert [line["feature"] for line in found] == ["last_heat", "mean_heat", "above"]
    assert found[0] == {
        "feature": "last_heat",
        "entity": "sensor",
        "made of": "last(heat) of heat by sensor within 1d",
        "known": "at + 10m",
    }
    assert found[2]["made of"] == "function of level, mean_heat"
    assert "mean(heat) of heat by sensor over 6h" in run(root, "list")


def test_check(root: Path) -> None:
    found = as_json(root, "check", "--now", NOW, "--moments", "3")
    assert found["rows"] == 96
    assert set(found["compared"]) == {"last_heat", "mean_heat", "above"}
    assert "none of them sees the future" in run(root, "check")


def test_check_refuses_a_leak(root: Path) -> None:
    path = root / "src/features.py"
    path.write_text(path.read_text().replace("level > mean_heat", "level > level.mean()"))
    with pytest.raises(DataError, match="depends on other rows"):
        run(root, "check", "--now", NOW)


def test_check_needs_rows(root: Path) -> None:
    (root / "data/rows.parquet").unlink()
    with pytest.raises(DataError, match="no rows to check with"):
        run(root, "check")


def test_materialize_and_get(root: Path) -> None:
    assert "is empty" in run(root, "get", "sensor=0", "level=3")
    assert as_json(root, "materialize", "--now", NOW) == {
        "at": "2024-03-05 00:00:00+00:00",
        "entities": 2,
        "written": True,
    }
    found = as_json(root, "get", "sensor=0", "level=3")
    assert found["at"] == "2024-03-05 00:00:00+00:00"
    assert found["features"] == {"last_heat": 3.0, "mean_heat": 2.0, "above": True}
    assert "last_heat  3" in run(root, "get", "sensor=0", "level=3")
    assert "nothing written" in run(root, "materialize", "--now", "2024-03-04")
    assert "2 entities as of" in run(root, "materialize", "--now", NOW)
    assert (root / "outputs/online.db").is_file()


def test_another_online_table(root: Path, tmp_path: Path) -> None:
    url = f"sqlite:////{tmp_path}/elsewhere.db#heat"
    assert as_json(root, "materialize", "--online", url)["written"]
    assert as_json(root, "get", "sensor=1", "level=3", "--online", url)["features"]["last_heat"] is None
    assert not (root / "outputs/online.db").exists()


def test_a_local_time_is_refused_when_the_clock_is_asked(root: Path) -> None:
    path = root / "heat.parquet"
    heat = pl.read_parquet(path)
    heat.with_columns(at=pl.lit(datetime(2999, 1, 1, tzinfo=UTC)).cast(pl.Datetime("us", "UTC"))).write_parquet(path)
    for command in ("materialize", "check"):
        with pytest.raises(DataError, match="96 records happen after now"):
            run(root, command)
    assert as_json(root, "materialize", "--now", NOW)["entities"] == 0


@pytest.mark.parametrize("row", ["sensor", "sensor=x"])
def test_a_row_that_cannot_be_read(root: Path, row: str) -> None:
    run(root, "materialize", "--now", NOW)
    with pytest.raises(MeguriError, match=r"is no column of a row|is no Int64"):
        run(root, "get", row)
    assert as_json(root, "get", "sensor=0", "level=", "more=1")["features"]["above"] is None


def test_a_project_without_features(root: Path) -> None:
    (root / "src/features.py").unlink()
    assert glue.features_of(Project.open(root)) is None
    with pytest.raises(DataError, match="defines no features"):
        run(root, "list")


def test_features_that_are_no_dict(root: Path) -> None:
    (root / "src/features.py").write_text("features = 3\n")
    with pytest.raises(MeguriError, match="`features` is a int"):
        run(root, "list")


def test_sources_are_a_dict_a_function_or_the_warehouse(root: Path) -> None:
    path, text = root / "src/features.py", (root / "src/features.py").read_text()
    head = text.partition("def sources")[0]
    table = 'sources = {"heat": pl.DataFrame({"sensor": [0], "at": [None], "heat": [1.0]}, schema_overrides={"at": pl.Datetime("us", "UTC")})}'
    path.write_text(head + table)
    assert as_json(root, "materialize", "--now", NOW)["entities"] == 0
    forget_project()
    path.write_text(head)
    asked: list[str] = []
    project = Project.open(root)
    assert glue.sources_of(project, lambda name: asked.append(name) or "the warehouse") == "the warehouse"
    assert asked == ["warehouse"]
    forget_project()
    path.write_text(head + "def sources(weather):\n    return weather\n")
    with pytest.raises(DataError, match="ask for 'weather', which is not there"):
        run(root, "materialize")
    forget_project()
    path.write_text("import nothing_like_this\nfeatures = {}\n")
    with pytest.raises((JobError, ModuleNotFoundError)):
        run(root, "materialize")
    assert Events("a", by="b", at="c", known="0s").name == "a"
