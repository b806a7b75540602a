"""The way in: what ``retrieve`` gives, with its features, held against the contract; bad rows go to quarantine."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from meguri.base.errors import ContractError

if TYPE_CHECKING:
    import polars as pl

    from meguri.loop.steps import Steps


def rows(steps: Steps, *, since: datetime, until: datetime, labelled: bool, door: str) -> pl.DataFrame | None:
    """What ``retrieve`` gives for [since, until), held against the contract; bad rows go to quarantine, counted.

    None when the job returns None, or no rows where that is no wonder: nothing to predict, no label yet. Raises
    ContractError for a table that is broken as a whole, or has too many bad rows.
    """
    from meguri.data.table import to_polars

    project, now = steps.project, steps.run.at
    given = steps.call("retrieve", since=since, until=until, now=now)
    if given is None:
        return None
    table = to_polars(given)
    if door != "retrieve" and not table.height:
        return None
    checked = project.contract.check(_with_features(steps, table), now=now, labelled=labelled)
    checked = project.quarantine.settle(checked, project.contract)
    project.quarantine.add(checked.quarantined, at=now, door=door, run=steps.run.id)
    limit(steps, checked.quarantined, checked.rows.height, door)
    return checked.rows


def limit(steps: Steps, bad: pl.DataFrame, good: int, door: str) -> None:
    """Raise ContractError when more rows are bad than ``data.max_quarantined`` allows: a share, or from 1 on a number."""
    most = steps.settings.data.max_quarantined
    allowed = most if most >= 1 else most * (bad.height + good)
    if bad.height > allowed:
        commonest = bad["reason"].value_counts(sort=True)["reason"][0]
        raise ContractError(
            f"{bad.height} of {bad.height + good} rows break the contract, more than data.max_quarantined = {most:g} allows",
            where=f"src/jobs/retrieve.py; {door}; most often: {commonest}",
            fix="look at them: meguri data quarantine; mend the source or the contract",
        )


def _with_features(steps: Steps, table: pl.DataFrame) -> pl.DataFrame:
    """The rows with the features of ``src/features.py``, as they were known at each row's moment."""
    from meguri.data.build import build
    from meguri.loop.features import features_of, sources_of

    features = features_of(steps.project)
    if not features:
        return table
    sources = sources_of(steps.project, steps.value)
    return build(table, features, sources, contract=steps.project.contract, now=steps.run.at)
