"""A batch against those before it: each measure has the room that it took before, and a floor below which nothing is odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Stats = Mapping[str, Any]


class Raw(NamedTuple):
    """A measure of the batch, those before it, and their middle where it is not their median."""

    check: str
    columns: tuple[str, ...]
    value: float
    past: Sequence[float] | Floats
    usual: float | None = None


HEADROOM = 1.4  # the farthest that was seen on clean days is not the farthest there is
NEW = ("unseen text", "couples", "form", "repeat", "gone")  # shares as they are; those below as arcsin √share
SHARES = frozenset(
    "nulls missing commonest calendar zeros negatives decimals lowest highest ahead below equal sums unseen".split()
)
BY_ROW = ("hours", "turned")  # of a time: many rows of one hour are no single reading of the hour
STILL = float(np.arcsin(np.sqrt(0.8)))  # a column that is mostly one value says little by its other values
NEVER = {"together": "follows", "nulls": "missing"}  # what a measure is called that was always 0
FEWEST = 20  # values that must lie in what every sketch kept before their shares mean anything


@dataclass(frozen=True)
class Rule:
    """How far a measure may go: ``times`` as far as before and always ``floor``, on the side that means harm.

    ``lively``: asked only of columns that are not mostly one value. ``steps``: it may go as far step by step, from the last batch on.
    """

    floor: float
    times: float
    side: Literal["both", "up", "down"] = "both"
    lively: bool = False
    steps: bool = True


# Chosen on January to June of the flights (docs/decisions/0008-batch-checks.md); the scales are those of batch_stats.
RULES: dict[str, Rule] = {
    "rows": Rule(0.4, 1.0, steps=False),  # a Sunday's are not half of a Monday's because Saturday's were few
    "nulls": Rule(0.9, 1.3, "up"),
    "missing": Rule(0.33, 1.0, "up"),  # nulls, where there were none
    "distinct": Rule(1.2, 2.0, "down"),
    "commonest": Rule(0.41, 2.0, "up"),
    "calendar": Rule(0.49, 1.5, "down"),
    "zeros": Rule(0.33, 2.5, "up"),
    "negatives": Rule(0.33, 2.5),
    "decimals": Rule(0.49, 2.0, lively=True),
    "lowest": Rule(0.16, 3.0, "up"),
    "highest": Rule(0.12, 3.0, "up"),
    "smooth": Rule(0.6, 1.6, "down"),
    "ahead": Rule(0.25, 3.0, "up"),
    "oldest": Rule(2.9, 2.0),
    "middle": Rule(2.9, 2.0),
    "newest": Rule(2.9, 2.0),
    "rank": Rule(0.8, 2.5, lively=True),
    "below": Rule(0.6, 3.0, lively=True),
    "equal": Rule(0.41, 3.0, "up"),
    "ratio": Rule(0.29, 5.0, lively=True),
    "tells": Rule(0.49, 4.0, lively=True),
    "together": Rule(0.45, 2.5, "up", lively=True),
    "follows": Rule(0.082, 1.0, "up", lively=True),  # together, where the one always followed from the other
    "shape": Rule(1.0, 3.0, lively=True),
    "sums": Rule(0.33, 2.0, "down"),
    "hours": Rule(0.099, 2.0, "up"),
    "turned": Rule(0.082, 2.0, "up"),
    "unseen": Rule(0.95, 2.0, "up", lively=True),
    "unseen text": Rule(0.041, 4.0, "up", lively=True),
    "couples": Rule(0.041, 3.0, "up", lively=True),
    "form": Rule(0.016, 3.0, "up"),
    "mix": Rule(0.4, 3.0, "up"),
    "gone": Rule(2.5, 1.0, "up", lively=True),
    "repeat": Rule(0.25, 1.5, "up"),
}


@dataclass(frozen=True)
class Score:
    """A measure of the batch: its ``value``, what was usual, the ``room`` on both sides of that, and the share of it used."""

    check: str
    columns: tuple[str, ...]
    value: float
    usual: float
    room: float
    used: float


def scores(batch: Stats, history: Sequence[Stats], learn: int) -> list[Score]:
    """Each measure that at least ``learn`` earlier batches have, too; the one that uses most of its room first.

    A measure must leave its room both around what was usual and around the last batch: what comes step by step, such as
    the cold, is no break. What came before gives more room when it was few batches (by (12 / n)^1.5; half of that to the
    farthest of them). The room is never below chance: three rows of what was never seen, else four standard deviations,
    which are 1 / √(4 readings) for a share and 1 / √readings for a correlation, on the scales that are kept.
    """
    shares: dict[str, list[float]] = {}
    for stats in history:
        for name, share in stats["scalars"]["commonest"].items():
            shares.setdefault(name, []).append(share)
    still = {name for name, before in shares.items() if np.median(before) > STILL}
    known = [
        raw
        for raw in _all(batch, history)
        if len(raw.past) >= max(learn, 2) and not (RULES[raw.check].lively and still.intersection(raw.columns))
    ]
    if not known:
        return []
    rules = [RULES[raw.check] for raw in known]
    floor, times = np.array([rule.floor for rule in rules]), np.array([rule.times for rule in rules])
    sides = np.array([{"up": 1, "down": -1, "both": 0}[rule.side] for rule in rules])
    value, count = np.array([raw.value for raw in known]), np.array([len(raw.past) for raw in known])
    past = np.full((len(known), count.max()), np.nan)  # a measure a row, padded at its end
    for row, raw in zip(past, known, strict=True):
        row[: len(raw.past)] = raw.past
    every = np.arange(len(known))
    ordered = np.sort(past, axis=1)
    medians = (ordered[every, (count - 1) // 2] + ordered[every, count // 2]) / 2
    usual = np.array([medians[i] if raw.usual is None else raw.usual for i, raw in enumerate(known)])
    far = np.sort(np.abs(past - usual[:, None]), axis=1)
    largest, second = far[every, count - 1], far[every, count - 2]  # one odd batch gives its own kind room, little more
    few = (12 / count) ** 1.5
    chance = _chance(known, batch, history)
    room = HEADROOM * np.maximum.reduce([floor, chance, (1 + few) * times * second, (1 + few / 2) * largest])
    sign = np.where(sides == 0, np.where(value > usual, 1, -1), sides)
    steps = np.array([rule.steps for rule in rules])
    last = np.where(steps, sign * (value - past[every, count - 1]), np.inf)
    used = np.minimum(sign * (value - usual), last) / room
    found = zip(known, usual.tolist(), room.tolist(), used.tolist(), strict=True)
    told = [
        Score(raw.check, raw.columns, float(raw.value), middle, space, share) for raw, middle, space, share in found
    ]
    return sorted(told, key=lambda score: -score.used)


def _chance(known: Sequence[Raw], batch: Stats, history: Sequence[Stats]) -> Floats:
    """How far chance alone takes each measure of so many readings."""
    before = {name: [stats["readings"].get(name, 1) for stats in history] for name in batch["readings"]}
    usual = {name: float(np.median(counts)) for name, counts in before.items()}
    readings = {name: min(float(count), usual[name]) for name, count in batch["readings"].items()}

    def chance(raw: Raw) -> float:
        own = usual if raw.check in ("nulls", "missing") else readings
        counts = () if raw.check in BY_ROW else [own[name] for name in raw.columns if name in own]
        count = min(counts, default=batch["rows"])
        return float(3 / count if raw.check in NEW else (2 if raw.check in SHARES else 4) / np.sqrt(count))

    return np.array([chance(raw) for raw in known])


def links(batch: Stats, history: Sequence[Stats], learn: int) -> Iterator[tuple[str, str, int]]:
    """(one, other, rows) where ``one`` is null and ``other`` is not, though ``other`` was null, too, whenever ``one`` was.

    Such a link is known from ``learn`` batches in which ``one`` was null.
    """
    held: Counter[tuple[str, str]] = Counter()
    for stats in history:
        for one, by in stats["scalars"]["alone"].items():
            held.update({(one, other): -len(history) if count else 1 for other, count in by.items()})
    for one, by in batch["scalars"]["alone"].items():
        yield from ((one, other, int(count)) for other, count in by.items() if count and held[one, other] >= learn)


def name_of(key: str, column: str, history: Sequence[Stats]) -> str:
    """The text that a hash in ``values`` stands for."""
    return next((str(h["names"][column][key]) for h in history if key in h["names"].get(column, {})), key)


def _all(batch: Stats, history: Sequence[Stats]) -> Iterator[Raw]:
    if not history:
        return
    yield _rows(batch, history)
    yield from _scalars(batch["scalars"], [stats["scalars"] for stats in history])
    yield from _parts("sums", batch, history)
    yield from _parts("calendar", batch, history)
    yield from _shapes(batch, history)
    yield from _hours(batch, history)
    for name, sketches in _sketches("values", batch, history):
        yield from _values(name, sketches, text=name in batch["shapes"])
        if name in batch["names"]:
            yield from _gone(name, sketches)
    for one in batch["couples"]:
        inner = [stats["couples"].get(one, {}) for stats in history]
        for other, sketches in _sketches(
            "couples", {"couples": batch["couples"][one]}, [{"couples": s} for s in inner]
        ):
            yield from _new("couples", (one, other), sketches)
    for name, sketches in _sketches("shapes", batch, history):
        yield from _new("form", (name,), sketches)
    contents = [stats["content"] for stats in history if stats["content"] is not None]
    if batch["content"] is not None and contents:
        for raw in _new("repeat", (), Sketches([*contents, batch["content"]])):
            yield Raw("repeat", (), 1 - raw.value, 1 - np.array(raw.past), 0.0)


def _rows(batch: Stats, history: Sequence[Stats]) -> Raw:
    """Rows as a log, against the same day of the week where two such batches are known."""
    days = np.array([stats["weekday"] for stats in history])
    counts = np.log([stats["rows"] for stats in history])
    usual = {int(day): float(np.median(counts[days == day])) for day in np.unique(days)}
    if np.sum(days == batch["weekday"]) < 2:
        usual = dict.fromkeys([*usual, batch["weekday"]], float(np.median(counts)))
    centre = usual[batch["weekday"]]
    past = counts - np.array([usual[int(day)] for day in days]) + centre
    return Raw("rows", (), float(np.log(batch["rows"])), past, centre)


def _scalars(batch: Mapping[str, Mapping[str, Any]], history: Sequence[Stats]) -> Iterator[Raw]:
    for check in batch.keys() - {"rows", "alone", "calendar", "sums"}:
        for one, value in batch[check].items():
            past = [before[one] for stats in history if one in (before := stats[check])]
            if not isinstance(value, dict):
                yield _scalar(check, (one,), value, past)
                continue
            for other, number in value.items():
                yield _scalar(check, (one, other), number, [before[other] for before in past if other in before])


def _scalar(check: str, columns: tuple[str, ...], value: float, past: list[float]) -> Raw:
    return Raw(NEVER[check] if check in NEVER and not any(past) else check, columns, value, past)


def _parts(check: str, batch: Stats, history: Sequence[Stats]) -> Iterator[Raw]:
    """How often a number is what it was in most batches: the sum of two others, a part of the time.

    Of two parts of the time that it was (a day in January is both) it must be one.
    """
    past: dict[str, dict[str, list[float]]] = {}
    for stats in history:
        for name, parts in stats["scalars"][check].items():
            for part, share in parts.items():
                past.setdefault(name, {}).setdefault(part, []).append(share)
    for name, parts in past.items():
        now = batch["scalars"][check].get(name, {})
        mostly = {part: np.array(shares) for part, shares in parts.items() if 2 * len(shares) > len(history)}
        if check == "calendar" and mostly:
            best = max(mostly, key=lambda part: now.get(part, 0.0) - float(np.median(mostly[part])))
            mostly = {best: mostly[best]}
        yield from (Raw(check, (name, part), now.get(part, 0.0), shares) for part, shares in mostly.items())


def _shapes(batch: Stats, history: Sequence[Stats]) -> Iterator[Raw]:
    """How far each quantile is from the middle of before: arsinh of quartile ranges, so even near it and then a log."""
    for name, quantiles in batch["quantiles"].items():
        past = np.array([stats["quantiles"][name] for stats in history if name in stats["quantiles"]])
        if len(past):
            middle = float(np.median(past[:, 3]))
            scale = np.median(past[:, 4] - past[:, 2]) or np.median(past[:, -1] - past[:, 0]) or abs(middle) or 1.0
            placed = np.arcsinh((np.vstack([past, quantiles]) - middle) / scale)
            for place, values in enumerate(placed.T):
                yield Raw("shape", (name, str(place)), float(values[-1]), values[:-1])


def _hours(batch: Stats, history: Sequence[Stats]) -> Iterator[Raw]:
    """The share of rows at other hours than before; an hour earlier or later is what summer time does."""
    for name, hours in batch["hours"].items():
        past = [stats["hours"][name] for stats in history if name in stats["hours"]]
        if past:
            usual, every = np.median(past, axis=0), np.vstack([past, hours])
            far = np.array([np.abs(every - np.roll(usual, by)).sum(axis=1) / 2 for by in range(-12, 12)])
            near = far[11:14].min(axis=0)
            turned = near - far.min(axis=0)
            yield Raw("hours", (name,), float(near[-1]), near[:-1], 0.0)
            yield Raw("turned", (name,), float(turned[-1]), turned[:-1], 0.0)


class Sketches:
    """The sketches of some batches, the judged one last, as a table: ``counts`` has a batch a row, a ``keys`` a column.

    Only values are in it whose hash is ``below`` every bound, so that no sketch has left one out.
    """

    def __init__(self, sketches: Sequence[Stats]) -> None:
        self.below = min(sketch["below"] for sketch in sketches)
        self.enough = self.below == sketches[-1]["below"]
        owner = np.repeat(np.arange(len(sketches)), [len(sketch["keys"]) for sketch in sketches])
        keys = np.fromiter(chain.from_iterable(sketch["keys"] for sketch in sketches), np.int64, len(owner))
        counts = np.fromiter(chain.from_iterable(sketch["counts"] for sketch in sketches), np.float64, len(owner))
        kept = keys < self.below
        self.keys, place = np.unique(keys[kept], return_inverse=True)
        self.counts = np.zeros((len(sketches), len(self.keys)))
        self.counts[owner[kept], place] = counts[kept]
        self.enough = self.enough or np.count_nonzero(self.counts[-1]) >= FEWEST


def _sketches(what: str, batch: Stats, history: Sequence[Stats]) -> Iterator[tuple[str, Sketches]]:
    for name, sketch in batch[what].items():
        past = [stats[what][name] for stats in history if name in stats[what]]
        if past:
            yield name, Sketches([*past, sketch])


def _values(name: str, sketches: Sketches, *, text: bool) -> Iterator[Raw]:
    """The share of rows with a value that no other batch has, and the share with other values than usual."""
    for new in _new("unseen text" if text else "unseen", (name,), sketches):
        if text:
            yield new
        else:  # of numbers many are new on any day: twice as many of them is more than twice as odd
            yield Raw(new.check, (name,), float(np.arcsin(np.sqrt(new.value))), np.arcsin(np.sqrt(new.past)), 0.0)
    if sketches.below == 2**32:
        shares = sketches.counts / np.maximum(1, sketches.counts.sum(axis=1, keepdims=True))
        usual = np.median(shares[:-1], axis=0)
        far = np.abs(shares - usual / (usual.sum() or 1)).sum(axis=1) / 2
        yield Raw("mix", (name,), float(far[-1]), far[:-1], 0.0)


def _new(check: str, columns: tuple[str, ...], sketches: Sketches) -> Iterator[Raw]:
    """The share of rows whose value no other batch has, now and in each batch before, where enough can be compared."""
    if sketches.enough:
        counts = sketches.counts
        batches = np.count_nonzero(counts[:-1], axis=0)
        least = np.append(np.ones(len(counts) - 1), 0)[:, None]
        shares = (counts * (batches <= least)).sum(axis=1) / np.maximum(1, counts.sum(axis=1))
        yield Raw(check, columns, float(shares[-1]), shares[:-1], 0.0)


def _gone(name: str, sketches: Sketches) -> Iterator[Raw]:
    """Values that every batch had and this one has not: the log of how many rows they had in the mean."""
    past, now = sketches.counts[:-1], sketches.counts[-1]
    for place in np.flatnonzero((now == 0) & (past.min(axis=0, initial=np.inf) >= 3)):
        mean = float(past[:, place].mean())
        yield Raw("gone", (name, str(sketches.keys[place])), float(np.log1p(mean)), np.zeros(len(past)), 0.0)
