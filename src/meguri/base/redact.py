"""Secrets are masked before anything is recorded, logged or shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

# `a.b-cD` -> a, b, c, D
_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
_SECRET = {"password", "passwords", "passwd", "passphrase", "pwd", "secret", "secrets", "credential", "credentials"}
_SECRET |= {"apikey", "authorization"}
_LAST = {"token", "tokens", "key"}
# what stands before `key` when it is a table's, a dictionary's or a graph's, not a door's
_HARMLESS = {"primary", "foreign", "sort", "partition", "group", "join", "cache", "row", "index", "unique", "natural"}

_WORD = r"[\w.-]*(?:password|passwd|passphrase|pwd|secret|credential|token|api[_-]?key|access[_-]?key|private[_-]?key)"
_PAIR = re.compile(rf"""(?ix) \b ({_WORD}s? ["']? \s* [=:] \s*) ("[^"]*" | '[^']*' | [^\s,;&"']+)""")
_BEARER = re.compile(r"(?i)\b(bearer|basic)\s+[\w.~+/=-]{8,}")
# The password ends at the first @, or at a later one that still stands before the host's end.
_URL = re.compile(r"([A-Za-z][\w+.-]*://[^\s:/@?#]*:)[^\s@]*(?:@[^\s@/?#]*)*@")
_URL_TOKEN = re.compile(r"(https?://)[^\s:/@?#]+@")


def redact(value: Any) -> Any:
    """``value`` with every secret in it replaced by ``***``; mappings, lists and tuples are walked, never changed.

    A secret is what stands under a key whose name says so (password, secret, credential, token, api_key …), the
    password in a URL, a bearer token, and ``name=value`` or ``name: value`` in text where the name says so.
    Empty values, None and booleans stay: they hide nothing, and show that a secret is not set.
    """
    if isinstance(value, Mapping):
        return {key: _under(key, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [redact(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return _text(value) if isinstance(value, str) else value


def secret(name: str) -> bool:
    """True when what stands under this name is a secret."""
    words = [word.lower() for word in _WORDS.findall(name)]
    while len(words) > 1 and words[-1].isdigit():
        words.pop()
    if not words:
        return False
    if _SECRET.intersection(words):
        return True
    return words[-1] in _LAST and not (len(words) > 1 and words[-2] in _HARMLESS)


def _under(key: Any, value: Any) -> Any:
    if not (isinstance(key, str) and secret(key)):
        return redact(value)
    if isinstance(value, Mapping):  # a section named `secrets`: the names in it stay readable
        return {name: _under(key, item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        if _WORDS.findall(key)[-1].lower() == "key":  # `key: [carrier, flight]` names columns
            return redact(value)
        return type(value)(_under(key, item) for item in value)
    if isinstance(value, (int, float)) and _WORDS.findall(key)[-1].lower() in ("token", "tokens"):  # max_tokens: 512
        return value
    return value if value is None or isinstance(value, bool) or value == "" else MASK


def _text(text: str) -> str:
    if "://" in text:
        text = _URL_TOKEN.sub(rf"\1{MASK}@", _URL.sub(rf"\1{MASK}@", text))
    return _PAIR.sub(_pair, _BEARER.sub(rf"\1 {MASK}", text))


def _pair(found: re.Match[str]) -> str:
    quote = found[2][0] if found[2][0] in "\"'" else ""
    return f"{found[1]}{quote}{MASK}{quote}"
