"""The way in: however the rows come, the same ones go on; what is odd about the whole of them stops a turn."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from conftest import START, write_project

from meguri.base.errors import ContractError, DataError, SettingsError
from meguri.loop import intake
from meguri.loop.project import Project
from meguri.loop.steps import Steps
from meguri.loop.tick import scratch
from meguri.loop.turn import turn

READ = """
    from datetime import timedelta
    import polars as pl
    from src.repository import data_manager

    def read(since, until, now):
        rows = data_manager.read(since, until, now)
        odd = pl.int_range(pl.len())
        rows = rows.with_columns(level=pl.when(odd == 300).then(99.0).when(odd == 600).then(-99.0).otherwise("level"))
        rows = rows.with_columns(reading=pl.when(odd == 500).then(pl.lit("r7")).otherwise("reading"))
        return rows.with_columns(site=pl.lit("a") if len(rows) < 9 else pl.Series([f"s{n % 5}" for n in range(len(rows))]))
"""
STREAMS = {
    "table": "return rows",
    "lazy": "return rows.lazy()",
    "generator": "return (part for part in rows.iter_slices(97))",
    "reader": "return rows.to_arrow().to_reader(max_chunksize=50)",
    "expression": "warehouse.write('readings', rows)\n        return warehouse.table('readings').order_by('at')",
}


def opened(root: Path, kind: str = "table", settings: str = "") -> Project:
    job = f"""
    from src.rows import read

    def retrieve(since, until, now, warehouse):
        rows = read(since, until, now)
        {STREAMS[kind]}
    """
    write_project(root, {"src/rows.py": READ, "src/jobs/retrieve.py": job})
    with (root / "hydra" / "default.yaml").open("a") as file:
        file.write(settings)
    return Project.open(root)


def retrieved(project: Project) -> Steps:
    steps = Steps(project, project.settings(), scratch(project, START, "one"))
    steps.do("retrieve")
    return steps


@pytest.fixture
def asked(project_root: Path) -> tuple[pl.DataFrame, pl.DataFrame, dict[str, int]]:
    """The good rows, the bad ones and their reasons when a table comes."""
    from conftest import forget_project

    project = opened(project_root)
    retrieved(project)
    rows, bad = pl.read_parquet(project_root / "data" / "rows.parquet"), project.quarantine.read()
    forget_project()
    return rows, bad, project.quarantine.counts()


@pytest.mark.parametrize("kind", [kind for kind in STREAMS if kind != "table"])
def test_rows_that_come_in_parts_leave_what_a_table_leaves(
    kind: str, asked: tuple[pl.DataFrame, pl.DataFrame, dict[str, int]], tmp_path: Path
) -> None:
    project = opened(tmp_path / "other" / "alarm", kind)
    steps = retrieved(project)
    rows, bad, counts = asked
    assert pl.read_parquet(project.data / "rows.parquet").equals(rows)
    assert project.quarantine.counts() == counts
    assert len(counts) == 3
    assert project.quarantine.read()["row"].sort().to_list() == bad["row"].sort().to_list()
    assert len(steps.value("data")) == rows.height
    assert [path.name for path in project.data.iterdir() if path.name.startswith(".rows")] == []


@pytest.mark.parametrize("kind", ["table", "generator"])
def test_what_a_person_let_through_goes_on(kind: str, tmp_path: Path, project_root: Path) -> None:
    project = opened(project_root, kind)
    retrieved(project)
    before = pl.read_parquet(project.data / "rows.parquet")
    found = project.quarantine.read()
    high = found.filter(pl.col("reason").str.contains("less_than|le\\("))["id"].to_list()
    low = found.filter(pl.col("reason").str.contains("greater_than|ge\\("))["id"][0]
    project.quarantine.release(high, project.contract, by="Ito", why="a new sensor", at=START)
    project.quarantine.correct(low, {"level": "-9"}, project.contract, by="Ito", why="sign", at=START)
    retrieved(project)
    after = pl.read_parquet(project.data / "rows.parquet")
    assert after.height == before.height + 2
    assert after["level"].max() == 99
    assert after["level"].min() == -9
    assert after["reading"].n_unique() == after.height


@pytest.mark.parametrize("kind", ["table", "generator", "expression"])
def test_too_many_bad_rows_stop_and_leave_the_rows_of_before(kind: str, project_root: Path) -> None:
    project = opened(project_root, kind)
    retrieved(project)
    before = (project.data / "rows.parquet").read_bytes()
    strict = Project.open(project_root)
    strict.overrides = ("data.max_quarantined=1",)
    with pytest.raises(ContractError, match="break the contract") as error:
        retrieved(strict)
    assert "meguri data quarantine" in str(error.value)
    assert (project.data / "rows.parquet").read_bytes() == before


REFERENCES = "data: {references: {reading: sites.name}}\n"


@pytest.mark.parametrize("kind", ["table", "generator"])
def test_a_value_that_is_in_no_reference_is_quarantined(kind: str, project_root: Path) -> None:
    project = opened(project_root, kind, REFERENCES)
    with pytest.raises(DataError, match="folder is not there"):
        retrieved(project)
    project.warehouse.write("sites", pl.DataFrame({"name": [f"r{n}" for n in range(3, 9999)]}))
    retrieved(project)
    assert project.quarantine.counts()["reading: not in sites.name"] == 3
    assert pl.read_parquet(project.data / "rows.parquet")["reading"].is_in(["r0", "r1", "r2"]).sum() == 0


@pytest.mark.parametrize(
    ("reference", "says"),
    [
        ("{reeding: sites.name}", "reeding"),
        ("{reading: sites}", "TABLE.COLUMN"),
        ("{reading: sites.nam}", "it has name"),
    ],
)
def test_a_reference_that_cannot_be_is_said(reference: str, says: str, project_root: Path) -> None:
    project = opened(project_root, settings=f"data: {{references: {reference}}}\n")
    project.warehouse.write("sites", pl.DataFrame({"name": ["r1"]}))
    with pytest.raises(SettingsError, match=r"data\.references") as error:
        retrieved(project)
    assert says in str(error.value)


BROKEN = """
    import polars as pl
    from src.repository import data_manager
    from pathlib import Path

    def retrieve(since, until, now):
        rows = data_manager.read(since, until, now)
        if not Path("broken").exists():
            return rows
        late = pl.col("at") >= pl.lit(now) - pl.duration(days=3)
        return rows.with_columns(other=pl.when(late).then(pl.col("other") * 1000).otherwise("other"))
"""


def test_a_batch_unlike_those_before_stops_the_turn_until_it_is_let_through(
    project_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project_root)
    write_project(project_root, {"src/jobs/retrieve.py": BROKEN})
    first = turn(Project.open(project_root), now=START, reason="first")
    assert first.status == "done"
    assert first.detail["findings"] == []
    Path("broken").touch()
    later = START + timedelta(days=5)
    with pytest.raises(ContractError, match="a batch is not like those before it: 2024-03-03 00:00: other") as error:
        turn(Project.open(project_root), now=later, reason="second")
    assert "data.batch.stop=false" in str(error.value)
    project = Project.open(project_root)
    last = project.ledger.turns()[-1]
    assert last.status == "failed"
    assert last.detail["findings"][0].startswith("2024-03-03 00:00: other")
    assert project.champion() == first.id
    once = turn(project, now=later, reason="let through", overrides=["data.batch.stop=false"])
    assert once.status == "done"
    assert once.detail["findings"]
    again = turn(project, now=later, reason="known now")
    assert again.detail["findings"] == []


def test_rows_that_are_too_old_stop_the_turn(project_root: Path) -> None:
    with (project_root / "hydra" / "default.yaml").open("a") as file:
        file.write("data: {batch: {fresh: 12h}}\n")
    project = Project.open(project_root)
    assert turn(project, now=START, reason="first").status == "done"
    with pytest.raises(ContractError, match=r"newest row is of .*; expected one not older than 12h"):
        turn(project, now=START + timedelta(days=200), reason="late")


def test_a_batch_of_another_size_than_a_person_said_stops(project_root: Path) -> None:
    with (project_root / "hydra" / "default.yaml").open("a") as file:
        file.write("data: {batch: {rows: [25, 99]}}\n")
    with pytest.raises(ContractError, match="24 rows; expected 25 to 99"):
        turn(Project.open(project_root), now=START, reason="first")


@pytest.mark.parametrize("live", [True, False])
def test_a_row_ahead_of_its_step_knows_what_is_known_then(live: bool, project_root: Path) -> None:
    """What is live knows nothing of later; a replay asks each row at its own moment, and no later."""
    features = """
    from datetime import UTC, datetime, timedelta
    import polars as pl
    from meguri import Events

    start = datetime(2024, 2, 1, tzinfo=UTC)
    beats = pl.DataFrame({"site": "a", "at": [start + timedelta(hours=h) for h in range(2000)], "n": range(2000)})
    sources = {"beats": beats}
    features = {"other": Events("beats", by="site", at="at", known="30m").last("n")}
    """
    job = """
    import polars as pl
    from src.repository import data_manager

    def retrieve(since, until, now):
        return data_manager.read(since, until, now).drop("other").with_columns(site=pl.lit("a"))
    """
    write_project(project_root, {"src/features.py": features, "src/jobs/retrieve.py": job})
    project = Project.open(project_root) if live else Project(project_root, outputs=project_root / "outputs/replay")
    steps = Steps(project, project.settings(), scratch(project, START, "one"))
    rows = intake.rows(steps, since=START, until=START + timedelta(hours=6), labelled=False, door="requests")
    assert rows is not None
    first = int((START - datetime(2024, 2, 1, tzinfo=UTC)) / timedelta(hours=1)) - 1
    assert rows.sort("at")["other"].to_list() == ([first] * 6 if live else [*range(first, first + 6)])
