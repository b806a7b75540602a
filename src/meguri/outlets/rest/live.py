"""What is live: the rollout that the ledger names, its releases loaded and proven beside the old ones, then swapped."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b, sha256
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from meguri.base.errors import LedgerError, MeguriError, ReleaseError
from meguri.outlets.rest.rows import Reader
from meguri.record.release import Release
from meguri.record.rollout import current

if TYPE_CHECKING:
    from meguri.data.contract import Contract
    from meguri.record.ledger import Ledger, Rollout

EVERY = 0.2  # seconds between two looks at the ledger: a rollback is seen well within one
AGAIN = 2.0  # seconds until a refused rollout is tried again
KEPT = 4  # releases that stay loaded after they were live: going back to one is at once
log = logging.getLogger("meguri.rest")


@dataclass(frozen=True, eq=False)
class Arm:
    """A release that answers some of the units: its name in the ledger, its share, and how it reads its rows."""

    name: str
    release: Release
    reader: Reader
    share: float


class Live:
    """A rollout with its releases, ready to answer."""

    def __init__(self, rollout: Rollout, arms: Sequence[Arm], shadows: Sequence[Arm]) -> None:
        self.rollout, self.champion, self.shadows = rollout, arms[0], tuple(shadows)
        self.arms = tuple(arms)
        # drawn by the challengers' names, so that a share that grows keeps the units that it had, and the next test draws anew
        salt = sha256("|".join([rollout.outlet, *rollout.challengers]).encode()).digest()
        self._drawn = blake2b(digest_size=8, key=salt)
        ends = accumulate(arm.share for arm in arms[1:])
        self._ends = [min(int(end * 2**64), 2**64 - 1).to_bytes(8) for end in ends]

    def places(self, units: Sequence[str]) -> dict[Arm, list[int]]:
        """Which arm answers which of the units, by their places: the same one for as long as the shares stand."""
        if not self._ends:
            return {self.champion: list(range(len(units)))}
        found: list[list[int]] = [[] for _ in self.arms]  # of the challengers in order, then of the champion
        ends, copy = self._ends, self._drawn.copy
        for place, unit in enumerate(units):
            drawn = copy()
            drawn.update(unit.encode())
            found[bisect(ends, drawn.digest())].append(place)
        return {arm: some for arm, some in zip((*self.arms[1:], self.champion), found, strict=True) if some}


class Follower:
    """Looks at the ledger's rollouts of an outlet and keeps ``live`` up to date; a release that is not right is refused."""

    def __init__(
        self,
        ledger: Ledger,
        releases: Path,
        *,
        outlet: str,
        unit: str | None,
        prove: Callable[[Contract], None],
        told: Callable[[str], None],
    ) -> None:
        self.live: Live | None = None
        self.refused: str | None = None
        self._ledger, self._releases, self._outlet, self._unit = ledger, releases, outlet, unit
        self._prove, self._told = prove, told
        self._loaded: dict[str, tuple[Release, Reader]] = {}
        self._seen: Rollout | None = None
        self._again = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meguri-follower", daemon=True)

    def start(self) -> None:
        """Look once, then go on looking in a thread."""
        self.look()
        self._thread.start()

    def close(self) -> None:
        """Stop looking."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def look(self) -> None:
        """Take up the newest rollout; what cannot be read or loaded is told, and what was live goes on."""
        try:
            rollout = current(self._ledger, self._outlet)
        except LedgerError as error:  # PostgreSQL is away: what is live goes on
            self._told("unread")
            log.warning("the rollouts cannot be read: %s", error.what)
            return
        again = (
            self.refused is not None and time.monotonic() >= self._again
        )  # its release may have been copied meanwhile
        if rollout is None or (rollout == self._seen and not again):
            return
        self._seen, self._again = rollout, time.monotonic() + AGAIN
        try:
            self.live = self._load(rollout)
            self.refused = None
            self._told("taken")
            log.info("live: %s", rollout.champion)
        except MeguriError as error:
            self.refused = f"{error.what} ({error.where})"
            self._told("refused")
            log.error("the rollout of %s is refused, what was live goes on: %s", rollout.champion, self.refused)

    def _run(self) -> None:
        while not self._stop.wait(EVERY):
            self.look()

    def _reader(self, release: Release) -> Reader:
        """One for all releases of a contract: then what is read for one is read for all."""
        spec = release.contract.to_spec()
        same = (reader for other, reader in self._loaded.values() if other.contract.to_spec() == spec)
        return next(same, None) or Reader(release.contract, unit=self._unit)

    def _load(self, rollout: Rollout) -> Live:
        names = [rollout.champion, *rollout.challengers, *rollout.shadow]
        for name in names:
            if name not in self._loaded:
                folder = self._releases / name
                if not folder.is_dir():
                    fix = "copy the release to where the service runs, whole"
                    raise ReleaseError(f"there is no release '{name}'", where=folder, fix=fix)
                release = Release.load(folder)
                self._prove(release.contract)
                self._loaded[name] = release, self._reader(release)
        rest = 1.0 - sum(rollout.challengers.values())
        arms = [Arm("champion", *self._loaded[rollout.champion], rest)]
        arms += [Arm("challenger", *self._loaded[name], share) for name, share in rollout.challengers.items()]
        shadows = [Arm("shadow", *self._loaded[name], 0.0) for name in rollout.shadow]
        others = [name for name in self._loaded if name not in names]
        for name in others[: max(0, len(others) - KEPT)]:
            del self._loaded[name]
        return Live(rollout, arms, shadows)
