"""The way in: what ``retrieve`` gives, with its features, held against the contract; bad rows go to quarantine.

A table is judged in memory, a stream of tables part by part; both leave the same rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meguri.base.clock import duration, moment
from meguri.base.errors import ContractError, SettingsError

if TYPE_CHECKING:
    import polars as pl

    from meguri.data.contract import Checked
    from meguri.data.history import Past
    from meguri.loop.steps import Steps


def rows(steps: Steps, *, since: datetime, until: datetime, labelled: bool, door: str) -> pl.DataFrame | None:
    """What ``retrieve`` gives for [since, until), held against the contract; bad rows go to quarantine, counted.

    None when the job returns None or no rows: nothing to predict, no label yet. Raises ContractError for a table that is
    broken as a whole, or has too many bad rows.
    """
    import polars as pl

    from meguri.data.stream import batches_of, is_stream
    from meguri.data.table import to_polars

    given = steps.call("retrieve", since=since, until=until, now=steps.run.at)
    if given is None:
        return None
    table = pl.concat(list(batches_of(given, steps.project.warehouse))) if is_stream(given) else to_polars(given)
    if not table.height:
        return None
    # in a replay a row is asked at its own moment, be it later than this step's: as of then it learns what was known then
    asked = steps.run.at if steps.project.live else max(steps.run.at, until)
    return _judged(steps, table, labelled=labelled, door=door, asked=asked)


def keep(steps: Steps, path: Path) -> int | None:
    """Write the run's rows, those that keep the contract, to the Parquet file ``path``; returns how many.

    None when ``retrieve`` gives None: a project that keeps its data itself. A stream takes bounded memory. Raises
    ContractError when no row is left, too many are bad, or a batch is not like those before it; then ``path`` is as it was.
    """
    import polars as pl

    from meguri.data import parquet
    from meguri.data.spool import drafts
    from meguri.data.stream import is_stream
    from meguri.data.table import to_polars

    given = steps.call("retrieve")
    if given is None:
        return None
    with drafts(path) as folder:
        draft = folder / path.name
        if is_stream(given):
            _stream(steps, given, draft)
        else:
            _judged(steps, to_polars(given), labelled=True, door="retrieve", asked=steps.run.at).write_parquet(draft)
        count = int(pl.scan_parquet(draft).select(pl.len()).collect().item())
        if not count:
            raise ContractError(
                "retrieve gave no row that keeps the contract",
                where="src/jobs/retrieve.py",
                fix="meguri data quarantine shows why",
            )
        _compare(steps, draft)
        parquet.take(draft, path)
    return count


def _judged(steps: Steps, table: pl.DataFrame, *, labelled: bool, door: str, asked: datetime) -> pl.DataFrame:
    """The good rows of a table, with features as they were known at each row's moment, at the latest when it is ``asked``."""
    project, now = steps.project, steps.run.at
    table, orphaned = _referred(steps, _with_features(steps, table, asked))
    project.quarantine.add(orphaned, at=now, door=door, run=steps.run.id)
    checked = project.contract.check(table, now=now, labelled=labelled)
    checked = project.quarantine.settle(checked, project.contract)
    project.quarantine.add(checked.quarantined, at=now, door=door, run=steps.run.id)
    bad = _reasons(orphaned) + _reasons(checked.quarantined)
    limit(steps.settings.data.max_quarantined, bad, checked.rows.height, where=f"src/jobs/retrieve.py; {door}")
    return checked.rows


def _stream(steps: Steps, given: Any, draft: Path) -> None:
    """The good rows of a stream, written to ``draft``; those that a person has let through come last."""
    import polars as pl

    from meguri.data import stream
    from meguri.data.contract import Checked
    from meguri.data.history import Past

    project, now, contract, past = steps.project, steps.run.at, steps.project.contract, Past()
    none = pl.DataFrame(schema=contract.types)
    reasons: list[str] = []
    settled: list[Checked] = []

    def refuse(bad: pl.DataFrame) -> None:
        project.quarantine.add(bad, at=now, door="retrieve", run=steps.run.id)
        reasons.extend(_reasons(bad))

    def parts() -> Iterator[pl.DataFrame]:
        for table in stream.batches_of(given, project.warehouse):
            good, orphaned = _referred(steps, _with_features(steps, table, now, past))
            refuse(orphaned)
            yield good

    def bad(found: pl.DataFrame) -> None:
        checked = project.quarantine.settle(Checked(none, found), contract)
        if checked.rows.height:
            settled.append(checked)
        refuse(checked.quarantined)

    done = stream.check(parts(), contract, path=draft, now=now, limit=steps.settings.data.max_quarantined, bad=bad)
    limit(steps.settings.data.max_quarantined, reasons, done.rows, where="src/jobs/retrieve.py; retrieve")
    if settled:
        taken = pl.scan_parquet(draft).select(contract.key)
        stand_ins = pl.concat([checked.rows for checked in settled])
        stand_ins = stand_ins.unique(contract.key, keep="first", maintain_order=True)
        stand_ins = stand_ins.lazy().join(taken, on=contract.key, how="anti", maintain_order="left").collect()
        more = draft.with_name("settled.parquet")
        pl.concat([pl.scan_parquet(draft), stand_ins.lazy()]).sink_parquet(more)
        more.replace(draft)


def _reasons(bad: pl.DataFrame) -> list[str]:
    return bad["reason"].to_list()


def limit(most: float, bad: Sequence[str], good: int, *, where: str) -> None:
    """Raise ContractError when more rows are bad, for these reasons, than ``most`` allows: a share, or from 1 on a number."""
    every = len(bad) + good
    if len(bad) > (most if most >= 1 else most * every):
        commonest, _ = max(Counter(bad).items(), key=lambda item: (item[1], item[0]))
        raise ContractError(
            f"{len(bad)} of {every} rows break the contract, more than data.max_quarantined = {most:g} allows",
            where=f"{where}; most often: {commonest}",
            fix="look at them: meguri data quarantine; mend the source or the contract",
        )


def _referred(steps: Steps, table: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows whose values are in the tables that ``data.references`` names, and those with one that is not."""
    from meguri.data.batches import orphans

    checked = orphans(table, steps.value("references"))
    return checked.rows, checked.quarantined


def references(steps: Steps) -> dict[str, pl.Series]:
    """For each column of ``data.references`` the values of the warehouse's column that it refers to.

    Raises SettingsError for a column that the contract does not have, and DataError for a table that is not there.
    """
    project, found = steps.project, {}
    for name, target in steps.settings.data.references.items():
        table, _, column = target.rpartition(".")
        if name not in project.contract.types or not table:
            what = f"'data.references' says {name}: {target}"
            fix = f"write COLUMN: TABLE.COLUMN; the contract's columns are {', '.join(project.contract.types)}"
            raise SettingsError(what, where="hydra/default.yaml", fix=fix)
        expr = project.warehouse.table(table)
        if column not in expr.columns:
            what = f"'data.references' says {name}: {target}, and '{table}' has no column '{column}'"
            raise SettingsError(what, where="hydra/default.yaml", fix=f"it has {', '.join(expr.columns)}")
        found[name] = project.warehouse.read(expr.select(column).distinct())[column].alias(target)
    return found


def _compare(steps: Steps, path: Path) -> None:
    """Hold each new batch, a step's rows whose labels are due, against those before it; what is odd is kept with the run.

    Raises ContractError for a batch that is broken as a whole, and for a table that is not fresh.
    """
    import polars as pl

    from meguri.data.batches import Batches, Rules, stale

    project, now, asked = steps.project, steps.run.at, steps.settings.data.batch
    contract, every = project.contract, duration(steps.settings.loop.step)
    batches = Batches(project.outputs / "batches")
    rules = Rules(asked.history, asked.learn, asked.fresh, asked.rows, asked.stop)
    until = now - contract.label_after
    known = batches.read("retrieve")
    since = until - ((1 if known else 2) * rules.history + 1) * every  # the first table's earlier half only teaches
    if known:
        since = max(since, moment(known[-1]["until"]))
    time = pl.col(contract.time)
    newest = pl.scan_parquet(path).select(time.max()).collect().item()
    recent = pl.scan_parquet(path).filter(time.is_between(since, until, closed="left")).collect()
    findings = batches.take(recent, contract, door="retrieve", now=until, run=steps.run.id, rules=rules, every=every)
    if rules.fresh is not None:
        findings = [*stale(newest, rules, now), *findings]
    steps.run = steps.run.with_(facts={**steps.run.facts, "findings": [str(finding) for finding in findings]})
    stops = [finding for finding in findings if finding.stop]
    if stops:
        raise ContractError(
            f"a batch is not like those before it: {stops[0]}",
            where="src/jobs/retrieve.py" + "".join(f"\n         also {finding}" for finding in stops[1:4]),
            fix="mend the source; or, if the world has changed so, let it through once with data.batch.stop=false",
        )


def _with_features(steps: Steps, table: pl.DataFrame, asked: datetime, past: Past | None = None) -> pl.DataFrame:
    """The rows with the features of ``src/features.py``, as they were known at each row's moment, at the latest ``asked``."""
    from meguri.data.build import build
    from meguri.loop.features import features_of, sources_of

    features = features_of(steps.project)
    if not features or not table.height:
        return table
    sources = sources_of(steps.project, steps.value)
    return build(table, features, sources, contract=steps.project.contract, now=asked, past=past)
