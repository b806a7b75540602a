"""A batch against those before it: each measure has the room that it took before, and a floor below which nothing is odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Stats = Mapping[str, Any]
Raw = tuple[str, tuple[str, ...], float, Floats, float]  # check, columns, value, those before, their centre

HEADROOM = 1.15  # the largest that was seen on clean days is not the largest there is
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

    ``lively``: asked only of columns that are not mostly one value.
    """

    floor: float
    times: float
    side: Literal["both", "up", "down"] = "both"
    lively: bool = False


# Chosen on January to June of the flights (docs/decisions/0008-batch-checks.md); the scales are those of batch_stats.
RULES: dict[str, Rule] = {
    "rows": Rule(0.45, 1.0),
    "nulls": Rule(1.1, 1.3, "up"),
    "missing": Rule(0.4, 1.0, "up"),  # nulls, where there were none
    "distinct": Rule(1.2, 2.0, "down"),
    "commonest": Rule(0.5, 2.0, "up"),
    "calendar": Rule(0.6, 1.5, "down"),
    "zeros": Rule(0.4, 2.5, "up"),
    "negatives": Rule(0.4, 2.5),
    "decimals": Rule(0.6, 2.0, lively=True),
    "lowest": Rule(0.2, 3.0, "up"),
    "highest": Rule(0.15, 3.0, "up"),
    "smooth": Rule(0.6, 1.6, "down"),
    "ahead": Rule(0.3, 3.0, "up"),
    "oldest": Rule(3.5, 2.0),
    "middle": Rule(3.5, 2.0),
    "newest": Rule(3.5, 2.0),
    "rank": Rule(0.8, 2.5, lively=True),
    "below": Rule(0.6, 3.0, lively=True),
    "equal": Rule(0.5, 3.0, "up"),
    "ratio": Rule(0.35, 5.0, lively=True),
    "tells": Rule(0.6, 4.0, lively=True),
    "together": Rule(0.55, 2.5, "up", lively=True),
    "follows": Rule(0.1, 1.0, "up", lively=True),  # together, where the one always followed from the other
    "shape": Rule(1.0, 3.0, lively=True),
    "sums": Rule(0.4, 2.0, "down"),
    "hours": Rule(0.12, 2.0, "up"),
    "turned": Rule(0.1, 2.0, "up"),
    "unseen": Rule(0.6, 2.0, "up", lively=True),
    "unseen text": Rule(0.05, 4.0, "up", lively=True),
    "couples": Rule(0.05, 3.0, "up", lively=True),
    "form": Rule(0.02, 3.0, "up"),
    "mix": Rule(0.25, 3.0, "up"),
    "gone": Rule(3.0, 1.0, "up", lively=True),
    "repeat": Rule(0.3, 1.5, "up"),
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

    A measure must leave its room both around what was usual and around the last batch: what comes step by step, such as the
    cold, is no break. What came before gives more room when it was few batches (by (12 / n)^1.5, half of that to the farthest of them), and
    the room is never below chance: three rows of what was never seen, else
    four standard deviations: of a share 1 / √(4 readings) on the scale that is kept, of a correlation 1 / √readings.
    """
    shares: dict[str, list[float]] = {}
    for stats in history:
        for name, share in stats["scalars"]["commonest"].items():
            shares.setdefault(name, []).append(share)
    still = {name for name, before in shares.items() if np.median(before) > STILL}
    usual_readings = {name: _usual(name, history) for name in batch["readings"]}
    readings = {name: min(float(count), usual_readings[name]) for name, count in batch["readings"].items()}
    found = []
    for check, columns, value, past, usual in _all(batch, history):
        rule = RULES[check]
        if len(past) < max(learn, 2) or (rule.lively and still.intersection(columns)):
            continue
        largest, second = np.sort(np.abs(past - usual))[[-1, -2]]  # one odd batch gives its own kind room, little more
        known = usual_readings if check in ("nulls", "missing") else readings
        count = min((known[name] for name in columns if name in known and check not in BY_ROW), default=batch["rows"])
        noise = 3 / count if check in NEW else (2 if check in SHARES else 4) / np.sqrt(count)
        few = (12 / len(past)) ** 1.5
        room = max(HEADROOM * max(rule.floor, noise, (1 + few) * rule.times * second), 1.2 * (1 + few / 2) * largest)
        moves = value - usual, value - float(past[-1])
        sign = {"up": 1, "down": -1, "both": 1 if moves[0] > 0 else -1}[rule.side]
        used = min(sign * move for move in moves) / room
        found.append(Score(check, columns, value, usual, float(room), float(used)))
    return sorted(found, key=lambda score: -score.used)


def _usual(name: str, history: Sequence[Stats]) -> float:
    return float(np.median([stats["readings"].get(name, 1) for stats in history])) if history else 1.0


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
    yield from _scalars(batch, history)
    yield from _sums(batch, history)
    yield from _calendar(batch, history)
    yield from _shapes(batch, history)
    yield from _hours(batch, history)
    for name, sketch, past in _pasts(batch, history, "values"):
        yield from _values(name, sketch, past, text=name in batch["shapes"])
        if name in batch["names"]:
            yield from _gone(name, sketch, past)
    for one in batch["couples"]:
        inner = [{"couples": stats["couples"].get(one, {})} for stats in (batch, *history)]
        for other, sketch, past in _pasts(inner[0], inner[1:], "couples"):
            yield from _new("couples", (one, other), sketch, past)
    for name, sketch, past in _pasts(batch, history, "shapes"):
        yield from _new("form", (name,), sketch, past)
    contents = [stats["content"] for stats in history if stats["content"] is not None]
    if batch["content"] is not None and contents:
        for _, _, new, before, _ in _new("repeat", (), batch["content"], contents):
            yield "repeat", (), 1 - new, 1 - before, 0.0


def _pasts(batch: Stats, history: Sequence[Stats], what: str) -> Iterator[tuple[str, Stats, list[Stats]]]:
    for name, sketch in batch[what].items():
        past = [stats[what][name] for stats in history if name in stats[what]]
        if past:
            yield name, sketch, past


def _rows(batch: Stats, history: Sequence[Stats]) -> Raw:
    """Rows as a log, against the same day of the week where two such batches are known."""
    days = np.array([stats["weekday"] for stats in history])
    counts = np.log([stats["rows"] for stats in history])
    usual = {int(day): float(np.median(counts[days == day])) for day in np.unique(days)}
    if np.sum(days == batch["weekday"]) < 2:
        usual = dict.fromkeys([*usual, batch["weekday"]], float(np.median(counts)))
    centre = usual[batch["weekday"]]
    past = counts - np.array([usual[int(day)] for day in days]) + centre
    return "rows", (), float(np.log(batch["rows"])), past, centre


def _scalars(batch: Stats, history: Sequence[Stats]) -> Iterator[Raw]:
    past: dict[tuple[str, ...], list[float]] = {}
    for stats in history:
        for where, value in _flat(stats["scalars"]):
            past.setdefault(where, []).append(value)
    now = dict(_flat(batch["scalars"]))
    for (check, *columns), value in now.items():
        values = np.array(past.get((check, *columns), []))
        check_of = NEVER.get(check, check) if not values.any() else check
        if check not in ("rows", "alone", "calendar", "sums") and len(values):
            yield check_of, tuple(columns), value, values, float(np.median(values))


def _calendar(batch: Stats, history: Sequence[Stats]) -> Iterator[Raw]:
    """How often a column that is mostly a part of the time is it; of two such parts (a day in January) the better one."""
    past: dict[str, dict[str, list[float]]] = {}
    for stats in history:
        for name, parts in stats["scalars"]["calendar"].items():
            for part, share in parts.items():
                past.setdefault(name, {}).setdefault(part, []).append(share)
    for name, parts in past.items():
        now = batch["scalars"]["calendar"].get(name, {})
        mostly = {part: np.array(shares) for part, shares in parts.items() if 2 * len(shares) > len(history)}
        if mostly:
            best = max(mostly, key=lambda part: now.get(part, 0.0) - float(np.median(mostly[part])))
            yield "calendar", (name, best), now.get(best, 0.0), mostly[best], float(np.median(mostly[best]))


def _sums(batch: Stats, history: Sequence[Stats]) -> Iterator[Raw]:
    """How often a number is the sum of two others, as it was in most batches."""
    past: dict[tuple[str, str], list[float]] = {}
    for stats in history:
        for name, parts in stats["scalars"]["sums"].items():
            for part, share in parts.items():
                past.setdefault((name, part), []).append(share)
    for (name, part), shares in past.items():
        if 2 * len(shares) > len(history):
            now = batch["scalars"]["sums"].get(name, {}).get(part, 0.0)
            yield "sums", (name, part), now, np.array(shares), float(np.median(shares))


def _flat(scalars: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[tuple[str, ...], float]]:
    for check, by_column in scalars.items():
        for one, value in by_column.items():
            if isinstance(value, dict):
                yield from (((check, one, other), number) for other, number in value.items())
            else:
                yield (check, one), value


def _shapes(batch: Stats, history: Sequence[Stats]) -> Iterator[Raw]:
    """How far each quantile is from the middle of before: arsinh of quartile ranges, so even near it and then a log."""
    for name, quantiles in batch["quantiles"].items():
        past = np.array([stats["quantiles"][name] for stats in history if name in stats["quantiles"]])
        if len(past):
            middle = float(np.median(past[:, 3]))
            scale = np.median(past[:, 4] - past[:, 2]) or np.median(past[:, -1] - past[:, 0]) or abs(middle) or 1.0
            placed = np.arcsinh((np.vstack([past, quantiles]) - middle) / scale)
            for place, values in enumerate(placed.T):
                yield "shape", (name, str(place)), float(values[-1]), values[:-1], float(np.median(values[:-1]))


def _hours(batch: Stats, history: Sequence[Stats]) -> Iterator[Raw]:
    """The share of rows at other hours than before; an hour earlier or later is what summer time does."""
    for name, hours in batch["hours"].items():
        past = [stats["hours"][name] for stats in history if name in stats["hours"]]
        if past:
            usual, every = np.median(past, axis=0), np.vstack([past, hours])
            far = np.array([np.abs(every - np.roll(usual, by)).sum(axis=1) / 2 for by in range(-12, 12)])
            near = far[11:14].min(axis=0)
            turned = near - far.min(axis=0)
            yield "hours", (name,), float(near[-1]), near[:-1], 0.0
            yield "turned", (name,), float(turned[-1]), turned[:-1], 0.0


def _values(name: str, sketch: Stats, past: list[Stats], *, text: bool) -> Iterator[Raw]:
    """The share of rows with a value that no other batch has, and the share with other values than usual."""
    for check, columns, new, before, usual in _new("unseen text" if text else "unseen", (name,), sketch, past):
        if text:
            yield check, columns, new, before, usual
        else:  # of numbers many are new on any day: twice as many of them is more than twice as odd
            yield check, columns, float(np.arcsin(np.sqrt(new))), np.arcsin(np.sqrt(before)), usual
    if min(sketch["below"], *(p["below"] for p in past)) == 2**32:
        keys = sorted({key for p in [*past, sketch] for key in p["counts"]})
        counts = np.array([[p["counts"].get(key, 0) for key in keys] for p in [*past, sketch]], dtype=np.float64)
        shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
        usual = np.median(shares[:-1], axis=0)
        far = np.abs(shares - usual / (usual.sum() or 1)).sum(axis=1) / 2
        yield "mix", (name,), float(far[-1]), far[:-1], 0.0


def _new(check: str, columns: tuple[str, ...], sketch: Stats, past: list[Stats]) -> Iterator[Raw]:
    """The share of rows whose value no other batch has, now and in each batch before, where enough can be compared."""
    below = min(sketch["below"], *(p["below"] for p in past))
    seen = Counter(key for p in past for key in p["counts"])

    def share(sketch: Stats, least: int) -> float:
        here = {key: count for key, count in sketch["counts"].items() if int(key) < below}
        return float(sum(count for key, count in here.items() if seen[key] <= least) / max(1, sum(here.values())))

    if below == sketch["below"] or sum(int(key) < below for key in sketch["counts"]) >= FEWEST:
        yield check, columns, share(sketch, 0), np.array([share(p, 1) for p in past]), 0.0


def _gone(name: str, sketch: Stats, past: list[Stats]) -> Iterator[Raw]:
    """Values that every batch had and this one has not: the log of how many rows they had in the mean."""
    for key in past[-1]["counts"]:
        if key not in sketch["counts"] and all(p["counts"].get(key, 0) >= 3 for p in past):
            mean = float(np.mean([p["counts"][key] for p in past]))
            yield "gone", (name, key), float(np.log1p(mean)), np.zeros(len(past)), 0.0
