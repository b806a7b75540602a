"""Triggers: pure questions to the ledger and the clock, each answered with a reason to turn, or nothing."""

from __future__ import annotations

import ast
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from meguri.base.clock import duration, moment, spell
from meguri.base.errors import SettingsError, TriggerError

if TYPE_CHECKING:
    from meguri.record.ledger import Ledger

NO_TURN = "there has been no turn yet"


@dataclass(frozen=True)
class View:
    """What a trigger may look at.

    ``champion`` is the manifest of the live release (trained_until, reference, metrics …), ``metrics`` what its
    evaluation gave, where the manifest does not hold it; ``last_turn`` is when the last turn began. ``value`` is what
    its contract says of money, as JSON values.
    """

    now: datetime
    ledger: Ledger
    last_turn: datetime | None = None
    champion: Mapping[str, Any] | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    task: str = "binary"
    value: Mapping[str, Any] | None = None


class Trigger:
    """A question whose ``repr`` is what ``parse`` reads; ``a | b`` asks either, ``a & b`` both (& binds tighter)."""

    def ask(self, view: View) -> str | None:
        """The reason to turn now, one sentence with its numbers, or None. Changes nothing."""
        raise NotImplementedError

    def __or__(self, other: Trigger) -> Trigger:
        return Either((*_of(Either, self), *_of(Either, other)))

    def __and__(self, other: Trigger) -> Trigger:
        return Both((*_of(Both, self), *_of(Both, other)))

    def __repr__(self) -> str:
        shown = []
        for one in fields(self):  # type: ignore[arg-type]
            value = getattr(self, one.name)
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
            if one.default is MISSING:
                shown.append(text)
            elif value != one.default:
                shown.append(f"{one.name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"


def _of(kind: type[Either | Both], trigger: Trigger) -> tuple[Trigger, ...]:
    return trigger.parts if isinstance(trigger, kind) else (trigger,)


@dataclass(frozen=True, repr=False)
class Either(Trigger):
    """Any of its parts, asked in their order; the first reason is given, so the cheap ones go first."""

    parts: tuple[Trigger, ...]

    def ask(self, view: View) -> str | None:
        """The first part's reason that is one."""
        return next((reason for part in self.parts if (reason := part.ask(view)) is not None), None)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.parts))


@dataclass(frozen=True, repr=False)
class Both(Trigger):
    """All of its parts at once, asked in their order until one says no."""

    parts: tuple[Trigger, ...]

    def ask(self, view: View) -> str | None:
        """All the reasons, or None."""
        reasons = []
        for part in self.parts:
            reason = part.ask(view)
            if reason is None:
                return None
            reasons.append(reason)
        return " and ".join(reasons)

    def __repr__(self) -> str:
        return " & ".join(f"({part!r})" if isinstance(part, Either) else repr(part) for part in self.parts)


@dataclass(frozen=True, repr=False)
class Every(Trigger):
    """When so much time has passed since the last turn began; at once when there was none."""

    period: str

    def __post_init__(self) -> None:
        _period(self, "period")

    def ask(self, view: View) -> str | None:
        """Compare the clock with the last turn."""
        if view.last_turn is None:
            return NO_TURN
        passed = view.now - view.last_turn
        return (
            f"{_span(passed)} since the last turn ({_day(view.last_turn)})" if passed >= duration(self.period) else None
        )


@dataclass(frozen=True, repr=False)
class Labels(Trigger):
    """When so many predictions got a label (or a corrected one) since the last turn."""

    count: int

    def __post_init__(self) -> None:
        _need(self.count >= 1 and self.count == int(self.count), f"Labels({self.count!r}) needs a whole number above 0")

    def ask(self, view: View) -> str | None:
        """Count in the ledger; needs no table library."""
        came = view.ledger.count_labels(since=view.last_turn, as_of=view.now)
        since = f"since the last turn ({_day(view.last_turn)})" if view.last_turn else "so far"
        return f"{came:,} labels {since}, and {self.count:,} were asked for" if came >= self.count else None


@dataclass(frozen=True, repr=False)
class Stale(Trigger):
    """When the rows that the live release was trained on end so long ago."""

    age: str

    def __post_init__(self) -> None:
        _period(self, "age")

    def ask(self, view: View) -> str | None:
        """Compare the clock with the live release's trained_until."""
        if view.champion is None or not view.champion.get("trained_until"):
            return NO_TURN if view.last_turn is None else None
        until = moment(view.champion["trained_until"])
        old = view.now - until
        return f"the live release's data ended {_span(old)} ago ({_day(until)})" if old >= duration(self.age) else None


@dataclass(frozen=True, repr=False)
class Drift(Trigger):
    """When a feature of recent predictions has moved from the training rows by more than ``threshold`` (PSI).

    What chance alone explains (level ``alpha``, over all features) is taken off first, so a small batch does not cry
    wolf. Looks at matured predictions of the last ``window``; ``features``: only these, with commas between them.
    """

    threshold: float
    window: str = "14d"
    features: str = ""
    alpha: float = 0.01

    def __post_init__(self) -> None:
        _period(self, "window")
        _need(
            0 < self.threshold < math.inf,
            f"a threshold of {self.threshold!r} is impossible; 0.1 is a small shift, 0.2 a large one",
        )
        _need(0 < self.alpha < 0.5, f"an alpha of {self.alpha!r} is impossible; 0.01 is usual")

    def ask(self, view: View) -> str | None:
        """Read the recent features from the ledger and compare them with the live release's sketch."""
        reference = (view.champion or {}).get("reference")
        if not reference:
            return None
        if self.features:
            names = [name.strip() for name in self.features.split(",")]
            for name in names:
                near = difflib.get_close_matches(name, reference, n=1, cutoff=0.5)
                fix = f"did you mean '{near[0]}'?" if near else f"features: {', '.join(reference)}"
                _need(name in reference, f"the live release has no feature '{name}'", where=repr(self), fix=fix)
            reference = {name: reference[name] for name in names}
        from meguri.data.drift import features_table, psi

        since = view.now - duration(self.window)
        rows = view.ledger.joined(since=since, until=view.now, as_of=view.now, features=True)
        table = features_table(rows["features"], reference)
        if table.is_empty():
            return None
        moved = psi(reference, table, alpha=self.alpha)
        name, most = max(moved.items(), key=lambda item: item[1])
        if most <= self.threshold:
            return None
        return (
            f"'{name}' has drifted: PSI {most:.2f} beyond chance in {len(table):,} predictions of the last "
            f"{_span(duration(self.window))}, above {self.threshold:g}"
        )


@dataclass(frozen=True, repr=False)
class Worse(Trigger):
    """When the live metric of matured predictions is shown worse than it was by more than ``margin``.

    Compares the live release's predictions of the last ``window`` with its evaluation; ``against="first"`` with the
    first ``window`` it was live. Shown: the whole interval at one-sided ``alpha`` lies beyond the margin, by a bootstrap
    over blocks of ``block`` (record/stats.py), at least 10 of them. The evaluation's figure is taken as exact. Each
    asking may be wrong with probability ``alpha``, which is why it is small.
    """

    metric: str
    margin: float
    window: str = "14d"
    against: str = "evaluation"
    block: str = "1d"
    alpha: float = 0.01

    def __post_init__(self) -> None:
        _period(self, "window")
        _period(self, "block")
        _need(
            0 <= self.margin < math.inf,
            f"a margin of {self.margin!r} is impossible; give the loss you would still accept",
        )
        _need(0 < self.alpha < 0.5, f"an alpha of {self.alpha!r} is impossible; 0.01 is usual")
        _need(self.against in ("evaluation", "first"), f"against={self.against!r} is unknown: 'evaluation' or 'first'")

    def ask(self, view: View) -> str | None:
        """Read the matured predictions of the live release and judge them."""
        if view.champion is None:
            return None
        from meguri.data.value import Value
        from meguri.record.live import shown_worse

        return shown_worse(
            view.ledger,
            now=view.now,
            champion=view.champion,
            known={**(view.champion.get("metrics") or {}), **view.metrics},
            task=view.task,
            metric=self.metric,
            margin=self.margin,
            window=duration(self.window),
            first=self.against == "first",
            block=duration(self.block),
            alpha=self.alpha,
            value=Value(**view.value) if view.value else None,
        )


TRIGGERS: dict[str, type[Trigger]] = {"Every": Every, "Labels": Labels, "Drift": Drift, "Worse": Worse, "Stale": Stale}


def parse(text: str) -> Trigger:
    """Read an expression such as ``Every("30d") | Labels(5000) & Drift(0.2)``; nothing of it is ever executed.

    Raises TriggerError with the column and, for a mistyped name, the nearest right one.
    """
    text = text.replace("\n", " ").strip()
    try:
        return _read(ast.parse(text, mode="eval").body, text)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise TriggerError(
            f"the trigger '{text[:200]}' cannot be read",
            where=f"column {getattr(error, 'offset', None) or 1}",
            fix="write it like Every('30d') | Labels(5000)",
        ) from error


def _read(node: ast.expr, text: str) -> Trigger:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr | ast.BitAnd):
        left, right = _read(node.left, text), _read(node.right, text)
        return left | right if isinstance(node.op, ast.BitOr) else left & right
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise _wrong(node, text, "is no trigger", f"triggers: {', '.join(TRIGGERS)}, combined by | and &")
    kind = TRIGGERS.get(node.func.id)
    if kind is None:
        raise _wrong(node.func, text, "is no trigger", _near(node.func.id, TRIGGERS))
    names = [one.name for one in fields(kind)]  # type: ignore[arg-type]
    given = dict(zip(names, node.args, strict=False))
    if len(node.args) > len(names):
        raise _wrong(node.args[len(names)], text, f"is more than {node.func.id} takes", f"it takes {', '.join(names)}")
    for word in node.keywords:
        if word.arg not in names:
            raise _wrong(word, text, f"is nothing that {node.func.id} takes", _near(word.arg or "", names))
        if word.arg in given:
            raise _wrong(word, text, "is given twice", "give it once")
        given[word.arg] = word.value
    types = {one.name: one.type for one in fields(kind)}  # type: ignore[arg-type]
    values = {name: _constant(value, text, name, str(types[name])) for name, value in given.items()}
    try:
        return kind(**values)
    except TypeError as error:
        missing = next(name for name in names if name not in values)
        raise _wrong(node, text, f"lacks its {missing}", f"it takes {', '.join(names)}") from error
    except (TriggerError, SettingsError) as error:
        raise _wrong(node, text, f"cannot be: {error.what}", error.fix or f"it takes {', '.join(names)}") from error


def _constant(node: ast.expr, text: str, name: str, kind: str) -> str | int | float:
    value = node.value if isinstance(node, ast.Constant) else None
    if kind == "str" and isinstance(value, str):
        return value
    if kind != "str" and type(value) is int:
        return value
    if kind == "float" and isinstance(value, float):
        return value
    shown = {"str": "text in quotes, such as '30d'", "int": "a whole number", "float": "a number, 0 or more"}[kind]
    raise _wrong(node, text, f"cannot be the {name}", f"give {shown}")


def _wrong(node: ast.expr | ast.keyword, text: str, what: str, fix: str) -> TriggerError:
    part = ast.get_source_segment(text, node) or text
    column = len(text.encode()[: node.col_offset].decode()) + 1
    return TriggerError(f"'{part}' {what}", where=f"column {column} of {text}", fix=fix)


def _near(name: str, known: Mapping[str, Any] | list[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"


def _need(true: bool, what: str, where: str | None = None, fix: str | None = None) -> None:
    if not true:
        raise TriggerError(what, where=where, fix=fix)


def _period(trigger: Trigger, name: str) -> None:
    """Keep a length of time in its shortest spelling, so that equal triggers are equal."""
    length = duration(getattr(trigger, name))
    _need(length > timedelta(0), f"a {name} of no time is impossible", fix="write 36h or 14d")
    object.__setattr__(trigger, name, spell(length))


def _day(at: datetime) -> str:
    return f"{at:%Y-%m-%d}"


def _span(length: timedelta) -> str:
    """A length of time in whole days, or hours where it is shorter than two days."""
    days, hours = length // timedelta(days=1), length // timedelta(hours=1)
    count, unit = (
        (days, "day") if days >= 2 else (hours, "hour") if hours else (length // timedelta(minutes=1), "minute")
    )
    return f"{count:,} {unit}{'' if count == 1 else 's'}"
