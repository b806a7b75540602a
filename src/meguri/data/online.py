"""The online table: the latest features of each entity, to be read in microseconds when a request comes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from meguri.base import plugins
from meguri.base.clock import from_micros, micros
from meguri.base.errors import DataError, SettingsError
from meguri.base.redact import redact
from meguri.data.features import Features, entities, functions, needs, recorded
from meguri.data.spec import KINDS

if TYPE_CHECKING:
    import polars as pl

    from meguri.data.sources import Sources

ONLINE = {
    "sqlite": "meguri.data.online_sql:SqliteTable",
    "postgres": "meguri.data.online_sql:PostgresTable",
    "postgresql": "meguri.data.online_sql:PostgresTable",
    "redis": "meguri.data.online_redis:RedisTable",
    "rediss": "meguri.data.online_redis:RedisTable",
}


class Found(NamedTuple):
    """What an online table has: the ``head`` of the materialization, and a text or None for each key asked for."""

    head: str | None
    values: list[str | None]


class OnlineTable(Protocol):
    """Texts by key, replaced as a whole.

    ``read`` answers from one materialization, never from two, also while another is being written; a writer that dies
    leaves the old one. Threads may share a table; processes open one each. Raises DataError.
    """

    def replace(self, entries: Iterable[tuple[str, str]], *, head: str, at: int) -> bool:
        """Put the entries in the place of all that were there; False, with nothing changed, when those are of a later ``at``."""

    def read(self, keys: Sequence[str]) -> Found:
        """The head (None before the first materialization) and the text of each key (None where there is none)."""

    def close(self) -> None:
        """Let go of the store; closing again does nothing."""


@dataclass(frozen=True)
class Materialized:
    """What ``materialize`` wrote: entities of which moment; ``written`` is False when the table held later ones already."""

    at: datetime
    entities: int
    written: bool


@dataclass(frozen=True)
class Values:
    """The features of one row, and the moment ``at`` of which their records are; None where nothing was ever materialized."""

    values: dict[str, Any]
    at: datetime | None


def open_online(url: str, root: Path = Path()) -> OnlineTable:
    """The online table at ``sqlite:///path`` (relative to ``root``), ``postgres://…`` or ``redis://…``.

    ``#name`` at the end tells several tables of one database apart. Raises SettingsError for any other URL.
    """
    scheme, mark, rest = url.partition("://")
    place, _, name = rest.partition("#")
    if not mark or scheme not in ONLINE or not (name or "x").isidentifier():
        fix = "write sqlite:///outputs/online.db, postgres://user@host/database or redis://host:6379/0"
        raise SettingsError(f"'{redact(url)}' names no online table", where="online", fix=fix)
    opened: OnlineTable
    if scheme == "sqlite":
        opened = plugins.load(ONLINE[scheme])(root / place.removeprefix("/"), name or "features")
    else:
        opened = plugins.load(ONLINE[scheme])(f"{scheme}://{place}", name or "features")
    return opened


def key_of(keys: Sequence[str], values: Sequence[Any]) -> str | None:
    """The text that an entity is kept under; None when it has a null and so is none."""
    texts = [str(value) for value in values if value is not None]
    return json.dumps([*keys, *texts], ensure_ascii=False, separators=(",", ":")) if len(texts) == len(keys) else None


def materialize(features: Features, sources: Sources, table: OnlineTable, *, now: datetime) -> Materialized:
    """Write the features of each entity as known ``now``, in the place of the earlier ones, all or none.

    A table that holds those of a later moment keeps them. Raises DataError for values that JSON cannot hold.
    """
    from meguri.data.build import latest

    made = latest(features, sources, now=now)
    types: dict[str, str] = {}
    for keys, rows in made.items():
        for name, kind in rows.drop(keys).schema.items():
            if str(kind) not in KINDS or kind.is_temporal():
                what = f"'{name}' is {kind}, which an online table cannot keep"
                raise DataError(
                    what, where=f"feature '{name}'", fix="let it be a number, a boolean or text, or use age()"
                )
            if kind.is_float() and rows[name].is_infinite().any():
                what = f"'{name}' is infinite, which no JSON can say"
                raise DataError(what, where=f"feature '{name}'", fix="take such values out of the source")
            types[name] = str(kind)

    def entries() -> Iterable[tuple[str, str]]:
        for keys, rows in made.items():
            names = [name for name in rows.columns if name not in keys]
            for entity, values in zip(rows.select(keys).iter_rows(), rows.select(names).iter_rows(), strict=True):
                yield str(key_of(keys, entity)), json.dumps(dict(zip(names, values, strict=True)), ensure_ascii=False)

    head = json.dumps({"at": micros(now), "types": types})
    written = table.replace(entries(), head=head, at=micros(now))
    return Materialized(now, sum(rows.height for rows in made.values()), written)


class Online:
    """Features at the moment of a request: those of an online table by the row's entities, then the functions of the row.

    ``types`` are the polars types of the request's columns (a contract's ``types``), by which functions get them. Where there
    is no function, polars is not needed.
    """

    def __init__(
        self, features: Features, table: OnlineTable, *, types: Mapping[str, pl.DataType] | None = None
    ) -> None:
        self.table = table
        self._features, self._types = features, dict(types or {})
        self._entities = [(keys, tuple(group)) for keys, group in entities(features)]
        self._functions = functions(features)
        self._needed = sorted({need for function in self._functions.values() for need in needs(function)})
        # a window without an event is a zero; this is what an entity that was never seen has
        self._nothing = {
            name: 0 if found.kind in ("count", "sum") else None for name, found in recorded(features).items()
        }
        self._head: tuple[str | None, datetime | None, dict[str, str]] = (None, None, {})

    def get(self, row: Mapping[str, Any]) -> Values:
        """The features of a row. Raises DataError when the row lacks an entity's column or one that a function needs."""
        try:
            asked = [key_of(keys, [row[key] for key in keys]) for keys, _ in self._entities]
        except KeyError as error:
            what = f"the row has no column {error}"
            raise DataError(what, where="features", fix=f"it has {', '.join(row)}") from error
        found = self.table.read([key for key in asked if key is not None])
        texts = iter(found.values)
        values = dict(self._nothing)
        for (_, names), key in zip(self._entities, asked, strict=True):
            text = None if key is None else next(texts)
            if text is not None:
                kept = json.loads(text)
                values.update((name, kept[name]) for name in names if name in kept)
        head, at, types = self._head
        if head != found.head:
            at, types = self._read_head(found.head)
        if self._functions:
            self._call(values, {**row, **values}, types)
        return Values({name: values[name] for name in self._features}, at)

    def _call(self, values: dict[str, Any], known: Mapping[str, Any], types: Mapping[str, str]) -> None:
        """Add what the functions make of the values that are known of a row."""
        import polars as pl

        from meguri.data.build import call
        from meguri.data.spec_polars import TYPES

        columns = {
            name: pl.Series(name, [known[name]], TYPES[types[name]] if name in types else self._types.get(name))
            for name in self._needed
            if name in known
        }
        for name, function in self._functions.items():
            columns[name] = call(name, function, columns, 1)
            values[name] = columns[name][0]

    def _read_head(self, head: str | None) -> tuple[datetime | None, dict[str, str]]:
        if head is None:
            return None, {}
        told = json.loads(head)
        at, types = from_micros(told["at"]), dict(told["types"])
        missing = [name for name in self._nothing if name not in types]
        if missing:
            what = f"the online table does not have the feature '{missing[0]}'"
            raise DataError(what, where="online", fix="write it anew: meguri features materialize")
        self._head = head, at, types
        return at, types
