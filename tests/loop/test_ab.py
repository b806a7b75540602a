"""An A/B test, from its start to what a tick makes of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import START, forget_project, write_project
from record.releases import build, fit, prepared
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from meguri import Value
from meguri.base.errors import GateError
from meguri.base.ids import prediction_ids
from meguri.loop import ab, ab_page, tick
from meguri.loop.project import Project
from meguri.loop.words import Words
from meguri.loop.worth import ab_worth
from meguri.record import rollout
from meguri.record.experiment import Plan
from meguri.record.experiment_words import experiment_sentence
from meguri.record.ledger import Event, Label, TurnRecord
from meguri.record.served import Served, pack

NOW = START + timedelta(days=5)
PLAN = Plan(expected=1000)


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = fit(make_pipeline(prepared(), LogisticRegression()))
    return build(model, tmp_path_factory.mktemp("r") / "a").folder


@pytest.fixture
def project(tmp_path: Path, release: Path) -> Iterator[Project]:
    write_project(tmp_path / "p")
    project = Project.open(tmp_path / "p")
    for name in ("a", "b"):
        shutil.copytree(release, project.outputs / "releases" / name)
    project.contract = project.release("a").contract
    rollout.promote(project.ledger, "rest", "a", at=START, why="first", by="test")
    yield project
    project.ledger.close()
    forget_project()


def begun(project: Project, metric: str = "event:buy", **more: Any) -> Any:
    given: dict[str, Any] = {"share": 0.5, "plan": PLAN, "promote": False, "outlet": "rest", "why": "try", "by": "ann"}
    return ab.start(project, "b", metric=ab.metric_of(metric, "binary"), at=START, **{**given, **more})


def served(project: Project, units: int, buys: dict[str, float], at: datetime = START, events: str = "buy") -> None:
    """So many units of each arm are answered, and of each arm this share does something a minute later."""
    dice = np.random.default_rng(5)
    for arm, release, share in (("champion", "a", buys["a"]), ("challenger", "b", buys["b"])):
        micros = int(at.timestamp() * 1e6) + 1
        names = [f"{arm}{n}" for n in range(units)]
        ids, origin = prediction_ids(units, at).to_list(), (release, None, "rest", arm, 0.5)
        answers = Served(origin, micros, 0, ids, names, [micros] * units, [0.9] * units, ["true"] * units)
        project.ledger.write_answers(pack([answers]))
        did = [
            Event(f"{events}-{arm}{n}", f"{arm}{n}", at + timedelta(minutes=1), events)
            for n in range(units)
            if dice.random() < share
        ]
        project.ledger.write_events(did)


def test_a_better_challenger_is_told_and_put_live_when_asked(project: Project) -> None:
    test = begun(project, promote=True)
    now = rollout.current(project.ledger, "rest")
    assert now is not None
    assert (now.champion, now.challengers) == ("a", {"b": 0.5})
    served(project, 3000, {"a": 0.10, "b": 0.16})
    look = ab.look(project, test, now=NOW)
    assert (look.report.decision, look.report.safe_to_stop, look.done) == ("better", True, None)
    assert look.report.primary.estimate == pytest.approx(0.06, abs=0.02)
    assert ab.running(project, "rest") == test  # a look changes nothing
    look = ab.look(project, test, now=NOW, act=True)
    assert look.done == "b"
    assert ab.running(project, "rest") is None
    now = rollout.current(project.ledger, "rest")
    assert now is not None
    assert (now.champion, dict(now.challengers), now.by) == ("b", {}, "ab")


def test_a_guardrail_that_is_worse_for_sure_ends_the_test(project: Project) -> None:
    leave = ab.metric_of("event:leave", "binary", margin=0.01, higher_is_better=False)
    test = begun(project, guards=[leave])
    served(project, 3000, {"a": 0.02, "b": 0.12}, events="leave")
    look = ab.look(project, test, now=NOW, act=True)
    assert (look.report.decision, look.done) == ("worse", "a")
    assert look.report.guards[0].state == "worse"
    now = rollout.current(project.ledger, "rest")
    assert now is not None
    assert (now.champion, dict(now.challengers)) == ("a", {})


def test_a_unit_belongs_to_the_arm_that_answered_it_first_and_what_it_did_before_does_not_count(
    project: Project,
) -> None:
    test = begun(project)
    served(project, 200, {"a": 0.0, "b": 0.0})
    project.ledger.write_events([Event("early", "champion0", START, "buy")])
    later = int(START.timestamp() * 1e6) + 10**6
    origin = ("b", None, "rest", "challenger", 0.5)
    again = Served(origin, later, 0, prediction_ids(1).to_list(), ["x"], [later], [0.9], ["true"], ["champion1"])
    project.ledger.write_answers(pack([again]))
    reading = ab.look(project, test, now=NOW).report.primary
    assert (reading.units_a, reading.units_b, reading.value_a) == (200, 200, 0.0)


def test_metrics_of_labels(project: Project) -> None:
    test = begun(project, "accuracy")
    served(project, 300, {"a": 0.0, "b": 0.0})
    shares = (("champion", 4), ("challenger", 2))
    project.ledger.write_labels([Label(n % k > 0, NOW, "time", f"{arm}{n}") for arm, k in shares for n in range(300)])
    reading = ab.look(project, test, now=NOW).report.primary
    assert (reading.value_a, reading.value_b) == (0.75, 0.5)
    assert reading.metric.higher_is_better
    assert not ab.metric_of("log_loss", "binary").higher_is_better


def test_money(project: Project) -> None:
    """Seven of ten answers are right in A, eight in B; a right one earns 100, a wrong one costs 60."""

    value = Value("JPY", {a: {y: 100 if a == y else -60 for y in (True, False)} for a in (True, False)}, abstained=-7)
    project.contract.value = value
    assert ab.metric_of("event:buy:sum", "binary", value).unit == "JPY"
    assert ab.metric_of("event:buy", "binary", value).unit == ab.metric_of("event:buy:sum", "binary").unit == ""
    test = ab.start(
        project, "b", metric=ab.metric_of("value", "binary", value), at=START,
        share=0.5, plan=PLAN, promote=False, outlet="rest", why="try", by="ann",
    )  # fmt: skip
    served(project, 2000, {"a": 0.0, "b": 0.0})
    labels = {f"{arm}{n}": n % 10 < right for arm, right in (("champion", 7), ("challenger", 8)) for n in range(2000)}
    project.ledger.write_labels([Label(value, NOW, "time", key) for key, value in labels.items()])
    report = ab.look(project, test, now=NOW).report
    assert (report.primary.value_a, report.primary.value_b) == (pytest.approx(52), pytest.approx(68))
    assert (report.decision, report.primary.metric.higher_is_better) == ("better", True)
    said = experiment_sentence(report)
    assert said.startswith("B is better by 16 JPY per answer, between ")
    assert experiment_sentence(report, "ja").startswith("BはAより推論1件あたり16円良い(")
    turn = TurnRecord("b", START, "by hand", "done", "pass", "b", 7200.0)
    project.ledger.write_turn(turn)
    settings = project.root / "hydra/default.yaml"
    settings.write_text(settings.read_text() + "costs: {training: 30, serving: 5}\n")
    low, high = (f"{limit * 4000:,.0f}" for limit in (report.primary.low, report.primary.high))
    assert ab_worth(project, test, report, now=NOW, words=Words("en")) == (
        f"about 64,000 JPY more at the 4,000 answers of the last 30 days (between {low} JPY and {high} JPY); "
        "serving them cost 20 JPY; training cost 60 JPY (2 h 0 min)"
    )
    assert "約 64,000 円の増加" in ab_worth(project, test, report, now=NOW, words=Words("ja"))
    ab_page.write(project.root / "page.html", project, test, now=NOW, words=Words("ja"))
    page = (project.root / "page.html").read_text(encoding="utf-8")
    assert "value の B − A(円)" in page
    assert "約 64,000 円の増加" in page
    project.contract.value = None  # somebody took the money out of the contract while the test runs
    with pytest.raises(GateError, match="'value'"):
        ab.look(project, test, now=NOW)


def test_a_tick_does_what_is_sure_and_a_person_may_end_it(project: Project) -> None:
    test = begun(project)
    served(project, 3000, {"a": 0.16, "b": 0.10})
    assert tick._decide(project, NOW) == ("a", [])
    assert tick._decide(project, NOW) == (None, [])
    assert project.ledger.experiments()[-1].detail["decision"] == "worse"
    test = begun(project, outlet="rest")
    ended = ab.stop(project, test, keep="challenger", at=NOW, why="we like it", by="ann")
    assert (ended.status, ended.detail["kept"]) == ("stopped", "challenger")
    now = rollout.current(project.ledger, "rest")
    assert now is not None
    assert now.champion == "b"


def test_the_command_line(project: Project) -> None:
    def meguri(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "meguri", "ab", *words]
        return subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False)

    at = ["--now", (START + timedelta(seconds=1)).isoformat()]
    done = meguri("start", "b", "--metric", "event:buy", "--guard", "-event:leave=0.01", "--share", "0.5", *at)
    assert done.returncode == 0, done.stderr
    served(project, 3000, {"a": 0.10, "b": 0.16}, at=START + timedelta(seconds=2))
    done = meguri("status", "--now", NOW.isoformat())
    assert done.returncode == 0, done.stderr
    assert "B is better by" in done.stdout
    assert "safe to stop" in done.stdout
    assert "Bは" in meguri("status", "--lang", "ja", "--now", NOW.isoformat()).stdout
    assert json.loads(meguri("status", "--json", "--now", NOW.isoformat()).stdout)["decision"] == "better"
    for language in ("en", "ja"):
        done = meguri("status", "--html", f"{language}.html", "--lang", language, "--now", NOW.isoformat())
        assert done.returncode == 0, done.stderr
        page = (project.root / f"{language}.html").read_text()
        assert f'<html lang="{language}">' in page
        assert page.count("<svg") == 2
    done = meguri("stop", "--keep", "challenger")
    assert "release b answers everyone" in done.stdout
    for wrong, told in (
        (["stop"], "no test runs"),
        (["stop", "--keep", "both"], "neither"),
        (["start", "b", "--metric", "clicks"], "no metric"),
        (["start", "b", "--metric", "event:buy", "--guard", "event:leave"], "no guardrail"),
        (["status", "--outlet", "edge"], "no test in 'edge'"),
    ):
        done = meguri(*wrong)
        assert (done.returncode, told in done.stderr) == (1, True), done.stderr


def test_what_cannot_be_tested(project: Project) -> None:
    begun(project)
    with pytest.raises(GateError, match="runs in 'rest'"):
        begun(project)
    for wrong in ("clicks", "event:", "event:buy:most", "auc", "rmse", "value"):
        with pytest.raises(GateError, match="no metric"):
            ab.metric_of(wrong, "binary")
    assert ab.metric_of("accuracy", "multiclass").higher_is_better
    with pytest.raises(GateError, match="no metric"):
        ab.metric_of("log_loss", "multiclass")  # the ledger keeps the probability of the answer alone
