"""MLflow's own client (the door of mlflow): a server, PostgreSQL, an unknown schema, a new store."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from meguri.base.errors import MeguriError, TrackingError
from meguri.base.extras import need
from meguri.base.redact import redact
from meguri.record.tracking_sqlite import changed, deleted, no_release


class ClientStore:
    """The same calls as SqliteStore, through MLflow's own client: for a server, PostgreSQL, or another schema.

    Two processes that start one name at once could make two runs; a project's turns are kept apart by their lock.
    """

    def __init__(self, uri: str, experiment: str, artifacts: str) -> None:
        self.uri, self.experiment = uri, experiment
        # A server decides itself where artifacts are.
        self.root = None if urlparse(uri).scheme in ("http", "https", "databricks") else artifacts
        with asked(self.uri):
            self.mlflow = _mlflow(uri)
            self.client = self.mlflow.MlflowClient(tracking_uri=uri)

    def start(self, name: str, params: Mapping[str, str], tags: Mapping[str, str], at: int) -> str:
        """See SqliteStore."""
        with asked(self.uri):
            ident = self._experiment(make=True)
            found = self._search(ident, f"attributes.run_name = '{name}'", 1)
            if found:
                run = str(found[0].info.run_id)
                self.client.update_run(run, status="RUNNING")
            else:
                run = str(self.client.create_run(ident, start_time=at, tags=dict(tags), run_name=name).info.run_id)
        self.log(run, {}, params, tags if found else {}, at=at, step=0)
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
        """See SqliteStore; one request for a hundred parameters, a hundred tags and 800 metrics."""
        with asked(self.uri):
            entities = self.mlflow.entities
            kept = self.client.get_run(run).data.params if params else {}
            for key, value in params.items():
                if kept.get(key, value) != value:
                    raise changed(key, kept[key], value, run)
            some = [entities.Param(key, value) for key, value in params.items() if key not in kept]
            marks = [entities.RunTag(key, value) for key, value in tags.items()]
            points = [entities.Metric(key, value, at, step) for key, value in metrics.items()]
            while some or marks or points:
                self.client.log_batch(run, metrics=points[:800], params=some[:100], tags=marks[:100])
                some, marks, points = some[100:], marks[100:], points[800:]

    def finish(self, run: str, status: str, at: int) -> None:
        """See SqliteStore."""
        with asked(self.uri):
            self.client.set_terminated(run, status, at)

    def folder(self, run: str) -> str:
        """See SqliteStore."""
        with asked(self.uri):
            return str(self.client.get_run(run).info.artifact_uri)

    def put(self, run: str, source: Path, path: str) -> None:
        """Send a file, or what is in a folder, to where the run's artifacts are."""
        with asked(self.uri):
            send = self.client.log_artifacts if source.is_dir() else self.client.log_artifact
            send(run, str(source), path or None)

    def data(self, run: str, name: str, digest: str, source: str) -> None:
        """See SqliteStore."""
        with asked(self.uri):
            entities = self.mlflow.entities
            tag = entities.InputTag("mlflow.data.context", "training")
            used = entities.DatasetInput(entities.Dataset(name, digest, "local", source), [tag])
            self.client.log_inputs(run, datasets=[used])

    def register(
        self, run: str, model: str, source: str, release: str, tags: Mapping[str, str], marks: Mapping[str, str]
    ) -> int:
        """See SqliteStore."""
        self.log(run, {}, {}, marks, at=0, step=0)
        with asked(self.uri):
            found = self._version(model, release)
            if found:
                return found
            with self._passing("RESOURCE_ALREADY_EXISTS"):
                self.client.create_registered_model(model)
            marks = {**tags, "release_id": release}
            return int(self.client.create_model_version(model, source, run, tags=marks).version)

    def alias(self, model: str, alias: str, release: str | None) -> None:
        """See SqliteStore."""
        with asked(self.uri):
            if release is None:
                with self._passing("RESOURCE_DOES_NOT_EXIST"):
                    self.client.delete_registered_model_alias(model, alias)
                return
            version = self._version(model, release)
            if version is None:
                raise no_release(release, model)
            self.client.set_registered_model_alias(model, alias, str(version))

    def runs(self, name: str | None, limit: int) -> list[dict[str, Any]]:
        """See SqliteStore."""
        with asked(self.uri):
            ident = self._experiment(make=False)
            if ident is None:
                return []
            if name is None:
                found = self._search(ident, "", limit)
            else:
                found = self._search(ident, f"attributes.run_name = '{name}'", limit)
                found = found or self._search(ident, f"attributes.run_id = '{name}'", limit)
            return [
                {
                    "run": run.info.run_id,
                    "name": run.info.run_name,
                    "status": run.info.status,
                    "start": run.info.start_time,
                    "end": run.info.end_time,
                    "user": run.info.user_id,
                    "artifacts": run.info.artifact_uri,
                    "metrics": dict(sorted(run.data.metrics.items())),
                    "params": dict(sorted(run.data.params.items())),
                    "tags": dict(sorted(run.data.tags.items())),
                }
                for run in found
            ]

    def _search(self, ident: str, where: str, limit: int) -> list[Any]:
        return list(self.client.search_runs([ident], where, max_results=limit, order_by=["attributes.start_time DESC"]))

    def _experiment(self, *, make: bool) -> Any:
        found = self.client.get_experiment_by_name(self.experiment)
        if found is None and make:
            with self._passing("RESOURCE_ALREADY_EXISTS"):
                return self.client.create_experiment(self.experiment, artifact_location=self.root)
            found = self.client.get_experiment_by_name(self.experiment)  # another process was quicker
        if found is not None and found.lifecycle_stage != "active":
            raise deleted(self.experiment, found.experiment_id)
        return None if found is None else found.experiment_id

    def _version(self, model: str, release: str) -> int | None:
        found = self.client.search_model_versions(f"name = '{model}' and tags.release_id = '{release}'")
        return max((int(version.version) for version in found), default=None)

    @contextmanager
    def _passing(self, code: str) -> Iterator[None]:
        try:
            yield
        except self.mlflow.MlflowException as error:
            if error.error_code != code:
                raise


@contextmanager
def asked(uri: str) -> Iterator[None]:
    """Turn whatever MLflow and the libraries under it raise into a TrackingError."""
    try:
        yield
    except MeguriError:
        raise
    except Exception as error:
        text = redact(str(error))
        fix = "see that the store runs and that MLFLOW_TRACKING_URI, or `tracking` in hydra/, names it"
        if "mlflow db upgrade" in text:
            fix = f"take a copy of it, then: mlflow db upgrade {redact(uri)}"
        raise TrackingError(f"MLflow refused: {text[:500]}", where=redact(uri), fix=fix) from error


def _mlflow(uri: str) -> Any:
    """MLflow, quiet, and without its telemetry."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # MLflow's own 7 retries let a person with a wrong address wait for four minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    with warnings.catch_warnings():
        # SQLAlchemy 2.1 on MLflow 3.17's own mappers, said once, at import
        warnings.filterwarnings("ignore", message=".*``noload``", category=DeprecationWarning)
        module = need("mlflow")
        if "sql" in urlparse(uri).scheme:
            need("mlflow.store.tracking.sqlalchemy_store")
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return module


def create(path: Path, artifacts: str) -> None:
    """Let MLflow make its store beside ``path``, and move it there when it is whole."""
    draft = path.with_name(f".{path.name}.new")
    for old in path.parent.glob(f"{draft.name}*"):  # of a process that was killed here
        old.unlink()
    uri = f"sqlite:///{draft}"
    with asked(uri):
        _mlflow(uri).store.tracking.sqlalchemy_store.SqlAlchemyStore(uri, artifacts).engine.dispose()
    draft.replace(path)
