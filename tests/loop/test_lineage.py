"""Lineage: from a prediction back to what made it, and from there on to all that came of it."""

from __future__ import annotations

import json
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest
from conftest import START
from hypothesis import given
from hypothesis import strategies as st
from loop.past import forgotten as forgotten  # noqa: PLC0414
from loop.past import git, run, runs, start
from loop.test_report import browser as browser  # noqa: PLC0414

from meguri.base.errors import JobError
from meguri.base.files import read_json
from meguri.loop.lineage import Node, data_versions, trace
from meguri.loop.lineage_draw import draw, lineage_svg
from meguri.loop.project import Project
from meguri.loop.words import Words
from meguri.record import ledger_columns
from meguri.record.ledger import Label

BAD = "level=pl.when(pl.col('reading') == 'r3').then(99.0).otherwise('level'), "


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Path) -> Path:
    """Two turns, both released; the first found a row that breaks the contract."""
    root = start(tmp_path_factory.mktemp("past") / "alarm", mlflow_store)
    path = root / "src/repository/data_manager.py"
    path.write_text(path.read_text().replace("with_columns(\n", f"with_columns(\n            {BAD}\n"))
    run(root, reason="the first")
    run(root, 10, reason="<the> second & last")
    Project.open(root).ledger.write_labels([Label(1.0, START + timedelta(days=1), "time", "r700")])
    return root


@pytest.fixture
def root(past: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(past, tmp_path / "alarm"))


def every(node: Node) -> Iterator[Node]:
    yield node
    for lead in node.leads:
        yield from every(lead)


def of(node: Node, kind: str) -> list[Node]:
    return [each for each in every(node) if each.kind == kind]


def test_a_prediction_leads_back_to_its_data(past: Path) -> None:
    project = Project.open(past)
    (row,) = (one._asdict() for one in project.ledger.find("r700"))
    found = trace(project, row["prediction_id"])
    first = runs(past)[0]
    kept = read_json(past / "outputs/runs" / first / "run.json")
    assert [node.kind for node in every(found)] == ["prediction", "release", "run", "commit", "data", "quarantine"]
    assert (found.facts["key"], found.facts["label"], found.facts["score"]) == ("r700", 1.0, row["score"])
    assert of(found, "release")[0].name == of(found, "run")[0].name == first
    facts = of(found, "run")[0].facts
    assert (facts["reason"], facts["verdict"], facts["settings"]["seed"]) == ("the first", "pass", 7)
    assert of(found, "commit")[0].name == git(past, "rev-parse", "HEAD")
    assert (of(found, "data")[0].name, of(found, "data")[0].facts["rows"]) == (kept["data_version"], 695)
    (reasons,) = [node.facts["reasons"] for node in of(found, "quarantine")]
    assert list(reasons.values()) == [1]
    assert "level" in next(iter(reasons))
    assert trace(project, "r700") == found


def test_a_version_of_the_data_leads_on_to_every_prediction(past: Path) -> None:
    project = Project.open(past)
    second = runs(past)[1]
    version = read_json(past / "outputs/runs" / second / "run.json")["data_version"]
    wanted = project.ledger.joined(release=second, as_of=START + timedelta(days=99))["prediction_id"].to_list()
    found = trace(project, version[:6], rows=-1)
    assert [node.kind for node in every(found)] == ["data", "run", "commit", "quarantine", "release", "predictions"]
    assert of(found, "predictions")[0].facts["ids"] == wanted
    assert of(trace(project, version, rows=5), "predictions")[0].facts["ids"] == wanted[-5:]
    assert "ids" not in of(trace(project, version), "predictions")[0].facts
    assert of(found, "predictions")[0].facts["count"] == 24
    for name in wanted:
        assert of(trace(project, name), "data")[0].name == version


def test_a_run_leads_both_ways(past: Path) -> None:
    found = trace(Project.open(past), runs(past)[1])
    assert [node.kind for node in found.leads] == ["commit", "data", "quarantine", "release"]
    assert of(found, "release")[0].facts["live"]
    assert of(found, "quarantine")[0].facts["rows"] == 0, "the row was met by the first run"


def test_a_row_that_a_person_released_is_told(root: Path) -> None:
    project = Project.open(root)
    (name,) = project.quarantine.read()["id"]
    project.quarantine.release([name], project.contract, by="ann", why="it was hot", at=START)
    found = of(trace(project, runs(root)[0]), "quarantine")[0]
    assert found.facts["decisions"] == {"released": 1}
    assert draw(found).endswith(", 1 released")


def test_a_commit_leads_to_its_runs(past: Path) -> None:
    commit = git(past, "rev-parse", "HEAD")
    found = trace(Project.open(past), commit[:7])
    assert (found.kind, found.name) == ("commit", commit)
    assert [node.name for node in found.leads] == runs(past)


def test_a_key_that_was_predicted_twice(root: Path) -> None:
    project = Project.open(root)
    row = ledger_columns.table(project.ledger.find("r701")).drop("label", "label_at", "source")
    project.ledger.write_predictions(
        row.with_columns(
            prediction_id=pl.lit("01900000-0000-7000-8000-000000000000"),
            release=pl.lit("gone"),
            run=pl.lit(None, pl.String),
        )
    )
    found = trace(project, "r701")
    assert (found.kind, found.facts["predictions"]) == ("key", 2)
    assert [node.leads[0].name for node in found.leads] == [runs(root)[0], "gone"]
    assert found.leads[1].leads[0].leads == (), "nothing is known of what made that release"
    assert "its folder is gone" in draw(found)


def test_what_nothing_is_called(past: Path) -> None:
    for name in ("nobody", "0000", "01900000-0000-7000-8000-000000000001", "abc"):
        with pytest.raises(JobError, match=f"nothing here is called '{name}'"):
            trace(Project.open(past), name)


def test_a_beginning_that_several_have(root: Path) -> None:
    for name, version in zip(runs(root), ("abcd" + "0" * 28, "abcd" + "1" * 28), strict=True):
        path = root / "outputs/runs" / name / "run.json"
        kept = read_json(path)
        path.write_text(json.dumps(kept | {"data_version": version, "status": "open", "id": f"{name}x"}))
        path.parent.rename(path.parent.with_name(f"{name}x"))
    with pytest.raises(JobError, match="several things begin with 'abcd'") as caught:
        trace(Project.open(root), "abcd")
    assert "abcd" + "1" * 28 in str(caught.value)


def test_what_outlives_the_folders(root: Path) -> None:
    first = runs(root)[0]
    shutil.rmtree(root / "outputs/runs")
    shutil.rmtree(root / "outputs/releases")
    shutil.rmtree(root / ".dvc/cache")
    shutil.rmtree(root / "outputs/dvc")
    found = trace(Project.open(root), "r700")
    assert [node.kind for node in every(found)] == ["prediction", "release", "run", "commit", "data", "quarantine"]
    assert (of(found, "run")[0].name, of(found, "data")[0].facts["rows"]) == (first, None)


def test_a_table_that_cannot_be_read_has_no_rows_to_count(root: Path) -> None:
    path = root / "data/rows.parquet"
    path.write_text("no table")
    from meguri.data.versions import save

    version = save(root, [path])
    found = next(each for each in data_versions(Project.open(root)) if each["version"] == version)
    assert (found["rows"], found["runs"], found["present"]) == (None, [], True)


def test_a_run_of_which_nothing_is_known(root: Path) -> None:
    project = Project.open(root)
    row = ledger_columns.table(project.ledger.find("r701")).drop("label", "label_at", "source")
    project.ledger.write_predictions(
        row.with_columns(
            prediction_id=pl.lit("01900000-0000-7000-8000-000000000000"), key=pl.lit("x"), run=pl.lit("lost")
        )
    )
    assert "nothing is known of it here any more" in draw(trace(project, "x"))


def test_versions_are_listed_with_their_runs(past: Path) -> None:
    found = data_versions(Project.open(past))
    assert [each["runs"] for each in found] == [[name] for name in runs(past)]
    assert [(each["rows"], each["present"], each["cache"], each["remote"]) for each in found] == [
        (695, False, True, True),
        (935, True, True, True),
    ]
    assert found[0]["at"] == START


def test_no_version_yet(tmp_path: Path, mlflow_store: Path) -> None:
    assert data_versions(Project.open(start(tmp_path / "alarm", mlflow_store, under_git=False))) == []


# --- how it is shown


def test_the_tree_of_lines(past: Path) -> None:
    lines = draw(trace(Project.open(past), runs(past)[1], rows=1)).splitlines()
    assert lines[0].startswith(f"run {runs(past)[1]}  <the> second & last, done, ")
    assert [line[:3] for line in lines[1:]] == ["├─ ", "├─ ", "├─ ", "└─ ", "   "]
    assert lines[-1].strip().startswith("└─ predictions 24  2024-03-11 to 2024-03-11, 01")
    assert json.loads(json.dumps(trace(Project.open(past), "r700").to_dict(), default=str))["kind"] == "prediction"


def test_a_verdict_is_told_to_its_first_comma_not_into_a_number() -> None:
    facts = {
        "reason": "by hand",
        "status": "done",
        "verdict": "pass",
        "why": "better on 12,345 rows, with 99 % confidence",
    }
    assert draw(Node("run", "r", facts)) == "run r  by hand, done, pass: better on 12,345 rows"


names = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=60)


@given(names, names, st.integers(0, 4))
def test_the_picture_is_well_formed_whatever_things_are_called(name: str, reason: str, depth: int) -> None:
    node = Node("run", name, {"reason": reason, "status": "done", "verdict": "pass", "why": reason})
    for _ in range(depth):
        node = Node(
            "commit", name, {"dirty": True}, (node, Node("quarantine", "1", {"reasons": {reason: 1}, "decisions": {}}))
        )
    svg = ET.fromstring(lineage_svg(node, title=name, words=Words("ja")))
    size = [float(part) for part in svg.attrib["viewBox"].split()]
    boxes = [each.attrib for each in svg.iter("rect")]
    assert len(boxes) == 2 * (2 * depth + 1)
    assert all(float(b["x"]) + float(b["width"]) <= size[2] for b in boxes)
    assert all(float(b["y"]) + float(b["height"]) <= size[3] for b in boxes)


@pytest.mark.browser
@pytest.mark.parametrize("width", [390, 1200])
def test_no_text_leaves_its_box(browser: object, past: Path, tmp_path: Path, width: int) -> None:
    picture = lineage_svg(
        trace(Project.open(past), runs(past)[1], rows=2), title="where it came from", words=Words("en")
    )
    page = tmp_path / "page.html"
    page.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{picture}")
    browser.open(page, width=width)  # type: ignore[attr-defined]
    script = """(() => { const svg = document.querySelector('svg').getBoundingClientRect();
        return [...document.querySelectorAll('text')].filter(t => t.getBoundingClientRect().right > svg.right).length })()"""
    assert browser.value(script) == 0  # type: ignore[attr-defined]
