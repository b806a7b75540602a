"""The phrase book: every sentence that the loop can write is told in Japanese, and every phrase is one that it writes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loop.data.sentences import DAY, START, quarantined, reasons, verdicts

from meguri.data.spec import KINDS, RULES
from meguri.loop import phrases
from meguri.loop.phrases import fill, tell
from meguri.loop.project import Project
from meguri.loop.replay import replay
from meguri.loop.trigger import TRIGGERS, Trigger
from meguri.loop.words import Words
from meguri.record.metrics import METRICS

ABBREVIATIONS = ("AUC", "MAE", "RMSE", "PSI", "EUR")
GIVEN = ("origin=a; b", "origin=JFK", "airport", "origin", "wind", "k00000", "'a'", "'b'", "'a+'", "'x and y'")

Said = dict[phrases.Kind, list[str]]


def english(told: str) -> list[str]:
    """The Latin letters of a Japanese sentence that no name, type or abbreviation accounts for."""
    for name in sorted((*ABBREVIATIONS, *GIVEN, *KINDS), key=len, reverse=True):
        told = told.replace(name, "")
    told = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d|\b[ax]\b|指標 (auc|mae) は|True|\de[-+]\d", "", told)
    return re.findall(r"[A-Za-z]+", told)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Trigger | None, str | None]]:
    return list(reasons(tmp_path_factory.mktemp("reasons")))


@pytest.fixture(scope="module")
def said(asked: list[tuple[Trigger | None, str | None]]) -> Said:
    """Every sentence, through the doors that a loop goes through."""
    fired = [reason for _, reason in asked if reason is not None]
    return {"reason": [*fired, "by hand"], "verdict": list(verdicts()), "quarantine": list(quarantined())}


def test_every_sentence_is_told_in_japanese_alone(said: Said) -> None:
    left = [
        (text, told)
        for kind, texts in said.items()
        for text in texts
        if english(told := tell(kind, text, "ja")) or told == text
    ]
    assert left == []


def test_numbers_and_dates_stay_as_they_are(said: Said) -> None:
    def numbers(text: str) -> list[str]:
        return sorted(re.findall(r"\d[\d,.:e-]*\d|\d", text))

    for kind, texts in said.items():
        for text in texts:
            assert numbers(tell(kind, text, "ja")) == numbers(text)


def test_every_phrase_is_one_that_is_said(said: Said, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> list[str]:
        phrases._patterns.cache_clear()
        return [tell(kind, text, "ja") for kind, texts in said.items() for text in texts]

    whole, found, unsaid = phrases.book(), told(), []
    for kind, entries in whole.items():
        for place, phrase in enumerate(entries if isinstance(entries, list) else []):
            less = {**whole, kind: [one for i, one in enumerate(entries) if i != place]}
            monkeypatch.setattr(phrases, "book", lambda less=less: less)
            unsaid += [phrase] if told() == found else []
    phrases._patterns.cache_clear()
    assert unsaid == []


def test_each_trigger_check_and_metric_was_asked(asked: list[tuple[Trigger | None, str | None]], said: Said) -> None:
    assert [trigger for trigger, reason in asked if reason is None] == []
    assert {type(trigger) for trigger, _ in asked} >= set(TRIGGERS.values())
    checks = {text.partition(": ")[2].partition("(")[0] for text in said["quarantine"]}
    assert set(RULES) <= checks
    judged = [name for name, metric in METRICS.items() if metric.better != "neither"]
    for name in judged:
        assert any(name.replace("_", " ") in text.lower() for text in said["verdict"])
        assert any(f"live {name.replace('_', ' ')} " in text for text in said["reason"])
    words = Words("ja")
    for name in ("log_loss", "brier", "accuracy"):  # the report calls them the same
        assert words.name("metric", name) in tell("verdict", f"{name.replace('_', ' ')} cannot be told from 1 rows: "
            "all have the same label, or a score is not finite", "ja")  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "text", "told"),
    [
        ("reason", "no release is live yet", "本番リリースがまだない"),
        ("reason", "30 days since the last turn (2013-03-02)", "前回のターン（2013-03-02）から 30 日経過"),
        (
            "reason",
            "1 hour since the last turn (2013-03-02) and 200 labels so far, and 150 were asked for",
            "前回のターン（2013-03-02）から 1 時間経過、かつ正解ラベルが 200 件到着（これまでの累計、条件は 150 件以上）",
        ),
        (
            "reason",
            "'cats and dogs' has drifted: PSI 0.31 beyond chance in 1,276 predictions of the last 14 days, above 0.2",
            "特徴量 cats and dogs がドリフト：直近 14 日の推論 1,276 件で、偶然の変動分を除いた PSI が 0.31（しきい値 0.2）",
        ),
        (
            "verdict",
            "log loss is 0.00926 better than the champion on 12,266 rows, with 95 % confidence at most 0.00062 worse, "
            "where 0.004 is accepted",
            "12,266 行の比較で、対数損失は現行モデルより 0.00926 良い（信頼水準 95% で悪化は最大でも 0.00062、許容幅は 0.004）",
        ),
        (
            "verdict",
            "shown worse than its margin allows: RMSE is 2 worse than the champion on 60 rows; AUC where a; b=c is "
            "1e-05 worse than the champion on 30 rows",
            "許容幅を超える悪化を確認：RMSE は 60 行の比較で現行モデルより 2 悪い、"
            "a; b=c の AUC は 30 行の比較で現行モデルより 1e-05 悪い",
        ),
        (
            "verdict",
            "value per answer is 1.93 JPY better than the champion on 12,266 rows, with 95 % confidence at most 0.4 JPY worse, "
            "where 1,200 JPY is accepted",
            "12,266 行の比較で、推論あたりの価値は現行モデルより 1.93 円良い"
            "（信頼水準 95% で悪化は最大でも 0.4 円、許容幅は 1,200 円）",
        ),
        ("quarantine", "hour: in_range(0, 23)", "hour が 0～23 の範囲外"),
        ("quarantine", "temp: null; a: b: gt('2013-01-01')", "temp が欠損、a: b が '2013-01-01' 以前"),
    ],
)
def test_as_an_engineer_would_write_it(kind: phrases.Kind, text: str, told: str) -> None:
    assert tell(kind, text, "ja") == told
    assert tell(kind, text, "en") == text


@pytest.mark.parametrize(
    "text",
    ["", "the boss asked for it", "30 days since the last turn (2013-03-02) and the boss asked for it", "frost at JFK",
     "temp: too cold", " and ", "no release is live yet ", "many labels so far, and 5 were asked for"],
)  # fmt: skip
def test_a_persons_own_words_stay(text: str) -> None:
    for kind in ("reason", "verdict", "quarantine"):
        assert tell(kind, text, "ja") == text


parts = st.sampled_from(
    [" and ", "; ", ": ", "a", "null", "no release is live yet", "in_range(", "0, 1)", "'", "{", "\0"]
)


@given(st.lists(parts, max_size=30).map("".join), st.sampled_from(["reason", "verdict", "quarantine"]))
def test_whatever_is_said_is_told(text: str, kind: Any) -> None:
    assert isinstance(tell(kind, text, "ja"), str)
    assert tell(kind, text, "en") == text


@given(st.text(st.characters(exclude_characters=";"), min_size=1, max_size=20))
def test_any_column_keeps_its_name(name: str) -> None:
    assert fill("{name} が欠損", {"name": name}) == tell("quarantine", f"{name}: null", "ja")


def test_latin_letters_stand_apart_from_japanese_ones() -> None:
    assert fill("本番の{metric}は", {"metric": "AUC"}) == "本番の AUC は"
    assert fill("本番の{metric}は", {"metric": "対数損失"}) == "本番の対数損失は"
    assert fill("{policy}より {gap} 良い", {"policy": "気温max", "gap": 0.1}) == "気温max より 0.1 良い"
    assert fill("the {a}{b}", {"a": "x", "b": "y"}) == "the xy"


@pytest.mark.slow
def test_a_replay_reports_in_japanese(project_root: Path) -> None:
    replay(Project.open(project_root), since=START, until=START + 2 * DAY, language="ja")
    page, summary = (project_root / f"outputs/replay/{name}" for name in ("report.html", "summary.json"))
    told = page.read_text(encoding="utf-8")
    assert "本番リリースがまだない" in told
    assert "最良の定数予測より" in told
    assert "no release is live yet" not in told
    assert "the best constant answer" not in told
    first = json.loads(summary.read_text(encoding="utf-8"))["turns"][0]
    assert first["reason"] == "no release is live yet", "kept as it was said"
