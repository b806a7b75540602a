"""How the columns of a batch go together: of every two of them, and of every three where one may be the sum of the others."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import numpy.typing as npt

FEWEST = 20  # values from which anything of two columns, or of neighbours, is learned
OFTEN = 0.1  # of the rows: a sum that holds in fewer is none
GLANCE = 100  # rows in which sums are looked for first
SUMMED = 2_000  # rows in which they are counted then

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Found = dict[str, dict[str, dict[str, float]]]


def root(share: float) -> float:
    """arcsin √share, in which sampling noise is the same everywhere (Anscombe 1948)."""
    return float(np.arcsin(np.sqrt(min(max(share, 0.0), 1.0))))


def fisher(correlation: float) -> float:
    """artanh of a correlation, in which sampling noise is the same everywhere; ±1 is cut to ±0.999."""
    return float(np.arctanh(np.clip(np.nan_to_num(correlation), -0.999, 0.999)))


def ranks(floats: Floats) -> Floats:
    """Ranks from 1 up; equal values share the mean of theirs. NaN stays NaN."""
    finite = np.isfinite(floats)
    _, places, counts = np.unique(floats[finite], return_inverse=True, return_counts=True)
    ranked = np.full(len(floats), np.nan)
    ranked[finite] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranked


def pairs(
    floats: Mapping[str, Floats], codes: Mapping[str, Codes], there: Mapping[str, Flags], groups: list[str]
) -> Found:
    """How columns go together.

    ``floats`` has the numbers, NaN where one is null; ``codes`` each column's values as small numbers, a null being one,
    too; ``groups`` names the columns that sort the rows into few groups. ``alone``: how often the one is null and the other
    is not. Numbers: ``rank`` correlation, how often the one is ``below`` the other and ``equal`` to it, and their ``ratio``
    in the middle. A group with a number, and with a group: how much of the one the other tells (η² of ranks, Cramér's V), as
    ``tells``. ``together``: how many pairs of values there are for each value of the column with more of them (the log; 0
    when one follows from the other).
    """
    found: Found = {"alone": _alone(there), **_numbers(floats), "tells": {}, "together": _together(codes)}
    ranked = {name: ranks(values) for name, values in floats.items()}
    for one in groups:
        tells = found["tells"].setdefault(one, {})
        for other, places in ranked.items():
            own = np.isfinite(places)
            if own.sum() >= FEWEST:
                tells[other] = fisher(_told(codes[one][own], places[own]))
    for one, other in combinations(groups, 2):
        found["tells"][one][other] = fisher(_cramer(codes[one], codes[other]))
    return found


def sums(floats: Mapping[str, Floats]) -> dict[str, dict[str, float]]:
    """In which share of the rows a number is the sum of two others, where it is now and then: net and tax are gross."""
    names, found = list(floats), dict[str, dict[str, float]]()
    if len(names) < 3:
        return found
    every = np.array(list(floats.values()))
    every = every[:, :: -(-every.shape[1] // SUMMED)]
    glance = np.ascontiguousarray(every[:, :: -(-every.shape[1] // GLANCE)])
    for one, other in combinations(range(len(names)), 2):
        for place in np.flatnonzero(_equal(glance, glance[one] + glance[other]) >= OFTEN / 2):
            share = float(_equal(every[place : place + 1], every[one] + every[other])[0])
            if place not in (one, other) and share >= OFTEN:
                found.setdefault(names[place], {})[f"{names[one]} + {names[other]}"] = root(share)
    return found


def _equal(floats: Floats, total: Floats) -> Floats:
    """In which share of the columns each row is ``total``, where both are known; 0 where too few are."""
    there = np.isfinite(floats + total).sum(axis=1)
    same = (np.abs(floats - total) <= 1e-9 * np.maximum(1.0, np.abs(total))).sum(axis=1)
    return np.where(there >= min(FEWEST, floats.shape[1]), same / np.maximum(there, 1), 0.0)


def _alone(there: Mapping[str, Flags]) -> dict[str, dict[str, float]]:
    names, known = list(there), np.array(list(there.values())).astype(np.float64)
    counts = (1 - known) @ known.T
    return {
        one: {other: float(counts[i, j]) for j, other in enumerate(names) if j != i}
        for i, one in enumerate(names)
        if not known[i].all()
    }


def _together(codes: Mapping[str, Codes]) -> dict[str, dict[str, float]]:
    names, every = list(codes), np.array(list(codes.values()))
    kinds = every.max(axis=1) + 1
    found: dict[str, dict[str, float]] = {}
    for i, one in enumerate(names[:-1]):
        both = np.sort(every[i] * kinds[i + 1 :, None] + every[i + 1 :], axis=1)
        count = 1 + np.count_nonzero(np.diff(both, axis=1), axis=1)
        logs = np.log(count / np.maximum(kinds[i], kinds[i + 1 :]))
        found[one] = dict(zip(names[i + 1 :], map(float, logs), strict=True))
    return found


def _numbers(floats: Mapping[str, Floats]) -> Found:
    """``below``, ``equal``, ``ratio`` and ``rank`` of every two numbers that have enough rows in common."""
    found: Found = {"rank": {}, "below": {}, "equal": {}, "ratio": {}}
    names, every = list(floats), np.array(list(floats.values()))
    if len(names) < 2:
        return found
    known = np.isfinite(every)
    correlations = _correlations(np.array([ranks(values) for values in every]))
    logs = np.log(np.where(every > 0, every, np.nan))
    for i, one in enumerate(names[:-1]):
        rest = every[i + 1 :]
        count = (known[i] & known[i + 1 :]).sum(axis=1)
        least = np.maximum(count, 1)
        below, equal = (every[i] < rest).sum(axis=1) / least, (every[i] == rest).sum(axis=1) / least
        ratios = np.sort(logs[i + 1 :] - logs[i], axis=1)
        above = np.isfinite(ratios).sum(axis=1)
        for j, other in enumerate(names[i + 1 :]):
            if count[j] < FEWEST:
                continue
            found["below"].setdefault(one, {})[other] = root(float(below[j]))
            found["equal"].setdefault(one, {})[other] = root(float(equal[j]))
            if np.isfinite(correlation := correlations[i, i + 1 + j]):
                found["rank"].setdefault(one, {})[other] = fisher(float(correlation))
            if 2 * above[j] > count[j]:
                middle = ratios[j, [(above[j] - 1) // 2, above[j] // 2]]
                found["ratio"].setdefault(one, {})[other] = float(middle.mean())
    return found


def _correlations(places: Floats) -> Floats:
    """Pearson's of every two rows over the columns where both are known; NaN where one does not vary there."""
    known = np.isfinite(places).astype(np.float64)
    scaled = np.nan_to_num((places - 1) / max(1, places.shape[1]) - 0.5) * known
    count = np.maximum(known @ known.T, 1)
    mean = scaled @ known.T / count  # of the first, where the second is known, too
    spread = (scaled**2) @ known.T / count - mean**2
    both = spread * spread.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(both > 1e-16, (scaled @ scaled.T / count - mean * mean.T) / np.sqrt(both), np.nan)


def _told(code: Codes, places: Floats) -> float:
    """√η² of ranks: the share of their spread that lies between the groups (Kruskal and Wallis 1952), less chance."""
    counts = np.bincount(code)
    sums = np.bincount(code, weights=places)[counts > 0]
    counts = counts[counts > 0]
    spread, groups, n = float(((places - places.mean()) ** 2).sum()), len(counts), len(places)
    if not spread or n <= groups:
        return 0.0
    between = float((counts * (sums / counts - places.mean()) ** 2).sum()) / spread
    return float(np.sqrt(max(0.0, 1 - (1 - between) * (n - 1) / (n - groups))))


def _cramer(a: Codes, b: Codes) -> float:
    """Cramér's V, less chance (Bergsma 2013)."""
    r, k, n = int(a.max()) + 1, int(b.max()) + 1, len(a)
    if min(r, k) < 2 or n < 2:
        return 0.0
    cells, counts = np.unique(a * k + b, return_counts=True)
    expected = np.bincount(a)[cells // k] * np.bincount(b)[cells % k] / n
    chi2 = float((counts**2 / expected).sum()) - n
    phi = max(0.0, chi2 / n - (k - 1) * (r - 1) / (n - 1))
    smaller = min(k - (k - 1) ** 2 / (n - 1), r - (r - 1) ** 2 / (n - 1)) - 1
    return float(np.sqrt(min(1.0, phi / smaller))) if smaller > 0 else 0.0
