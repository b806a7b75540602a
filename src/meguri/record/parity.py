"""Parity: a release must answer as the trained estimator did, on the sample and on rows that the contract also allows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from meguri.base.errors import MeguriError, ReleaseError
from meguri.base.files import read_json
from meguri.data.contract import Contract
from meguri.data.spec import Field
from meguri.record.estimators import Answers, Plain

if TYPE_CHECKING:
    import polars as pl

VECTORS = 64  # rows that go with a release to prove it wherever it is loaded
_ALLOWED = 64  # values of a closed list that are tried
_FEW = 8  # rows that each try is made of
_UNSEEN = "a text that training never saw"


class Model(Protocol):
    """What answers rows that hold the features."""

    def answer(self, rows: pl.DataFrame) -> Answers:
        """The answers in the order of the rows."""
        ...


@dataclass(frozen=True)
class Gap:
    """How two models differ: on how many of the rows beyond the tolerance, and the largest difference of all."""

    rows: int
    of: int
    largest: float

    def __str__(self) -> str:
        return f"by up to {self.largest:.3g} on {self.rows:,} of {self.of:,} rows"


def rows(contract: Contract, names: Sequence[str], sample: Any, model: Model) -> pl.DataFrame:
    """The features of the sample's good rows, and copies of a few with a null or an unseen text where the contract allows it.

    Raises ReleaseError when the model cannot answer one of these kinds: such a row would stop a whole batch later.
    """
    import polars as pl

    good = contract.check(sample, labelled=False).rows.select(names)
    if not good.height:
        raise ReleaseError(
            "no row of the sample meets the contract", fix="look at the quarantined rows for the reasons"
        )
    answer(model, good, "the sample")
    tried = [good]
    for field in contract.fields:
        for what, values in _tries(field) if field.name in names else []:
            some = pl.concat([good.head(_FEW)] * len(values))
            each = pl.Series(field.name, values, field.dtype).repeat_by(min(_FEW, good.height)).explode()
            tried.append(some.with_columns(each))
            answer(model, tried[-1], f"rows that the contract allows: {what} in '{field.name}'")
    return pl.concat(tried)


def _tries(field: Field) -> list[tuple[str, list[Any]]]:
    tries: list[tuple[str, list[Any]]] = [("null", [None])] if field.nullable and field.default is None else []
    if field.type == "String":
        closed = [rule.args["allowed_values"] for rule in field.checks if rule.name in ("isin", "eq")]
        if closed:
            tries.append(("a value of its list", list(closed[0])[:_ALLOWED]))
        elif not field.checks:
            tries.append(("an unseen text", [_UNSEEN]))
    return tries


def answer(model: Model, table: pl.DataFrame, what: str) -> Answers:
    """The answers of the trained estimator; raises ReleaseError when it fails on ``what`` or gives no number."""
    fix = "let the Pipeline take them: SimpleImputer, OneHotEncoder(handle_unknown='ignore'); or let the contract refuse them"
    try:
        given = model.answer(table)
    except MeguriError:
        raise
    except Exception as error:  # the estimator may raise whatever it likes
        text = " ".join(str(error).split())[:300]
        raise ReleaseError(f"the model cannot answer {what} ({type(error).__name__}: {text})", fix=fix) from error
    if not np.isfinite(given.score).all():
        raise ReleaseError(f"the model gives no finite number for {what}", fix=fix)
    return given


def compare(truth: Answers, found: Answers, tolerance: float) -> Gap:
    """How far ``found`` is from ``truth``: probabilities absolutely, values relatively above 1.

    An answer that differs counts too, unless its two best classes are nearer to each other than the tolerance.
    """
    apart = np.abs(truth.score - found.score)
    if truth.answer is None:
        apart = apart / np.maximum(1.0, np.abs(truth.score))
    elif truth.chances is not None and found.chances is not None and truth.chances.shape == found.chances.shape:
        apart = np.abs(truth.chances - found.chances).max(axis=1)
    apart = np.where(np.isnan(apart), np.inf, apart)
    beyond = apart > tolerance
    if truth.answer is not None and found.answer is not None:
        other = truth.answer != found.answer
        if truth.chances is not None:
            best = np.sort(truth.chances, axis=1)
            other &= best[:, -1] - best[:, -2] > 2 * tolerance
        beyond |= other
    return Gap(int(beyond.sum()), len(apart), float(apart.max()))


def vectors(table: pl.DataFrame, truth: Answers) -> dict[str, Any]:
    """Rows spread over the table, the tried ones at its end among them, with their answers, as JSON values."""
    places = np.unique(np.linspace(0, table.height - 1, VECTORS).astype(int)).tolist()
    return {
        "rows": json.loads(table[places].write_json()),
        "score": truth.score[places].tolist(),
        "answer": None if truth.answer is None else truth.answer[places].tolist(),
    }


def prove(
    ask: Callable[[Mapping[str, Sequence[Any]]], Plain], names: Sequence[str], tolerance: float, path: Path
) -> None:
    """Ask a loaded model the vectors in ``path``; raises ReleaseError when it answers otherwise than it did when built."""
    kept = read_json(path)
    given = ask({name: [row[name] for row in kept["rows"]] for name in names})
    gap = compare(_answers(kept["score"], kept["answer"]), _answers(given.score, given.answer), tolerance)
    if gap.rows:
        raise ReleaseError(
            f"the model does not answer as it did when it was built: it differs {gap}",
            where=path,
            fix="compare the versions in manifest.json with those installed here",
        )


def _answers(score: Sequence[float], answer: Sequence[str] | None) -> Answers:
    return Answers(np.asarray(score, np.float64), None if answer is None else np.asarray(answer, np.object_))
