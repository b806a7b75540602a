"""Classes of characters as Unicode has them, and the patterns of Rust."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence

Test = Callable[[str], bool]  # of one character

_SPACE = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {chr(c) for c in range(0x2000, 0x200B)}
_LETTERS = (
    (0x24B6, 0x24E9),
    (0x1F130, 0x1F149),
    (0x1F150, 0x1F169),
    (0x1F170, 0x1F189),
)  # alphabetic, by category symbols
SCRIPTS = {  # Unicode 16
    "Han": "2E80-2E99 2E9B-2EF3 2F00-2FD5 3005 3007 3021-3029 3038-303B 3400-4DBF 4E00-9FFF F900-FA6D FA70-FAD9 16FE2-16FE3 "
    "16FF0-16FF1 20000-2A6DF 2A700-2B739 2B740-2B81D 2B820-2CEA1 2CEB0-2EBE0 2EBF0-2EE5D 2F800-2FA1D 30000-3134A 31350-323AF",
    "Hiragana": "3041-3096 309D-309F 1B001-1B11F 1B132 1B150-1B152 1F200",
    "Katakana": "30A1-30FA 30FD-30FF 31F0-31FF 32D0-32FE 3300-3357 FF66-FF6F FF71-FF9D 1AFF0-1AFF3 1AFF5-1AFFB 1AFFD-1AFFE "
    "1B000 1B120-1B122 1B155 1B164-1B167",
}
POSIX = {
    "alnum": "09AZaz", "alpha": "AZaz", "ascii": "\0\x7f", "blank": "\t\t  ", "cntrl": "\0\x1f\x7f\x7f", "digit": "09", "graph": "!~",
    "lower": "az", "print": " ~", "punct": "!/:@[`{~", "space": "\t\r  ", "upper": "AZ", "word": "09AZaz__", "xdigit": "09AFaf",
}  # fmt: skip


def is_word(char: str) -> bool:
    r"""Whether ``\w`` takes the character (Unicode, UTS 18: alphabetic, marks, decimal numbers, connectors, joiners)."""
    kind, code = unicodedata.category(char), ord(char)
    return (
        kind[0] in "LM"
        or kind in ("Nd", "Nl", "Pc")
        or char in "\u200c\u200d"
        or any(a <= code <= b for a, b in _LETTERS)
    )


PERL: dict[str, Test] = {
    "d": lambda char: unicodedata.category(char) == "Nd",
    "s": _SPACE.__contains__,
    "w": is_word,
}


def ranges(ends: Sequence[tuple[int, int]]) -> Test:
    """Whether a character lies between two of these codes."""
    merged: list[list[int]] = []
    for low, high in sorted(ends):
        if merged and low <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], high)
        else:
            merged.append([low, high])
    lows = [low for low, _ in merged]

    def test(one: str) -> bool:
        place = bisect_right(lows, ord(one)) - 1
        return place >= 0 and ord(one) <= merged[place][1]

    return test
