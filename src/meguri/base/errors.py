"""The errors that Meguri raises: each says what happened, where, and the next step."""

from __future__ import annotations


class MeguriError(Exception):
    """An error that a person can act on.

    ``what`` is one sentence on what happened, ``where`` the file, key or row, ``fix`` the next step.
    """

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.fix = fix
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            lines.append(f"  where: {self.where}")
        if self.fix is not None:
            lines.append(f"  next:  {self.fix}")
        return "\n".join(lines)


class ProjectError(MeguriError, FileNotFoundError):
    """A folder that is no project, or a project with a part missing."""


class SettingsError(MeguriError, ValueError):
    """A setting that is unknown, mistyped or impossible."""


class JobError(MeguriError, RuntimeError):
    """A job that cannot be found, wired or run."""


class ContractError(MeguriError, ValueError):
    """A table that breaks its contract as a whole: a column gone or retyped, no rows, too many bad rows."""


class DataError(MeguriError, ValueError):
    """Data that cannot be read, split or versioned."""


class TrackingError(MeguriError, RuntimeError):
    """The tracking store cannot be reached or understood."""


class ReleaseError(MeguriError, ValueError):
    """A release that is corrupt, missing, or cannot be made."""


class LedgerError(MeguriError, OSError):
    """The ledger cannot be read or written; nothing was half-written."""


class GateError(MeguriError, ValueError):
    """A comparison that cannot be made: no shared rows, a spent test set, an unknown metric."""


class TriggerError(MeguriError, ValueError):
    """A trigger expression that cannot be read."""


class OutletError(MeguriError, OSError):
    """An outlet that cannot be written; nothing was half-written."""


class TurnBusy(MeguriError, RuntimeError):
    """Another turn of this project is under way."""


class MissingExtra(MeguriError, ImportError):
    """A package that an optional part needs is not installed."""
