"""Where the server of a PostgreSQL ledger is, a connection that does not wait for it without end, and what its errors mean."""

from __future__ import annotations

import math
import time
from collections.abc import Generator, Mapping
from functools import cache
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from meguri.base.errors import LedgerError, SettingsError
from meguri.base.extras import need
from meguri.base.redact import MASK, redact

SCHEMA = "meguri"
_WAIT = 10  # seconds for a connection
# An error's class -> the next step
FIXES = {
    "3D": "make the database on the server, with: createdb NAME",
    "28": "see that user and password are right, and that the server lets this user in",
    "42501": "give this user the right: GRANT CREATE ON DATABASE, or GRANT ALL ON the schema and its tables",
    "53100": "free some space on the server's disk and write again",
    "25006": "this server takes no writes: give the address of the primary",
}
FIX = "see that the server runs at that address and lets this user in, then do it again: nothing is written twice"


@cache
def connection() -> Any:
    """psycopg's connection, which is closed when the server has not answered until the monotonic moment ``end``."""

    class Connection(need("psycopg").Connection):  # type: ignore[misc]
        end = math.inf

        def wait(self, gen: Generator[Any, Any, Any], *args: Any, **more: Any) -> Any:
            return super().wait(gen if self.end == math.inf else self._until(gen), *args, **more)

        def _until(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
            """The steps of an exchange with the server: ``came`` is nothing when it was silent for a while."""
            try:
                wanted = next(gen)
                while True:
                    came = yield wanted
                    if not came and time.monotonic() >= self.end:
                        self.pgconn.finish()
                        raise need("psycopg").OperationalError("the server does not answer")
                    wanted = gen.send(came)
            except StopIteration as done:
                return done.value

    return Connection


def place_of(url: str) -> tuple[dict[str, Any], str]:
    """What libpq needs to know, and the schema.

    Raises SettingsError for what is no URL, such as one whose password is not quoted.
    """
    psycopg = need("psycopg")
    try:
        parts = urlsplit(url)
        if "@" in parts.path + parts.query + parts.fragment:
            raise ValueError
        place: dict[str, Any] = {
            "host": parts.hostname, "port": parts.port, "dbname": unquote(parts.path[1:]) or None,
            "user": unquote(parts.username) if parts.username else None,
            "password": unquote(parts.password) if parts.password else None,
        }  # fmt: skip
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        schema = options.pop("schema", SCHEMA)
        place = {"connect_timeout": _WAIT, "application_name": "meguri"} | place | options
        place["connect_timeout"] = int(str(place["connect_timeout"]))
        psycopg.conninfo.make_conninfo(**place)
    except (ValueError, psycopg.ProgrammingError):
        fix = "write postgres://user:password@host:5432/database, with % codes for @ : / ? # and % in the password"
        raise SettingsError(f"'{redact(url)}' is no ledger", where="ledger", fix=fix) from None
    return {name: value for name, value in place.items() if value is not None}, schema


def refused(error: Exception) -> bool:
    """Whether an error of psycopg's says that a value is at fault: its range, its type, a constraint, or an index that it is too long for."""
    psycopg = need("psycopg")
    if isinstance(error, psycopg.ProgrammingError):
        return error.sqlstate is None  # psycopg's own, of a type that it cannot send
    too_long = isinstance(error, psycopg.errors.ProgramLimitExceeded) and error.sqlstate == "54000"
    return too_long or isinstance(error, (psycopg.DataError, psycopg.IntegrityError))


def explained(error: Any, place: Mapping[str, Any], url: str) -> LedgerError:
    """An error of psycopg's, without the password."""
    state = error.sqlstate or ""
    fix = next((fix for code, fix in FIXES.items() if state.startswith(code)), FIX)
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    secret = place.get("password")
    hidden = redact(text.replace(secret, MASK) if secret else text)
    return LedgerError(f"the ledger cannot be used: {hidden}", where=url, fix=fix)
