from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk

from meguri.base.errors import DataError, GateError
from meguri.record.evaluation import Evaluation, bins, truth
from meguri.record.metrics import CLIP, METRICS, metric_of

START = datetime(2013, 1, 1, tzinfo=UTC)


@dataclass
class Contract:
    task: str = "binary"
    label: str | None = "late"
    time: str = "at"
    group: str | None = None
    value: Any = None

    def key_of(self, table: pl.DataFrame) -> pl.Series:
        return table["id"].cast(pl.String)


@dataclass
class Part:
    table: pl.DataFrame
    contract: Contract


@dataclass
class Predictions:
    table: pl.DataFrame


@dataclass
class Model:
    """Answers from columns of the rows, in another order than asked."""

    manifest: dict[str, Any] = field(default_factory=dict)
    id: str = "r1"
    leave_out: int = 0

    def predict(self, rows: pl.DataFrame, *, ids: bool = True) -> Predictions:
        assert not ids
        extra = [name for name in ("answer", "probabilities") if name in rows.columns]
        table = rows.select(pl.col("id").cast(pl.String).alias("key"), "score", *extra)
        return Predictions(table.reverse().head(len(table) - self.leave_out))


def flights(count: int = 200, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    late = rng.random(count) < 0.3
    return pl.DataFrame(
        {
            "id": np.arange(count),
            "at": [START + timedelta(hours=i) for i in range(count)],
            "origin": rng.choice(["EWR", "JFK", None], count).tolist(),
            "delay": rng.normal(size=count),
            "late": late,
            "score": np.clip(0.3 + 0.2 * late + 0.2 * rng.normal(size=count), 0.01, 0.99),
        }
    )


def test_binary_metrics_are_scikit_learns() -> None:
    rows = flights()
    found = Evaluation.of(Model(), Part(rows, Contract())).metrics  # type: ignore[arg-type]
    y, s = rows["late"].to_numpy(), rows["score"].to_numpy()
    assert found == pytest.approx(
        {
            "log_loss": sk.log_loss(y, s),
            "brier": sk.brier_score_loss(y, s),
            "auc": sk.roc_auc_score(y, s),
            "accuracy": sk.accuracy_score(y, s >= 0.5),
        }
    )


def test_regression_metrics_are_scikit_learns() -> None:
    rows = flights().with_columns(late=pl.col("delay"))
    found = Evaluation.of(Model(), Part(rows, Contract("regression"))).metrics  # type: ignore[arg-type]
    y, s = rows["late"].to_numpy(), rows["score"].to_numpy()
    assert found == pytest.approx(
        {"mae": sk.mean_absolute_error(y, s), "rmse": sk.root_mean_squared_error(y, s), "bias": (s - y).mean()}
    )


def three(count: int = 150) -> pl.DataFrame:
    rng = np.random.default_rng(4)
    chances = rng.dirichlet([1, 1, 1], count)
    label = [int(rng.choice(3, p=p)) for p in chances]
    return flights(count).with_columns(
        late=pl.Series(label),
        answer=pl.Series(chances.argmax(1)).cast(pl.String),
        score=chances.max(1),
        probabilities=pl.Series([json.dumps({str(i): p for i, p in enumerate(row)}) for row in chances]),
    )


def test_multiclass_has_log_loss_only_with_all_probabilities() -> None:
    rows = three()
    full = Evaluation.of(Model(), Part(rows, Contract("multiclass")))  # type: ignore[arg-type]
    chances = np.array([list(json.loads(text).values()) for text in rows["probabilities"]])
    assert full.metrics["log_loss"] == pytest.approx(sk.log_loss(rows["late"].to_numpy(), chances))
    assert full.metrics["accuracy"] == pytest.approx((chances.argmax(1) == rows["late"].to_numpy()).mean())
    part = Evaluation.of(Model(), Part(rows.drop("probabilities"), Contract("multiclass")))  # type: ignore[arg-type]
    assert set(part.metrics) == {"accuracy", "brier"}
    assert part.metrics["brier"] == full.metrics["brier"]


def test_multiclass_needs_answers() -> None:
    with pytest.raises(DataError, match="answer"):
        Evaluation.of(Model(), Part(three().drop("answer"), Contract("multiclass")))  # type: ignore[arg-type]


def test_rows_keep_key_time_group_slices_label_and_score() -> None:
    part = Part(flights(), Contract(group="origin"))
    evaluation = Evaluation.of(Model(), part, slices=["origin", "delay", "late"])  # type: ignore[arg-type]
    rows = evaluation.rows
    assert rows.columns == ["key", "time", "group", "label", "score", "slice origin", "slice delay", "slice late"]
    assert rows["key"].to_list() == [str(i) for i in range(200)]
    assert rows["group"].to_list() == part.table["origin"].to_list()
    assert rows["slice origin"].unique().sort().to_list() == ["EWR", "JFK", "none"]
    assert rows["slice late"].unique().sort().to_list() == ["false", "true"]
    assert sorted(rows["slice delay"].value_counts()["count"]) == [50, 50, 50, 50]
    assert rows["score"].to_list() == part.table["score"].to_list()
    assert evaluation.release == "r1"
    assert evaluation.slices == ("origin", "delay", "late")


def test_a_slice_may_have_any_name_of_ours() -> None:
    part = Part(flights().with_columns(key=pl.lit("k"), group=pl.lit("g"), label=pl.lit(1)), Contract())
    rows = Evaluation.of(Model(), part, slices=["key", "group", "score", "label", "at"]).rows  # type: ignore[arg-type]
    assert rows["slice label"].to_list() == ["1"] * 200
    assert rows["group"].null_count() == 200


def test_metrics_by_slice_are_those_of_its_rows() -> None:
    evaluation = Evaluation.of(Model(), Part(flights(), Contract()), slices=["origin"])  # type: ignore[arg-type]
    table = evaluation.by("origin")
    assert table["rows"].sum() == 200
    weighted = (table["rows"] * table["log_loss"]).sum() / 200
    assert weighted == pytest.approx(evaluation.metrics["log_loss"])
    with pytest.raises(DataError, match="no slice 'dest'"):
        evaluation.by("dest")


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (
            lambda t: t.with_columns(late=pl.when(pl.col("id") != 7).then("late")),
            "1 rows have no label, the first is '7'",
        ),
        (lambda t: t.with_columns(score=pl.when(pl.col("id") != 9).then("score")), "1 of 200 rows got no answer.*'9'"),
        (lambda t: t.with_columns(score=pl.when(pl.col("id") == 9).then(float("nan")).otherwise("score")), "no answer"),
        (lambda t: t.with_columns(id=pl.col("id") // 2), "twice in the rows"),
        (lambda t: t.with_columns(late=pl.Series(["spam", "ham"] * 100)), "which of these labels is the positive"),
        (lambda t: t.with_columns(late=pl.col("id")), "which of these labels"),
    ],
)
def test_rows_that_cannot_be_scored(break_it: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        Evaluation.of(Model(), Part(break_it(flights()), Contract()))  # type: ignore[arg-type]


def test_rows_that_the_model_leaves_out() -> None:
    with pytest.raises(DataError, match="3 of 200 rows got no answer"):
        Evaluation.of(Model(leave_out=3), Part(flights(), Contract()))  # type: ignore[arg-type]


def test_an_unknown_slice_names_the_nearest_column() -> None:
    with pytest.raises(DataError, match="did you mean 'origin'"):
        Evaluation.of(Model(), Part(flights(), Contract()), slices=["orgin"])  # type: ignore[arg-type]
    with pytest.raises(DataError, match="columns: id"):
        Evaluation.of(Model(), Part(flights(), Contract()), slices=["zzz"])  # type: ignore[arg-type]


def test_a_contract_without_a_label() -> None:
    with pytest.raises(DataError, match="no label"):
        Evaluation.of(Model(), Part(flights(), Contract(label=None)))  # type: ignore[arg-type]


def test_text_labels_are_read_by_the_models_classes() -> None:
    rows = flights().with_columns(late=pl.when("late").then(pl.lit("spam")).otherwise(pl.lit("ham")))
    model = Model({"classes": ["ham", "spam"]})
    assert Evaluation.of(model, Part(rows, Contract())).metrics == pytest.approx(  # type: ignore[arg-type]
        Evaluation.of(Model(), Part(flights(), Contract())).metrics  # type: ignore[arg-type]
    )


@pytest.mark.parametrize(
    "values", [[True, False], [1, 0], [1.0, 0.0], ["true", "false"], ["True", "False"], ["1", "0"], ["YES", "no"]]
)
def test_binary_labels_in_any_form(values: list[Any]) -> None:
    assert truth(pl.Series(values), "binary", ["false", "true"]).to_list() == [True, False]
    assert truth(pl.Series(values), "binary").to_list() == [True, False]


def test_class_labels_in_any_form() -> None:
    assert truth(pl.Series([1.0, 2.0]), "multiclass").to_list() == ["1", "2"]
    assert truth(pl.Series([1.5, 2.0]), "multiclass").to_list() == ["1.5", "2.0"]
    assert truth(pl.Series([3, 4]), "multiclass").to_list() == ["3", "4"]
    assert truth(pl.Series(["1.5"]), "regression").to_list() == [1.5]
    with pytest.raises(DataError, match="a label is no number"):
        truth(pl.Series(["much"]), "regression")


def test_numbers_are_cut_at_their_own_quantiles() -> None:
    cut = bins(pl.Series("x", [*range(100), None, float("nan"), float("inf")], strict=False))
    assert cut.value_counts().sort("x").rows() == [
        ("below 24.75", 25), ("from 24.75 to 49.5", 25), ("from 49.5 to 74.25", 25), ("from 74.25", 25), ("none", 3),
    ]  # fmt: skip
    assert bins(pl.Series("x", [1, 2, None])).to_list() == ["1", "2", "none"]
    assert bins(pl.Series("x", [None] * 9, dtype=pl.Float64)).unique().to_list() == ["none"]
    assert set(
        bins(pl.Series("x", [float("nan"), float("inf"), *[float("-inf")] * 2, *range(1, 8)], strict=False))
    ) >= {"none"}


@settings(max_examples=50, deadline=None)
@given(st.permutations(list(range(30))))
def test_bins_do_not_depend_on_the_order_of_rows(order: list[int]) -> None:
    values = pl.Series("x", [float(i * i) for i in range(30)])
    assert bins(values[order]).to_list() == bins(values)[order].to_list()


def test_save_and_load(tmp_path: Path) -> None:
    evaluation = Evaluation.of(Model(), Part(flights(), Contract(group="origin")), slices=["delay"])  # type: ignore[arg-type]
    evaluation.save(tmp_path / "e")
    loaded = Evaluation.load(tmp_path / "e")
    assert loaded.rows.equals(evaluation.rows)
    assert (loaded.metrics, loaded.task, loaded.slices, loaded.release) == (
        evaluation.metrics, "binary", ("delay",), "r1",
    )  # fmt: skip


@pytest.mark.parametrize("file", ["rows.parquet", "evaluation.json"])
@pytest.mark.parametrize("damage", ["gone", "cut", "flipped", "empty"])
def test_a_broken_evaluation_is_not_loaded(tmp_path: Path, file: str, damage: str) -> None:
    Evaluation.of(Model(), Part(flights(), Contract())).save(tmp_path / "e")  # type: ignore[arg-type]
    path = tmp_path / "e" / file
    raw = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(raw) // 2
        path.write_bytes({"cut": raw[:middle], "empty": b"{}", "flipped": raw[:2] + b"\xff" + raw[3:]}[damage])
    with pytest.raises(DataError) as caught:
        Evaluation.load(tmp_path / "e")
    assert caught.value.where == str(tmp_path / "e")


def test_rows_that_are_no_table_are_not_loaded(tmp_path: Path) -> None:
    import hashlib

    Evaluation.of(Model(), Part(flights(), Contract())).save(tmp_path / "e")  # type: ignore[arg-type]
    (tmp_path / "e" / "rows.parquet").write_bytes(b"PAR1nothing")
    about = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    about["rows_sha256"] = hashlib.sha256(b"PAR1nothing").hexdigest()
    (tmp_path / "e" / "evaluation.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match="cannot be read"):
        Evaluation.load(tmp_path / "e")


def test_a_test_set_is_named_by_its_keys() -> None:
    one = Evaluation.of(Model(), Part(flights(), Contract()))  # type: ignore[arg-type]
    other = Evaluation.of(Model(), Part(flights(seed=1).reverse(), Contract()))  # type: ignore[arg-type]
    fewer = Evaluation.of(Model(), Part(flights(199), Contract()))  # type: ignore[arg-type]
    assert one.version == other.version != fewer.version


def test_only_later_rows() -> None:
    evaluation = Evaluation.of(Model(), Part(flights(), Contract()))  # type: ignore[arg-type]
    later = evaluation.later_than(START + timedelta(hours=149))
    assert later.rows["key"].to_list() == [str(i) for i in range(150, 200)]
    assert later.metrics != evaluation.metrics
    assert evaluation.later_than(START + timedelta(days=99)).metrics == {}


def test_the_live_metric_is_that_of_the_labelled_predictions() -> None:
    rows = flights()
    joined = pl.DataFrame(
        {
            "prediction_id": rows["id"].cast(pl.String),
            "key": ["same"] * 200,
            "time": rows["at"],
            "score": rows["score"],
            "answer": rows["late"].cast(pl.String),
            "label": rows.select(pl.when(pl.col("id") < 150).then(pl.col("late").cast(pl.Float64))).to_series(),
        }
    )
    live = Evaluation.live(joined, task="binary")
    expected = Evaluation.of(Model(), Part(rows.head(150), Contract()))  # type: ignore[arg-type]
    assert live.metrics == pytest.approx(expected.metrics)
    assert Evaluation.live(joined.clear(), task="binary").metrics == {}
    assert Evaluation.live(joined.clear().with_columns(label=pl.lit(None)), task="binary").metrics == {}


def test_what_the_rows_cannot_tell_is_left_out() -> None:
    found = Evaluation.of(Model(), Part(flights().filter(pl.col("late")), Contract())).metrics  # type: ignore[arg-type]
    assert set(found) == {"log_loss", "brier", "accuracy"}


def test_a_certain_wrong_answer_has_a_finite_loss() -> None:
    assert METRICS["log_loss"].value(np.array([1.0, 0.0]), np.array([0.0, 0.0])) == pytest.approx(-np.log(CLIP) / 2)


@pytest.mark.parametrize(
    ("name", "task", "match"),
    [
        ("logloss", "binary", "not known.*\n.*\n.*did you mean 'log_loss'"),
        ("auc", "regression", "is none to judge a regression model by"),
        ("bias", "regression", "is none to judge"),
        ("zzzz", "binary", "metrics for binary: log_loss, brier, auc, accuracy"),
    ],
)
def test_a_metric_that_is_none(name: str, task: str, match: str) -> None:
    with pytest.raises(GateError, match=match):
        metric_of(name, task)


def test_a_metric_to_show_need_not_be_one_to_judge_by() -> None:
    assert metric_of("bias", "regression", judged=False).better == "neither"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), name=st.sampled_from(list(METRICS)), ties=st.booleans())
def test_the_influence_tells_what_a_row_more_weight_would_do(seed: int, name: str, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    y = rng.normal(size=60) if METRICS[name].tasks == ("regression",) else np.arange(60) % 3 % 2 * 1.0
    s = rng.random(60)
    s = np.round(s, 1) if ties else s
    metric = METRICS[name]
    pull = metric.influence(y, s)
    assert abs(pull.mean()) < 1e-9
    copies = 50  # one row more among many copies of all: the change is its influence, divided by the number of rows
    many_y, many_s = np.tile(y, copies), np.tile(s, copies)
    for row in (0, 1, 30):
        change = metric.value(np.append(many_y, y[row]), np.append(many_s, s[row])) - metric.value(many_y, many_s)
        assert change * (60 * copies) == pytest.approx(pull[row], rel=0.05, abs=0.02)
    shares = metric.per_row(y, s)
    if shares is not None:
        assert shares.mean() == pytest.approx(metric.value(y, s))


def test_the_influence_of_no_error_is_none() -> None:
    same = np.array([1.0, 2.0])
    assert METRICS["rmse"].influence(same, same).tolist() == [0.0, 0.0]
