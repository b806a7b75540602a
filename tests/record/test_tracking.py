from __future__ import annotations

import json
import math
import os
import socket
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from record.stores import client, embedded

from meguri.base.errors import TrackingError
from meguri.record.tracking import Tracking

AT = datetime(2013, 4, 1, 6, tzinfo=UTC)
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PARAMS = {"model": {"name": "lightgbm", "lr": 0.1, "leaves": None}, "slices": ["origin"], "empty": {}}
TAGS = {"mlflow.source.git.commit": COMMIT, "mlflow.note.content": "Every('30d'): it is time", "reason": "巡り"}


@pytest.fixture(autouse=True)
def _no_address_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(
    params=["written straight", "through the client", pytest.param("through a server", marks=pytest.mark.slow)]
)
def tracking(
    request: pytest.FixtureRequest, mlflow_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Tracking:
    if request.param == "through a server":
        if not os.environ.get("MEGURI_MLFLOW"):
            pytest.skip("MEGURI_MLFLOW names no mlflow command")
        return Tracking(request.getfixturevalue("mlflow_server"), tmp_path.name, tmp_path / "unused")
    made = embedded(mlflow_store, tmp_path)
    if request.param == "through the client":
        monkeypatch.setenv("MLFLOW_REGISTRY_URI", made.uri)
    return made


def release(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    (folder / "MLmodel").write_text('{"flavors": {"onnx": {"data": "model.onnx"}}}')
    (folder / "data" / "model.onnx").write_bytes(bytes(range(256)))
    return folder


def whole_turn(tracking: Tracking, folder: Path) -> str:
    run = tracking.start("20130401-060000-3f9a", params=PARAMS, tags=TAGS, at=AT)
    for step in range(3):
        tracking.log(run, metrics={"loss": 0.5 - step / 10, "auc": 0.7}, at=AT + timedelta(minutes=step), step=step)
    tracking.log(run, metrics={"none": math.nan, "much": math.inf}, params={"seed": 1}, tags={"verdict": "pass"}, at=AT)
    (folder / "report.html").write_text("<p>巡り</p>")
    tracking.artifacts(run, [folder / "report.html"], "report")
    tracking.data(run, "0" * 32 + ".dir", "https://me:hunter2@host/data")
    tracking.register(run, release(folder / "bundle"), "r-1", {"verdict": "pass"})
    tracking.alias("champion", "r-1")
    tracking.finish(run, "FINISHED", AT + timedelta(minutes=5))
    return run


def test_a_turn_reads_back_whole(tracking: Tracking, tmp_path: Path) -> None:
    ident = whole_turn(tracking, tmp_path)
    run = tracking.run("20130401-060000-3f9a")
    assert str(run) == str(tracking.run(ident)) == str(tracking.runs()[0])  # as text, because NaN is never equal
    assert (run["run"], run["status"], run["start"], run["end"]) == (ident, "FINISHED", AT, AT + timedelta(minutes=5))
    assert math.isnan(run["metrics"].pop("none"))
    assert run["metrics"] == {"auc": 0.7, "loss": 0.3, "much": sys.float_info.max}
    assert run["params"] == {
        "empty": "{}",
        "model.leaves": "None",
        "model.lr": "0.1",
        "model.name": "lightgbm",
        "seed": "1",
        "slices": '["origin"]',
    }
    assert run["tags"].items() >= {**TAGS, "verdict": "pass", "mlflow.user": run["user"]}.items()
    assert list(run["tags"]) == sorted(run["tags"])
    (model,) = json.loads(run["tags"]["mlflow.log-model.history"])
    assert model == {"run_id": ident, "artifact_path": "releases/r-1", "flavors": {"onnx": {}}}


def test_a_user_of_mlflow_finds_all_that_he_expects(mlflow_store: Path, tmp_path: Path) -> None:
    ident = whole_turn(embedded(mlflow_store, tmp_path), tmp_path)
    mlflow = client(tmp_path)
    experiment = mlflow.get_experiment_by_name("flights")
    (found,) = mlflow.search_runs([experiment.experiment_id], "metrics.loss < 0.4 and params.seed = '1'")
    assert found.info.run_id == ident
    assert found.info.run_name == "20130401-060000-3f9a"
    assert found.data.tags["mlflow.source.git.commit"] == COMMIT
    assert found.data.tags["mlflow.source.type"] == "LOCAL"
    assert found.data.tags["mlflow.source.name"]
    (used,) = found.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("flights", "0" * 32 + ".dir")
    assert (used.dataset.source_type, json.loads(used.dataset.source)) == ("local", {"uri": "https://me:***@host/data"})
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    history = mlflow.get_metric_history(ident, "loss")
    assert [(point.step, point.value) for point in history] == [(0, 0.5), (1, 0.4), (2, 0.3)]
    assert [point.timestamp for point in history] == [int(AT.timestamp()) * 1000 + 60_000 * n for n in range(3)]
    assert [each.path for each in mlflow.list_artifacts(ident)] == ["releases", "report"]
    assert Path(mlflow.download_artifacts(ident, "report/report.html")).read_text() == "<p>巡り</p>"
    version = mlflow.get_model_version_by_alias("flights", "champion")
    assert (version.run_id, version.status, version.tags) == (ident, "READY", {"verdict": "pass", "release_id": "r-1"})
    kept = Path(mlflow.get_model_version_download_uri("flights", version.version))
    assert (kept / "data" / "model.onnx").read_bytes() == bytes(range(256))
    assert version.version == mlflow.get_registered_model("flights").aliases["champion"]


def test_a_run_of_the_same_name_goes_on(tracking: Tracking) -> None:
    run = tracking.start("a", params={"lr": 0.1}, tags={"reason": "x"}, at=AT)
    tracking.log(run, metrics={"loss": 1.0}, at=AT)
    assert tracking.start("a", params={"lr": 0.1}, tags={"reason": "y"}, at=AT + timedelta(hours=1)) == run
    tracking.finish(run, "FAILED", AT)
    assert tracking.run("a")["status"] == "FAILED"
    assert tracking.start("a", params={}, tags={}, at=AT + timedelta(hours=2)) == run
    found = tracking.run("a")
    assert (found["status"], found["start"], found["tags"]["reason"]) == ("RUNNING", AT, "y")
    assert found["metrics"] == {"loss": 1.0}
    tracking.finish(run, "FINISHED", AT + timedelta(hours=3))
    tracking.finish(run, "FINISHED", AT + timedelta(hours=4))
    assert tracking.run("a")["end"] == AT + timedelta(hours=4)
    assert tracking.start("b", params={}, tags={}, at=AT) != run


def test_a_run_keeps_the_parameters_that_it_began_with(tracking: Tracking) -> None:
    run = tracking.start("a", params={"lr": 0.1}, tags={}, at=AT)
    with pytest.raises(TrackingError, match=r"'lr' was recorded as '0.1' and cannot become '0.2'"):
        tracking.log(run, metrics={"loss": 1.0}, params={"new": 1, "lr": 0.2}, tags={"reason": "z"}, at=AT)
    found = tracking.run("a")
    assert (found["params"], found["metrics"], "reason" in found["tags"]) == ({"lr": "0.1"}, {}, False)


def test_runs_are_listed_newest_first(tracking: Tracking) -> None:
    assert tracking.runs() == []
    for day in (2, 3, 1):
        tracking.start(f"day {day}", params={}, tags={}, at=AT + timedelta(days=day))
    assert [run["name"] for run in tracking.runs()] == ["day 3", "day 2", "day 1"]
    assert [run["name"] for run in tracking.runs(2)] == ["day 3", "day 2"]
    assert tracking.runs(1)[0]["end"] is None


def test_a_hundred_parameters_and_more_are_no_matter(tracking: Tracking) -> None:
    many = {f"p{n}": n for n in range(230)}
    run = tracking.start("a", params=many, tags={f"t{n}": n for n in range(120)}, at=AT)
    tracking.log(run, metrics={f"m{n}": n for n in range(900)}, tags={f"u{n}": n for n in range(120)}, at=AT)
    found = tracking.run("a")
    assert (len(found["params"]), len(found["metrics"])) == (230, 900)
    assert sum(name[0] in "tu" for name in found["tags"]) == 240


def test_a_release_has_one_version_and_aliases_move(tracking: Tracking, tmp_path: Path) -> None:
    runs = [tracking.start(name, params={}, tags={}, at=AT) for name in ("a", "b")]
    bundle = release(tmp_path / "bundle")
    assert [tracking.register(run, bundle, f"r-{run}", {}) for run in (*runs, *runs)] == [1, 2, 1, 2]
    tracking.alias("champion", None)  # there is none yet
    for run in (*runs, runs[0]):
        tracking.alias("champion", f"r-{run}")
    with pytest.raises(TrackingError, match="'r-9' is not registered"):
        tracking.alias("champion", "r-9")
    tracking.alias("champion", None)


def test_what_a_killed_process_left_of_a_release_goes(mlflow_store: Path, tmp_path: Path) -> None:
    tracking = embedded(mlflow_store, tmp_path)
    run, bundle = tracking.start("a", params={}, tags={}, at=AT), release(tmp_path / "bundle")
    tracking.register(run, bundle, "r-1", {})
    (kept,) = tmp_path.rglob("releases/r-1")
    (kept.parent / ".r-1.x1y2").mkdir()
    (kept.parent / ".r-2.x1y2").mkdir()
    tracking.register(run, bundle, "r-1", {})
    tracking.register(run, bundle, "r-2", {})
    assert sorted(path.name for path in kept.parent.iterdir()) == ["r-1", "r-2"]


def test_a_folder_that_is_no_model_is_registered_without_being_called_one(tracking: Tracking, tmp_path: Path) -> None:
    run = tracking.start("a", params={}, tags={}, at=AT)
    bundle = release(tmp_path / "bundle")
    (bundle / "MLmodel").write_text("flavors: {}")  # not as Meguri writes it
    assert tracking.register(run, bundle, "r-1", {}) == 1
    assert "mlflow.log-model.history" not in tracking.run("a")["tags"]


def test_what_is_wrong_is_said(tracking: Tracking, tmp_path: Path) -> None:
    run = tracking.start("a", params={}, tags={}, at=AT)
    for call in (
        lambda: tracking.run("b"),
        lambda: tracking.log("0" * 32, metrics={"x": 1}, at=AT),
        lambda: tracking.register("0" * 32, tmp_path, "r", {}),
        lambda: tracking.data("0" * 32, "1", "data"),
        lambda: tracking.data(run, "0" * 37, "data"),
        lambda: tracking.artifacts(run, tmp_path / "gone"),
        lambda: tracking.artifacts(run, tmp_path, "../elsewhere"),
        lambda: tracking.artifacts(run, tmp_path, "/elsewhere"),
        lambda: tracking.artifacts(run, tmp_path, "a/../b"),
        lambda: tracking.start("it's", params={}, tags={}, at=AT),
        lambda: tracking.start("", params={}, tags={}, at=AT),
    ):
        with pytest.raises(TrackingError) as caught:
            call()
        assert caught.value.fix or caught.value.where
    with pytest.raises(TrackingError, match="no name"):
        Tracking(tracking.uri, " ", tmp_path)


def test_secrets_are_masked_and_what_is_long_is_cut_with_a_note(tracking: Tracking) -> None:
    given = {"db": {"url": "postgresql://u:hunter2@h/d", "password": "hunter2"}, "long": "x" * 9000}
    run = tracking.start(
        "a", params=given, tags={"mlflow.source.git.repoURL": "https://hunter2@h/x", "t": "y" * 9000}, at=AT
    )
    tracking.log(run, metrics={}, params={"api_key": "hunter2"}, tags={"say": "token=hunter2"}, at=AT)
    found = tracking.run("a")
    assert "hunter2" not in str(found)
    assert found["params"]["db.url"] == "postgresql://u:***@h/d"
    assert len(found["params"]["long"]) == 6000
    assert found["params"]["long"].endswith("x … [cut: 9000 characters]")
    assert len(found["tags"]["t"]) == 8000


NAMES = st.one_of(st.text(max_size=12), st.text("./.. :a", max_size=5), st.text("é巡\n[]=/", max_size=5))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(NAMES, st.floats(), max_size=4), st.dictionaries(NAMES, st.text(max_size=9), max_size=4))
def test_any_name_becomes_one_that_mlflow_takes(
    mlflow_store: Path, tmp_path: Path, metrics: dict[str, float], params: dict[str, str]
) -> None:
    import mlflow.utils.validation

    judge: Any = mlflow.utils.validation

    tracking = embedded(mlflow_store, tmp_path)
    name = f"run {len(tracking.runs(1000))}"
    run = tracking.start(name, params=params, tags=params, at=AT)
    tracking.log(run, metrics=metrics, at=AT)
    found = tracking.run(name)
    assert len(found["metrics"]) == len(metrics)
    assert len(found["params"]) == len(params)
    for key in found["metrics"]:
        judge._validate_metric_name(key)
    for key, value in found["params"].items():
        judge._validate_param(key, value)
    for key in found["tags"]:
        judge._validate_tag_name(key)


def test_artifacts_are_copied_whole(tracking: Tracking, tmp_path: Path) -> None:
    run = tracking.start("a", params={}, tags={}, at=AT)
    source = release(tmp_path / "bundle")
    tracking.artifacts(run, source / "MLmodel")
    tracking.artifacts(run, source, "deep/er")
    (source / "MLmodel").write_text("changed")
    tracking.artifacts(run, source, "deep/er")
    uri = tracking.run("a")["artifacts"]
    if "://" not in uri and Path(uri).is_dir():
        files = {str(path.relative_to(uri)): path.stat().st_size for path in Path(uri).rglob("*") if path.is_file()}
        assert files == {"MLmodel": 45, "deep/er/MLmodel": 7, "deep/er/data/model.onnx": 256}


def test_an_artifact_that_cannot_be_written_leaves_nothing(mlflow_store: Path, tmp_path: Path) -> None:
    tracking = embedded(mlflow_store, tmp_path)
    run = tracking.start("a", params={}, tags={}, at=AT)
    folder = Path(tracking.run("a")["artifacts"])
    (folder / "MLmodel").mkdir(parents=True)
    with pytest.raises(TrackingError, match="cannot be written"):
        tracking.artifacts(run, release(tmp_path / "bundle") / "MLmodel")
    assert [path.name for path in folder.rglob("*")] == ["MLmodel"]


def test_an_artifact_goes_where_the_experiment_keeps_them(mlflow_store: Path, tmp_path: Path) -> None:
    tracking = embedded(mlflow_store, tmp_path)
    client(tmp_path).create_experiment("flights", artifact_location=f"file://{tmp_path}/else%20where")
    run = tracking.start("a", params={}, tags={}, at=AT)
    tracking.register(run, release(tmp_path / "bundle"), "r-1", {})
    (kept,) = (tmp_path / "else where" / run / "artifacts" / "releases").iterdir()
    assert (kept / "data" / "model.onnx").stat().st_size == 256
    assert [each.path for each in client(tmp_path).list_artifacts(run, "releases")] == ["releases/r-1"]


def test_looking_makes_no_store(tmp_path: Path) -> None:
    tracking = Tracking(f"sqlite:///{tmp_path}/none/mlflow.db", "flights", tmp_path)
    assert tracking.runs() == []
    with pytest.raises(TrackingError, match="there is no run 'a'"):
        tracking.run("a")
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_in_the_bin_says_how_to_restore_it(tracking: Tracking) -> None:
    import mlflow

    tracking.start("a", params={}, tags={}, at=AT)
    bin_: Any = mlflow.MlflowClient(tracking.uri)
    bin_.delete_experiment(bin_.get_experiment_by_name(tracking.experiment).experiment_id)
    with pytest.raises(TrackingError, match="was deleted") as caught:
        tracking.start("b", params={}, tags={}, at=AT)
    assert caught.value.fix is not None
    assert "experiments restore" in caught.value.fix


def test_a_server_that_does_not_answer_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))  # bound, but nobody listens
        tracking = Tracking(f"http://me:hunter2@127.0.0.1:{taken.getsockname()[1]}", "flights", tmp_path)
        with pytest.raises(TrackingError, match="MLflow refused") as caught:
            tracking.runs()
    assert "hunter2" not in str(caught.value)
