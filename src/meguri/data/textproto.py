"""Protocol buffers in text form, read and written without their library: messages as dicts of lists."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from meguri.base.errors import DataError

Message = dict[str, list[Any]]  # of each field its values in order: a number, text, a Word, or another message

_TOKEN = re.compile(
    r"""(?P<space>[\s\ufeff]+|\#[^\n]*)
      | (?P<text>"(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*')
      | (?P<number>[-+]?(?:0[xX][0-9a-fA-F]+ | (?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]? | (?:inf|infinity|nan)\b))
      | (?P<word>[A-Za-z_][\w.]*)
      | (?P<sign>[{}<>\[\]:,;/-])""",
    re.VERBOSE,
)
_ESCAPES = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34, "?": 63}
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_CLOSE = {"{": "}", "<": ">"}


class Word(str):
    """A name without quotes: an enum's value, or true and false."""

    __slots__ = ()


def parse(text: str) -> Message:
    """Read a message (the Text Format Language Specification of Protocol Buffers).

    Raises DataError with the line for text that is none.
    """
    tokens = _Tokens(text)
    try:
        return _message(tokens, "")
    except RecursionError:
        raise tokens.wrong("is nested too deeply") from None


class _Tokens:
    def __init__(self, text: str) -> None:
        self.text, self.place = text, 0
        self._found = self._read()
        self.kind, self.value = next(self._found)

    def _read(self) -> Iterator[tuple[str, str]]:
        place = 0
        while place < len(self.text):
            found = _TOKEN.match(self.text, place)
            self.place = place
            if found is None:
                raise self.wrong("cannot be read")
            place = found.end()
            if found.lastgroup != "space":
                yield str(found.lastgroup), found[0]
        self.place = place
        yield "end", ""

    def take(self) -> str:
        """This token's text; the next one comes into view."""
        value = self.value
        self.kind, self.value = next(self._found)
        return value

    def skip(self, *signs: str) -> bool:
        """Step over one of these signs when it is here."""
        here = self.kind == "sign" and self.value in signs
        if here:
            self.take()
        return here

    def wrong(self, what: str) -> DataError:
        line = self.text.count("\n", 0, self.place) + 1
        near = self.text[self.place : self.place + 30].partition("\n")[0].strip() or "the end"
        return DataError(
            f"'{near}' {what}", where=f"line {line}", fix="give a message in protobuf's text format (.pbtxt)"
        )


def _message(tokens: _Tokens, end: str) -> Message:
    found: Message = {}
    while tokens.value != end or tokens.kind not in ("sign", "end"):
        if tokens.kind == "word":
            name = tokens.take()
        elif tokens.skip("["):  # an extension, or the type of an Any
            name = ""
            while not tokens.skip("]"):
                if tokens.kind not in ("word", "number", "sign") or tokens.value in ("{", "}"):
                    raise tokens.wrong("is no name of a type")
                name += tokens.take()
        else:
            raise tokens.wrong("is no name of a field")
        colon = tokens.skip(":")
        values = found.setdefault(name, [])
        if tokens.skip("["):
            while not tokens.skip("]"):
                values.append(_value(tokens))
                tokens.skip(",")
        elif colon or tokens.value in _CLOSE:
            values.append(_value(tokens))
        else:
            raise tokens.wrong("should follow a colon")
        tokens.skip(",", ";")
    if end:
        tokens.take()
    return found


def _value(tokens: _Tokens) -> Any:
    if tokens.kind == "text":
        raw = b""
        while tokens.kind == "text":  # neighbours are one
            raw += _unquoted(tokens.take()[1:-1])
        return raw.decode("utf-8", "replace")
    if tokens.kind == "sign" and tokens.value in _CLOSE:
        return _message(tokens, _CLOSE[tokens.take()])
    sign = -1 if tokens.skip("-") else 1
    if tokens.kind == "number":
        return sign * _number(tokens.take())
    if tokens.kind == "word" and sign == 1:
        return Word(tokens.take())
    if tokens.kind == "word" and tokens.value.lower() in ("inf", "infinity", "nan"):
        return -float(tokens.take())
    raise tokens.wrong("is no value")


def _number(text: str) -> int | float:
    whole = text.lower()
    if "0x" in whole:
        return int(whole, 16)
    if re.fullmatch(r"[-+]?\d+", whole):
        digits = whole.lstrip("+-")
        return int(whole, 8) if len(digits) > 1 and digits[0] == "0" and re.fullmatch("[0-7]+", digits) else int(whole)
    return float(whole.removesuffix("f") if not whole.endswith("inf") else whole)


def _unquoted(text: str) -> bytes:
    out, place = b"", 0
    for found in _ESCAPE.finditer(text):
        octal, byte, short, long, one = found.groups()
        out += text[place : found.start()].encode("utf-8", "surrogatepass")
        place = found.end()
        if short or long:
            code = int(short or long, 16)
            out += chr(code).encode("utf-8", "surrogatepass") if code < 0x110000 else b"?"
        elif one is not None:
            out += bytes([_ESCAPES[one]]) if one in _ESCAPES else one.encode()
        else:
            out += bytes([int(octal, 8) & 255 if octal else int(byte, 16)])
    return out + text[place:].encode("utf-8", "surrogatepass")


def write(message: Message, indent: int = 0) -> str:
    """The text of a message, a field a line."""
    lines, space = [], "  " * indent
    for name, values in message.items():
        for value in values:
            if isinstance(value, dict):
                lines.append(f"{space}{name} {{\n{write(value, indent + 1)}{space}}}\n")
            else:
                lines.append(f"{space}{name}: {_said(value)}\n")
    return "".join(lines)


def _said(value: Any) -> str:
    if isinstance(value, Word):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return repr(value)
    signs = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(signs.get(c) or (c if c >= " " and c != "\x7f" else f"\\{ord(c):03o}") for c in value) + '"'
