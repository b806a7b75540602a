"""Rows that bring only their key: what else the model needs is read from the online table, as it was last materialized."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meguri.base.errors import DataError, MeguriError
from meguri.base.extras import need
from meguri.data.features import Features, functions
from meguri.data.online import Online, OnlineTable, open_online
from meguri.outlets.rest.faults import Fault
from meguri.outlets.rest.problems import ProblemError

if TYPE_CHECKING:
    from meguri.data.contract import Contract


def read(folder: Path) -> Features:
    """What the project's ``src/features.py`` defines. Raises MissingExtra where it needs polars, and that is not installed."""
    from meguri.loop.job import import_from

    features: Features = import_from(folder, "src.features", "features")
    if functions(features):  # they are called with series, and give some
        need("polars")
    return features


class Filler:
    """Fills in the features that a row leaves out; one that it brings is taken as it is."""

    def __init__(self, features: Features, table: OnlineTable, *, near: bool) -> None:
        self.names, self._features, self._table, self._near = features.keys(), features, table, near
        self._online: tuple[Contract | None, Online] = (None, Online(features, table))

    @classmethod
    def of(cls, folder: Path) -> Filler:
        """The filler of a project with a ``src/features.py``, which its turns have held against the contract."""
        from meguri.loop.project import Project

        url = Project(folder).plain_settings()["online"]
        return cls(read(folder), open_online(url, folder), near=url.startswith("sqlite"))

    async def fill(self, body: bytes, contract: Contract) -> bytes:
        """The body with the features that were left out; functions of a row get the contract's types. Raises ProblemError."""
        if self._online[0] is not contract:
            types = contract.types if functions(self._features) else None
            self._online = contract, Online(self._features, self._table, types=types)
        try:
            given = json.loads(body)
        except (ValueError, RecursionError):
            return body  # whoever reads it next says what is wrong
        rows = given if isinstance(given, list) else [given]
        some = [
            (place, row) for place, row in enumerate(rows) if isinstance(row, dict) and not self.names <= row.keys()
        ]
        if not some:
            return body
        if self._near:  # a file is read faster than another thread is asked
            self._fill(some, one=rows is not given)
        else:
            await asyncio.to_thread(self._fill, some, one=rows is not given)
        return json.dumps(given).encode()

    def _fill(self, rows: list[tuple[int, dict[str, Any]]], *, one: bool) -> None:
        for place, row in rows:
            try:
                found = self._online[1].get(row)
            except DataError as error:
                raise ProblemError(
                    422, "the row does not say whose features it needs", [Fault(error.what, "" if one else f"/{place}")]
                ) from error
            except MeguriError as error:
                raise ProblemError(
                    503, f"the online table cannot be read: {error.what}", headers={"retry-after": "1"}
                ) from error
            for name, value in found.values.items():
                row.setdefault(name, value)
