"""The command line, as a person uses it: in a project, by its name, told by its output and exit code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import START, forget_project, stopped_after, write_project
from typer.testing import CliRunner

from meguri import cli
from meguri.loop.project import Project

Call = Callable[..., str]
NOW = START.isoformat()


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory, mlflow_store: Path) -> Path:
    """The small project after two turns, both released."""
    root = write_project(tmp_path_factory.mktemp("cli") / "alarm")
    (root / "outputs").mkdir()
    shutil.copy(mlflow_store, root / "outputs" / "mlflow.db")
    run = CliRunner()
    for day in ("2024-03-01", "2024-03-12"):
        done = run.invoke(cli.app, ["turn", "--why", f"the turn of {day}", "--now", day, "--project", str(root)])
        assert done.exit_code == 0, done.output
    forget_project()
    return root


@pytest.fixture
def root(turned: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(turned, tmp_path / "alarm"))


@pytest.fixture
def call(root: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command in the project; its output, after the exit code was seen to be ``code``."""

    def run(*words: str, code: int = 0) -> str:
        monkeypatch.chdir(root)
        monkeypatch.setattr("sys.argv", ["meguri", *words])
        try:
            cli.main()
            found = 0
        except SystemExit as end:
            found = int(end.code or 0)
        said = capfd.readouterr()
        assert found == code, said
        return said.out + said.err

    yield run  # type: ignore[misc]
    forget_project()


def test_releases_are_listed_with_the_live_one_marked(call: Call) -> None:
    listed = json.loads(call("releases", "list", "--json"))
    assert [release["live"] for release in listed] == [True, False]
    assert listed[0]["reason"] == "the turn of 2024-03-12"
    assert "live" in call("releases", "list")


def test_why_a_release_is_live_is_one_command_away(call: Call) -> None:
    said = call("releases", "show")
    assert "the turn of 2024-03-12" in said
    assert "pass" in said
    shown = json.loads(call("releases", "show", "--json"))
    assert shown["rollouts"][0]["by"] == "gate"
    assert shown["data version"]


def test_two_releases_are_compared(call: Call) -> None:
    new, old = (release["release"] for release in json.loads(call("releases", "list", "--json")))
    changed = json.loads(call("releases", "diff", old, new, "--json"))
    assert {"data_version", "trained_until"} <= set(changed)
    assert "data_version" in call("releases", "diff", old, new)
    assert "nothing differs" in call("releases", "diff", old, old)


def test_rollback_and_promote_change_what_is_live_and_mlflow_follows(call: Call, root: Path) -> None:
    new, old = (release["release"] for release in json.loads(call("releases", "list", "--json")))
    assert f"release {old} is live" in call("rollback", "--why", "complaints")
    project = Project.open(root)
    assert project.champion() == old
    assert project.ledger.rollouts("table")[-1].why == "complaints"
    assert "no earlier champion" in call("rollback", code=1)
    assert f"release {new} is live" in call("promote", new, "--why", "mended")
    from mlflow import MlflowClient

    version = MlflowClient(project.tracking.uri).get_model_version_by_alias("alarm", "champion")
    assert version.tags["release_id"] == new


def test_a_corrupted_release_is_not_put_live(call: Call, root: Path) -> None:
    new, old = (release["release"] for release in json.loads(call("releases", "list", "--json")))
    model = root / "outputs" / "releases" / old / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    for words in (["rollback"], ["promote", old]):
        said = call(*words, code=1)
        assert "model.onnx" in said
        assert "next:" in said
    assert Project.open(root).champion() == new


def test_a_release_that_is_not_there(call: Call) -> None:
    assert "no release 'x'" in call("promote", "x", code=1)
    assert "no release 'x'" in call("releases", "show", "x", code=1)


def test_turns_are_listed(call: Call) -> None:
    listed = json.loads(call("runs", "list", "--json"))
    assert [run["status"] for run in listed] == ["done", "done"]
    assert "the turn of 2024-03-01" in call("runs", "list")


def test_the_graph_is_drawn(call: Call) -> None:
    assert "train" in call("graph")
    assert call("graph", "--mermaid").startswith("flowchart LR")
    assert json.loads(call("graph", "--json"))[0] == {
        "job": "retrieve",
        "needs": ["since", "until", "now"],
        "gives": "data",
    }


def test_a_tick_tells_what_it_did(call: Call) -> None:
    done = json.loads(call("tick", "--now", "2024-03-13", "--json"))
    assert (done["labels"], done["predictions"], done["reason"]) == (19 + 24, 24, None)
    assert "nothing to turn for" in call("tick", "--now", "2024-03-13T01:00")


def test_the_loop_ticks_until_it_is_stopped(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses = stopped_after(2, START, monkeypatch)
    said = call("loop", "--every", "2m")
    assert said.count("nothing to turn for") == 2
    assert "stopped" in said
    assert pauses == [120, 120]


def test_labels_from_people_are_written_once(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("key,value\nr960,1\nr961,0\nnobody,1\n")
    assert call("label", str(file), "--by", "mika").strip() == "2 new, 0 same, 0 corrected, 1 unmatched"
    assert json.loads(call("label", str(file), "--by", "mika", "--json"))["same"] == 2


def test_a_label_that_can_be_none_is_quarantined(call: Call, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("key,value\n" + "".join(f"r{n},1\n" for n in range(960, 965)) + "r965,2\n")
    assert call("label", str(file), "--by", "mika").strip() == "5 new, 0 same, 0 corrected, 0 unmatched, 1 quarantined"
    shown = call("data", "quarantine", "--rows", "1")
    assert "labels of no run" in shown
    assert "alarm: cannot be read as Boolean" in shown
    assert '{"key":"r965","value":2}' in shown
    file.write_text("key,value\nr966,2\nr967,1\n")
    assert "1 of 2 rows break the contract" in call("label", str(file), "--by", "mika", code=1)
    file.write_text("key,value\nr967,perhaps\nr968,true\n")
    assert "expected Boolean, found String, such as 'perhaps'" in call("label", str(file), "--by", "mika", code=1)
    file.write_text("key,value\nr967,true\n")
    assert call("label", str(file), "--by", "mika").startswith("1 new"), "nothing of the refused files was written"


@pytest.mark.parametrize(("text", "says"), [("id,value\n1,2\n", "need prediction_id or key"), (None, "cannot be read")])
def test_labels_that_cannot_be_read(call: Call, tmp_path: Path, text: str | None, says: str) -> None:
    file = tmp_path / "labels.csv"
    if text is not None:
        file.write_text(text)
    assert says in call("label", str(file), "--by", "mika", code=1)


def test_quarantine_is_shown_by_reason(call: Call, root: Path) -> None:
    assert "no row was quarantined" in call("data", "quarantine")
    path = root / "src/repository/schema.py"
    path.write_text(path.read_text().replace("ge=-9", "ge=-2.5"))
    call("tick", "--now", "2024-03-13")
    assert "level" in call("data", "quarantine", "--rows", "2")
    assert sum(json.loads(call("data", "quarantine", "--json", "--rows", "1"))["reasons"].values()) > 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["turn", "gate.margn=1"], ["unknown key 'gate.margn'", "did you mean 'margin'?"]),
        (["replay", "--from", "2024-03-01", "--to", "soon"], ["'soon' is no date"]),
        (
            ["replay", "--from", "2024-03-01", "--to", "2024-03-02", "--when", "Every('3d')"],
            ["is no policy", "NAME=TRIGGERS"],
        ),
        (["replay", "--from", "2024-03-01", "--to", "2024-03-02", "--language", "fr"], ["no report in 'fr'"]),
        (["loop", "--every", "often"], ["'often' is no duration"]),
        (["tick", "--project", "/"], ["no Meguri project", "meguri new"]),
    ],
)
def test_a_mistake_is_told_with_the_next_step(call: Call, words: list[str], says: list[str]) -> None:
    said = call(*words, code=1)
    for part in says:
        assert part in said


def test_before_the_first_turn(call: Call, root: Path) -> None:
    shutil.rmtree(root / "outputs")
    assert "no release yet" in call("releases", "list")
    assert "no release is live yet" in call("releases", "show", code=1)
    assert "no turn yet" in call("runs", "list")


@pytest.mark.slow
def test_a_replay_is_told_as_a_story(call: Call) -> None:
    said = call("replay", "--from", "2024-03-01", "--to", "2024-03-05", "--language", "ja")
    assert "turns of the loop" in said
    assert "outputs/replay/report.html" in said
