"""ONNX: a fitted estimator as a graph with one input for each feature, and the session that answers from it."""

from __future__ import annotations

import math
import os
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from meguri.base.errors import MeguriError, ReleaseError
from meguri.base.extras import need
from meguri.data.spec import Field
from meguri.record.estimators import Answers, Plain, by_column, lightgbm_types

if TYPE_CHECKING:
    import polars as pl

Form = Literal["float", "int64", "string"]

MISSING = "nan"  # a null text: the converter writes pandas' NaN so, and MLflow hands it over so
OPSET = {"": 17, "ai.onnx.ml": 3}  # what the runtimes of phones and browsers read as well
_IR = 8  # the file format that belongs to this opset
_DTYPES = {"tensor(string)": np.object_, "tensor(int64)": np.int64, "tensor(float)": np.float32}
_CHUNK = 65_536  # rows in one call: the columns of a call stay in the cache, and memory stays bounded


class Unconvertible(MeguriError, ValueError):
    """An estimator that has no ONNX form; the release falls back to skops."""


def form_of(field: Field, *, whole: bool) -> Form:
    """The type of a feature's input: string for text, float for numbers and flags, but with ``whole`` int64 for those that
    are whole and never null. Raises ReleaseError for times, which no graph takes."""
    if field.type == "String":
        return "string"
    if field.type in ("Date", "Datetime"):
        raise ReleaseError(
            f"a model cannot be fed the feature '{field.name}' of type {field.type}",
            fix="make numbers or text of it in retrieve, such as the hour, and name those as features",
        )
    return "int64" if whole and not field.nullable and not field.is_float else "float"


def output_names(features: Iterable[str]) -> tuple[str, str, str]:
    """The names of the outputs, which no feature may have: score, answer and probabilities, with ``_`` where one has."""
    taken = set(features)

    def free(name: str) -> str:
        return free(name + "_") if name in taken else name

    return free("score"), free("answer"), free("probabilities")


def to_onnx(estimator: Any, forms: Mapping[str, Form], classes: Sequence[str] | None) -> bytes:
    """The estimator as an ONNX file with an input of shape [N] for each feature, in the estimator's order.

    Numbers are float32 with NaN for null, text has ``MISSING`` for null. The outputs are ``score``, for a classification
    ``answer``, each of shape [N], and for more than two classes ``probabilities`` of shape [N, classes]. ``classes`` are
    the texts of ``estimator.classes_`` in their order, None for a regression.
    Raises Unconvertible with the converter's own words.
    """
    types = need("skl2onnx.common.data_types")
    made = {"float": types.FloatTensorType, "int64": types.Int64TensorType, "string": types.StringTensorType}
    apart = by_column(estimator)
    if not apart and len(set(forms.values())) > 1:
        raise Unconvertible("features of several types without a ColumnTransformer have no ONNX form")
    if apart:
        initial = [(name, made[form]([None, 1])) for name, form in forms.items()]
    else:
        initial = [("features", made[next(iter(forms.values()))]([None, len(forms)]))]
    options = None if classes is None else {id(estimator): {"zipmap": False}}
    _know_lightgbm()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter's own deprecations are nothing that a user can act on
            model = need("skl2onnx").convert_sklearn(
                estimator, initial_types=initial, target_opset=OPSET, options=options
            )
    except Exception as error:  # it raises whatever its hundred converters raise
        text = " ".join(str(error).split())
        raise Unconvertible(f"{type(error).__name__}: {text[:300]}") from error
    return _wrap(model, forms, apart, None if classes is None else list(zip(estimator.classes_, classes, strict=True)))


def _know_lightgbm() -> None:
    """Tell skl2onnx how LightGBM is converted, when LightGBM is in use at all."""
    if "lightgbm" not in sys.modules:
        return
    classifier, regressor = lightgbm_types()
    shapes = need("skl2onnx.common.shape_calculator")
    convert = need("onnxmltools.convert.lightgbm.operator_converters.LightGbm").convert_lightgbm
    know = need("skl2onnx").update_registered_converter
    zipmap = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    as_classifier = shapes.calculate_linear_classifier_output_shapes
    know(classifier, "MeguriLGBMClassifier", as_classifier, convert, options=zipmap)
    know(
        regressor,
        "MeguriLGBMRegressor",
        shapes.calculate_linear_regressor_output_shapes,
        convert,
        options={"split": None},
    )


def _wrap(model: Any, forms: Mapping[str, Form], apart: bool, classes: list[tuple[Any, str]] | None) -> bytes:
    """Put [N] -> [N, 1] before the converter's graph, and ``score`` and ``answer`` of shape [N] behind it."""
    onnx = need("onnx")
    helper, kind = onnx.helper, onnx.TensorProto
    element = {"float": kind.FLOAT, "int64": kind.INT64, "string": kind.STRING}
    inner = need("onnx.compose").add_prefix(model, "model/")
    inputs = [helper.make_tensor_value_info(name, element[form], ["N"]) for name, form in forms.items()]
    flat = helper.make_tensor("meguri/flat", kind.INT64, [1], [-1])
    column = helper.make_tensor("meguri/column", kind.INT64, [2], [-1, 1])
    constants = [flat, column]
    before: list[Any] = []
    after: list[Any] = []

    def node(into: list[Any], operator: str, taken: list[str], given: str, **attributes: Any) -> str:
        into.append(helper.make_node(operator, taken, [given], **attributes))
        return given

    asked = [item.name for item in inner.graph.input]  # the converter spells names its own way, and keeps their order
    shaped = asked if apart else [f"meguri/column/{name}" for name in forms]
    columns = [node(before, "Reshape", [name, column.name], to) for name, to in zip(forms, shaped, strict=True)]
    if not apart:
        node(before, "Concat", columns, asked[0], axis=1)

    score, answer, probabilities = output_names(forms)
    outputs = [helper.make_tensor_value_info(score, kind.FLOAT, ["N"])]
    if classes is None:
        values = node(after, "Cast", [inner.graph.output[0].name], "meguri/values", to=kind.FLOAT)
    else:
        label = node(after, "Reshape", [inner.graph.output[0].name, flat.name], "meguri/label")
        if inner.graph.output[0].type.tensor_type.elem_type == kind.STRING:
            keys: dict[str, Any] = {"keys_strings": [str(key) for key, _ in classes]}
        else:
            label = node(after, "Cast", [label], "meguri/number", to=kind.INT64)
            keys = {"keys_int64s": [int(key) for key, _ in classes]}
        encode = {**keys, "domain": "ai.onnx.ml"}
        node(after, "LabelEncoder", [label], answer, values_strings=[text for _, text in classes], **encode)
        outputs.append(helper.make_tensor_value_info(answer, kind.STRING, ["N"]))
        if len(classes) == 2:
            place = helper.make_tensor("meguri/positive", kind.INT64, [1], [1])
            constants.append(place)
            values = node(after, "Gather", [inner.graph.output[1].name, place.name], "meguri/values", axis=1)
        else:
            order = node(after, "LabelEncoder", [label], "meguri/order", values_int64s=range(len(classes)), **encode)
            order = node(after, "Reshape", [order, column.name], "meguri/place")
            values = node(after, "GatherElements", [inner.graph.output[1].name, order], "meguri/values", axis=1)
            each = node(after, "Cast", [inner.graph.output[1].name], probabilities, to=kind.FLOAT)
            outputs.append(helper.make_tensor_value_info(each, kind.FLOAT, ["N", len(classes)]))
        values = node(after, "Cast", [values], "meguri/floats", to=kind.FLOAT)
    node(after, "Reshape", [values, flat.name], score)
    graph = helper.make_graph(
        [*before, *inner.graph.node, *after], "meguri", inputs, outputs, [*constants, *inner.graph.initializer]
    )
    versions = {item.domain: item.version for item in inner.opset_import} | OPSET  # it may name lower ones that suffice
    whole = helper.make_model(
        graph,
        producer_name="meguri",
        ir_version=_IR,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in sorted(versions.items())],
        functions=list(inner.functions),
    )
    onnx.checker.check_model(whole)
    data: bytes = whole.SerializeToString(deterministic=True)
    return data


class Session:
    """An ONNX file ready to answer; made once, used by any thread."""

    def __init__(self, source: Path | bytes, *, threads: int = 1) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # on by default since 1.29; it names models to its makers
        runtime = need("onnxruntime")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads  # with its default threads the runtime spins between calls
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        model = source if isinstance(source, bytes) else str(source)
        try:
            self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the runtime's errors have no public base
            text = " ".join(str(error).split())[:300]
            what = f"onnxruntime {runtime.__version__} cannot read the graph: {text}"
            where = None if isinstance(source, bytes) else source
            raise ReleaseError(
                what, where=where, fix="compare the versions in manifest.json with those here"
            ) from error
        self._inputs = [(item.name, item.type) for item in self._session.get_inputs()]

    def answer(self, rows: pl.DataFrame) -> Answers:
        """The answers for rows that hold the features, in their order; they do not depend on how many come at once.

        Raises ReleaseError when the graph cannot answer, such as for a category that its encoder does not know.
        """
        feeds = {name: _values(rows[name], form) for name, form in self._inputs}
        parts = []
        for start in range(0, rows.height, _CHUNK):
            part = {name: values[start : start + _CHUNK] for name, values in feeds.items()}
            count = min(_CHUNK, rows.height - start)
            if count == 1:  # the runtime sums a single row in another order
                part = {name: np.concatenate([values, values]) for name, values in part.items()}
            parts.append([output[:count] for output in self._run(part)])
        found = [np.concatenate(output) for output in zip(*parts, strict=True)]
        score = found[0].astype(np.float64)
        answer = found[1] if len(found) > 1 else None
        return Answers(score, answer, found[2].astype(np.float64) if len(found) > 2 else None)

    def answer_values(self, values: Mapping[str, Sequence[Any]]) -> Plain:
        """What ``answer`` gives for a few rows: columns of plain values in the contract's types, None where there is none."""
        count = len(values[self._inputs[0][0]])
        twice = 2 if count == 1 else 1  # the runtime sums a single row in another order
        found = self._run({name: _array(values[name], twice, form) for name, form in self._inputs})
        score, *others = [output[:count].tolist() for output in found]
        return Plain(score, others[0] if others else None, others[1] if len(others) > 1 else None)

    def _run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        try:
            outputs: list[np.ndarray[Any, Any]] = self._session.run(None, feeds)
            return outputs
        except Exception as error:  # the runtime's errors have no public base
            text = " ".join(str(error).split())
            what = f"the model cannot answer these rows: {text[:300]}"
            raise ReleaseError(what, fix="fit its encoders with handle_unknown='ignore'") from error


def _array(values: Sequence[Any], times: int, form: str) -> np.ndarray[Any, Any]:
    if None in values:
        gap = MISSING if form == "tensor(string)" else math.nan
        values = [gap if value is None else value for value in values]
    return np.array(values if times == 1 else [*values] * times, dtype=_DTYPES[form])


def _values(column: pl.Series, form: str) -> np.ndarray[Any, Any]:
    import polars as pl

    if form == "tensor(string)":
        return column.cast(pl.String).fill_null(MISSING).to_numpy()
    if form == "tensor(int64)":
        return column.cast(pl.Int64).to_numpy()
    return column.cast(pl.Float32).fill_null(float("nan")).to_numpy()
