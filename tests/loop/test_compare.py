"""Comparing two passes: what is the same, close or different, in the order of the datum's way; and what changed between runs."""

from __future__ import annotations

import json
import math
import shutil
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl
import pytest
from conftest import START
from hypothesis import given
from hypothesis import strategies as st
from loop.past import MODEL, commit, edit, run, runs, start
from loop.past import forgotten as forgotten  # noqa: PLC0414

from meguri import Contract
from meguri.base.files import read_json, write_json
from meguri.loop.again import requests_of
from meguri.loop.changes import changes
from meguri.loop.compare import Comparison, Stage, apart, compare, meaning, of_numbers, of_tables, rows_changed
from meguri.loop.project import Project
from meguri.record.run import MADE_WITH, Run

WAY = ["data", "settings", "packages", "code", "dataset", "params", "model", "test answers", "metrics", "predictions"]


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Path) -> Path:
    """Two turns with code, settings and data between them that differ; the second in slices by its hour of the day."""
    sliced = "from meguri import Evaluation\n\ndef evaluate(model, dataset):\n    return Evaluation.of(model, dataset.test, slices=['other'])\n"
    root = start(tmp_path_factory.mktemp("past") / "alarm", mlflow_store, {"src/jobs/evaluate.py": sliced})
    run(root, reason="the first")
    edit(root / MODEL, "C=strength", "C=strength / 100")
    commit(root, "weaker")
    run(root, 2, reason="the second", overrides=["optimize.trials=2", "gate.margin=0.5"])
    return root


@pytest.fixture
def pair(past: Path, tmp_path: Path) -> tuple[Run, Run]:
    """The first run, and a copy of it, to be changed."""
    name = runs(past)[0]
    for side in ("then", "now"):
        shutil.copytree(past / "outputs/runs" / name, tmp_path / side / "runs" / name)
    return Run.load(tmp_path / "then", name), Run.load(tmp_path / "now", name)


def stages(then: Run, now: Run, **more: Any) -> dict[str, Stage]:
    given: dict[str, Any] = {"rows": (None, None), "used": None, **more}
    return {stage.name: stage for stage in compare(then, now, **given)}


def verdict(found: dict[str, Stage], **more: Any) -> tuple[str, str | None]:
    all_ = Comparison("r", tuple(found.values()), **more)
    return all_.verdict, all_.first and all_.first.name


# --- the stages


def test_a_run_is_the_same_as_itself(pair: tuple[Run, Run]) -> None:
    found = stages(*pair)
    assert list(found) == [*WAY, "verdict"]
    assert {stage.state for stage in found.values()} == {"same"}
    assert verdict(found) == ("same", None)


def shift(run: Run, by: float) -> None:
    """Let each score of a run's evaluation and predictions be off by ``by``."""
    from meguri.record.evaluation import Evaluation

    folder = run.folder / "evaluation"
    old = Evaluation.load(folder)
    shutil.rmtree(folder)
    numbers = {name: value + by for name, value in old.metrics.items()}
    Evaluation(numbers, old.rows.with_columns(pl.col("score") + by), old.task, old.slices, old.release).save(folder)
    path = run.folder / "predictions.parquet"
    pl.read_parquet(path).with_columns(pl.col("score") + by).write_parquet(path)


@pytest.mark.parametrize(
    ("by", "state", "word"), [(1e-9, "close", "same within tolerance"), (1e-3, "differs", "differs")]
)
def test_what_is_off_by_less_than_the_tolerance_is_close(
    pair: tuple[Run, Run], by: float, state: str, word: str
) -> None:
    shift(pair[1], by)
    found = stages(*pair)
    assert {name: found[name].state for name in ("test answers", "metrics", "predictions")} == dict.fromkeys(
        ("test answers", "metrics", "predictions"), state
    )
    assert "120 of 120 rows differ" in found["test answers"].detail
    assert verdict(found) == (word, "test answers")


def test_a_model_that_answers_the_same_from_other_bytes_is_close(pair: tuple[Run, Run]) -> None:
    with (pair[1].folder / "model/model.onnx").open("ab") as file:
        file.write(b"\0")
    assert verdict(stages(*pair)) == ("same within tolerance", "model")
    (pair[1].folder / "model/model.onnx").rename(pair[1].folder / "model/model.skops")
    with zipfile.ZipFile(pair[1].folder / "model/model.skops", "w") as file:
        file.writestr("schema.json", "{}")
    assert stages(*pair)["model"].detail == "its format differs"


def test_packages_that_the_jobs_do_not_load_explain_nothing(pair: tuple[Run, Run]) -> None:
    made = read_json(pair[1].folder / MADE_WITH)
    made["packages"] |= {"polars": "0.1", "ruff": "0.1"}
    write_json(pair[1].folder / MADE_WITH, made)
    found = stages(*pair, used={"polars"})["packages"]
    assert found.state == "differs"
    assert found.detail.startswith("polars ")
    assert "1 others differ that these jobs do not load" in found.detail
    assert stages(*pair, used={"numpy"})["packages"].state == "same"
    write_json(pair[1].folder / MADE_WITH, [])
    assert stages(*pair)["packages"].state == "unknown"
    assert stages(*pair)["code"].state == "unknown"


def test_files_that_came_went_and_changed(pair: tuple[Run, Run]) -> None:
    made = read_json(pair[1].folder / MADE_WITH)
    del made["code"]["src/jobs/train.py"]
    made["code"] |= {"src/main.py": "0", "src/new.py": "1"}
    write_json(pair[1].folder / MADE_WITH, made)
    told = stages(*pair)["code"].detail
    assert told == "src/jobs/train.py is gone; src/main.py is changed; src/new.py is new"


def test_rows_in_other_bytes_are_the_same_rows(pair: tuple[Run, Run], tmp_path: Path) -> None:
    rows = pl.DataFrame({"reading": ["a", "b"], "level": [1.0, 2.0]})
    files = [tmp_path / f"{name}.parquet" for name in ("a", "b", "c")]
    rows.write_parquet(files[0])
    rows.write_parquet(files[1], compression="lz4")
    rows.with_columns(level=pl.Series([1.0, 9.0])).write_parquet(files[2])
    now = pair[1].with_(data_version="0" * 32)
    assert stages(pair[0], now, rows=(files[0], files[1]))["data"].state == "same"
    found = stages(pair[0], now, rows=(files[0], files[2]))["data"]
    assert (found.state, found.detail) == ("differs", "1 rows changed, the first b: level 2 → 9")
    assert stages(pair[0], now)["data"].state == "differs"


def test_what_was_not_reached_differs(pair: tuple[Run, Run]) -> None:
    then, now = pair
    for name in ("model", "evaluation"):
        shutil.rmtree(now.folder / name)
    for name in ("params.json", "predictions.parquet"):
        (now.folder / name).unlink()
    now = now.with_(facts={})
    found = stages(then, now)
    assert {n: found[n].detail for n in WAY[4:]} == dict.fromkeys(WAY[4:], "there is none now")
    assert {stage.detail for name, stage in stages(now, then).items() if name in WAY[4:]} == {"there was none then"}
    assert verdict(found, failed="the step 'train' fails now") == ("differs", "dataset")
    assert set(stages(now, now)) == {"data", "settings", "packages", "code"}
    assert verdict(stages(now, now)) == ("same", None)
    left = now.with_(facts={"left_out": "why"})
    assert (stages(then, left)["predictions"].state, stages(then, left)["predictions"].detail) == ("unknown", "why")


def test_another_sketch_of_the_training_rows_says_nothing(pair: tuple[Run, Run]) -> None:
    path = pair[1].folder / "model/manifest.json"
    manifest = read_json(path)
    reference = manifest["reference"]
    next(iter(reference.values()))["counts"] = [1]
    write_json(path, manifest)
    assert stages(*pair)["dataset"].detail.startswith("train ")
    write_json(path, manifest | {"reference": {name: {"drawn": "otherwise"} for name in reference}})
    assert stages(*pair)["dataset"].state == "same"


def test_a_broken_evaluation_is_none(pair: tuple[Run, Run]) -> None:
    (pair[1].folder / "evaluation/rows.parquet").write_bytes(b"broken")
    assert stages(*pair)["test answers"].detail == "there is none now"


def test_a_verdict_that_turned(pair: tuple[Run, Run]) -> None:
    facts = pair[1].facts
    now = pair[1].with_(facts={**facts, "verdict": {**facts["verdict"], "result": "fail"}})
    found = stages(pair[0], now)
    assert found["verdict"].detail == "pass → fail"
    assert verdict(found) == ("differs", "verdict")


# --- small parts


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_apart_is_a_distance(a: float, b: float) -> None:
    assert apart(a, b) == apart(b, a) >= 0
    assert (apart(a, b) == 0) == (a == b) or math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-300)
    assert apart(a, a) == 0
    assert apart(None, a) == math.inf
    assert apart(None, None) == 0


def test_secrets_of_settings_are_masked() -> None:
    found = of_tables(
        "settings", {"warehouse": "postgres://ann:hunter2@db/x"}, {"warehouse": "postgres://ann:other@db/x"}
    )
    assert found is not None
    assert found.state == "differs"
    assert "hunter2" not in json.dumps([found.then, found.now, found.detail])


def test_numbers() -> None:
    assert of_numbers("m", None, None, 1.0) is None
    assert of_tables("m", None, None) is None
    found = of_numbers("m", {"a": 1.0, "b": 2.0}, {"a": 1.0}, 1.0)
    assert found is not None
    assert (found.state, found.detail) == ("differs", "b 2 → none")


def test_rows_changed() -> None:
    old = pl.DataFrame({"k": [1, 2, 3], "a": [1.0, None, 3.0], "gone": [0, 0, 0]})
    new = pl.DataFrame({"k": [4, 3, 2], "a": [4.0, 3.5, None], "new": [0, 0, 0]})
    told = rows_changed(old, new, ["k"])
    assert told.split("; ") == [
        "the column gone is gone",
        "the column new is new",
        "1 rows came",
        "1 rows are gone",
        "1 rows changed, the first 3: a 3 → 3.5",
    ]
    assert rows_changed(old, old.reverse(), ["k"]) == "the same rows in another order"
    assert rows_changed(old, new, []).endswith("3 → 3 rows")
    assert rows_changed(old.select("k"), new.select("k"), ["k"]) == "1 rows came; 1 rows are gone"


def test_a_skops_file_is_the_same_whenever_and_wherever_it_was_written(tmp_path: Path) -> None:
    def write(name: str, first: int, data: bytes, when: int) -> Path:
        schema = {"a": [{"__id__": first}, {"__id__": first + 8, "file": f"{first + 8}.npy"}], "b": {"__id__": first}}
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            for entry, content in ((f"{first + 8}.npy", data), ("schema.json", json.dumps(schema).encode())):
                file.writestr(zipfile.ZipInfo(entry, (2000 + when, 1, 1, 0, 0, 0)), content)
        return tmp_path / name

    one, two = write("one.skops", 100, b"x", 1), write("two.skops", 200, b"x", 2)
    assert one.read_bytes() != two.read_bytes()
    assert meaning(one) == meaning(two)
    assert meaning(one) != meaning(write("three.skops", 100, b"y", 1))


class Visit(pa.DataFrameModel):
    shop: str
    day: int
    at: Annotated[pl.Datetime, "us", "UTC"]
    level: float
    kind: str = pa.Field(nullable=True)
    hot: bool
    bought: bool = pa.Field(nullable=True)


VISIT = Contract(Visit, key=["shop", "day"], time="at", label="bought")


@given(
    st.lists(
        st.tuples(
            st.text(max_size=6), st.integers(-(2**40), 2**40), st.floats(-3e38, 3e38),
            st.none() | st.text(max_size=4), st.booleans(),
        ),
        min_size=1, max_size=5, unique_by=lambda row: row[:2],
    )
)  # fmt: skip
def test_requests_come_back_from_what_predictions_keep(rows: list[tuple[Any, ...]]) -> None:
    table = pl.DataFrame(rows, schema=["shop", "day", "level", "kind", "hot"], orient="row").with_columns(
        at=pl.lit(START).cast(pl.Datetime("us", "UTC")), kind=pl.Series([row[3] for row in rows], dtype=pl.String)
    )
    table = VISIT.check(table, labelled=False).rows
    kept = pl.DataFrame(
        {
            "key": VISIT.key_of(table),
            "time": table["at"],
            "features": table.select(VISIT.features).to_struct(),
        }
    )
    found = requests_of(kept, VISIT)
    assert found is not None
    assert found.select(table.columns).equals(table)


def test_requests_that_need_more_than_was_kept() -> None:
    grouped = Contract(Visit, key=["shop", "day"], time="at", label="bought", group="kind")
    kept = pl.DataFrame({"key": ["a|1"], "time": [START], "features": [{"level": 1.0, "kind": None, "hot": True}]})
    assert requests_of(kept, VISIT) is not None
    assert requests_of(kept, grouped) is None
    assert requests_of(kept.clear(), VISIT) is None
    assert requests_of(kept.with_columns(features=pl.lit('{"level": 1.0}')), VISIT) is None, (
        "an older Meguri kept texts"
    )
    assert requests_of(kept.with_columns(features=pl.struct(level=1.0)), VISIT) is None
    assert requests_of(kept.with_columns(key=pl.lit("a|b")), VISIT) is None
    assert requests_of(kept.with_columns(key=pl.lit("a")), VISIT) is None


# --- what changed between two runs


def test_what_changed_between_two_runs(past: Path) -> None:
    first, second = runs(past)
    found = json.loads(json.dumps(changes(Project.open(past), first, second)))
    assert [each["reason"] for each in found["runs"]] == ["the first", "the second"]
    assert f"{MODEL} | 2 +-" in found["code"]["stat"]
    assert found["code"]["files"] == [MODEL]
    assert found["settings"] == {"optimize.trials": [3, 2], "gate.margin": [0.05, 0.5]}
    assert found["data"]["rows"] == [696, 744]
    assert found["data"]["times"][1][1].startswith("2024-03-02 23:00")
    assert "48 rows came" in found["data"]["changed"]
    assert found["packages"] is None
    shared = found["shared"]
    assert shared["rows"] == 72
    assert set(shared["metrics"]["then"]) == {"log_loss", "auc", "brier", "accuracy"}
    assert sum(side[0]["rows"] for side in shared["slices"]["other"].values()) == 72
    assert all(len(side) == 2 for side in shared["slices"]["other"].values())
    assert shared["gate"]["metric"] == "log_loss"
    assert shared["gate"]["low"] <= shared["gate"]["gain"] <= shared["gate"]["high"]
    assert "the other run" in shared["gate"]["reason"]
    assert len(Project.open(past).ledger.gate_uses()) == 2, "reading costs no use of a test set"


def test_nothing_changed_between_a_run_and_itself(past: Path) -> None:
    found = changes(Project.open(past), *[runs(past)[0]] * 2)
    assert [found[part] for part in ("code", "data", "settings", "packages", "params")] == [None] * 5


def test_runs_of_which_little_is_left(past: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(past, tmp_path / "alarm"))
    first, second = runs(root)
    for store in (".dvc/cache", "outputs/dvc"):
        shutil.rmtree(root / store)
    folder = root / "outputs/runs" / first
    for name in ("evaluation", "model"):
        shutil.rmtree(folder / name)
    for name in (MADE_WITH, "params.json"):
        (folder / name).unlink()
    found = changes(Project.open(root), first, second)
    assert (found["shared"], found["packages"], found["code"]["files"]) == (None, None, None)
    assert found["data"]["rows"] == [None, 744], "the second's lie in data/"
    assert found["metrics"]["then"] is None
    assert list(found["params"]) == ["strength"]


def test_a_gate_that_cannot_be_read_says_why(past: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(past, tmp_path / "alarm"))
    kept = root / "outputs/runs" / runs(root)[1] / "run.json"
    value = read_json(kept)
    value["settings"]["gate"]["metric"] = "rmse"
    write_json(kept, value)
    assert "rmse" in changes(Project.open(root), *runs(root))["shared"]["gate"]["reason"]


def test_runs_that_share_no_test_rows(past: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(past, tmp_path / "alarm"))
    run(root, 20)
    first, _, third = runs(root)
    found = changes(Project.open(root), first, third)
    assert found["shared"] is None
    assert found["metrics"]["now"]["log_loss"] > 0
    assert datetime.fromisoformat(found["runs"][1]["at"]) > datetime.fromisoformat(found["runs"][0]["at"])
