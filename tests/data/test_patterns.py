"""Patterns are read as polars reads them, and take no time that a text can make long."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from meguri.base.errors import ContractError
from meguri.data import patterns

TEXTS = ["", "a", "b", "ab", "AB", "ab\n", "\n", "a\nb", "k\u212a", "sſ", "É", "é", "日本", "ひらカタ", "٣", "²", "_", "a-b", " ", "\u2003", "\x1c", "x\u0301", "‿"]  # fmt: skip
WRITTEN = [
    "[a[b]]", "[a-z&&[^b]]", "(?x) a", r"\p{Greek}", "(?R)a",
    "^[A-Z]{2}$", "[0-9]+", r"^\d{3}-\d{4}$", r"^\w+$", r"^[\w.+-]+@[\w-]+(\.[\w-]+)+$", "a$", "^$", "", "a|b|", "(?i)^ab$", "(?i)[k-s]+$",
    r"^\S+$", r"\s", r"\bab\b", r"a\B", "^(?:a|b)*$", "^(a+)+$", "^a{2,}b{0,2}$", "^.$", "(?s)^.$", "(?m)^b$", r"\Aab\z", r"^\p{L}+$",
    r"^[\p{Han}\p{Hiragana}\p{Katakana}ー]+$", "^[ぁ-ん一-龥]+$", r"^\P{Lu}+$", "^[^a-z]*$", "[[:alpha:]]", "[^[:digit:]]$", "[]a]", "[a-]", "[-a]",
    r"^[\[\]\\^.\-]+$", r"^(?P<one>a)(?<two>b)?$", r"\x41\u0042", r"\x{65E5}", "a*+", "a**", "a{3}?", r"^(?i:A)b$", r"^(19|20)\d\d-[01]\d-[0-3]\d$",
    "a(?i)b|c", "(?i)é", r"\/\-\ \_", "^[a-b-c]+$", r"[^\d\s]", r"^\D+$", "(^a|b$)", "^*a", "()", "(|a)b", r"^[^\W_]+$", "a{0}b", "^(a?){3}$", "x́",
]  # fmt: skip


def by_polars(pattern: str, texts: list[str]) -> list[bool]:
    return pl.Series(texts, dtype=pl.String).str.contains(pattern).to_list()


@pytest.mark.parametrize("pattern", WRITTEN)
def test_what_people_write(pattern: str) -> None:
    texts = [
        *TEXTS,
        "AB\n",
        "123-4567",
        "mika@example.co.jp",
        "a" * 9,
        "aab",
        "2024-02-29",
        "[]\\^.-",
        "/- _",
        "bab",
        "c",
        "C",
        "aB",
        "a3a",
    ]
    found = patterns.pattern(pattern)
    assert [found(text) for text in texts] == by_polars(pattern, texts)


atoms = st.sampled_from([
    "a", "b", "é", "日", ".", r"\d", r"\w", r"\W", r"\s", r"\S", "[ab]", "[^a]", r"[^\w]", "[a-c日]", r"\b", r"\B", "^", "$", r"\n", r"\.", r"\p{L}", "(?i)", "k", "[s-z]",
    "-", "_", " ", "[[:upper:]1]", "(?m)", "(?s)",
])  # fmt: skip
parts = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,}", "{0,2}", "*?", "+?"])).map(lambda two: f"(?:{two[0]}){two[1]}"),
        st.lists(inner, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda ways: f"({'|'.join(ways)})"),
    ),
    max_leaves=6,
)  # fmt: skip
texts = st.text("abcAkKsS\u212aſé日\n 1-_.²\x1c\u2003", max_size=6)


@settings(max_examples=400, deadline=None)
@given(parts, st.lists(texts, min_size=1, max_size=6))
def test_as_polars_reads_them(pattern: str, texts: list[str]) -> None:
    try:
        expected = by_polars(pattern, texts)
    except pl.exceptions.PolarsError:
        assume(False)
    found = patterns.pattern(pattern)
    assert [found(text) for text in texts] == expected


@pytest.mark.parametrize("pattern", ["(?=a)b", r"(a)\1", "(", "[z-a]", r"\p{Nothing}", "a{2000}{2000}"])
def test_what_polars_would_refuse_is_refused(pattern: str) -> None:
    with pytest.raises(pl.exceptions.PolarsError):
        by_polars(pattern, ["a"])
    with pytest.raises(ContractError, match="cannot be read: "):
        patterns.pattern(pattern)


def test_no_text_makes_it_search_for_long() -> None:
    """By backtracking each of these would take ages of the universe."""
    assert not patterns.pattern("^(a+)+$")("a" * 20_000 + "b")
    assert not patterns.pattern(r"^\w+\s*\w+\s*\w+\s*\w+$")("a" * 20_000 + "!")
    assert patterns.pattern("(a?){30}a{30}$")("a" * 30)
