"""What was known of the units before an A/B test makes its interval narrower, and nothing else does."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from conftest import START, forget_project, write_project
from loop.ab_past import DAY, answer, begun, happen
from record.releases import build, fit, prepared
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from typer.testing import CliRunner

from meguri.base.errors import GateError
from meguri.cli import app
from meguri.loop import ab
from meguri.loop.project import Project
from meguri.record import rollout
from meguri.record.ledger import Label

NOW = START + 5 * DAY
UNITS = [f"u{n}" for n in range(2000)]
A, B = UNITS[:1000], UNITS[1000:]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(fit(make_pipeline(prepared(), LogisticRegression())), tmp_path_factory.mktemp("r") / "a").folder


@pytest.fixture
def project(tmp_path: Path, release: Path) -> Iterator[Project]:
    write_project(tmp_path / "p")
    project = Project.open(tmp_path / "p")
    (project.outputs / "releases").mkdir(parents=True)
    for name in ("a", "b"):
        (project.outputs / "releases" / name).symlink_to(release)
    project.contract = project.release("a").contract
    rollout.promote(project.ledger, "rest", "a", at=START - 30 * DAY, why="first", by="test")
    yield project
    project.ledger.close()
    forget_project()


def drawn(seed: int = 1, effect: float = 0.0) -> tuple[dict[str, float], dict[str, float]]:
    """What each unit spends before and after, with a correlation of .7; units of B spend more."""
    dice = np.random.default_rng(seed)
    before = dice.normal(10, 1, len(UNITS))
    after = 10 + 0.7 * (before - 10) + math.sqrt(0.51) * dice.normal(size=len(UNITS))
    after[1000:] += effect
    return dict(zip(UNITS, before, strict=True)), dict(zip(UNITS, after, strict=True))


def served(project: Project, after: dict[str, float]) -> None:
    answer(project, A, START + DAY, "a")
    answer(project, B, START + DAY, "b")
    happen(project, "buy", after, START + 2 * DAY)


def test_what_a_unit_did_before_narrows_the_interval_as_theory_says(project: Project) -> None:
    before, after = drawn(effect=0.2)
    happen(project, "buy", before, START - DAY)
    happen(project, "buy", dict.fromkeys(UNITS, 1000.0), START - 20 * DAY)  # too long ago to count
    served(project, after)
    test = begun(project, "event:buy:sum", before=14 * DAY)
    known = ab.look(project, test, now=NOW).report.primary
    plain = ab.look(project, _without(test), now=NOW).report.primary
    assert plain.kept == 1
    assert known.kept == pytest.approx(0.51, abs=0.04)
    assert known.high - known.low == pytest.approx(math.sqrt(known.kept) * (plain.high - plain.low))
    assert known.low < 0.2 < known.high
    assert (known.value_a, known.value_b) == (plain.value_a, plain.value_b)
    asked = ["ab", "status", "-p", str(project.root), "--now", NOW.isoformat()]
    said = CliRunner().invoke(app, asked).output
    assert "What was known of the units before the test makes the interval 2" in said
    assert "より" in CliRunner().invoke(app, [*asked, "--lang", "ja"]).output
    told = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert told["primary"]["kept"] == known.kept
    assert told["before"] == ["2024-02-16 00:00:00+00:00", "2024-03-01 00:00:00+00:00"]


def _without(test: ab.Experiment) -> ab.Experiment:
    return ab.Experiment(test.id, test.at, test.outlet, test.status, {**test.detail, "before": "0s"})


def test_units_without_a_past_are_taken_as_the_mean(project: Project) -> None:
    before, after = drawn()
    old = [unit for place, unit in enumerate(UNITS) if place % 2]
    answer(project, old, START - 2 * DAY, "a", share=1.0)
    happen(project, "buy", {unit: before[unit] for unit in old}, START - DAY)
    served(project, after)
    known = ab.look(project, begun(project, "event:buy:sum", before=14 * DAY), now=NOW).report.primary
    assert known.kept == pytest.approx(1 - 0.49 / 2, abs=0.04)


def test_who_was_there_and_did_nothing_is_known_to_have_done_nothing(project: Project) -> None:
    _, after = drawn()
    spent = {unit: float(after[unit] > 10) for unit in UNITS}
    answer(project, UNITS[::2], START - 2 * DAY, "a", share=1.0)
    happen(project, "buy", {u: 1.0 for u in UNITS[::2] if spent[u]}, START - DAY)
    served(project, {u: 1.0 for u in UNITS if spent[u]})
    known = ab.look(project, begun(project, before=14 * DAY), now=NOW).report.primary
    assert known.kept == pytest.approx(0.5, abs=0.02)  # of every second unit it says all


def test_nothing_from_after_the_start_is_a_covariate(project: Project) -> None:
    _, after = drawn()
    answer(project, UNITS, START - 2 * DAY, "a", share=1.0)
    test = begun(project, "event:buy:sum", before=14 * DAY)
    happen(project, "buy", after, START + timedelta(hours=1))  # in the test's time, before the unit's first answer
    served(project, after)
    reading = ab.look(project, test, now=NOW).report.primary
    assert reading.value_a == pytest.approx(np.mean([after[u] for u in A]))
    assert reading.kept == 1
    features = {u: json.dumps({"wind": after[u]}) for u in UNITS}
    answer(project, A, START + 3 * DAY, "a", features=features)  # a later answer of the unit
    answer(project, B, START + 3 * DAY, "b", features=features)
    detail = {**test.detail, "columns": ["wind"]}
    seen = ab.Experiment(test.id, test.at, "rest", "running", detail)
    assert ab.look(project, seen, now=NOW).report.primary.kept == 1


def test_numbers_of_the_first_row_are_covariates_when_asked_for(project: Project) -> None:
    before, after = drawn()
    rows = {u: json.dumps({"wind": before[u], "carrier": "AA", "holiday": False}) for u in UNITS[:1900]}
    rows["u5"] = json.dumps({"wind": None, "carrier": None, "holiday": True})
    test = begun(project, "event:buy:sum", columns=["wind", "holiday"])
    answer(project, A, START + DAY, "a", features=rows)
    answer(project, B, START + DAY, "b", features=rows)
    happen(project, "buy", after, START + 2 * DAY)
    assert ab.look(project, test, now=NOW).report.primary.kept == pytest.approx(1 - 0.49 * 0.95, abs=0.04)
    ab.stop(project, test, keep="champion", at=NOW, why="", by="ann")
    for wrong in ("carrier", "winds", "delay"):
        with pytest.raises(GateError, match="no numeric feature"):
            begun(project, at=NOW + DAY, columns=[wrong])
    settings = project.root / "hydra" / "default.yaml"
    settings.write_text(settings.read_text().replace("{table: {}}", "{rest: {features: hash}}"))
    opened = Project.open(project.root)
    opened.contract = project.contract
    with pytest.raises(GateError, match="keeps its hash"):
        begun(opened, at=NOW + DAY, columns=["wind"])
    opened.ledger.close()


def test_the_past_of_a_metric_of_labels(project: Project) -> None:
    def labelled(units: list[str], day: int, right: dict[str, bool], known: timedelta) -> None:
        keys = [f"{unit}@{START + day * DAY:%m%d}" for unit in units]
        said = zip(keys, [right[unit] for unit in units], strict=True)
        project.ledger.write_labels([Label(value, START + known, "time", key) for key, value in said])

    dice = np.random.default_rng(2)
    easy = {unit: bool(dice.random() < 0.5) for unit in UNITS}
    answer(project, UNITS, START - 3 * DAY, "a", share=1.0)
    labelled(UNITS, -3, easy, -DAY)
    test = begun(project, "accuracy", before=14 * DAY)
    answer(project, A, START + DAY, "a")
    answer(project, B, START + DAY, "b")
    labelled(UNITS, 1, easy, 2 * DAY)
    reading = ab.look(project, test, now=NOW).report.primary
    assert reading.kept < 0.01, "who was easy to answer before is so now"
    late = {unit: not right for unit, right in easy.items()}
    answer(project, UNITS, START - 2 * DAY, "a", share=1.0, outlet="rest")
    labelled(UNITS, -2, late, DAY / 2)  # of an answer before, but known only since the start
    assert ab.look(project, test, now=NOW).report.primary.kept == reading.kept
    # what another outlet answered the same units is none of the test's
    answer(project, A, START + 2 * DAY, "a", outlet="edge", share=1.0)
    labelled(A, 2, late, 3 * DAY)
    assert ab.look(project, test, now=NOW).report.primary.value_a == reading.value_a


def test_what_the_challenger_did_to_its_units_before_is_no_covariate(project: Project) -> None:
    """A share that grew, or a test that is started again, keeps its units: their past is the challenger's work."""
    before, after = drawn(effect=0.5)
    happen(project, "buy", before, START - 6 * DAY)
    rollout.promote(project.ledger, "rest", "a", at=START - 5 * DAY, why="ramp", by="ann", challengers={"b": 0.5})
    happen(project, "buy", {unit: after[unit] for unit in UNITS}, START - DAY)
    test = begun(project, "event:buy:sum", before=14 * DAY)
    served(project, after)
    assert ab.known_before(project, test) == (START - 19 * DAY, START - 5 * DAY)
    reading = ab.look(project, test, now=NOW).report.primary
    assert reading.kept == pytest.approx(0.51, abs=0.04)
    assert reading.low < 0.5 < reading.high
