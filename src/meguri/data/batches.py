"""Batches: a table as a whole, held against the batches before it; what was accepted is remembered as small statistics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from meguri.base.clock import duration, moment, spell
from meguri.base.errors import DataError
from meguri.base.files import locked, write_atomic
from meguri.data import batch_judge
from meguri.data.batch_judge import Score
from meguri.data.batch_stats import FORMAT, LEVELS, Stats, measure
from meguri.data.contract import Checked, Contract

ODD = 0.8  # of its room: worth a look
SHOWN = 12  # findings that are told of one batch
ONE = (
    "shape",
    "gone",
    "calendar",
    "decimals",
    "sums",
)  # checks of one column, whose score names a value or a part of it, too
FEW = 3  # rows that break a link and may be an accident


@dataclass(frozen=True)
class Rules:
    """What a person may say of a batch.

    It is held against the last ``history`` batches, once there are ``learn``. ``fresh``: its newest time may be so old.
    ``rows``: so many, from and to. With ``stop`` False nothing stops it, and it is learned from.
    """

    history: int = 60
    learn: int = 14
    fresh: str | timedelta | None = None
    rows: tuple[int, int] | None = None
    stop: bool = True


@dataclass(frozen=True)
class Finding:
    """What is odd about a batch: the ``check``, the ``columns`` it is about, what was ``found`` and what was ``expected``.

    ``stop`` says that the batch is broken and goes no further; else it is worth a look. ``batch`` is its beginning, where
    a table was judged in parts.
    """

    check: str
    columns: tuple[str, ...]
    found: str
    expected: str
    stop: bool
    batch: datetime | None = None

    def __str__(self) -> str:
        when = f"{self.batch:%Y-%m-%d %H:%M}: " if self.batch else ""
        about = f"{' and '.join(self.columns)}: " if self.columns else ""
        return f"{when}{about}{self.found}; expected {self.expected}"


class Batches:
    """The statistics of the accepted batches, one JSON file of ``folder`` for each door.

    A file is always whole; several processes may add at once. The last 120 batches of a door are kept.
    """

    kept = 120

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, door: str) -> list[Stats]:
        """What is remembered of the door's batches, oldest first."""
        path = self.folder / f"{door}.json"
        if not path.exists():
            return []
        try:
            batches: list[Stats] = json.loads(path.read_text(encoding="utf-8"))
            return [stats for stats in batches if stats["format"] == FORMAT]
        except (OSError, ValueError, TypeError, KeyError) as error:
            fix = "move the file away: it is learned anew"
            raise DataError("what is remembered of the batches cannot be read", where=path, fix=fix) from error

    def add(self, door: str, *batches: Stats) -> None:
        """Remember batches that were accepted."""
        with locked(self.folder / ".lock"):
            every = [*self.read(door), *batches][-self.kept :]
            lines = ",\n".join(json.dumps(stats, ensure_ascii=False, separators=(",", ":")) for stats in every)
            write_atomic(self.folder / f"{door}.json", f"[{lines}]\n")

    def take(
        self,
        rows: pl.DataFrame,
        contract: Contract,
        *,
        door: str,
        now: datetime,
        run: str | None = None,
        rules: Rules = Rules(),
        every: timedelta | None = None,
    ) -> list[Finding]:
        """Judge what the contract let through, and remember it unless a finding stops it.

        With ``every`` the rows are judged in parts of that length, whole ones that were not judged before, in order of
        time up to the first that is stopped: what is read again and again is judged once. A first table's earlier half teaches.
        """
        history = self.read(door)
        new, findings = list[Stats](), list[Finding]()
        parts = list(_parts(rows, contract.time, every, history, now)) if every else [(None, now, rows)]
        if not history:
            rules = replace(rules, learn=max(rules.learn, len(parts) // 2))
        for start, until, part in parts:
            stats = measure(part, contract, now=until)
            found = compare(stats, contract, [*history, *new], rules, now=until if start else now)
            findings += [Finding(f.check, f.columns, f.found, f.expected, f.stop, start) for f in found]
            if any(finding.stop for finding in found):
                break
            new.append(stats | {"run": run, "until": until.isoformat()})
        if new:
            self.add(door, *new)
        return findings


def judge(
    rows: pl.DataFrame,
    contract: Contract,
    history: Sequence[Stats],
    rules: Rules = Rules(),
    *,
    now: datetime,
    references: Mapping[str, pl.Series] | None = None,
) -> list[Finding]:
    """What is odd about ``rows``, which the contract has checked, after the ``history`` of earlier batches; worst first.

    ``references`` has for a column the values of another table's column, in which each of its values must be.
    """
    orphaned = orphans(rows, references or {}).quarantined
    broken = orphaned["reason"].str.split("; ").explode(empty_as_null=False).value_counts(sort=True).iter_rows()
    found = [
        Finding("references", (why.partition(":")[0],), f"{count} rows {why.partition(': ')[2]}", "none", rules.stop)
        for why, count in broken
    ]
    return found + compare(measure(rows, contract, now=now), contract, history, rules, now=now)


def compare(
    stats: Stats, contract: Contract, history: Sequence[Stats], rules: Rules, *, now: datetime
) -> list[Finding]:
    """What is odd about a batch of these statistics, worst first; nothing is learned below ``rules.learn`` batches."""
    history = history[-rules.history :]
    found = list(_stated(stats, rules, now))
    for one, other, count in batch_judge.links(stats, history, rules.learn):
        told = f"null in {count} rows in which {other} is not"
        stop = count >= max(FEW, stats["rows"] / 1000)
        found.append(Finding("links", (one, other), told, f"both null, as in {len(history)} batches", stop))
    awaited = _awaited(stats, contract.label, history)
    if awaited:
        found = [finding for finding in found if contract.label not in finding.columns]
    told_of = {(finding.check, column) for finding in found for column in finding.columns}
    for score in batch_judge.scores(stats, history, rules.learn):
        if score.used < ODD:
            break
        about = score.columns[:1] if score.check in ONE else score.columns
        pairs = {(score.check, column) for column in about}
        if pairs & told_of or (contract.label in about and awaited):
            continue
        told_of |= pairs
        found.append(_told(score, stats, history))
    found.sort(key=lambda finding: not finding.stop)
    stops = (finding.stop and rules.stop for finding in found)
    return [Finding(f.check, f.columns, f.found, f.expected, stop) for f, stop in zip(found, stops, strict=True)][
        :SHOWN
    ]


def orphans(rows: pl.DataFrame, references: Mapping[str, pl.Series]) -> Checked:
    """The rows whose values are all in the columns that they refer to, and the others with their reason; a null passes."""
    from meguri.data.reasons import words

    masks = {}
    for name, known in references.items():
        if name not in rows.columns:
            continue
        mask = (
            ~rows[name].is_in(known.drop_nulls().unique().cast(rows[name].dtype, strict=False).implode())
        ).fill_null(False)
        if mask.any():
            masks[f"{name}: not in {known.name or 'its reference'}"] = mask
    if not masks:
        return Checked(rows, rows.clear().with_columns(pl.lit(None, pl.String).alias("reason")))
    bad, why = words(masks)
    return Checked(rows.filter(~bad), rows.filter(bad).with_columns(why))


def learning(history: Sequence[Stats], rules: Rules = Rules()) -> str | None:
    """What a person should know while too few batches are remembered; None once there are enough."""
    if len(history) >= rules.learn:
        return None
    return f"{len(history)} of {rules.learn} batches are known: until then a batch is only learned from"


def stale(newest: datetime, rules: Rules, now: datetime) -> list[Finding]:
    """The finding that no row is as new as ``rules.fresh`` asks, or none."""
    if rules.fresh is None or moment(now) - moment(newest) <= duration(rules.fresh):
        return []
    found, expected = (
        f"the newest row is of {newest:%Y-%m-%d %H:%M}",
        f"one not older than {spell(duration(rules.fresh))}",
    )
    return [Finding("fresh", (), found, expected, rules.stop)]


def _stated(stats: Stats, rules: Rules, now: datetime) -> Iterator[Finding]:
    """What breaks a limit that a person has set."""
    yield from stale(moment(stats["newest"]), rules, now)
    if rules.rows is not None and not rules.rows[0] <= stats["rows"] <= rules.rows[1]:
        yield Finding("rows", (), f"{stats['rows']} rows", f"{rules.rows[0]} to {rules.rows[1]}", True)


def _awaited(stats: Stats, label: str | None, history: Sequence[Stats]) -> bool:
    """Whether more labels than usual have not come yet: those that have are not like the others."""
    nulls = stats["scalars"]["nulls"]
    before = [past["scalars"]["nulls"].get(label, 0.0) for past in history]
    return label in nulls and bool(before) and nulls[label] > max(before) + 0.1


def _parts(
    rows: pl.DataFrame, time: str, every: timedelta, history: Sequence[Stats], now: datetime
) -> Iterator[tuple[datetime, datetime, pl.DataFrame]]:
    """(from, until, rows) of each whole part that is later than the last one judged; parts begin at whole multiples."""
    done = moment(history[-1]["until"]) if history else None
    floors = pl.col(time).cast(pl.Datetime("us", "UTC")).dt.truncate(f"{every // timedelta(microseconds=1)}us")
    starts = rows.select(floors.alias("start")).to_series()
    for start in starts.unique().sort()[0 if history else 1 :]:  # the first may have been cut off
        if start + every <= moment(now) and (done is None or start >= done):
            yield start, start + every, rows.filter(starts == start)


# a finding in words


def _percent(root: float) -> str:
    return f"{float(np.sin(np.clip(root, 0, np.pi / 2)) ** 2):.1%}"


def _days(value: float) -> str:
    return f"{float(np.sinh(value)):.1f} days"


# check: what is said, {} being the value, and how the value is shown
WORDS: dict[str, tuple[str, Any]] = {
    "rows": ("{} rows", lambda value: f"{np.exp(value):.0f}"),
    "nulls": ("null in {} of the rows", _percent),
    "missing": ("null in {} of the rows", _percent),
    "distinct": ("{} different values", lambda value: f"{np.expm1(value):.0f}"),
    "commonest": ("one value in {} of the rows", _percent),
    "calendar": ("", _percent),
    "zeros": ("0 in {} of the rows", _percent),
    "negatives": ("below 0 in {} of the rows", _percent),
    "decimals": ("", _percent),
    "sums": ("", _percent),
    "lowest": ("{} of the values are the lowest one", _percent),
    "highest": ("{} of the values are the highest one", _percent),
    "smooth": ("neighbours in time go together with {}", lambda value: f"{np.tanh(value):.2f}"),
    "ahead": ("{} of the times are still to come", _percent),
    "oldest": ("the oldest is {} before now", _days),
    "middle": ("the middle is {} before now", _days),
    "newest": ("the newest is {} before now", _days),
    "rank": ("go together with {}", lambda value: f"{np.tanh(value):.2f}"),
    "below": ("the first is below the second in {} of the rows", _percent),
    "equal": ("the same in {} of the rows", _percent),
    "ratio": ("the second is {} times the first in the middle", lambda value: f"{np.exp(value):.3g}"),
    "tells": ("the one tells {} of the other", lambda value: f"{np.tanh(value):.2f}"),
    "together": ("{} pairs for each value", lambda value: f"{np.exp(value):.1f}"),
    "follows": ("{} pairs for each value", lambda value: f"{np.exp(value):.2f}"),
    "hours": ("{} of the rows at other hours than usual", lambda value: f"{value:.1%}"),
    "turned": ("{} of the rows would be at the usual hours by another zone's clock", lambda value: f"{value:.1%}"),
    "unseen": ("{} of the rows have a value never seen before", _percent),
    "unseen text": ("{} of the rows have a value never seen before", lambda value: f"{min(value, 1):.1%}"),
    "couples": ("never seen together before in {} of the rows", lambda value: f"{min(value, 1):.1%}"),
    "form": ("{} of the rows have a form of text never seen before", lambda value: f"{min(value, 1):.1%}"),
    "mix": ("{} of the rows have other values than usual", lambda value: f"{min(value, 1):.1%}"),
    "repeat": ("{} of the rows came before", lambda value: f"{min(value, 1):.1%}"),
}


def _told(score: Score, stats: Stats, history: Sequence[Stats]) -> Finding:
    stop = score.used > 1
    if score.check == "gone":
        name, key = score.columns
        value = batch_judge.name_of(key, name, history)
        mean = f"{np.expm1(score.value):.0f} rows with it, as in {len(history)} batches"
        return Finding("gone", (name,), f"no row with '{value}'", mean, stop)
    if score.check == "shape":
        name, level = score.columns[0], int(score.columns[1])
        past = [batch["quantiles"][name][level] for batch in history if name in batch["quantiles"]]
        found = f"{LEVELS[level]:.0%} of the values are up to {stats['quantiles'][name][level]:.4g}"
        return Finding("shape", (name,), found, f"about {min(past):.4g} to {max(past):.4g}, as before", stop)
    words, shown = WORDS[score.check]
    side = batch_judge.RULES[score.check].side
    low, high = shown(score.usual - score.room), shown(score.usual + score.room)
    expected = {"both": f"{low} to {high}", "up": f"at most {high}", "down": f"at least {low}"}[side]
    if score.check == "calendar":
        words = f"is the {score.columns[1]} of {{}} of the rows' times"
    if score.check == "decimals":
        words = f"{{}} of the values have more than {score.columns[1]} decimals"
    if score.check == "sums":
        words = f"is {score.columns[1]} in {{}} of the rows"
    columns = score.columns[:1] if score.check in ONE else score.columns
    return Finding(score.check, columns, words.format(shown(score.value)), expected, stop)
