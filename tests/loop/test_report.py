"""The report: one HTML file, every section in both languages, whatever the data is called and however little it is."""

from __future__ import annotations

import html.parser
import json
import os
import re
import shutil
import string
import warnings
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import matplotlib
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from loop.data.chromium import Browser
from loop.data.stories import HOSTILE, MONTHS, SINCE, bare, flights, hostile, regression

from meguri.base.errors import SettingsError
from meguri.loop import plots
from meguri.loop.report import write_report
from meguri.loop.story import PolicyResult, Story, TurnLine
from meguri.loop.words import Words, table

SECTIONS = [
    "story",
    "policies",
    "live",
    "turns",
    "calibration",
    "labels",
    "quarantine",
    "drift",
    "lineage",
    "cost",
    "reading",
]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is not installed: apt-get install chromium")
        pytest.skip("Chromium is not installed: apt-get install chromium")
    opened = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield opened
    opened.close()


class Page(html.parser.HTMLParser):
    """What a page holds: sections, attributes and text; complains when a tag is closed out of turn."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.sections: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        found = {name: value or "" for name, value in attrs}
        self.attributes += found.items()
        self.ids += [found["id"]] if "id" in found else []
        self.sections += [found["id"]] if tag == "section" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(folder: Path, story: Story, language: Any = "en") -> tuple[str, Page]:
    path = folder / "report.html"
    write_report(path, story, language=language)
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def asks_for_nothing(text: str, page: Page) -> None:
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in re.sub(r"url\(#", "", text)
    assert page.tags.isdisjoint({"script", "img", "link", "iframe", "object", "embed", "form", "base", "image"})
    assert not [
        name for name, value in page.attributes if name.startswith("on") or (name == "href" and value[:1] != "#")
    ]
    assert len(page.ids) == len(set(page.ids))
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', text)
    assert set(used) <= set(page.ids)


@pytest.fixture(scope="module")
def story() -> Story:
    return flights()


@pytest.fixture(scope="module")
def pages(story: Story, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The story's pages, and one full of hostile names, written once."""
    folder = tmp_path_factory.mktemp("pages")
    told = {"en": story, "ja": story, "hostile-en": hostile(story, HOSTILE + "x" * 300), "regression-en": regression()}
    for name, each in told.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            write_report(folder / f"{name}.html", each, language="ja" if name == "ja" else "en")
    return {name: folder / f"{name}.html" for name in told}


@pytest.mark.parametrize("language", ["en", "ja"])
def test_the_page_is_whole_and_asks_for_nothing(pages: dict[str, Path], language: str) -> None:
    text = pages[language].read_text(encoding="utf-8")
    page = Page(text)
    asks_for_nothing(text, page)
    assert page.sections == SECTIONS
    assert f'<html lang="{language}">' in text
    assert text.count("<svg") == 2 * text.count("<figure>") - 1 == 17, "two of each plot, and one of the lineage"
    assert text.count('role="img" aria-label="') == 16
    assert (
        re.search(r"#(0072b2|1b1b1d)", text[text.index("</style>") :]) is None
    )  # every colour follows the page's mode


def test_the_story_is_told_with_its_numbers(pages: dict[str, Path], story: Story) -> None:
    page = Page(pages["en"].read_text(encoding="utf-8"))
    loop, never = (f"{story.policies[name].metrics['log_loss']:.3f}" for name in ("loop", "never"))
    assert "From 1 Apr 2013 to 31 Dec 2013 (9 months) the loop made 251,324 predictions and 12 turns" in page.text
    assert "ending in 9 releases, 2 refusals by the gate and 1 unsure verdict" in page.text
    assert f"Its live log loss was {loop}, against {never} trained once" in page.text
    assert "245,020 of the predictions have their label, 6,304 still wait for it, 5,518 of them overdue" in page.text
    assert "1,325 rows broke the contract" in page.text
    assert "better than trained once" in page.text
    page = Page(pages["ja"].read_text(encoding="utf-8"))
    assert (
        "2013年4月1日から2013年12月31日まで（9 か月）に、ループは推論 251,324 件、ターン 12 回を実行しました"
        in page.text
    )
    assert "（リリース 9 回、不合格 2 回、保留 1 回）" in page.text
    assert f"本番の対数損失は {loop} でした。比較対象は、初回学習のみ {never}、" in page.text


def test_a_japanese_page_has_no_english_left(tmp_path: Path, story: Story) -> None:
    reason = "30 days since the last turn (2013-03-02) and 200 labels so far, and 150 were asked for"
    compared = "log loss is 0.0121 better than the champion on 8,203 rows"
    verdicts = {
        "pass": f"{compared}, with 95 % confidence at least 0.006 better",
        "unsure": f"{compared}, but they make 6 independent blocks of time or groups, and 10 are the least",
        "fail": "shown worse than its margin allows: AUC where dest=LAX is 0.1 worse than the champion on 90 rows",
    }
    turns = [replace(t, reason=reason, verdict_reason=verdicts[str(t.verdict)]) for t in story.loop.turns]
    policies = {**story.policies, "loop": replace(story.loop, turns=turns)}
    quarantined = {"temp: null": 9, "duplicated key": 5, "hour: in_range(0, 23)": 4, "the sensor was wet": 1}
    text, page = read(tmp_path, replace(story, policies=policies, quarantined=quarantined), "ja")
    asks_for_nothing(text, page)
    told = page.text[page.text.index("リプレイ報告書") :]
    releases = [str(turn.release) for turn in turns]
    names = [*releases, *story.drift, "dest=LAX", "the sensor was wet", "flights", "Meguri", "UTC", "AUC", "PSI"]
    names += ["meguri trace", "ID"]
    for name in sorted(names, key=len, reverse=True):
        told = told.replace(name, "")
    told = re.sub(r"\w+…", "", told)  # a name that was cut to fit
    assert re.findall("[A-Za-z]{2,}", told) == []
    assert page.text.count("前回のターン（2013-03-02）から 30 日") == 3 * len(turns), (
        "in the table and in both pictures"
    )
    assert "最も多い理由：temp が欠損" in page.text
    assert "the sensor was wet" in page.text, "a person's own words stay"


def test_a_loop_that_lost_says_so(tmp_path: Path, story: Story) -> None:
    loop, never = (replace(bare().loop, metrics=story.policies[name].metrics) for name in ("loop", "never"))
    _, page = read(tmp_path, replace(bare(), policies={"loop": never, "never": loop}))
    assert "worse than trained once" in page.text
    _, page = read(tmp_path, replace(bare(), policies={"loop": loop, "Every(7d) | Labels(10)": loop}))
    assert "the same as Every(7d) | Labels(10)" in page.text


def test_each_turn_stands_in_the_table(pages: dict[str, Path], story: Story) -> None:
    text = pages["en"].read_text(encoding="utf-8")
    table = text[text.index("<table>", text.index('id="turns"')) : text.index('id="calibration"')]
    assert table.count("<tr>") == 1 + len(story.loop.turns)
    for turn in story.loop.turns:
        assert f"{turn.time:%Y-%m-%d %H:%M}" in table
        assert turn.release is None or turn.release in table
    assert "+0.012" in table
    assert "−0.018 to −0.006" in table
    assert "8,203" in table
    assert "9.6 s" in table


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("language", ["en", "ja"])
def test_nothing_happened_is_said_in_words(tmp_path: Path, task: str, language: str) -> None:
    text, page = read(tmp_path, bare(task), language)
    asks_for_nothing(text, page)
    assert page.sections == [("actual" if task == "regression" and s == "calibration" else s) for s in SECTIONS]
    assert "<svg" not in text
    assert "nan" not in page.text.lower()
    words = Words(language)
    for key in ("turns", "calibration", "labels", "quarantine", "drift", "lineage", "cost"):
        assert words(f"none_{key}") in page.text


def test_one_class_only(tmp_path: Path, story: Story) -> None:
    zero = story.loop.predictions.with_columns(pl.lit(0).alias("label"))
    months: dict[str, dict[str, float | None]] = {m: {"auc": None, "log_loss": 0.1, "rows": 9} for m in MONTHS}
    loop = replace(
        story.loop, predictions=zero, metrics={"auc": float("nan"), "log_loss": 0.1, "rows": 81}, months=months
    )
    lonely = replace(story, policies={"loop": loop})
    _, page = read(tmp_path, lonely)
    assert "Only one class has been seen among the labels." in page.text
    assert "The live AUC is not known yet" in page.text
    assert "nan" not in page.text
    assert lonely.to_dict()["loop"]["auc"] is None


def test_regression_has_errors_and_actual_values(tmp_path: Path) -> None:
    text, page = read(tmp_path, regression())
    assert "mean absolute error" in page.text
    assert "On average 2," in page.text
    assert "log loss" not in page.text
    assert text.count("<svg") == 2 * 4  # mae, rmse, predicted and actual, cost
    assert "Each point is one period" in page.text
    assert "21 days" in page.text


def test_one_row_one_point_one_day(tmp_path: Path) -> None:
    row = pl.DataFrame({"time": [SINCE], "score": [0.0], "label": [0.0], "release": ["r"]})
    metrics = {"mae": 0.0, "rmse": 0.0, "rows": 1}
    loop = PolicyResult(row, [TurnLine(SINCE - timedelta(days=3), "first")], 0.0, metrics, {"2013-04": metrics})
    small = replace(
        bare("regression"), until=SINCE + timedelta(hours=5), step=timedelta(hours=1), policies={"loop": loop}
    )
    small = replace(small, awaited=[(SINCE, 0, 0)], drift={"x": {"2013-04": float("nan")}})
    _, page = read(tmp_path, small)
    assert "5 hours" in page.text
    assert "every hour" in page.text
    assert "1 turn without a verdict" in page.text
    small = replace(bare(), policies={"loop": replace(loop, metrics={})}, until=SINCE + timedelta(minutes=5))
    assert "5 minutes" in read(tmp_path, replace(small, step=timedelta(hours=6)))[1].text


def test_more_than_a_page_of_everything(tmp_path: Path, story: Story) -> None:
    turns = [TurnLine(SINCE + timedelta(days=i), f"reason {i}", "fail") for i in range(60)]
    many = replace(
        story,
        policies={"loop": replace(story.loop, turns=turns, seconds=9000.0)} | {f"p{i}": story.loop for i in range(4)},
        quarantined={f"reason {i}": i + 1 for i in range(30)},
        drift={f"feature_{i}": {f"20{y}-01": i / 90 for y in range(10, 30)} for i in range(40)},
        until=SINCE + timedelta(days=900),
        awaited=[(SINCE + timedelta(hours=i), 2_000_000, 0) for i in range(2000)],
    )
    text, page = read(tmp_path, many)
    assert "The picture shows the latest 40" in page.text
    assert "reason 59" in page.text
    assert "other reasons" in page.text
    assert "2 h 30 min" in page.text
    assert "The 12 features that moved most" in page.text
    assert "feature_39 moved most" in page.text
    assert len(text) < 1_500_000


def test_quiet_drift_is_called_quiet(tmp_path: Path) -> None:
    _, page = read(
        tmp_path, replace(bare(), drift={"temp": {"2013-05": 0.03, "2013-06": 12.0}, "hour": {"2013-07": 0.01}})
    )
    assert "temp moved most: PSI 12.00 in Jun 2013" in page.text
    _, page = read(tmp_path, replace(bare(), drift={"temp": {"2013-05": 0.03}}))
    assert "No feature moved much: the largest PSI is 0.03 (temp, May 2013)" in page.text


def test_hostile_names_stay_text(pages: dict[str, Path]) -> None:
    text = pages["hostile-en"].read_text(encoding="utf-8")
    page = Page(text)
    asks_for_nothing(text, page)
    assert page.sections == SECTIONS
    assert page.text.count("<script>alert(1)</script>") >= 6
    assert "遅延" in page.text
    assert not {"\x00", "\x1b"} & set(text)


def test_a_dollar_is_a_dollar(tmp_path: Path) -> None:
    priced = replace(bare(), quarantined={"from $5 to $\\bad{": 1})
    assert read(tmp_path, priced)[1].text.count("from $5 to $\\bad{") == 3  # the title and two pictures


@settings(max_examples=10, deadline=None)
@given(text=st.text(alphabet=st.characters(codec=None), min_size=1, max_size=60))
def test_any_name_stays_text(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    story = hostile(replace(bare(), labels={"predictions": 1}), text)
    written, page = read(tmp_path_factory.mktemp("any"), story)
    asks_for_nothing(written, page)
    assert page.sections == SECTIONS


@given(text=st.text(), points=st.floats(20, 900))
def test_a_fitted_text_fits_and_starts_the_same(text: str, points: float) -> None:
    fitted = plots.fit(text, points)
    assert plots.measure(fitted) <= points
    assert plots.plain(text).startswith(fitted.removesuffix("…"))


def test_the_same_story_gives_the_same_bytes(tmp_path: Path, story: Story, pages: dict[str, Path]) -> None:
    with matplotlib.rc_context({"font.size": 33, "text.usetex": True, "svg.fonttype": "path", "axes.grid": True}):
        own = dict(matplotlib.rcParams)  # a reader's own settings of matplotlib change nothing, and stay
        write_report(tmp_path / "again.html", story, language="ja")
        assert dict(matplotlib.rcParams) == own
    assert (tmp_path / "again.html").read_bytes() == pages["ja"].read_bytes()


def test_both_languages_have_the_same_texts() -> None:
    english, japanese = table()["en"], table()["ja"]
    assert list(english) == list(japanese)

    def holes(text: str) -> set[str]:
        return {name.lower() for _, name, _, _ in string.Formatter().parse(text) if name}

    for key, text in english.items():
        assert holes(text) == holes(japanese[key]), key
    source = "".join(path.read_text(encoding="utf-8") for path in Path(plots.__file__).parent.glob("*.py"))
    families = tuple(f"{name}_" for name in "g h s policy short metric verdict kind col unit none lin state".split())
    unused = [key for key in english if not re.search(f"['\"]{key}['\"]", source) and not key.startswith(families)]
    assert unused == []


def test_an_unknown_language_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be written in 'fr'"):
        write_report(tmp_path / "a.html", bare(), language="fr")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_the_summary_is_json(story: Story) -> None:
    nowhere = json.dumps(hostile(story, "x").to_dict(), allow_nan=False)  # a gain that is no number is null
    assert json.loads(nowhere)["turns"][1]["gain"] is None
    found = json.loads(json.dumps(story.to_dict(), allow_nan=False))
    assert found["loop"]["auc"] == pytest.approx(story.loop.metrics["auc"])
    assert set(found["never"]["months"]) == set(MONTHS)
    assert found["never"]["turns"] == 1
    assert len(found["turns"]) == 12
    assert found["turns"][3]["verdict"] == "unsure"
    assert found["predictions"] == 251_324
    assert sum(found["quarantined"].values()) == 1325


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (0.42, "0.42 s"), (9.96, "10 s"), (119.6, "2 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_seconds_as_a_person_says_them(seconds: float, told: str) -> None:
    assert Words("en").seconds(seconds) == told


SHOWN = """[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 0)
    .map(s => s.className.baseVal)"""
OUTSIDE = """[...document.querySelectorAll('svg')].filter(s => s.getBoundingClientRect().width > 0).flatMap(s => {
    const box = s.getBoundingClientRect(), out = t => { const r = t.getBoundingClientRect();
        return r.left < box.left - 2 || r.right > box.right + 2 || r.bottom > box.bottom + 2 };
    return [...s.querySelectorAll('text')].filter(out).map(t => t.textContent)})"""


@pytest.mark.browser
@pytest.mark.parametrize(("width", "shown"), [(390, "narrow"), (1000, "wide")])
def test_a_browser_shows_it(pages: dict[str, Path], browser: Browser, width: int, shown: str) -> None:
    for name, page in pages.items():
        browser.open(page, width=width, scheme="dark")
        assert browser.value("document.documentElement.scrollWidth") <= width
        assert browser.value("document.querySelectorAll('section').length") == len(SECTIONS)
        assert {shown} <= set(browser.value(SHOWN)) <= {shown, "lineage"}
        assert name == "hostile-en" or browser.value(OUTSIDE) == []
        kinds = {event.get("method") for event in browser.events}
        assert not kinds & {"Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"}
        sent = [event for event in browser.events if event.get("method") == "Network.requestWillBeSent"]
        assert [event["params"]["request"]["url"] for event in sent] == [page.as_uri()]
