from __future__ import annotations

import json
import math
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from record.stores import client, embedded

import meguri
from meguri.base.errors import TrackingError
from meguri.record.tracking import Tracking

AT = datetime(2013, 4, 1, 6, tzinfo=UTC)
TAGS = {"mlflow.note.content": "Every('30d'): it is time", "reason": "巡り"}


@pytest.fixture(autouse=True)
def _no_address_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)


def release(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text('{"flavors": {"onnx": {"data": "model.onnx"}}}')
    (folder / "data" / "model.onnx").write_bytes(bytes(range(256)))
    return folder


def rows(folder: Path) -> dict[str, list[str]]:
    """Every row of the store; ids, the folder and the moments that the clock gave are replaced."""
    with closing(sqlite3.connect(folder / "mlflow.db")) as store:
        store.row_factory = sqlite3.Row
        tables = [name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        ids = [str(ident) for (ident,) in store.execute("SELECT run_uuid FROM runs ORDER BY name")]
        ids += [str(ident) for (ident,) in store.execute("SELECT dataset_uuid FROM datasets ORDER BY digest")]
        inputs = "SELECT input_uuid FROM inputs JOIN datasets ON dataset_uuid = source_id ORDER BY destination_id = ?, digest"
        ids += [str(ident) for (ident,) in store.execute(inputs, ids[:1])]
        found: dict[str, list[str]] = {}
        for table in tables:
            found[table] = []
            for row in store.execute(f"SELECT * FROM {table}"):
                cells = {name: row[name] for name in row.keys()}  # noqa: SIM118
                for name in cells.keys() & {"creation_time", "last_update_time", "last_updated_time"}:
                    cells[name] = "now"
                if table == "experiments" and cells["experiment_id"] == 0:
                    continue  # made with the store
                text = json.dumps(cells, ensure_ascii=False).replace(str(folder), "FOLDER")
                for number, ident in enumerate(ids):
                    text = text.replace(ident, f"ID{number}")
                found[table].append(text)
            found[table].sort()
        return found


def test_every_row_is_the_one_that_mlflow_writes(mlflow_store: Path, tmp_path: Path) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    straight = embedded(mlflow_store, ours)
    embedded(mlflow_store, theirs)
    millis = int(AT.timestamp()) * 1000
    own = {"mlflow.user": "root", "mlflow.source.name": "main.py", "mlflow.source.type": "LOCAL", **TAGS}
    points: list[tuple[str, float, int, int]] = [
        ("loss", 0.5, 0, 0),
        ("loss", 0.4, 1, 1),
        ("loss", 0.9, 2, 0),  # an older step, later: not the latest
        ("loss", 0.4, 1, 1),  # told twice
        ("loss", 0.3, 1, 1),  # another value of the same moment and step
        ("nan", math.nan, 0, 0),
        ("nan", math.nan, 0, 0),
        ("back", math.nan, 0, 0),
        ("back", 1.0, 1, 0),
        ("inf", math.inf, 0, 0),
        ("ninf", -math.inf, 0, 0),
        ("a b/c-d.e:f", 3.0, 0, 7),
    ]
    for name in ("one", "two"):
        run = straight.start(name, params={"lr": "0.1", "n": "1"}, tags=own, at=AT)
        for key, value, after, step in points:
            straight.log(run, metrics={key: value}, at=AT + timedelta(milliseconds=after), step=step)
        straight.log(
            run, metrics={}, params={"lr": "0.1", "late": "2"}, tags={"reason": "changed", "new": "tag"}, at=AT
        )
        for version in ("1" * 32, f"2{name}", "1" * 32):
            straight.data(run, version, "data")
        straight.register(run, release(ours / name), f"r-{name}", {"verdict": "pass"})
        for alias in ("champion", "challenger"):
            straight.alias(alias, f"r-{name}")
        straight.finish(run, "FAILED", AT + timedelta(seconds=9))
    straight.alias("challenger", None)

    mlflow = client(theirs)
    experiment = mlflow.create_experiment("flights", artifact_location=str(theirs / "my runs"))
    mlflow.create_registered_model("flights")
    for name in ("one", "two"):
        run = mlflow.create_run(experiment, start_time=millis, tags=own, run_name=name).info.run_id
        mlflow.log_batch(run, params=[Param("lr", "0.1"), Param("n", "1")])
        for key, value, after, step in points:
            mlflow.log_batch(run, metrics=[Metric(key, value, millis + after, step)])
        late = [Param("lr", "0.1"), Param("late", "2")]
        mlflow.log_batch(run, params=late, tags=[RunTag("reason", "changed"), RunTag("new", "tag")])
        for version in ("1" * 32, f"2{name}", "1" * 32):
            dataset = Dataset("flights", version, "local", '{"uri": "data"}')
            mlflow.log_inputs(run, datasets=[DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])
        model = {"run_id": run, "artifact_path": f"releases/r-{name}", "flavors": {"onnx": {}}}
        mlflow.set_tag(run, "mlflow.log-model.history", json.dumps([model]))
        source = f"{mlflow.get_run(run).info.artifact_uri}/releases/r-{name}"
        tags = {"verdict": "pass", "release_id": f"r-{name}"}
        version = mlflow.create_model_version("flights", source, run, tags=tags).version
        for alias in ("champion", "challenger"):
            mlflow.set_registered_model_alias("flights", alias, version)
        mlflow.set_terminated(run, "FAILED", millis + 9000)
    mlflow.delete_registered_model_alias("flights", "challenger")

    assert rows(ours) == rows(theirs)
    assert sum(map(len, rows(ours).values())) > 50


def test_a_project_that_was_moved_keeps_its_new_files_with_it(mlflow_store: Path, tmp_path: Path) -> None:
    embedded(mlflow_store, tmp_path / "old").start("a", params={}, tags={}, at=AT)
    (tmp_path / "old").rename(tmp_path / "new")
    tracking = embedded(mlflow_store, tmp_path / "new")
    run = tracking.start("b", params={}, tags={}, at=AT)
    tracking.artifacts(run, release(tmp_path / "bundle"))
    assert not (tmp_path / "old").exists()
    assert [path.name for path in (tmp_path / "new" / "my runs").iterdir()] == [run]


def test_another_schema_is_left_to_mlflow_which_says_what_to_do(mlflow_store: Path, tmp_path: Path) -> None:
    embedded(mlflow_store, tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
        store.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    with pytest.raises(TrackingError, match="out-of-date") as caught:
        embedded(mlflow_store, tmp_path).start("a", params={}, tags={}, at=AT)
    assert caught.value.fix is not None
    assert "mlflow db upgrade" in caught.value.fix


def test_a_file_that_is_no_store_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("this is no database, and long enough to be seen as none" * 9)
    with pytest.raises(TrackingError, match="cannot be used: file is not a database"):
        Tracking(f"sqlite:///{tmp_path}/mlflow.db", "flights", tmp_path).start("a", params={}, tags={}, at=AT)


def test_a_database_of_something_else_is_not_written_straight(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
        store.execute("CREATE TABLE runs (wrong)")
    with pytest.raises(TrackingError, match="MLflow refused"):
        Tracking(f"sqlite:///{tmp_path}/mlflow.db", "flights", tmp_path).start("a", params={}, tags={}, at=AT)


def test_a_full_disk_leaves_nothing_of_the_run(mlflow_store: Path, tmp_path: Path) -> None:
    tracking = embedded(mlflow_store, tmp_path)
    tracking.start("a", params={}, tags={}, at=AT)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
        store.execute("CREATE TRIGGER full BEFORE INSERT ON tags BEGIN SELECT raise(ABORT, 'disk is full'); END")
    with pytest.raises(TrackingError, match="disk is full"):
        tracking.start("b", params={"x": 1}, tags={"y": 2}, at=AT)
    assert [run["name"] for run in tracking.runs()] == ["a"]


def test_mlflow_is_not_imported_to_write_and_read_an_existing_store(mlflow_store: Path, tmp_path: Path) -> None:
    embedded(mlflow_store, tmp_path)
    release(tmp_path / "bundle")
    code = f"""
import sys
from datetime import UTC, datetime
from pathlib import Path
from meguri.record.tracking import Tracking
folder = Path({str(tmp_path)!r})
tracking = Tracking(f"sqlite:///{{folder}}/mlflow.db", "flights", folder)
at = datetime(2013, 4, 1, tzinfo=UTC)
run = tracking.start("a", params={{}}, tags={{}}, at=at)
tracking.register(run, folder / "bundle", "r-1", {{}})
tracking.finish(run, "FINISHED", at)
tracking.runs()
assert not {{"mlflow", "sqlalchemy", "pandas", "polars", "numpy"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], env=ENV, check=True)


ENV = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
ENV["PYTHONPATH"] = str(Path(meguri.__file__).parents[1])
WRITER = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from meguri.record.tracking import Tracking
folder, who, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
at = datetime(2013, 4, 1, tzinfo=UTC)
tracking = Tracking(f"sqlite:///{folder}/mlflow.db", "flights", folder / "runs")
for number in range(count):
    name = f"{who}-{number}"
    run = tracking.start(name, params={"a": 1, "b": 2}, tags={"c": 3}, at=at)
    print("started", name, run, flush=True)
    tracking.log(run, metrics={"x": 1, "y": 2}, tags={"z": 3}, at=at)
    tracking.finish(run, "FINISHED", at)
    print("done", name, run, flush=True)
"""


def writer(folder: Path, who: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), who, str(count)]
    return subprocess.Popen(command, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_six_processes_open_a_fresh_store_at_once(tmp_path: Path) -> None:
    (tmp_path / ".mlflow.db.new").write_text("left by a process that was killed here")
    started = [writer(tmp_path, "same" if n < 3 else f"own{n}", 4) for n in range(6)]
    answers = [process.communicate() for process in started]
    assert [(process.returncode, said[1]) for process, said in zip(started, answers, strict=True)] == [(0, "")] * 6
    assert len({said[0] for said in answers[:3]}) == 1  # one name, one run
    runs = Tracking(f"sqlite:///{tmp_path}/mlflow.db", "flights", tmp_path).runs()
    assert sorted(run["name"] for run in runs) == sorted(
        f"{who}-{n}" for who in ("same", "own3", "own4", "own5") for n in range(4)
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


def test_a_killed_writer_leaves_no_half_written_run_and_another_goes_on(mlflow_store: Path, tmp_path: Path) -> None:
    tracking = embedded(mlflow_store, tmp_path)
    chance = random.Random(1)
    told: list[list[str]] = []
    for life in range(8):
        process = writer(tmp_path, str(life), 1000)
        assert process.stdout is not None
        said = [process.stdout.readline().split() for _ in range(chance.randrange(1, 30))]
        process.kill()
        said += [line.split() for line in process.communicate()[0].splitlines() if line.count(" ") == 2]
        told += said
    found = {run["run"]: run for run in tracking.runs(10_000)}
    for word, name, ident in told:
        assert found[ident]["name"] == name
        assert word == "started" or found[ident]["status"] == "FINISHED"
    for run in found.values():
        assert run["params"] == {"a": "1", "b": "2"}
        assert run["tags"]["c"] == "3"
        assert (run["metrics"], run["tags"].get("z")) in (({}, None), ({"x": 1.0, "y": 2.0}, "3"))
    for run in [run for run in found.values() if run["status"] == "RUNNING"]:
        assert tracking.start(run["name"], params={"a": 1}, tags={}, at=AT) == run["run"]
        tracking.finish(run["run"], "FINISHED", AT)
    assert {run["status"] for run in tracking.runs(10_000)} == {"FINISHED"}
