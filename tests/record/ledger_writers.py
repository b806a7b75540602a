"""Processes that write into a ledger, to be killed, and what must be there afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import polars as pl

import meguri
from meguri.record.ledger import Ledger
from meguri.testing.ledger_rows import hour

BATCH = 40
# Writes batches for ever and tells of each once it is committed: "p 3" its predictions, "l 3" their labels, "t 3" a turn.
# A patient one repeats what the ledger refused, until it is taken.
WRITER = f"""
import sys
from meguri.base.errors import LedgerError
from meguri.record.ledger import TurnRecord, open_ledger
from meguri.testing.ledger_rows import hour, some_labels, some_predictions
ledger = open_ledger(sys.argv[1])
for batch in range(int(sys.argv[2]), 10**6):
    table = some_predictions({BATCH}, batch * {BATCH})
    for name, write in (
        ("p", lambda: ledger.write_predictions(table)),
        ("l", lambda: ledger.write_labels(some_labels(table["prediction_id"].to_list(), [1.0] * {BATCH}, hour(batch), by="prediction_id"))),
        ("t", lambda: ledger.write_turn(TurnRecord(f"run{{batch}}", hour(batch), "why", "done"))),
    ):
        while True:
            try:
                write()
                break
            except LedgerError:
                if "patient" not in sys.argv:
                    raise
        print(name, batch, flush=True)
"""
OPENER = """
import sys
from meguri.record.ledger import open_ledger
from meguri.testing.ledger_rows import some_predictions
print("ready", flush=True)
for url in sys.stdin:
    ledger = open_ledger(url.strip())
    for i in range(5):
        assert ledger.write_predictions(some_predictions(10, int(sys.argv[1]) * 1000 + i * 10)) == 10
    ledger.close()
    print("done", flush=True)
"""
# Deletes what is older than hour 30, and is killed when events and labels are gone and the predictions are not.
PRUNER = """
import importlib, os, sys
from meguri.record.ledger import open_ledger
from meguri.testing.ledger_rows import hour
module = importlib.import_module(sys.argv[2])
def some(all=module.pruning, **which):
    yield from all(**which)[:2]
    os.kill(os.getpid(), 9)
module.pruning = some
open_ledger(sys.argv[1]).prune(hour(30))
"""


def python(code: str, *arguments: object, **options: object) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(meguri.__file__).parents[1]), "POLARS_MAX_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, **options)  # type: ignore[call-overload, no-any-return]


def all_is_there(ledger: Ledger, heard: set[str]) -> set[int]:
    """See that each batch is there once and whole, or not at all, and all that was acknowledged; the batches written."""
    found = ledger.joined(as_of=hour(10**6))
    turns = [turn.id for turn in ledger.turns()]
    batch = pl.col("key").str.slice(1).cast(pl.Int64) // BATCH
    whole = found.group_by(batch.alias("batch")).agg(pl.len(), labels=pl.col("label").count())
    written, labelled = (dict(whole.select("batch", name).iter_rows()) for name in ("len", "labels"))
    assert found["prediction_id"].is_unique().all()
    assert found["key"].is_unique().all()
    assert set(written.values()) <= {BATCH}
    assert set(labelled.values()) <= {0, BATCH}
    assert ledger.awaited(as_of=hour(10**6)).count == found["label"].null_count()
    told = {"p": set(written), "l": {b for b, n in labelled.items() if n}, "t": {int(turn[3:]) for turn in turns}}
    for line in heard - {""}:
        kind, number = line.split()
        assert int(number) in told[kind], line
    assert len(set(turns)) == len(turns)
    return set(written)
