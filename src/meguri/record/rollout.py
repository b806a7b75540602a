"""What is live in an outlet, going forward and going back: read from the rollouts in the ledger, which only grow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from meguri.base.errors import ReleaseError, SettingsError
from meguri.record.ledger import Ledger, Rollout


def current(ledger: Ledger, outlet: str, as_of: datetime | None = None) -> Rollout | None:
    """The rollout that is live in the outlet, now or at ``as_of``; None when nothing ever was."""
    history = [rollout for rollout in ledger.rollouts(outlet) if as_of is None or rollout.at <= as_of]
    return history[-1] if history else None


def stood_until(
    ledger: Ledger, outlet: str, champion: str, challengers: Mapping[str, float], *, since: datetime
) -> datetime | None:
    """When, after ``since``, others than these went live, or with other shares; None while they stand. Shadows answer nobody."""
    later = (r for r in ledger.rollouts(outlet) if r.at > since)
    return next((r.at for r in later if (r.champion, dict(r.challengers)) != (champion, dict(challengers))), None)


def promote(
    ledger: Ledger,
    outlet: str,
    release: str,
    *,
    at: datetime,
    why: str,
    by: str,
    challengers: Mapping[str, float] | None = None,
    shadow: Sequence[str] = (),
) -> Rollout:
    """Make ``release`` the champion of the outlet from ``at`` on.

    Challengers get their shares of the traffic, the champion the rest. Raises SettingsError for shares that are no shares.
    """
    shares = dict(challengers or {})
    if release in shares or any(share <= 0 for share in shares.values()) or sum(shares.values()) >= 1:
        fix = "give every challenger a share above 0, together below 1, and the champion none"
        raise SettingsError(f"the shares {shares} leave the champion {release} no traffic", where=outlet, fix=fix)
    rollout = Rollout(outlet, release, shares, tuple(shadow), at=at, why=why, by=by)
    ledger.write_rollout(rollout)
    return rollout


def previous(ledger: Ledger, outlet: str) -> str:
    """The champion before the current one: where ``rollback`` goes. One that was left by going back does not count.

    Raises ReleaseError when there is no earlier champion.
    """
    champions: list[str] = []
    for rollout in ledger.rollouts(outlet):
        if rollout.back:
            champions.pop()
        elif champions[-1:] != [rollout.champion]:
            champions.append(rollout.champion)
    if len(champions) < 2:
        live = f"only {champions[0]} was" if champions else "nothing was"
        what = f"there is no earlier champion to go back to: {live} live in the outlet '{outlet}'"
        raise ReleaseError(what, where=outlet, fix="promote a release by name: meguri releases list, then promote")
    return champions[-2]


def rollback(ledger: Ledger, outlet: str, *, at: datetime, why: str, by: str) -> Rollout:
    """Go back to the champion before the current one, alone; called again, further back.

    Raises ReleaseError when there is no earlier champion.
    """
    rollout = Rollout(outlet, previous(ledger, outlet), at=at, why=why, by=by, back=True)
    ledger.write_rollout(rollout)
    return rollout
