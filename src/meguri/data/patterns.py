"""Patterns as polars reads them (the regular expressions of Rust), asked of one text without it, in time that grows with the text alone.

Python's own ``re`` reads some of them otherwise ($, \\s, \\w, case), and a text that someone sends can make it search for hours.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import NamedTuple

from meguri.base.errors import ContractError
from meguri.data.characters import PERL, POSIX, SCRIPTS, Test, is_word, ranges

MOST = 5_000  # nodes of a pattern
_KEPT = 20_000  # steps that a pattern remembers

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
_TIMES = re.compile(r"\{([0-9]+)(,?)([0-9]*)\}")
_CODE = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|[xuU]\{([0-9A-Fa-f]{1,8})\}")
_GROUP = re.compile(r"\((?:\?(?:P?<[A-Za-z_][A-Za-z0-9_.\[\]]*>|(?P<flags>[a-z-]*)(?P<end>[:)])))?")


class _Node(NamedTuple):
    """A step: over a character that passes ``test``; or without one, where the place is as ``at`` says, to each of ``to``."""

    test: Test | None
    at: str
    to: tuple[int, ...]


class Pattern:
    """A pattern; raises ContractError for one that is read otherwise here, or not at all."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.nodes: list[_Node] = [_Node(None, "", ())]  # the first is the end
        self._looks = False  # whether it asks what stands before a place, beyond the start
        self._begin = _Parser(text, self).build()
        self._states: dict[tuple[frozenset[int], str], _State] = {}
        self._steps = 0

    def search(self, text: str) -> bool:
        """Whether the text holds the pattern somewhere."""
        state = self._state(frozenset(), "")
        for char in text:
            following = state.get(char)
            if following is None:
                following = self._step(state, char)
            if following is True:
                return True
            state = following  # type: ignore[assignment]
        return bool(self._step(state, ""))

    def add(self, test: Test | None, at: str, *to: int) -> int:
        """A node, by its number. Raises OverflowError for one too many."""
        self._looks |= at not in ("", "start", "end")
        if len(self.nodes) > MOST:
            raise OverflowError
        self.nodes.append(_Node(test, at, to))
        return len(self.nodes) - 1

    def _state(self, at: frozenset[int], before: str) -> _State:
        known = self._states.get((at, before))
        if known is None:
            if self._steps > _KEPT:
                self._states.clear()
                self._steps = 0
            known = self._states[at, before] = _State(at, before)
        return known

    def _step(self, state: _State, char: str) -> _State | bool:
        """What comes after a character, "" being the end of the text: True once the pattern was found."""
        seen, todo, following = {self._begin, *state.at}, [self._begin, *state.at], set[int]()
        found = False
        while todo:
            number = todo.pop()
            test, at, to = self.nodes[number]
            if not number:
                found = True
                break
            if test is not None:
                if char and test(char):
                    following.update(to)
            elif _holds(at, state.before, char):
                todo += (one for one in to if one not in seen)
                seen.update(to)
        if found or not char:
            result: _State | bool = found
        else:
            kind = "x" if not self._looks else "\n" if char == "\n" else "w" if is_word(char) else "x"
            result = self._state(frozenset(following), kind)
        state[char] = result
        self._steps += 1
        return result


class _State(dict[str, "_State | bool"]):
    """Where a search may stand, and what kind of character stands before it; its items are the steps taken from there."""

    def __init__(self, at: frozenset[int], before: str) -> None:
        super().__init__()
        self.at, self.before = at, before


def _holds(at: str, before: str, after: str) -> bool:
    if at == "start":
        return not before
    if at == "end":
        return not after
    if at == "line start":
        return before in ("", "\n")
    if at == "line end":
        return after in ("", "\n")
    if at:
        edge = (before == "w") != (bool(after) and is_word(after))
        return edge == (at == "edge")
    return True


Build = Callable[[int], int]  # from the node that comes after to the first one


class _Parser:
    """Reads a pattern from left to right; each part is a function that makes its nodes in front of what comes after."""

    def __init__(self, text: str, pattern: Pattern) -> None:
        self._text, self._at, self._pattern, self._flags = text, 0, pattern, ""

    def build(self) -> int:
        try:
            whole = self._either()
            if self._at < len(self._text):
                raise self._wrong("a ')' without its '('")
            return whole(0)
        except (OverflowError, RecursionError):
            raise self._wrong("so many repetitions", "let str_length bound the length of a text") from None
        except IndexError:
            raise self._wrong("an end that is none") from None

    def _wrong(self, what: str, fix: str = "write it another way") -> ContractError:
        where = f"the pattern {self._text!r}, at {self._text[self._at :][:12]!r}"
        return ContractError(f"{what} cannot be read here as polars reads it", where=where, fix=fix)

    def _next(self, text: str) -> bool:
        found = self._text.startswith(text, self._at)
        self._at += len(text) if found else 0
        return found

    def _either(self) -> Build:
        flags, ways = self._flags, [self._row()]
        while self._next("|"):
            ways.append(self._row())
        self._flags = flags
        add = self._pattern.add
        return ways[0] if len(ways) == 1 else lambda to: add(None, "", *(way(to) for way in ways))

    def _row(self) -> Build:
        parts = []
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            parts += [self._repeated(part) for part in self._part()]

        def build(to: int) -> int:
            for part in reversed(parts):
                to = part(to)
            return to

        return build

    def _repeated(self, part: Build) -> Build:
        while True:
            most: int | None
            if self._next("*"):
                least, most = 0, None
            elif self._next("+"):
                least, most = 1, None
            elif self._next("?"):
                least, most = 0, 1
            elif found := _TIMES.match(self._text, self._at):
                self._at = found.end()
                least = int(found[1])
                most = int(found[3]) if found[3] else None if found[2] else least
            else:
                return part
            self._next("?")  # which way is tried first does not matter
            part = self._times(part, least, most)

    def _times(self, part: Build, least: int, most: int | None) -> Build:
        pattern = self._pattern

        def build(to: int) -> int:
            again = least
            if most is None:
                loop = pattern.add(None, "", to)
                first = part(loop)
                pattern.nodes[loop] = _Node(None, "", (first, to))
                to, again = (first, least - 1) if least else (loop, 0)
            else:
                for _ in range(most - least):
                    to = pattern.add(None, "", part(to), to)
            for _ in range(again):
                to = part(to)
            return to

        return build

    def _part(self) -> Iterator[Build]:
        char = self._text[self._at]
        if char == "(":
            yield from self._group()
        elif char == "[":
            yield self._one(self._class())
        elif char == "\\":
            self._at += 1
            char = self._text[self._at]
            edges = {"A": "start", "z": "end", "b": "edge", "B": "no edge"}
            if char in edges and not self._text.startswith("{", self._at + 1):
                self._at += 1
                yield self._place(edges[char])
            else:
                found = self._escape()
                yield self._one(found if callable(found) else self._exactly(found, found))
        elif char in "^$":
            self._at += 1
            which = "start" if char == "^" else "end"
            yield self._place(f"line {which}" if "m" in self._flags else which)
        elif char == ".":
            self._at += 1
            yield self._one((lambda _: True) if "s" in self._flags else (lambda one: one != "\n"))
        elif char in "*+?{":
            raise self._wrong(f"a '{char}' that repeats nothing")
        else:
            self._at += 1
            yield self._one(self._exactly(char, char))

    def _group(self) -> Iterator[Build]:
        found = _GROUP.match(self._text, self._at)
        if found is None or self._text.startswith("?", found.end()):
            raise self._wrong("this group")
        flags, before = found["flags"] or "", self._flags
        off, _, on = (flags.partition("-")[2], "", flags.partition("-")[0])
        if set(on + off) - set("ims"):
            raise self._wrong(f"the flags '{flags}'", "keep to i, m and s")
        self._at = found.end()
        self._flags = "".join(set(before + on) - set(off))
        if found["end"] == ")":
            return
        inner = self._either()
        self._flags = before
        if not self._next(")"):
            raise self._wrong("a '(' without its ')'")
        yield inner

    def _place(self, at: str) -> Build:
        return lambda to: self._pattern.add(None, at, to)

    def _one(self, test: Test) -> Build:
        return lambda to: self._pattern.add(test, "", to)

    def _escape(self) -> Test | str:
        """What stands behind a backslash: a character, or a test of one."""
        char = self._text[self._at]
        if char in "dswDSW":
            self._at += 1
            test = PERL[char.lower()]
            return test if char.islower() else lambda one: not test(one)
        if char in "pP":
            return self._property(char == "P")
        if char in _ESCAPES:
            self._at += 1
            return _ESCAPES[char]
        if found := _CODE.match(self._text, self._at):
            self._at = found.end()
            return chr(int(next(filter(None, found.groups())), 16))
        if char.isascii() and not char.isalnum() and char not in "<>":
            self._at += 1
            return char
        raise self._wrong(f"'\\{char}'")

    def _property(self, negated: bool) -> Test:
        found = re.compile(r"[pP](?:([A-Z])|\{(\w+)\})").match(self._text, self._at)
        name = (found[1] or found[2]) if found else ""
        if found and name in SCRIPTS:
            ends = [part.partition("-") for part in SCRIPTS[name].split()]
            test = ranges([(int(low, 16), int(high or low, 16)) for low, _, high in ends])
        elif found and re.fullmatch("[LMNPSZC][a-z]?", name):
            test = lambda one: unicodedata.category(one).startswith(name)  # noqa: E731
        else:
            fix = "name a general category (L, Lu, N …), Han, Hiragana or Katakana, or write the characters: [α-ω]"
            raise self._wrong("this property", fix)
        self._at = found.end()
        return (lambda one: not test(one)) if negated else test

    def _class(self) -> Test:
        self._at += 1
        negated = self._next("^")
        tests: list[Test] = []
        ends: list[tuple[str, str]] = []
        while self._next("-"):
            ends.append(("-", "-"))
        if not ends and self._next("]"):
            ends.append(("]", "]"))
        while not self._next("]"):
            if found := re.compile(r"\[:(\^?)([a-z]+):\]").match(self._text, self._at):
                if found[2] not in POSIX:
                    raise self._wrong("this class")
                self._at = found.end()
                spans = POSIX[found[2]]
                pairs = list(zip(spans[::2], spans[1::2], strict=True))
                test = ranges([(ord(low), ord(high)) for low, high in pairs])
                if "i" in self._flags and not found[1]:
                    ends += pairs
                else:
                    tests.append((lambda one, test=test: not test(one)) if found[1] else test)  # type: ignore[misc]
                continue
            if self._text[self._at] == "[" or any(self._text.startswith(two, self._at) for two in ("&&", "--", "~~")):
                raise self._wrong("a class within a class", "write it as one")
            low = self._member()
            if callable(low):
                tests.append(low)
                continue
            high: Test | str = low
            if self._text[self._at] == "-" and self._text[self._at + 1] not in "]-":
                self._at += 1
                high = self._member()
            if callable(high) or high < low:
                raise self._wrong("this range")
            ends.append((low, high))
        tests += [self._exactly(low, high) for low, high in ends] if "i" in self._flags else []
        if "i" not in self._flags:
            tests.append(ranges([(ord(low), ord(high)) for low, high in ends]))
        return (
            (lambda one: not any(test(one) for test in tests))
            if negated
            else lambda one: any(test(one) for test in tests)
        )

    def _member(self) -> Test | str:
        if self._next("\\"):
            return self._escape()
        self._at += 1
        return self._text[self._at - 1]

    def _exactly(self, low: str, high: str) -> Test:
        """A character between the two; with the flag i in either case."""
        if "i" not in self._flags:
            return low.__eq__ if low == high else ranges([(ord(low), ord(high))])
        found = {chr(code) for code in range(ord(low), ord(high) + 1)}
        if any(not one.isascii() and (one.lower() != one or one.upper() != one) for one in found):
            raise self._wrong("letters beyond ASCII in either case", "write both cases: [Éé]")
        letters = {one for one in found if one.isascii()}
        found |= {one.lower() for one in letters} | {one.upper() for one in letters}
        found |= ({"ſ"} if "s" in found else set()) | ({"\u212a"} if "k" in found else set())  # which fold to them
        return found.__contains__
