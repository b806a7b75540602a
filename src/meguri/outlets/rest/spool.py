"""Answers that the ledger could not take, kept in files beside it until it can: for those who would rather answer than refuse."""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO

from meguri.base.errors import LedgerError
from meguri.base.files import sync_folder
from meguri.record.ledger import Ledger
from meguri.record.served import unpack

TOGETHER = 100  # lines in one commit


class Spool:
    """A folder with files of answers, a line for each commit that failed; what a process that died left is taken over by another.

    A process holds the lock of the file that it adds to. Files are local: a disk that is full fails the answer, as the
    ledger would.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: IO[bytes] | None = None
        self._lock = threading.Lock()
        self.filled = True  # until it was looked into

    def add(self, packed: bytes) -> None:
        """Keep the answers of a commit; they are on the disk when this returns. Raises LedgerError, and then none of them is kept."""
        line = packed + b"\n"
        try:
            with self._lock:
                if self._own is None:
                    self._own = self._open()
                end = self._own.seek(0, os.SEEK_END)
                try:
                    if self._own.write(line) != len(line):
                        raise OSError("the disk took a part of it")
                    os.fsync(self._own.fileno())
                except OSError:
                    self._own.truncate(end)
                    raise
                self.filled = True
        except OSError as error:
            fix = "free some space on the disk, or mend the ledger"
            raise LedgerError(f"the spool cannot be written: {error}", where=self._folder, fix=fix) from error

    def _open(self) -> IO[bytes]:
        """A file of this process's own, which has its name once it is locked: before, another would take it for one left behind."""
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{os.getpid()}-{os.urandom(4).hex()}.jsonl"
        draft = path.with_suffix(".new")
        file = draft.open("ab", buffering=0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            draft.rename(path)
            sync_folder(self._folder)
        except BaseException:
            file.close()
            draft.unlink(missing_ok=True)
            raise
        return file

    def drain(self, ledger: Ledger) -> int:
        """Write to the ledger what is kept, and forget it; how many answers. Raises LedgerError, OSError, or
        ValueError for a line that is none, once the other files are done; then it is still kept.
        """
        self.filled = False
        self.close()  # what is added from now on goes into another file
        count, damaged = 0, None
        try:
            for path in sorted(self._folder.glob("*.jsonl")):
                with suppress(FileNotFoundError):  # another process has been faster
                    try:
                        count += _drain(path, ledger)
                    except ValueError as error:
                        damaged = error
            if damaged is not None:
                raise damaged
        except (OSError, ValueError):  # a LedgerError is an OSError
            self.filled = True
            raise
        return count

    def close(self) -> None:
        """Let go of the file; what is in it stays."""
        with self._lock:
            if self._own is not None:
                self._own.close()
                self._own = None


def _drain(path: Path, ledger: Ledger) -> int:
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # a process that lives adds to it
            return 0
        lines = [line[:-1] for line in file if line.endswith(b"\n")]  # a torn line was never acknowledged
        try:
            count = sum(1 for line in lines for _ in unpack(line))
        except ValueError as error:
            raise ValueError(f"{path} holds a line that is no answer: {error}") from error
        for start in range(0, len(lines), TOGETHER):
            some = (line[1:-1] for line in lines[start : start + TOGETHER])
            ledger.write_answers(b"[" + b",".join(some) + b"]")
        path.unlink()
    return count
