"""The pages about data: whole in one file, in both languages, whatever the columns are called."""

from __future__ import annotations

import os
import re
import shutil
import string
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from loop.data.chromium import Browser

from meguri.data.diff import Diff, diff
from meguri.data.drift import sketch
from meguri.data.statistics import profile
from meguri.loop import data_report
from meguri.loop.data_report import DataWords, summary, write_diff, write_profile

NOW = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
HOSTILE = "<script>alert(1)</script>\"'&\x00\n$x_1$"


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


def table(count: int, shift: float = 0.0) -> pl.DataFrame:
    rng = np.random.default_rng(count)
    at = datetime(2024, 1, 1, tzinfo=UTC)
    return pl.DataFrame(
        {
            "delay": np.exp(2 * rng.normal(size=count) + shift),
            "hour": rng.integers(0, 24, count),
            "carrier": rng.choice([f"c{i:02}" for i in range(30)], count),
            HOSTILE: rng.choice([HOSTILE, "", "列"], count),
            "at": [at + timedelta(hours=i) for i in range(count)],
            "late": rng.random(count) < 0.2,
            "big": rng.integers(0, 10**9, count),
            "tags": [[1]] * count,
            "never": pl.Series([None] * count, dtype=pl.Float64),
        }
    ).with_columns(hour=pl.when(pl.col("hour") > 1).then("hour"))


@pytest.fixture(scope="module")
def found() -> Diff:
    old = table(900).with_columns(gone=1, retyped=1, first=1.5)
    new = table(700, 1.5).with_columns(
        added=1, retyped=pl.lit("1"), first=2.5, at=pl.lit(None, pl.Datetime("us", "UTC"))
    )
    return diff(old, new, names=("January", HOSTILE))


def checked(path: Path, language: str) -> str:
    """The text of a page, after it was seen to ask for nothing and to run nothing."""
    text = path.read_text(encoding="utf-8")
    assert f'<html lang="{language}">' in text
    assert "default-src 'none'" in text
    assert not re.search(r"<script|<link|<img|@import|\bsrc=|https?://(?!www\.w3\.org)", text)
    assert "\x00" not in text
    assert len(set(re.findall(r' id="([^"]+)"', text))) == len(re.findall(r' id="([^"]+)"', text))
    return text


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_diff_is_one_page_with_a_plot_for_each_column(found: Diff, language: Any, tmp_path: Path) -> None:
    path, again = tmp_path / "diff.html", tmp_path / "again.html"
    write_diff(path, found, created=NOW, language=language)
    write_diff(again, found, created=NOW, language=language)
    assert path.read_bytes() == again.read_bytes()
    text = checked(path, language)
    words = DataWords(language)
    for part in (
        "January",
        "delay",
        words("state_gone"),
        words("state_drifted"),
        words("state_retyped"),
        "2026-01-02 03:04",
    ):
        assert part in text
    drawn = [one.name for one in found.changes if one.bars and len(one.bars.get("labels", "ab")) > 1]
    assert text.count('<svg class="wide"') == len(drawn) == text.count("<figure>")
    assert {"delay", "hour", "carrier", "late", "big", "first", "at"} <= set(drawn)
    assert words("cell_missing") in text


@pytest.mark.parametrize("language", ["en", "ja"])
def test_a_profile_is_one_page_with_a_histogram_for_each_column(language: Any, tmp_path: Path) -> None:
    path = tmp_path / "profile.html"
    write_profile(path, profile(table(500)), title=HOSTILE, created=NOW, language=language)
    text = checked(path, language)
    assert text.count('<svg class="hist"') == 7
    assert "carrier" in text
    assert DataWords(language)("p_more", n=27) in text


def test_an_empty_profile_and_a_diff_of_equal_tables(tmp_path: Path) -> None:
    write_profile(tmp_path / "p.html", profile(table(10).clear()), title="empty", created=NOW, language="en")
    checked(tmp_path / "p.html", "en")
    same = diff(table(300), table(300))
    write_diff(tmp_path / "d.html", same, created=NOW, language="en")
    assert "Nothing has changed beyond what chance explains, in any of 9 columns." in checked(tmp_path / "d.html", "en")
    assert "9 列のいずれにも" in summary(same, "ja")


def test_training_is_drawn_by_its_cells(tmp_path: Path) -> None:
    reference = sketch(table(3000), ["delay", "carrier", "late"])
    moved = diff(reference, table(400, 2.0), names=("training", "serving"))
    write_diff(tmp_path / "d.html", moved, created=NOW, language="en")
    text = checked(tmp_path / "d.html", "en")
    assert "delay has drifted" in text
    assert "&lt; " in text
    assert "12 commonest of" in text


def test_the_sentences_name_what_changed(found: Diff) -> None:
    english, japanese = summary(found, "en"), summary(found, "ja")
    assert "gone is gone; retyped has another type; " in english
    assert "added is new" in english
    assert "900 rows (−22%)" in english
    assert "gone が消失" in japanese
    assert "900 行です（−22%）" in japanese


def test_both_languages_say_the_same_things() -> None:
    def holes(text: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(text) if name}

    texts = data_report._texts()
    assert set(texts["en"]) == set(texts["ja"])
    for key, english in texts["en"].items():
        assert {h for part in english.split("|") for h in holes(part)} >= holes(texts["ja"][key]), key


@pytest.mark.browser
def test_a_browser_shows_the_pages_whole(browser: Browser, found: Diff, tmp_path: Path) -> None:
    write_diff(tmp_path / "diff.html", found, created=NOW, language="ja")
    write_profile(tmp_path / "profile.html", profile(table(500)), title="rows", created=NOW, language="en")
    for name in ("diff.html", "profile.html"):
        for width in (1100, 390):
            for scheme in ("light", "dark"):
                browser.open(tmp_path / name, width=width, scheme=scheme)
                assert browser.value("document.documentElement.scrollWidth") <= width
                assert browser.value("getComputedStyle(document.querySelector('.tiles')).display") == "grid"
                wrong = [e for e in browser.events if e.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]
                assert wrong == []
