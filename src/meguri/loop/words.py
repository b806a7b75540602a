"""The report's texts, in English and Japanese; the table of them is words.json beside this file."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Literal

from meguri.base.errors import SettingsError
from meguri.base.money import currency_unit, money
from meguri.loop import phrases
from meguri.record.metrics import METRICS, VALUE

Language = Literal["en", "ja"]

MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"  # strftime's names depend on the machine's locale


@cache
def table() -> dict[str, dict[str, str]]:
    """Language -> key -> text."""
    found: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("words.json").read_text(encoding="utf-8"))
    return found


def rises(metric: str) -> bool:
    """Whether a higher value of the metric is a better one."""
    return metric == VALUE or (metric in METRICS and METRICS[metric].better == "higher")


class Words:
    """The report's texts in one language: ``words(key, name=value)`` gives the text with its values filled in.

    In the table "a|b" is a for n = 1 and b for any other n; whole numbers are shown with thousands separated.
    """

    def __init__(self, language: str) -> None:
        if language not in table():
            raise SettingsError(f"the report cannot be written in '{language}'", fix="choose en or ja")
        self.language = language
        self._texts = table()[language]

    def __call__(self, key: str, **values: object) -> str:
        """The text of ``key`` with its values filled in."""
        one, _, many = self._texts[key].partition("|")
        text = one if not many or values.get("n") == 1 else many
        shown = {name: f"{value:,}" if isinstance(value, int) else value for name, value in values.items()}
        return phrases.fill(text, shown)

    def name(self, kind: str, word: str) -> str:
        """The text ``kind_word``; a word that is not in the table stands for itself."""
        return self._texts.get(f"{kind}_{word}", word)

    def told(self, kind: phrases.Kind, text: str) -> str:
        """What a trigger, the gate or the quarantine said in English; where that is no phrase, the text itself."""
        return phrases.tell(kind, text, self.language)

    def better(self, metric: str) -> str:
        """``higher`` or ``lower``: which values of the metric are better."""
        return self("higher" if rises(metric) else "lower")

    def money(self, value: float, currency: str) -> str:
        """``1.93 JPY``, ``480,000 JPY``."""
        return money(value, currency, self.language)

    def unit(self, currency: str) -> str:
        """What the language calls the currency: ``JPY``."""
        return currency_unit(currency, self.language)

    def join(self, parts: list[str]) -> str:
        """``a, b and c``."""
        return self("s_and").join([self("s_join").join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)

    def date(self, at: datetime) -> str:
        """``1 Apr 2013``."""
        return (
            f"{at.year}年{at.month}月{at.day}日" if self.language == "ja" else f"{at.day} {self._short(at)} {at.year}"
        )

    def month(self, at: datetime, *, year: bool = False) -> str:
        """``Apr`` or ``Apr 2013``."""
        if self.language == "ja":
            return f"{at.year}年{at.month}月" if year else f"{at.month}月"
        return f"{self._short(at)} {at.year}" if year else self._short(at)

    def day(self, at: datetime) -> str:
        """``1 Apr``."""
        return f"{at.month}/{at.day}" if self.language == "ja" else f"{at.day} {self._short(at)}"

    @staticmethod
    def _short(at: datetime) -> str:
        return MONTHS[3 * at.month - 3 : 3 * at.month]

    def length(self, span: timedelta) -> str:
        """A span in the largest unit that tells it well: ``9 months``, ``14 days``, ``6 hours``."""
        days = span / timedelta(days=1)
        if days >= 60:
            return self("n_months", n=round(days / 30.44))
        if days >= 1:
            return self("n_days", n=round(days))
        hours = span / timedelta(hours=1)
        return self("n_hours", n=round(hours)) if hours >= 1 else self("n_minutes", n=round(hours * 60))

    def every(self, step: timedelta) -> str:
        """``every day``, ``every 6 hours``."""
        for unit, span in (("day", timedelta(days=1)), ("hour", timedelta(hours=1))):
            if step == span:
                return self("every_one", unit=self(f"unit_{unit}"))
        return self("every", span=self.length(step))

    def seconds(self, value: float) -> str:
        """``0.42 s``, ``41 s``, ``3 min 20 s``, ``2 h 5 min``."""
        units = ("時間", "分", "秒") if self.language == "ja" else ("h", "min", "s")
        if value < 9.95:
            return f"{value:.2g} {units[2]}" if value else f"0 {units[2]}"
        whole = round(value)
        if whole < 120:
            return f"{whole} {units[2]}"
        if whole < 7200:
            return f"{whole // 60} {units[1]} {whole % 60} {units[2]}"
        return f"{whole // 3600:,} {units[0]} {whole % 3600 // 60} {units[1]}"
