"""MLflow's SQLite store written and read straight, in one transaction a call, without importing MLflow.

The rows are those that MLflow's own client writes (docs/decisions/0003-mlflow-store.md); a test compares them.
"""

from __future__ import annotations

import math
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from meguri.base.errors import TrackingError

# The schema (alembic revision) of MLflow 3.17, the one that was compared. Any other is left to MLflow's client.
REVISION = "dc11669786a5"
_LARGEST = 1.7976931348623157e308  # what MLflow keeps for infinity


def known(path: Path) -> bool:
    """True when the store at ``path`` has the schema that this file writes."""
    with _connected(path) as store:
        try:
            rows = store.execute("SELECT version_num FROM alembic_version").fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):
                return False
            raise
        return rows == [(REVISION,)]


class SqliteStore:
    """One experiment in MLflow's SQLite store; each call is one transaction, whole or not there.

    Safe between threads and processes: every call opens its own connection and waits for other writers.
    """

    def __init__(self, path: Path, experiment: str, artifacts: str) -> None:
        self.path, self.experiment, self.root = path, experiment, artifacts

    def start(self, name: str, params: Mapping[str, str], tags: Mapping[str, str], at: int) -> str:
        """The id of the run of this name, made when there is none, running again when there is one."""
        with self._write() as store:
            experiment, root = self._experiment(store)
            found = store.execute(
                "SELECT run_uuid FROM runs WHERE experiment_id = ? AND name = ? AND lifecycle_stage = 'active'"
                " ORDER BY start_time DESC",
                (experiment, name),
            ).fetchone()
            if found:
                run = str(found[0])
                store.execute("UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", (run,))
            else:
                run = uuid.uuid4().hex
                store.execute(
                    "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status,"
                    " start_time, source_version, lifecycle_stage, artifact_uri, experiment_id)"
                    " VALUES (?, ?, 'UNKNOWN', '', '', ?, 'RUNNING', ?, '', 'active', ?, ?)",
                    (run, name, tags.get("mlflow.user", "unknown"), at, f"{root}/{run}/artifacts", experiment),
                )
            self._texts(store, run, params, {**tags, "mlflow.runName": name})
            return run

    def log(
        self,
        run: str,
        metrics: Mapping[str, float],
        params: Mapping[str, str],
        tags: Mapping[str, str],
        *,
        at: int,
        step: int,
    ) -> None:
        """Metrics, parameters and tags of a run, all or none."""
        with self._write() as store:
            self._active(store, run)
            self._texts(store, run, params, tags)
            for key, given in metrics.items():
                value = 0.0 if math.isnan(given) else max(-_LARGEST, min(_LARGEST, given))
                row = (key, value, at, run, step, math.isnan(given))
                store.execute(
                    "INSERT OR IGNORE INTO metrics (key, value, timestamp, run_uuid, step, is_nan)"
                    " VALUES (?, ?, ?, ?, ?, ?)",
                    row,
                )
                store.execute(
                    "INSERT INTO latest_metrics (key, value, timestamp, run_uuid, step, is_nan)"
                    " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value,"
                    " timestamp = excluded.timestamp, step = excluded.step, is_nan = excluded.is_nan"
                    " WHERE (excluded.step, excluded.timestamp, excluded.value) > (step, timestamp, value)",
                    row,
                )

    def finish(self, run: str, status: str, at: int) -> None:
        """The run's end."""
        with self._write() as store:
            self._active(store, run)
            store.execute("UPDATE runs SET status = ?, end_time = ? WHERE run_uuid = ?", (status, at, run))

    def folder(self, run: str) -> str:
        """Where the run's artifacts are."""
        with _connected(self.path) as store:
            return self._active(store, run)

    def data(self, run: str, name: str, digest: str, source: str) -> None:
        """The dataset of this name and digest as what the run was trained on, made when there is none."""
        with self._write() as store:
            self._active(store, run)
            (experiment,) = store.execute("SELECT experiment_id FROM runs WHERE run_uuid = ?", (run,)).fetchone()
            store.execute(
                "INSERT INTO datasets (dataset_uuid, experiment_id, name, digest, dataset_source_type, dataset_source)"
                " VALUES (?, ?, ?, ?, 'local', ?) ON CONFLICT DO NOTHING",
                (uuid.uuid4().hex, experiment, name, digest, source),
            )
            made = uuid.uuid4().hex
            added = store.execute(
                "INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id)"
                " SELECT ?, 'DATASET', dataset_uuid, 'RUN', ? FROM datasets"
                " WHERE experiment_id = ? AND name = ? AND digest = ? ON CONFLICT DO NOTHING",
                (made, run, experiment, name, digest),
            )
            if added.rowcount:
                tag = (made, "mlflow.data.context", "training")
                store.execute("INSERT INTO input_tags (input_uuid, name, value) VALUES (?, ?, ?)", tag)

    def register(
        self, run: str, model: str, source: str, release: str, tags: Mapping[str, str], marks: Mapping[str, str]
    ) -> int:
        """The number of the model's version for this release, made when there is none; ``marks`` are tags of the run."""
        moment = time.time_ns() // 1_000_000
        with self._write() as store:
            self._active(store, run)
            self._texts(store, run, {}, marks)
            found = self._version(store, model, release)
            if found:
                return found
            store.execute(
                "INSERT INTO registered_models (name, creation_time, last_updated_time, workspace)"
                " VALUES (?, ?, ?, 'default') ON CONFLICT DO UPDATE SET last_updated_time = excluded.last_updated_time",
                (model, moment, moment),
            )
            last = store.execute(
                "SELECT max(version) FROM model_versions WHERE name = ? AND workspace = 'default'", (model,)
            ).fetchone()[0]
            version = (last or 0) + 1
            store.execute(
                "INSERT INTO model_versions (name, version, creation_time, last_updated_time, current_stage, source,"
                " run_id, status, storage_location, workspace)"
                " VALUES (?, ?, ?, ?, 'None', ?, ?, 'READY', ?, 'default')",
                (model, version, moment, moment, source, run, source),
            )
            store.executemany(
                "INSERT INTO model_version_tags (key, value, name, version, workspace) VALUES (?, ?, ?, ?, 'default')",
                [(key, value, model, version) for key, value in {**tags, "release_id": release}.items()],
            )
            return version

    def alias(self, model: str, alias: str, release: str | None) -> None:
        """Let the alias name this release, or nothing."""
        with self._write() as store:
            if release is None:
                store.execute(
                    "DELETE FROM registered_model_aliases WHERE name = ? AND alias = ? AND workspace = 'default'",
                    (model, alias),
                )
                return
            version = self._version(store, model, release)
            if version is None:
                raise no_release(release, model)
            store.execute(
                "INSERT INTO registered_model_aliases (alias, version, name, workspace) VALUES (?, ?, ?, 'default')"
                " ON CONFLICT DO UPDATE SET version = excluded.version",
                (alias, version, model),
            )

    def runs(self, name: str | None, limit: int) -> list[dict[str, Any]]:
        """The experiment's runs, newest first; only those of a name or id when one is given."""
        where, values = "e.name = ? AND e.workspace = 'default' AND r.lifecycle_stage = 'active'", [self.experiment]
        if name is not None:
            where, values = where + " AND (r.name = ? OR r.run_uuid = ?)", [*values, name, name]
        with _connected(self.path) as store:
            store.execute("BEGIN")
            rows = store.execute(
                "SELECT run_uuid, r.name, status, start_time, end_time, user_id, artifact_uri"
                f" FROM runs r JOIN experiments e USING (experiment_id) WHERE {where}"
                " ORDER BY start_time DESC, run_uuid LIMIT ?",
                (*values, limit),
            ).fetchall()
            return [
                {
                    **dict(zip(("run", "name", "status", "start", "end", "user", "artifacts"), row, strict=True)),
                    "metrics": self._pairs(store, "latest_metrics", row[0]),
                    "params": self._pairs(store, "params", row[0]),
                    "tags": self._pairs(store, "tags", row[0]),
                }
                for row in rows
            ]

    def _experiment(self, store: sqlite3.Connection) -> tuple[int, str]:
        found = store.execute(
            "SELECT experiment_id, artifact_location, lifecycle_stage FROM experiments"
            " WHERE name = ? AND workspace = 'default'",
            (self.experiment,),
        ).fetchone()
        if not found:
            moment = time.time_ns() // 1_000_000
            made = store.execute(
                "INSERT INTO experiments (name, artifact_location, lifecycle_stage, creation_time, last_update_time,"
                " workspace) VALUES (?, ?, 'active', ?, ?, 'default')",
                (self.experiment, self.root, moment, moment),
            )
            return int(made.lastrowid or 0), self.root
        if found[2] != "active":
            raise deleted(self.experiment, found[0])
        # The project may have been moved since the experiment was made: new files belong where it is now.
        return int(found[0]), found[1] if "://" in found[1] else self.root

    def _active(self, store: sqlite3.Connection, run: str) -> str:
        found = store.execute(
            "SELECT artifact_uri FROM runs WHERE run_uuid = ? AND lifecycle_stage = 'active'", (run,)
        ).fetchone()
        if not found:
            raise TrackingError(
                f"there is no run '{run}'", where=self.path, fix="see the runs there are: meguri runs list"
            )
        return str(found[0])

    def _texts(self, store: sqlite3.Connection, run: str, params: Mapping[str, str], tags: Mapping[str, str]) -> None:
        store.executemany(
            "INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            [(key, value, run) for key, value in params.items()],
        )
        if params:
            kept = self._pairs(store, "params", run)
            for key, value in params.items():
                if kept[key] != value:
                    raise changed(key, kept[key], value, run)
        store.executemany(
            "INSERT INTO tags (key, value, run_uuid) VALUES (?, ?, ?)"
            " ON CONFLICT (key, run_uuid) DO UPDATE SET value = excluded.value",
            [(key, value, run) for key, value in tags.items()],
        )

    @staticmethod
    def _pairs(store: sqlite3.Connection, table: str, run: str) -> dict[str, Any]:
        value = "CASE WHEN is_nan THEN NULL ELSE value END" if table == "latest_metrics" else "value"
        rows = store.execute(f"SELECT key, {value} FROM {table} WHERE run_uuid = ? ORDER BY key", (run,))
        return {key: math.nan if item is None else item for key, item in rows}

    @staticmethod
    def _version(store: sqlite3.Connection, model: str, release: str) -> int | None:
        found = store.execute(
            "SELECT max(t.version) FROM model_version_tags t JOIN model_versions v USING (workspace, name, version)"
            " WHERE t.name = ? AND t.workspace = 'default' AND t.key = 'release_id' AND t.value = ?"
            " AND v.current_stage <> 'Deleted_Internal'",
            (model, release),
        ).fetchone()[0]
        return None if found is None else int(found)

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with _connected(self.path) as store:
            store.execute("BEGIN IMMEDIATE")
            yield store
            store.execute("COMMIT")


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        store = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, timeout=60, isolation_level=None)
        try:
            store.execute("PRAGMA foreign_keys = ON")
            yield store
        finally:
            store.close()  # rolls back what was not committed
    except sqlite3.Error as error:
        raise TrackingError(
            f"MLflow's store cannot be used: {error}",
            where=path,
            fix="see that the disk is not full, that the file is MLflow's and may be written; nothing was half-written",
        ) from error


def changed(key: str, old: str, new: str, run: str) -> TrackingError:
    """A parameter of a run was recorded with another value."""
    return TrackingError(
        f"the parameter '{key}' was recorded as '{old[:100]}' and cannot become '{new[:100]}'",
        where=f"run {run}",
        fix="a run keeps the parameters that it began with: start a new run",
    )


def deleted(experiment: str, ident: object) -> TrackingError:
    """The experiment is in MLflow's bin."""
    return TrackingError(
        f"the experiment '{experiment}' was deleted in MLflow",
        fix=f"mlflow experiments restore --experiment-id {ident}, or give the project another experiment name",
    )


def no_release(release: str, model: str) -> TrackingError:
    """An alias for a release that was never registered."""
    return TrackingError(
        f"the release '{release}' is not registered",
        where=f"registered model '{model}'",
        fix="register it first; meguri releases lists those there are",
    )
