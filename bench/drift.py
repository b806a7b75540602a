"""How often two samples of one distribution seem to differ: a threshold on PSI against a diff, and each kind of column by itself.

Prints one JSON line a case; ``repeats`` may be given.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import polars as pl

from meguri.data.diff import diff
from meguri.data.drift import compare, psi, sketch

SIZES = [(30, 30), (30, 3000), (300, 300), (3000, 3000), (3000, 100)]


def table(count: int, rng: np.random.Generator, shift: float = 0.0) -> pl.DataFrame:
    """Columns with ties, spikes, skew, rare and very many values, a tenth of them missing."""
    rows = pl.DataFrame(
        {
            "normal": rng.normal(size=count) + shift,
            "ties": rng.integers(0, 4, count),
            "zeros": np.where(rng.random(count) < 0.93, 0.0, rng.exponential(size=count)),
            "skew": np.exp(2 * rng.normal(size=count)),
            "cat": rng.choice(list("abcdefgh"), count, p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.015, 0.005]),
            "zipf": [f"v{i}" for i in rng.zipf(1.5, count)],
            "many": [f"v{i}" for i in rng.integers(0, 1000, count)],
            "rare": rng.random(count) < 0.01,
        }
    )
    return rows.with_columns(pl.when(pl.Series(rng.random(count) > 0.1)).then(pl.all()))


def one_by_one(repeats: int) -> None:
    """The share of p-values at most .05 and .005, for each kind of column and pair of sizes."""
    found = []
    for n, m in SIZES:
        rng = np.random.default_rng(n + m)
        pairs = [(table(n, rng), table(m, rng)) for _ in range(repeats)]
        for kind in pairs[0][0].columns:
            shifts = [compare(old[kind], new[kind], level=0.05) for old, new in pairs]
            share = [float(np.mean([one.p <= level for one in shifts])) for level in (0.05, 0.005)]
            found.append(share)
            print(json.dumps({"column": kind, "rows": [n, m], "p <= .05": share[0], "p <= .005": share[1]}), flush=True)
    middle, most = np.mean(found, axis=0), np.max(found, axis=0)
    print(json.dumps({"mean": middle.round(4).tolist(), "most": most.round(4).tolist()}))


def together(repeats: int) -> None:
    """The share of pairs of tables in which some column is flagged, and in which a real shift is found."""
    for n in (30, 100, 200, 300, 500, 1000, 3000):
        rng, flagged = np.random.default_rng(n), np.zeros(4)
        for _ in range(repeats):
            old, new = table(n, rng), table(n, rng)
            most = max(psi(sketch(old, old.columns), new).values())
            equal, moved = diff(old, new, alpha=0.05), diff(old, table(n, rng, 0.5))
            there = any(one.name == "normal" and one.state != "steady" for one in moved.changes)
            flagged += [most > 0.1, most > 0.2, equal.count("steady") < len(equal.changes), there]
        names = ["PSI > 0.1", "PSI > 0.2", "this, alpha .05", "half a deviation, found at .01"]
        print(
            json.dumps({"rows of each": n, **dict(zip(names, (flagged / repeats).round(3), strict=True))}), flush=True
        )


if __name__ == "__main__":
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    together(repeats)
    one_by_one(repeats)
