"""A release: an immutable model folder that answers rows with no project on the path, and no pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from meguri.base.errors import ContractError, ReleaseError
from meguri.base.files import new_folder, read_json, write_json
from meguri.base.ids import prediction_ids
from meguri.data.contract import Contract
from meguri.data.spec import Field
from meguri.record import parity
from meguri.record.bundle import MODEL_FILES, seal, verify, write_mlflow
from meguri.record.estimators import Answers, Fitted, Plain, columns, from_skops, judge, to_skops
from meguri.record.onnx import Form, Session, Unconvertible, form_of, to_onnx

if TYPE_CHECKING:
    import polars as pl

Format = Literal["onnx", "skops"]


ROUNDING = 1e-6  # of a sum of probabilities in float32


@dataclass(frozen=True)
class Predictions:
    """What a release answered: ``table`` has a row for each good row, ``quarantined`` the others with their ``reason``.

    Columns of ``table``: prediction_id, key, time, due, release, run, score, answer, features (a struct), and for more than
    two classes probabilities (JSON by class).
    """

    table: pl.DataFrame
    quarantined: pl.DataFrame
    release: str


class Release:
    """A model as it is used: its folder, its manifest, its contract, and ``predict``, the only way to ask it."""

    def __init__(self, folder: Path, manifest: dict[str, Any], contract: Contract, model: Session | Fitted) -> None:
        self.folder, self.manifest, self.contract, self._model = folder, manifest, contract, model
        self.id: str = manifest["id"]
        self.format: Format = manifest["format"]
        self.notes: tuple[str, ...] = tuple(manifest["notes"])

    @classmethod
    def build(
        cls,
        estimator: Any,
        *,
        id: str,
        contract: Contract,
        sample: Any,
        folder: Path,
        tolerance: float = 1e-4,
        info: dict[str, Any],
    ) -> Release:
        """Write a fitted estimator as a release, or nothing.

        The ONNX graph must answer ``sample``, and rows that the contract also allows (nulls, unseen texts), as the
        estimator does, within ``tolerance`` (absolute for a probability, relative above 1 for a value); else the
        model is kept as skops, and ``notes`` say why. ``info`` (run, commit, data_version, trained_until, metrics …)
        goes into the manifest. Raises ReleaseError when the estimator does not suit the contract or cannot be kept.
        """
        if folder.exists():
            raise ReleaseError("a release is never written over", where=folder, fix="give the new one its own folder")
        found = judge(estimator, contract.task)
        names = columns(estimator, contract.features)
        classes = None if found is None else _texts(found, contract)
        fitted = Fitted(estimator, names, classes)
        types = {field.name: field for field in contract.fields}
        fields = {name: types[name] for name in names}
        for field in fields.values():
            form_of(field, whole=False)  # refuses a time, which skops' models cannot take either
        rows = parity.rows(contract, names, sample, fitted)
        truth = parity.answer(fitted, rows, "the sample")
        graph, forms, notes = _graph(fitted, fields, rows, truth, tolerance)
        with new_folder(folder) as draft:
            if graph is None:
                to_skops(estimator, draft / MODEL_FILES["skops"])
            else:
                (draft / MODEL_FILES["onnx"]).write_bytes(graph)
            write_json(draft / "contract.json", contract.to_spec())
            write_json(draft / "parity.json", parity.vectors(rows, truth))
            versions = write_mlflow(draft, id, fields=fields, forms=forms, classes=classes, at=info.get("at"))
            own = {
                "format_version": 1,
                "id": id,
                "format": "skops" if graph is None else "onnx",
                "task": contract.task,
                "features": names,
                "classes": classes,
                "tolerance": tolerance,
                "rows_compared": rows.height,
                "notes": notes,
                "versions": versions,
            }
            seal(draft, {"run": None, **info, **own})
            release = cls.load(draft)
        release.folder = folder
        return release

    @classmethod
    def load(cls, folder: Path, *, threads: int = 1) -> Release:
        """Open a release after its files match their hashes and its model answers its parity vectors as it did.

        Nothing of the folder is run as code. Raises ReleaseError that names the file.
        """
        folder = Path(folder)
        manifest = verify(folder)
        path = folder / MODEL_FILES[manifest["format"]]
        try:
            contract = Contract.from_spec(read_json(folder / "contract.json"))
        except ContractError as error:
            raise ReleaseError(str(error.what), where=folder / "contract.json", fix=error.fix) from error
        model: Session | Fitted
        if manifest["format"] == "onnx":
            model = Session(path, threads=threads)
        else:
            model = Fitted(from_skops(path), manifest["features"], manifest["classes"])
        ask = partial(_ask, model, contract)
        parity.prove(ask, manifest["features"], manifest["tolerance"], folder / "parity.json")
        return cls(folder, manifest, contract, model)

    def predict(self, rows: Any, *, at: datetime | None = None, ids: bool = True) -> Predictions:
        """Answer the rows (pandas, polars, Arrow) that meet the contract; no label is needed.

        ``at`` is the moment that the prediction ids are stamped with (default: now); with ``ids=False`` they are null.
        Raises ContractError when the table as a whole breaks the contract.
        """
        import polars as pl

        checked = self.contract.check(rows, labelled=False)
        good, quarantined, count = checked.rows, checked.quarantined, checked.rows.height
        answers = self._model.answer(good) if count else Answers(np.empty(0))
        score = self._score(answers)
        time, empty = good[self.contract.time], pl.repeat(None, count, dtype=pl.String, eager=True)
        columns: dict[str, pl.Series] = {
            "prediction_id": prediction_ids(count, at) if ids else empty,
            "key": self.contract.key_of(good),
            "time": time,
            "due": time + self.contract.label_after,
            "release": empty.fill_null(self.id),
            "run": empty if self.manifest["run"] is None else empty.fill_null(self.manifest["run"]),
            "score": pl.Series(score, dtype=pl.Float64),
            "answer": empty if answers.answer is None else pl.Series(answers.answer, dtype=pl.String),
            "features": good.select(self.contract.features).to_struct(),
        }
        classes = self.manifest["classes"]
        if classes is not None and len(classes) > 2:
            columns["probabilities"] = empty if not count else _json(pl.DataFrame(answers.chances, schema=classes))
        table = pl.DataFrame([column.alias(name) for name, column in columns.items()])
        whole = pl.Series(np.isfinite(score), dtype=pl.Boolean)
        if not whole.all():
            bad = good.filter(~whole).with_columns(pl.lit("the model gave no finite number").alias("reason"))
            same = [pl.col(name).cast(kind, strict=False) for name, kind in quarantined.schema.items()]
            quarantined, table = pl.concat([quarantined, bad.select(same)]), table.filter(whole)
        return Predictions(table, quarantined, self.id)

    def answer(self, values: Mapping[str, Sequence[Any]]) -> Plain:
        """What ``predict`` answers, for at least one row that keeps the contract, given as a list for each feature.

        Values are plain ones in the contract's types, None where there is none: a service asks so, without a frame. A
        score may be NaN or infinite.
        """
        found = _ask(self._model, self.contract, values)
        if self.contract.task == "regression":
            return found
        return found._replace(score=[score if 0 <= score <= 1 else _chances(score).item() for score in found.score])

    def _score(self, answers: Answers) -> np.ndarray[Any, Any]:
        return answers.score if self.contract.task == "regression" else _chances(answers.score)

    def __repr__(self) -> str:
        return f"<Release {self.id}: {self.contract.task}, {self.format}, {len(self.manifest['features'])} features>"


def _ask(model: Session | Fitted, contract: Contract, values: Mapping[str, Sequence[Any]]) -> Plain:
    return model.answer_values(values) if isinstance(model, Session) else model.answer_values(values, contract.types)


def _graph(
    fitted: Fitted, fields: Mapping[str, Field], rows: pl.DataFrame, truth: Answers, tolerance: float
) -> tuple[bytes | None, dict[str, Form] | None, list[str]]:
    """The first ONNX graph that answers as the estimator does, with the types of its inputs; else None and the reason.

    float32 is tried first; it cannot tell large whole numbers apart, nor values next to a tree's threshold.
    """
    tried, reason = [], ""
    for whole in (False, True):
        forms = {name: form_of(field, whole=whole) for name, field in fields.items()}
        if forms in tried:
            continue
        tried.append(forms)
        try:
            graph = to_onnx(fitted.estimator, forms, fitted.classes)
            gap = parity.compare(truth, Session(graph).answer(rows), tolerance)
        except (Unconvertible, ReleaseError) as error:
            reason = reason or f"it has no ONNX form that answers ({error.what})"
            continue
        if not gap.rows:
            return graph, forms, []
        reason = f"its ONNX form differs {gap} (tolerance {tolerance:g})"
    return None, None, [f"kept as skops, which is slower for single rows: {reason}"]


def _texts(classes: Sequence[Any], contract: Contract) -> list[str]:
    """The classes as the text of the contract's label: true and false for a flag, 3 for 3.0."""
    flag = contract.label is not None and contract.kinds[contract.label] == "Boolean"
    made = []
    for value in classes:
        if isinstance(value, bool) or (flag and value in (0, 1)):
            made.append("true" if value else "false")
        else:
            made.append(str(int(value)) if isinstance(value, float) and value.is_integer() else str(value))
    return made


def _chances(score: np.ndarray[Any, Any] | float) -> np.ndarray[Any, Any]:
    """Probabilities that float32 has carried a little beyond 0 or 1, as the sum over the trees of a forest does, put back."""
    within = np.clip(score, 0.0, 1.0)
    near: np.ndarray[Any, Any] = np.where(np.abs(score - within) <= ROUNDING, within, score)
    return near


def _json(table: pl.DataFrame) -> pl.Series:
    return table.to_struct().struct.json_encode()
