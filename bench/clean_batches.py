"""How often is a clean batch stopped? The flights of 2013, cut into batches at other hours and of other lengths.

Nothing is planted. Two tables: the 19 columns with the weather (``corruptions.py``), and what the example's model sees, which
has sliding means besides. Each cut is lived through from its fifteenth batch on, and whole days also from other beginnings; a batch that is stopped is not learned from. Prints one
JSON line a table and cut with the batches that were stopped and why; ``nearest`` is the largest share of its room that any
other batch used.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import polars as pl
from corruptions import CONTRACT, flights

from meguri import Contract
from meguri.base.clock import duration
from meguri.data.batch_judge import scores
from meguri.data.batch_stats import measure
from meguri.data.batches import Rules, compare
from meguri.data.build import build

sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "flights"))
from src import features
from src.repository import data_manager, schema

END = datetime(2014, 2, 1, tzinfo=UTC)
RULES = Rules()
CUTS = [*product(["1d"], [0, 5, 8, 12, 15, 18, 21]), ("12h", 5), ("2d", 5), ("2d", 17), ("7d", 0), ("7d", 60)]


def table(name: str) -> tuple[pl.DataFrame, Contract]:
    if name == "columns":
        return CONTRACT.check(flights(), now=END).rows, CONTRACT
    with tempfile.TemporaryDirectory() as folder:
        rows = data_manager.read(Path(folder), datetime(2013, 1, 1, tzinfo=UTC), END, END)
        tables = data_manager.tables(Path(folder))
        rows = build(rows, features.features, tables, contract=schema.contract, now=END)
    return schema.contract.check(rows, now=END).rows, schema.contract


def live(name: str, every: str, hours: int) -> dict[str, Any]:
    """Go through the batches of one cut."""
    rows, contract = table(name)
    length, shift = duration(every), pl.duration(hours=hours)
    starts = rows.select((pl.col(contract.time) - shift).dt.truncate(every) + shift).to_series()
    accepted: list[dict[str, Any]] = []
    stopped, nearest, judged = [], 0.0, 0
    for start in starts.unique().sort()[1:-1]:
        stats = measure(rows.filter(starts == start), contract, now=start + length)
        known = len(accepted) >= RULES.learn
        judged += known
        found = [
            str(finding) for finding in compare(stats, contract, accepted, RULES, now=start + length) if finding.stop
        ]
        if found:
            stopped.append({"batch": f"{start:%Y-%m-%d %H:%M}", "findings": found[:3]})
            continue
        if known:
            nearest = max(
                nearest, *(score.used for score in scores(stats, accepted[-RULES.history :], RULES.learn)[:1])
            )
        accepted.append(stats)
    cut = {"contender": f"{name}, {every} from {hours:02d}:00", "batches": judged, "stopped": len(stopped)}
    return cut | {"nearest": round(nearest, 2), "which": stopped}


def begun(name: str) -> dict[str, Any]:
    """Begin on every fifth day of the year, with nothing known, and go on for forty days."""
    rows, contract = table(name)
    starts = rows[contract.time].dt.truncate("1d")
    dates = starts.unique().sort()[1:-1].to_list()
    days = [(date, measure(rows.filter(starts == date), contract, now=date + duration("1d"))) for date in dates]
    stopped, judged = [], 0
    for first in range(0, len(days) - RULES.learn, 5):
        accepted: list[dict[str, Any]] = []
        for date, stats in days[first : first + 40]:
            judged += len(accepted) >= RULES.learn
            found = [str(f) for f in compare(stats, contract, accepted, RULES, now=date + duration("1d")) if f.stop]
            if found:
                stopped.append(
                    {"batch": f"{date:%Y-%m-%d}", "begun": f"{dates[first]:%Y-%m-%d}", "findings": found[:3]}
                )
            else:
                accepted.append(stats)
    cut = {"contender": f"{name}, 1d, begun on every fifth day", "batches": judged, "stopped": len(stopped)}
    return cut | {"which": stopped}


def main() -> None:
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        runs = [pool.submit(live, name, *cut) for name, cut in product(("columns", "features"), CUTS)]
        runs += [pool.submit(begun, name) for name in ("columns", "features")]
        lines = [run.result() for run in runs]
    for line in lines:
        print(json.dumps(line, ensure_ascii=False))
    total = {what: sum(line[what] for line in lines) for what in ("batches", "stopped")}
    print(json.dumps({"contender": "total"} | total))


if __name__ == "__main__":
    main()
