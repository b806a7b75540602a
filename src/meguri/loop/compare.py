"""Two passes of one run, side by side: the same, the same within a tolerance, or different, and the first place where."""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from meguri.base.errors import MeguriError
from meguri.base.files import read_json, sha256
from meguri.base.redact import redact
from meguri.loop.turn import flat
from meguri.record.bundle import MODEL_FILES
from meguri.record.evaluation import Evaluation
from meguri.record.packages import differences
from meguri.record.run import Run

State = Literal["same", "close", "differs", "unknown"]
Verdict = Literal["same", "same within tolerance", "differs"]
TOLERANCE = 1e-6
FEW = 3  # differences that are told in words; JSON has them all
RESULTS = ("test answers", "metrics", "predictions", "verdict")


@dataclass(frozen=True)
class Stage:
    """One place on the datum's way: how it was then and is now, whether that is the same, and in words what differs."""

    name: str
    state: State
    then: Any = None
    now: Any = None
    detail: str = ""


@dataclass(frozen=True)
class Comparison:
    """A run and its rerun: the stages in the order of the datum's way, and ``notes`` on what could not be restored."""

    run: str
    stages: tuple[Stage, ...]
    notes: tuple[str, ...] = ()
    failed: str | None = None
    folder: Path | None = None

    @property
    def verdict(self) -> Verdict:
        """What the results say: they are the same, with the same model; differ by no more than the tolerance; or differ."""
        results = [stage.state for stage in self.stages if stage.name in RESULTS]
        model = [stage.state for stage in self.stages if stage.name == "model"]
        states = results or model or [stage.state for stage in self.stages]
        if self.failed or "differs" in states:
            return "differs"
        return "same" if {*states, *model} <= {"same", "unknown"} else "same within tolerance"

    @property
    def first(self) -> Stage | None:
        """The first place on the way that is not the same; there may be one though the results are."""
        changed = (stage for stage in self.stages if stage.state in ("close", "differs"))
        return next(changed, None)

    def to_dict(self) -> dict[str, Any]:
        """The comparison as JSON can hold it."""
        first = self.first
        return {
            "run": self.run,
            "verdict": self.verdict,
            "first": None if first is None else {"name": first.name, "detail": first.detail},
            "failed": self.failed,
            "stages": [asdict(stage) for stage in self.stages],
            "notes": list(self.notes),
            "folder": None if self.folder is None else str(self.folder),
        }


def compare(
    then: Run, now: Run, *, rows: tuple[Path | None, Path | None], used: set[str] | None, tolerance: float = TOLERANCE
) -> list[Stage]:
    """The stages of two passes, those left out that neither pass has.

    ``rows`` are the files of checked rows that the jobs had, where they are at hand; ``used`` the packages that the
    second pass has loaded, as another's version explains nothing. A score or metric is close when it differs by no more
    than ``tolerance``: absolute up to 1, relative above.
    """
    found = [
        _data(then, now, rows),
        of_tables("settings", flat(then.settings), flat(now.settings)),
        _packages(then, now, used),
        _code(then, now),
        _dataset(then, now),
        _params(then, now),
        _model(then, now),
        _answers("test answers", _test(then.folder), _test(now.folder), tolerance),
        of_numbers("metrics", metrics(then.folder), metrics(now.folder), tolerance),
        _served(then, now, tolerance),
        _verdict(then, now, tolerance),
    ]
    return [stage for stage in found if stage is not None]


def apart(a: float | None, b: float | None) -> float:
    """How far two numbers are from each other: absolute up to 1, relative above; 0 for two that are absent."""
    if a == b:
        return 0.0
    if a is None or b is None:
        return math.inf
    gap = abs(a - b) / max(1.0, abs(a), abs(b))
    return gap if math.isfinite(gap) else math.inf


def of_tables(name: str, then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> Stage | None:
    """A stage of two sets of names and values, only those that differ kept; None when neither is there."""
    if then is None or now is None:
        return None if then is now else Stage(name, "differs", then, now, _gone(then))
    names = [key for key in dict.fromkeys([*then, *now]) if then.get(key) != now.get(key)]
    old, new = (redact({key: side.get(key) for key in names}) for side in (then, now))
    told = [f"{key} {_short(old[key])} → {_short(new[key])}" for key in names]
    return Stage(name, "differs", old, new, _few(told)) if names else Stage(name, "same")


def of_numbers(
    name: str, then: Mapping[str, float | None] | None, now: Mapping[str, float | None] | None, tolerance: float
) -> Stage | None:
    """A stage of named numbers, all of them kept."""
    if then is None or now is None:
        return None if then is now else Stage(name, "differs", then, now, _gone(then))
    gaps = {key: apart(then.get(key), now.get(key)) for key in dict.fromkeys([*then, *now])}
    far = [key for key, gap in gaps.items() if gap > 0]
    worst = max(gaps.values(), default=0.0)
    told = _few([f"{key} {_short(then.get(key))} → {_short(now.get(key))}" for key in far])
    return Stage(name, "same" if not far else "close" if worst <= tolerance else "differs", dict(then), dict(now), told)


def metrics(folder: Path) -> dict[str, float] | None:
    """The metrics of a run's evaluation."""
    path = folder / "evaluation" / "evaluation.json"
    return {str(k): float(v) for k, v in read_json(path)["metrics"].items()} if path.is_file() else None


def meaning(model: Path) -> str:
    """A hash of what a model file says: of an ONNX file all bytes, of a skops file all but addresses and times.

    Two identical trainings give the same ONNX bytes, as it is written in a fixed order and holds no name or moment of its
    making. skops names each object by its address in memory, and a zip holds the time: both are left out, the address
    replaced by the place where it comes first.
    """
    if model.suffix != ".skops":
        return sha256(model)
    places: dict[str, str] = {}
    found = hashlib.sha256()
    with zipfile.ZipFile(model) as file:

        def plain(node: Any) -> Any:
            if isinstance(node, list):
                return [plain(item) for item in node]
            if not isinstance(node, dict):
                return node
            said = dict(node)
            if "__id__" in said:
                said["__id__"] = places.setdefault(str(said["__id__"]), str(len(places)))
            if isinstance(said.get("file"), str) and said["file"] in file.namelist():
                found.update(file.read(said["file"]))
                said["file"] = Path(said["file"]).suffix
            return {name: plain(value) for name, value in said.items()}

        found.update(json.dumps(plain(json.loads(file.read("schema.json")))).encode())
    return found.hexdigest()


def _data(then: Run, now: Run, rows: tuple[Path | None, Path | None]) -> Stage | None:
    if then.data_version == now.data_version:
        return None if then.data_version is None else Stage("data", "same", then.data_version, now.data_version)
    detail = ""
    if rows[0] is not None and rows[1] is not None:
        old, new = (pl.read_parquet(path) for path in rows if path is not None)
        if old.equals(new):
            return Stage("data", "same", then.data_version, now.data_version, "other bytes, the same rows")
        detail = rows_changed(old, new, _key(then, now))
    return Stage("data", "differs", then.data_version, now.data_version, detail)


def rows_changed(old: pl.DataFrame, new: pl.DataFrame, key: Sequence[str]) -> str:
    """What happened to the rows, in words: how many came, went and changed, and the first change."""
    lost, came = ([c for c in a.columns if c not in b.columns] for a, b in ((old, new), (new, old)))
    told = [f"the column {name} is gone" for name in lost] + [f"the column {name} is new" for name in came]
    if not key or not set(key) <= set(old.columns) & set(new.columns):
        return "; ".join([*told, f"{old.height:,} → {new.height:,} rows"])
    more, less = (a.join(b, on=key, how="anti", nulls_equal=True).height for a, b in ((new, old), (old, new)))
    told += [f"{count:,} rows {word}" for count, word in ((more, "came"), (less, "are gone")) if count]
    same = [name for name in old.columns if name in new.columns and name not in key]
    both = old.join(new, on=key, how="inner", suffix=" now", maintain_order="left")
    unlike = {name: pl.col(name).ne_missing(pl.col(f"{name} now")) for name in same}
    changed = both.filter(pl.any_horizontal(*unlike.values())) if unlike else both.clear()
    if changed.height:
        row = changed.head(1)
        name = next(name for name, test in unlike.items() if row.select(test).item())
        where = "|".join(str(value) for value in row.select(key).row(0))
        told.append(
            f"{changed.height:,} rows changed, the first {where}: {name} {_short(row[name][0])} → {_short(row[f'{name} now'][0])}"
        )
    return "; ".join(told) or "the same rows in another order"


def _packages(then: Run, now: Run, used: set[str] | None) -> Stage:
    old, new = then.packages, now.packages
    if old is None or new is None:
        return Stage("packages", "unknown", detail="the run kept no list of its packages")
    changed = differences(old, new)
    own = {name: pair for name, pair in changed.items() if used is None or name in used}
    told = [f"{name} {a or 'none'} → {b or 'none'}" for name, (a, b) in own.items()]
    rest = len(changed) - len(own)
    other = [f"{rest} others differ that these jobs do not load"] if rest else []
    before, after = ({name: pair[side] for name, pair in own.items()} for side in (0, 1))
    detail = "; ".join([*([_few(told)] if told else []), *other])
    return Stage("packages", "differs" if own else "same", before, after, detail)


def _code(then: Run, now: Run) -> Stage:
    if then.code is None or now.code is None:
        return Stage("code", "unknown", then.commit, now.commit, "the run kept no list of its files")
    names = [name for name in dict.fromkeys([*then.code, *now.code]) if then.code.get(name) != now.code.get(name)]
    words = {True: "changed", False: "gone"}
    told = [f"{name} is {words[name in now.code] if name in then.code else 'new'}" for name in names]
    return Stage("code", "differs" if names else "same", then.commit, now.commit, _few(told))


def _dataset(then: Run, now: Run) -> Stage | None:
    """The parts, by what is kept of them: the sketch of train, the end of valid, the keys and labels of test."""
    paths = [run.folder / "model" / "manifest.json" for run in (then, now)]
    manifests = [read_json(path) if path.is_file() else {} for path in paths]
    tests = [_test(run.folder) for run in (then, now)]
    known = []
    for manifest, test in zip(manifests, tests, strict=True):
        labels = None if test is None else test.sort("key").select("key", "label").rows()
        known.append(
            {"trained until": manifest.get("trained_until"), "test rows": labels and len(labels), "test": _mark(labels)}
        )
    sketches = [manifest.get("reference") for manifest in manifests]
    if _shape(sketches[0]) == _shape(sketches[1]):  # else another Meguri drew it, and it says nothing of the rows
        known = [{"train": _mark(sketch), **each} for sketch, each in zip(sketches, known, strict=True)]
    there = [each if any(each.values()) else None for each in known]
    return of_tables("dataset", there[0], there[1])


def _mark(value: Any) -> str | None:
    """A short name for a value, the same for the same."""
    text = json.dumps(value, sort_keys=True, default=str).encode()
    return None if value is None else hashlib.sha256(text).hexdigest()[:16]


def _shape(value: Any) -> Any:
    """The names in a tree, without what stands under them."""
    return {name: _shape(item) for name, item in value.items()} if isinstance(value, dict) else None


def _params(then: Run, now: Run) -> Stage | None:
    old, new = (_json(run.folder / "params.json") for run in (then, now))
    stage = of_tables("params", old, new)
    trials = [_trials(run.folder / "study.db") for run in (then, now)]
    if stage is None or stage.state == "same" or trials[0] == trials[1]:
        return stage
    more = f"{stage.detail}; the search made {trials[0]} trials, and {trials[1]} now"
    return Stage(stage.name, stage.state, stage.then, stage.now, more)


def _model(then: Run, now: Run) -> Stage | None:
    files = [next(_models(run.folder), None) for run in (then, now)]
    if files[0] is None or files[1] is None:
        return None if files[0] is files[1] else Stage("model", "differs", detail=_gone(files[0]))
    marks = [meaning(path) for path in files if path is not None]
    same = marks[0] == marks[1] and files[0].name == files[1].name
    detail = "" if same else "its bytes differ" if files[0].name == files[1].name else "its format differs"
    return Stage("model", "same" if same else "differs", marks[0], marks[1], detail)


def _models(folder: Path) -> Iterator[Path]:
    return (path for name in MODEL_FILES.values() if (path := folder / "model" / name).is_file())


def _served(then: Run, now: Run, tolerance: float) -> Stage | None:
    old, why = _predictions(then.folder), now.facts.get("left_out")
    if old is not None and why:
        return Stage("predictions", "unknown", {"rows": old.height}, detail=str(why))
    return _answers("predictions", old, _predictions(now.folder), tolerance)


def _answers(name: str, then: pl.DataFrame | None, now: pl.DataFrame | None, tolerance: float) -> Stage | None:
    """Scores and answers for the same keys."""
    if then is None or now is None:
        return None if then is now else Stage(name, "differs", detail=_gone(then))
    size = {"rows": then.height}, {"rows": now.height}
    text = [column for column in ("answer", "release") if column in then.columns and column in now.columns]
    both = then.join(now.select("key", "score", *text), on="key", how="full", suffix=" now", coalesce=True)
    scores = [pl.col("score").cast(pl.Float64), pl.col("score now").cast(pl.Float64)]
    scale = pl.max_horizontal(pl.lit(1.0), *(score.abs() for score in scores))
    other = pl.any_horizontal(pl.lit(False), *(pl.col(c).ne_missing(pl.col(f"{c} now")) for c in text))
    gap = pl.when(scores[0].eq_missing(scores[1])).then(0.0).otherwise((scores[0] - scores[1]).abs() / scale)
    judged = both.with_columns(gap=pl.when(other).then(math.inf).otherwise(gap).fill_null(math.inf))
    unlike = judged.filter(pl.col("gap") > 0).sort("gap", descending=True, maintain_order=True)
    if unlike.is_empty():
        return Stage(name, "same", *size, f"{judged.height:,} rows")
    worst = unlike.row(0, named=True)
    close = worst["gap"] <= tolerance
    detail = f"{unlike.height:,} of {judged.height:,} rows differ, most {worst['key']}: "
    named = next((c for c in text if worst[c] != worst[f"{c} now"]), "score")
    detail += f"{named} {_short(worst[named])} → {_short(worst[f'{named} now'])}"
    return Stage(name, "close" if close else "differs", *size, detail)


def _verdict(then: Run, now: Run, tolerance: float) -> Stage | None:
    old, new = then.facts.get("verdict"), now.facts.get("verdict")
    if old is None or new is None:
        sides = (old and old["result"], new and new["result"])
        return None if old is new else Stage("verdict", "differs", *sides, _gone(old))
    was, is_ = ({name: verdict[name] for name in ("gain", "low", "high", "rows")} for verdict in (old, new))
    numbers = of_numbers("verdict", was, is_, tolerance) or Stage("verdict", "same")
    turned = old["result"] != new["result"]
    words = f"{old['result']} → {new['result']}" if turned else str(new["result"])
    detail = "; ".join(filter(None, [words, numbers.detail]))
    before, after = {"result": old["result"], **was}, {"result": new["result"], **is_}
    return Stage("verdict", "differs" if turned else numbers.state, before, after, detail)


def _test(folder: Path) -> pl.DataFrame | None:
    try:
        return Evaluation.load(folder / "evaluation").rows if (folder / "evaluation").is_dir() else None
    except MeguriError:
        return None


def _predictions(folder: Path) -> pl.DataFrame | None:
    path = folder / "predictions.parquet"
    found = pl.read_parquet(path, columns=["key", "score", "answer", "release"]) if path.is_file() else None
    return None if found is None or found.is_empty() else found


def _json(path: Path) -> Any:
    found = read_json(path) if path.is_file() else None
    return found if isinstance(found, dict) else None


def _trials(study: Path) -> int | None:
    """How many trials a search made; None where there is no study of Optuna's."""
    try:
        with closing(sqlite3.connect(f"file:{study}?mode=ro", uri=True)) as db:
            return int(db.execute("SELECT count(*) FROM trials").fetchone()[0])
    except sqlite3.Error:
        return None


def _key(*runs: Run) -> list[str]:
    """The key columns of the contract that a run's model was made under."""
    for run in runs:
        path = run.folder / "model" / "contract.json"
        if path.is_file():
            return [str(name) for name in read_json(path)["key"]]
    return []


def _few(told: Sequence[str]) -> str:
    more = f"; {len(told) - FEW} more" if len(told) > FEW else ""
    return "; ".join(told[:FEW]) + more


def _gone(then: Any) -> str:
    return "there is none now" if then is not None else "there was none then"


def _short(value: Any) -> str:
    return "none" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
