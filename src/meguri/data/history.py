"""Which events are read for some moments: as far back as a value can depend on them, and of what came before only the latest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl

from meguri.data.asof import Tables, grouped, ordered, source
from meguri.data.features import Events, Feature
from meguri.data.sources import AT, Sources, count, parts, read

BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
PART = 500_000  # events of the past that are looked at together
MOST = 1_000_000  # events that a part of a stream should be made of
NUMBER = "meguri_number"


class Past:
    """The latest event of each entity as of a moment, which is moved on: so that a stream in order of time reads each once.

    It belongs to one stream, its features and its sources.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], tuple[datetime, pl.DataFrame]] = {}

    def until(
        self, features: Mapping[str, Feature], sources: Sources, events: Events, columns: set[str], moment: datetime
    ) -> pl.DataFrame:
        """The events known by then that are the latest of an entity for one of the features, which are of one source."""
        done, kept = self._kept.get(source(events), (BEGINNING, None))
        if done > moment:
            done, kept = BEGINNING, None
        after = None if kept is None else done
        for part in parts(sources, events, columns, after=after, until=moment, rows=PART):
            kept = _latest(part if kept is None else pl.concat([kept, part]), features)
        if kept is None:
            kept = read(sources, events, columns, after=moment, until=moment)
        self._kept[source(events)] = (moment, kept)
        return kept


def _latest(table: pl.DataFrame, features: Mapping[str, Feature]) -> pl.DataFrame:
    """What ``asof`` would take from these records for any later moment."""
    table = table.with_row_index(NUMBER)
    found = []
    for (_, keys, _), some in grouped(features).items():
        events = next(iter(some.values())).events
        columns = sorted({feature.column for feature in some.values() if feature.column is not None})
        each = ordered(table.drop_nulls(list(keys)), keys, events, columns)
        if isinstance(events.known, str):
            each = each.filter(pl.col(AT).is_not_null())
            each = each.filter(pl.col(AT) >= pl.col(AT).cum_max().over(keys))
        found.append(each.unique(list(keys), keep="last", maintain_order=True)[NUMBER])
    return table[pl.concat(found).unique().sort()].drop(NUMBER)


def load(
    found: Mapping[str, Feature],
    sources: Sources,
    *,
    first: datetime,
    last: datetime,
    cut: datetime | None,
    past: Past | None = None,
) -> Tables:
    """Each feature's events, read once, as far back as a value between ``first`` and ``last`` can depend on them.

    With ``past`` what is older than every window is looked at part by part, and only the latest event of an entity is kept.
    """
    tables = {}
    for key, features in _by_source(found).items():
        events = next(iter(features.values())).events
        columns = {name for feature in features.values() for name in feature.events.keys} | {*events.id, *events.scope}
        columns |= {feature.column for feature in features.values() if feature.column is not None}
        after, forever = _reach(features, first)
        if not forever:
            tables[key] = read(sources, events, columns, after=after, until=last, cut=cut)
        elif past is None or after is None or cut is not None or not _reducible(events):
            tables[key] = read(sources, events, columns, until=last, cut=cut)
        else:
            older = past.until(forever, sources, events, columns, after)
            tables[key] = pl.concat([older, read(sources, events, columns, after=after, until=last)])
    return tables


def many(found: Mapping[str, Feature], sources: Sources, *, first: datetime, last: datetime) -> bool:
    """Whether so many events became known between the two that the rows should be made in parts.

    What is read for every part, however short, does not count: what the windows reach before ``first``, and all of history.
    """
    total = 0
    for features in _by_source(found).values():
        events = next(iter(features.values())).events
        if _reducible(events) or not _reach(features, first)[1]:
            total += count(sources, events, after=first, until=last)
    return total > MOST


def _by_source(found: Mapping[str, Feature]) -> dict[tuple[Any, ...], dict[str, Feature]]:
    groups: dict[tuple[Any, ...], dict[str, Feature]] = defaultdict(dict)
    for name, feature in found.items():
        groups[source(feature.events)][name] = feature
    return groups


def _reach(features: Mapping[str, Feature], first: datetime) -> tuple[datetime | None, dict[str, Feature]]:
    """The moment before which no window reaches, and the features that look back for ever."""
    forever = {name: feature for name, feature in features.items() if feature.length is None}
    longest = max((feature.length for feature in features.values() if feature.length), default=timedelta(0))
    return (first - longest if longest < first - BEGINNING else None), forever


def _reducible(events: Events) -> bool:
    """Whether an entity's latest event is all that counts: a corrected record may bring back an older one."""
    return isinstance(events.known, timedelta) or not events.id


def halves(moments: pl.Series) -> Iterator[pl.Series]:
    """Masks of the earlier and the later half of a span of time."""
    first, last = moments.min(), moments.max()
    assert isinstance(first, datetime)
    assert isinstance(last, datetime)
    early = (moments <= first + (last - first) / 2).fill_null(True)
    yield early
    yield ~early
