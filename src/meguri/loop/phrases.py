"""The phrase book: what triggers, the gate and the quarantine wrote in English, told in the report's language."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from string import Formatter
from typing import Literal

Kind = Literal["reason", "verdict", "quarantine"]

_JAPANESE = r"[\u3005\u3041-\u3096\u30a1-\u30fa\u30fc\u3400-\u9fff]"  # without punctuation
_LOOSE = re.compile(rf"{_JAPANESE}\0 {_JAPANESE}")
_TIGHT = re.compile(rf"{_JAPANESE}\0[A-Za-z]|[A-Za-z]\0{_JAPANESE}")


@cache
def book() -> dict[str, str | list[dict[str, str]]]:
    """Kind -> a regular expression (of parts that are told as they are), or phrases: language -> text.

    A text has its parts in braces, each with its kind in English: ``{span:span} since the last turn ({day:date})``. A
    phrase that ``joins`` is what stands between several of its kind.
    """
    path = Path(__file__).with_name("phrases.json")
    found: dict[str, str | list[dict[str, str]]] = json.loads(path.read_text(encoding="utf-8"))
    return found


def tell(kind: Kind, text: str, language: str) -> str:
    """``text`` in the report's language, with its numbers and names as they are; unchanged where it is no phrase."""
    told = text if language == "en" else _told(kind, text, language)
    return text if told is None else told


def fill(text: str, values: Mapping[str, object]) -> str:
    """``text`` with the values of its parts, and a space where a part in Latin letters meets Japanese ones.

    After a part that ends in Japanese, such as 1,200 円, a space of the text's own is left out.
    """
    filled = ""
    for literal, name, _, _ in Formatter().parse(text):
        for whole in (literal, "" if name is None else str(values[name])):
            piece = whole[1:] if _LOOSE.match(f"{filled[-1:]}\0{whole[:2]}") else whole
            tight = _TIGHT.fullmatch(f"{filled[-1:]}\0{piece[:1]}")
            filled += f" {piece}" if tight else piece
    return filled


def _told(kind: str, text: str, language: str) -> str | None:
    phrases = book()[kind]
    if isinstance(phrases, str):
        return text
    between = next((phrase for phrase in phrases if "joins" in phrase), None)
    if between is None:
        return _one(kind, text, language)
    # What stands between phrases may stand within one, too: `told` holds the first i pieces, in as many as can be.
    pieces = text.split(between["en"])
    told: list[list[str] | None] = [[], *[None] * len(pieces)]
    for i, before in enumerate(told):
        for end in range(i + 1, len(told) if before is not None else 0):
            one = _one(kind, between["en"].join(pieces[i:end]), language)
            if before is not None and one is not None:
                told[end] = [*before, one]
    return None if told[-1] is None else between[language].join(told[-1])


def _one(kind: str, text: str, language: str) -> str | None:
    for pattern, kinds, phrase in _patterns(kind):
        if (found := pattern.fullmatch(text)) is not None:
            parts = {name: _told(kinds[name], part, language) for name, part in found.groupdict().items()}
            if None not in parts.values():
                return fill(phrase[language], parts)
    return None


@cache
def _patterns(kind: str) -> list[tuple[re.Pattern[str], dict[str, str], dict[str, str]]]:
    """Each phrase's regular expression, the kinds of its parts, and the phrase."""
    found = []
    for phrase in book()[kind]:
        if isinstance(phrase, dict) and "joins" not in phrase:
            kinds = {name: part for _, name, part, _ in Formatter().parse(phrase["en"]) if name and part}
            found.append((re.compile(_pattern(phrase["en"], named=True), re.DOTALL), kinds, phrase))
    return found


def _pattern(text: str, *, named: bool) -> str:
    parts = []
    for literal, name, kind, _ in Formatter().parse(text):
        parts.append(re.escape(literal))
        if name and kind:
            parts.append(f"(?P<{name}>{_any(kind)})" if named else f"(?:{_any(kind)})")
    return "".join(parts)


def _any(kind: str) -> str:
    phrases = book()[kind]
    if isinstance(phrases, str):
        return phrases
    if any("joins" in phrase for phrase in phrases):
        return ".+"  # taken apart afterwards: repeated here, it could be taken apart in too many ways
    return "|".join(_pattern(phrase["en"], named=False) for phrase in phrases)
