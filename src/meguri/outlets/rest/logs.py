"""What a service writes to its log: a line of JSON for each record, without secrets and without what rows hold."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from types import TracebackType

from meguri.base.redact import redact

# what a record may bring beside its message, by `extra=`
FIELDS = ("request", "path", "status", "columns")


class Lines(logging.Formatter):
    """A log record as a line of JSON.

    Of an error there are its type and where it was raised, never its text: that may quote a row's value.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told = {
            "at": self.formatTime(record),
            "level": record.levelname,
            "pid": os.getpid(),
            "message": redact(record.getMessage()),
        }
        told |= {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        if record.exc_info and record.exc_info[1] is not None:
            told["error"] = _raised(record.exc_info[1])
        return json.dumps(told, ensure_ascii=False)


def _raised(error: BaseException) -> list[str]:
    """The types of an error and of those behind it, each with the lines of code that it went through."""
    found: list[str] = []
    seen: BaseException | None = error
    while seen is not None and len(found) < 10:
        found.append(" < ".join([type(seen).__name__, *_places(seen.__traceback__)]))
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)
    return found


def _places(trace: TracebackType | None) -> list[str]:
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in reversed(traceback.extract_tb(trace))]


def begin() -> None:
    """Write what any library logs in this process to stderr, in this form."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines())
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("meguri").setLevel(logging.INFO)
