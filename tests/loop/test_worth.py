"""Money in a turn, a replay and the report: what a gain comes to, beside what training and serving cost."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from conftest import START
from loop.data.stories import flights

from meguri.base.errors import SettingsError
from meguri.base.money import money
from meguri.loop import worth
from meguri.loop.project import Project
from meguri.loop.replay import replay
from meguri.loop.report import write_report
from meguri.loop.story import Story
from meguri.loop.tick import tick
from meguri.loop.turn import turn
from meguri.loop.words import Words

DAY = timedelta(days=1)
VALUE = ', value=Value("JPY", {True: {True: 120, False: -100}, False: {True: -80, False: 0}}))'


def priced(root: Path, **settings: str) -> Path:
    """The project with money in its contract, and these lines in its settings."""
    schema, yaml = root / "src/repository/schema.py", root / "hydra/default.yaml"
    text = schema.read_text().replace("import Contract", "import Contract, Value")
    schema.write_text(text.replace('label_after="6h")', 'label_after="6h"' + VALUE))
    lines = [line for line in yaml.read_text().splitlines() if line.split(":")[0] not in settings]
    yaml.write_text("\n".join([*lines, *(f"{name}: {text}" for name, text in settings.items())]) + "\n")
    return root


GATE, COSTS = "{metric: value, margin: 20, block: 6h}", "{training: 3600, serving: 50}"


def test_a_turn_says_what_its_model_is_worth_and_what_it_cost(project_root: Path) -> None:
    project = Project.open(priced(project_root, gate=GATE, costs=COSTS))
    first = turn(project, now=START, reason="first")
    assert first.detail["verdict"]["currency"] == "JPY"
    assert first.detail["worth"]["gain"] is None  # nothing was answered yet
    assert first.detail["worth"]["training"] == pytest.approx(first.seconds)
    assert project.release(first.id).contract.value == project.contract.value
    tick(project, now=START + DAY)
    second = turn(project, now=START + 2 * DAY, reason="second")
    told, verdict = second.detail["worth"], second.detail["verdict"]
    assert (told["answers"], told["serving"]) == (48, 50 * 48 / 1000)
    if verdict["gain"]:
        assert told["gain"] == pytest.approx(48 * verdict["gain"])
    assert -48 * 200 <= told["low"] <= told["gain"] <= told["high"] <= 48 * 200
    done = subprocess.run(
        [sys.executable, "-m", "meguri", "turn", "--now", str(START + 3 * DAY)],
        cwd=project_root, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "verdict: " in done.stdout
    assert "value per answer is" in done.stdout
    assert "JPY" in done.stdout
    assert "at the 72 answers of the last 30 days" in done.stdout
    assert "serving them cost 3.6 JPY; training cost" in done.stdout


FOUND = {"currency": "JPY", "answers": 256_543, "days": 30, "seconds": 1440.0, "gain": 481_234.5, "low": -20_000.0,
         "high": 790_000.0, "training": 12.0, "serving": 1283.0}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "english", "japanese"),
    [
        (
            {},
            "about 481,234 JPY more at the 256,543 answers of the last 30 days (between -20,000 JPY and 790,000 JPY); "
            "serving them cost 1,283 JPY; training cost 12 JPY (24 min 0 s)",
            "直近 30 日の推論 256,543 件に換算して約 481,234 円の増加（-20,000 円から 790,000 円の間）、"
            "その配信費用は 1,283 円、学習の費用は 12 円（24 分 0 秒）",
        ),
        (
            {"gain": -3.5, "low": None, "training": None, "serving": None, "answers": 1, "currency": "EUR"},
            "about 3.5 EUR less at the one answer of the last 30 days",
            "直近 30 日の推論 1 件に換算して約 3.5 EUR の減少",
        ),
        (
            {"gain": None, "training": None},
            "serving the 256,543 answers of the last 30 days cost 1,283 JPY",
            "直近 30 日の推論 256,543 件の配信費用は 1,283 円",
        ),
        ({"gain": None, "training": None, "serving": None}, "", ""),
    ],
)
def test_how_it_is_said(change: dict[str, Any], english: str, japanese: str) -> None:
    assert worth.told(FOUND | change, Words("en")) == english
    assert worth.told(FOUND | change, Words("ja")) == japanese


@pytest.mark.parametrize(
    ("value", "told"), [(0, "0"), (0.01234, "0.0123"), (1.926, "1.93"), (999.6, "1,000"), (-480_000.4, "-480,000")]
)
def test_an_amount_of_money(value: float, told: str) -> None:
    assert money(value, "EUR") == f"{told} EUR"
    assert money(value, "JPY", "ja") == f"{told} 円"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"gate": GATE}, "gate.metric"),
        ({"gate": "{metric: log_loss, margin: 0.05, guards: {value: 1}}"}, "gate.guards"),
        ({"costs": COSTS}, "costs"),
    ],
)
def test_money_in_the_settings_alone_is_an_error_before_anything_is_trained(
    project_root: Path, settings: dict[str, str], named: str
) -> None:
    priced(project_root, **settings)
    schema = project_root / "src/repository/schema.py"
    schema.write_text(schema.read_text().replace(VALUE, ")"))
    with pytest.raises(SettingsError, match=f"{named} is about money"):
        turn(Project.open(project_root), now=START, reason="first")
    assert not (project_root / "outputs/runs").exists()


@pytest.mark.parametrize("wrong", ["{training: -1}", "{serving: .inf}", "{teaching: 1}"])
def test_a_cost_that_is_none_is_an_error(project_root: Path, wrong: str) -> None:
    with pytest.raises(SettingsError, match="costs"):
        Project.open(priced(project_root, costs=wrong)).settings()


def in_money() -> Story:
    """The year of flights, a value for each month."""
    story = flights()
    policies = {
        name: replace(
            policy,
            metrics={**policy.metrics, "value": worth_},
            months={
                month: {**kept, "value": worth_ + place / 10}
                for place, (month, kept) in enumerate(policy.months.items())
            },
        )
        for (name, policy), worth_ in zip(story.policies.items(), (1.926, 0.4, 1.7), strict=True)
    }
    return replace(story, policies=policies, metric="value", currency="JPY", costs={"training": 30.0, "serving": 5.0})


def test_the_report_speaks_of_money(tmp_path: Path) -> None:
    for language, said in (
        ("en", ["<b>1.93 JPY</b>", "1.53 JPY better than trained once", "value per answer, JPY", "+0.0121 JPY",
                "<th scope=\"col\" class=\"number\">left</th>", "17,334 JPY", "0.803 JPY", "45 JPY", "17,288 JPY"]),
        ("ja", ["<b>1.93 円</b>", "本番の推論あたりの価値は 1.93 円でした", "差し引き", "17,334 円", "45 円"]),
    ):  # fmt: skip
        write_report(tmp_path / "report.html", in_money(), language=language)  # type: ignore[arg-type]
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert [text for text in said if text not in page] == []
    write_report(tmp_path / "report.html", replace(in_money(), costs={}), language="en")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "17,334 JPY" in page
    assert "training cost" not in page
    write_report(tmp_path / "report.html", flights(), language="en")
    assert "JPY" not in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_replay_counts_the_money_of_each_policy(project_root: Path) -> None:
    project = Project.open(priced(project_root, gate=GATE, costs=COSTS))
    summary = replay(project, since=START, until=START + 3 * DAY)
    assert summary["currency"] == "JPY"
    state = Project(project_root, outputs=project_root / "outputs/replay/loop")
    joined = state.ledger.joined(as_of=START + 3 * DAY).filter(pl.col("label").is_not_null())
    paid = {("true", 1): 120, ("true", 0): -100, ("false", 1): -80, ("false", 0): 0}
    each = [paid[answer, int(label)] for answer, label in joined.select("answer", "label").iter_rows()]
    assert len(each) == summary["loop"]["rows"] > 20
    assert summary["loop"]["value"] == pytest.approx(sum(each) / len(each))
    assert summary["never"]["value"] is not None
    assert "JPY" in (project_root / "outputs/replay/report.html").read_text(encoding="utf-8")
