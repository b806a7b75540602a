"""One pass of jobs: what each job asks for is found, what it gives is checked and written down."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from meguri.base.clock import duration
from meguri.base.errors import JobError, MeguriError
from meguri.base.files import locked, read_json, write_json
from meguri.loop import intake
from meguri.loop.job import Job, function_of
from meguri.record.run import Run

if TYPE_CHECKING:
    import polars as pl

    from meguri.data.dataset import Dataset
    from meguri.loop.project import Project
    from meguri.loop.settings import Settings
    from meguri.record.release import Predictions, Release

PARITY_ROWS = 2000
BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)


class Steps:
    """The jobs of one run, each callable alone: a value that is not in memory is read from the run's folder."""

    def __init__(self, project: Project, settings: Settings, run: Run) -> None:
        self.project = project
        self.settings = settings
        self.run = run
        self._values: dict[str, Any] = {}
        self._sources: dict[str, Callable[[], Any]] = {
            "settings": lambda: settings,
            "contract": lambda: project.contract,
            "now": lambda: run.at,
            "since": lambda: run.at - duration(settings.loop.history) if settings.loop.history else BEGINNING,
            "until": lambda: run.at,
            "run": lambda: self.run,
            "study": lambda: {"storage": f"sqlite:///{run.folder / 'study.db'}", "name": run.id, "seed": settings.seed},
            "outlet": lambda: project.outlet(settings),
            "warehouse": lambda: project.warehouse,
            "params": lambda: dict(settings.model.params),
            "references": lambda: intake.references(self),
            "data": self._read_data,
            "dataset": self._read_dataset,
            "model": self._read_model,
            "evaluation": self._read_evaluation,
            "release": self._live_release,
            "requests": self._requests,
            "predictions": self._read_predictions,
        }

    def value(self, noun: str) -> Any:
        """What a job asks for by that name: from memory, from the run's folder, or made now."""
        if noun not in self._values:
            for path in (self.run.folder / f"{noun}.json", self.run.folder / f"{noun}.parquet"):
                if path.is_file() and noun != "predictions":
                    self._values[noun] = read_json(path) if path.suffix == ".json" else self._framed(_parquet(path))
                    break
            else:
                if noun not in self._sources or (noun == "params" and "optimize" in self.project.jobs):
                    maker = next(job for job in self.project.jobs.values() if job.gives == noun)
                    raise JobError(
                        f"run {self.run.id} has no '{noun}' yet",
                        where=self.run.folder,
                        fix=f"run the job '{maker.name}' of this run first",
                    )
                self._values[noun] = self._sources[noun]()
        return self._values[noun]

    def forget(self, noun: str) -> None:
        """Make the value anew when it is asked for again: what it was made of has changed."""
        self._values.pop(noun, None)

    def call(self, name: str, **given: Any) -> Any:
        """The job's own result, with these values in the place of the run's.

        Raises JobError, naming the line of the project's code, when the job raises anything but a MeguriError.
        """
        job = self.project.jobs[name]
        arguments = {need: given[need] if need in given else self.value(need) for need in job.needs}
        if "dataset" in arguments and "model" not in job.needs and arguments["dataset"] is not None:
            arguments["dataset"] = arguments["dataset"].without_test()
        function = function_of(self.project.root, job)
        try:
            return function(**arguments)
        except MeguriError:
            raise
        except Exception as error:
            raise JobError(
                f"the job '{name}' failed: {type(error).__name__}: {error}", where=_line(error, job, self.project.root)
            ) from error

    def do(self, name: str) -> None:
        """Call a job and keep its result under its noun, in memory and in the run's folder."""
        job = self.project.jobs[name]
        keep = getattr(self, f"_keep_{job.gives}", None)
        if keep is not None:
            keep()
        else:
            self._keep_plain(job, self.call(name))

    # what each noun of the six jobs is kept as

    def _keep_data(self) -> None:
        from meguri.data import versions

        home, path = self.project.data.parent, self.project.data / "rows.parquet"
        if (
            intake.keep(self, path) is None
        ):  # a project that keeps its data itself: what it has under DVC is what the run saw
            write_json(self.run.folder / "data.json", None)
            kept = [note.with_suffix("") for note in sorted(self.project.data.rglob("*.dvc")) if note.is_file()]
            version = versions.save(home, kept) if kept else None
        else:
            version = versions.save(home, [path]) if self.project.live else versions.digest(path)
        self.run = self.run.with_(data_version=version)
        self.forget("data")
        self.forget("dataset")

    def _keep_model(self) -> None:
        from meguri.data.drift import sketch
        from meguri.record.release import Release

        estimator = self.call("train")
        if estimator is None:
            self._values["model"] = None
            write_json(self.run.folder / "model.json", None)
            return
        dataset, contract = self.value("dataset"), self.project.contract
        info = {
            "run": self.run.id,
            "made_at": self.run.at.isoformat(),
            "commit": self.run.commit,
            "data_version": self.run.data_version,
            "trained_until": dataset.trained_until.isoformat(),
            "reference": sketch(dataset.train.table, contract.features),
        }
        self._values["model"] = Release.build(
            estimator,
            id=self.run.id,
            contract=contract,
            sample=dataset.test.table.head(PARITY_ROWS),
            folder=self.run.folder / "model",
            info=info,
        )

    def _keep_evaluation(self) -> None:
        evaluation = self.call("evaluate")
        self._values["evaluation"] = evaluation
        if evaluation is None:
            write_json(self.run.folder / "evaluation.json", None)
        else:
            evaluation.save(self.run.folder / "evaluation")

    def _keep_predictions(self) -> None:
        self.predict()

    def predict(self) -> Predictions | None:
        """Call ``predict`` on the rows that are due, and write its answers to the ledger.

        The answers, ids included, are on disk before the ledger has them, so that a process killed between the two
        writes the same ones again, and the ledger keeps one of each.
        """
        path = self.run.folder / "predictions.parquet"
        with locked(
            self.project.outputs / "predict.lock"
        ):  # two at once would both find the same rows not predicted yet
            if not path.is_file():
                if self.value("release") is None or self.value("requests") is None:
                    return None
                answers = self.call("predict")
                if answers is None:
                    return None
                _write_parquet(path, self._judged(answers))
            answers = cast("Predictions", self._read_predictions())
            self._values["predictions"] = answers
            if answers.table.height:
                self.project.ledger.write_predictions(_for_ledger(answers.table, self.run.at))
        return answers

    def _judged(self, answers: Any) -> pl.DataFrame:
        """The answers that may go out; the others are quarantined, as are the rows that got none."""
        from meguri.data import doors
        from meguri.record.release import Predictions

        if not isinstance(answers, Predictions):
            what = f"the job 'predict' gave a {type(answers).__qualname__}, and no predictions"
            fix = "give what release.predict(requests) gives, or None"
            raise JobError(what, where=self.project.jobs["predict"].path, fix=fix)
        checked, most = doors.answers(answers.table, self.project.contract), self.settings.data.max_quarantined
        self.project.quarantine.add(answers.quarantined, at=self.run.at, door="predict", run=self.run.id)
        self.project.quarantine.add(checked.quarantined, at=self.run.at, door="answers", run=self.run.id)
        bad = checked.quarantined["reason"].to_list()
        intake.limit(most, bad, checked.rows.height, where="src/jobs/predict.py")
        return checked.rows

    def _keep_plain(self, job: Job, value: Any) -> None:
        """Keep a job's result as a table or as JSON; raises JobError for anything else."""
        path = self.run.folder / f"{job.gives}.json"
        if hasattr(value, "__arrow_c_stream__"):
            from meguri.data.table import to_polars

            _write_parquet(path.with_suffix(".parquet"), to_polars(value))
        else:
            try:
                write_json(path, json.loads(json.dumps(value)))
            except (TypeError, ValueError) as error:
                kind = type(value).__qualname__
                raise JobError(
                    f"the job '{job.name}' gave a {kind}, which cannot be kept",
                    where=job.path,
                    fix="give a table, or what JSON can say",
                ) from error
        self._values[job.gives] = value

    # where a value comes from when no job of this process has given it

    def _framed(self, rows: pl.DataFrame) -> Any:
        from meguri.data.table import from_polars

        return from_polars(rows, self.settings.frame)

    def _read_data(self) -> Any:
        from meguri.data import versions

        if self.run.data_version is None:
            return None
        path = self.project.data / "rows.parquet"
        if not path.is_file() or versions.digest(path) != self.run.data_version:  # a later turn has brought other rows
            path = self.run.folder / "rows.parquet"
            if not path.is_file():
                versions.restore(self.project.data.parent, self.run.data_version, path)
        return self._framed(_parquet(path))

    def _read_dataset(self) -> Dataset | None:
        from meguri.data.dataset import split
        from meguri.data.table import to_polars

        data = self.value("data")
        if data is None:
            return None
        sizes = self.settings.split
        return split(
            to_polars(data),
            self.project.contract,
            by=sizes.by,
            valid=sizes.valid,
            test=sizes.test,
            seed=self.settings.seed,
            version=self.run.data_version or "",
            frame=self.settings.frame,
        )

    def _read_model(self) -> Release:
        from meguri.record.release import Release

        folder = self.run.folder / "model"
        if not folder.is_dir():
            raise JobError(
                f"run {self.run.id} has no model yet",
                where=self.run.folder,
                fix="run the job 'train' of this run first",
            )
        return Release.load(folder)

    def _read_evaluation(self) -> Any:
        from meguri.record.evaluation import Evaluation

        folder = self.run.folder / "evaluation"
        if not folder.is_dir():
            raise JobError(
                f"run {self.run.id} has no evaluation yet",
                where=self.run.folder,
                fix="run the job 'evaluate' of this run first",
            )
        return Evaluation.load(folder)

    def _live_release(self) -> Release | None:
        champion = self.project.champion()
        return None if champion is None else self.project.release(champion)

    def _requests(self) -> pl.DataFrame | None:
        """The rows of the next step that nobody has predicted yet; None when there are none."""
        now = self.run.at
        until = now + duration(self.settings.loop.step)
        rows = intake.rows(self, since=now, until=until, labelled=False, door="requests")
        if rows is None or rows.is_empty():
            return None
        known = self.project.ledger.keys(since=now, until=until, outlet="table")
        rows = rows.filter(~self.project.contract.key_of(rows).is_in(known))
        return None if rows.is_empty() else self._framed(rows)

    def _read_predictions(self) -> Any:
        import polars as pl

        from meguri.record.release import Predictions

        path = self.run.folder / "predictions.parquet"
        if not path.is_file():
            return None
        table = _parquet(path)
        return Predictions(
            table=table, quarantined=pl.DataFrame(), release=str(table["release"][0]) if table.height else ""
        )


def _for_ledger(table: pl.DataFrame, made_at: datetime) -> pl.DataFrame:
    import polars as pl

    return table.with_columns(
        pl.col("features").struct.json_encode(),
        made_at=pl.lit(made_at).cast(pl.Datetime("us", "UTC")),
        outlet=pl.lit("table"),
        arm=pl.lit("champion"),
    )


def _parquet(path: Path) -> pl.DataFrame:
    import polars as pl

    return pl.read_parquet(path)


def _write_parquet(path: Path, table: pl.DataFrame) -> None:
    from io import BytesIO

    from meguri.base.files import write_atomic

    buffer = BytesIO()
    table.write_parquet(buffer)
    write_atomic(path, buffer.getvalue())


def _line(error: Exception, job: Job, root: Path) -> str:
    """The deepest line of the project's own code in the error's traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(root / "src"))]
    if not frames:
        return str(job.path)
    return f"{Path(frames[-1].filename).relative_to(root)}:{frames[-1].lineno}"
