"""Runs, models and aliases in MLflow: its SQLite store written straight, any other through its client."""

from __future__ import annotations

import json
import os
import posixpath
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlparse

from meguri.base.clock import from_micros, micros
from meguri.base.errors import MeguriError, TrackingError
from meguri.base.files import forget_drafts, locked, new_folder, read_json
from meguri.base.redact import redact
from meguri.record.tracking_client import ClientStore, create
from meguri.record.tracking_sqlite import SqliteStore, known

Status = Literal["FINISHED", "FAILED", "KILLED"]
# MLflow's limits, in characters
_KEY, _PARAM, _TAG, _DIGEST = 250, 6000, 8000, 36


class Tracking:
    """The record of one project's runs in an MLflow store.

    ``uri`` is any tracking URI of MLflow. ``artifacts`` is the folder of
    the runs' files, unless a server or the experiment keeps them elsewhere. A ``sqlite:///`` store is made at the
    first write, and written without importing MLflow. Names, parameters and tags have their secrets masked, and are
    cut with a note where they are longer than MLflow allows. Every method raises TrackingError when the store cannot
    be reached or understood; what it was to write is then not written in part (one transaction in SQLite).
    """

    def __init__(self, uri: str, experiment: str, artifacts: Path) -> None:
        self.uri = uri
        self.experiment = experiment
        self.model = re.sub("[/:]", "-", experiment)  # the registered model; MLflow allows neither in its name
        self._root = str(artifacts.absolute())
        if not experiment.strip() or len(experiment) > _KEY:
            raise TrackingError(f"'{experiment}' is no name for an experiment", fix=f"give it 1 to {_KEY} characters")

    def start(self, name: str, *, params: Mapping[str, Any], tags: Mapping[str, Any], at: datetime) -> str:
        """Begin the run of this name, or go on with the one that has it, and return its MLflow id.

        Nested ``params`` are flattened with dots. The user and the program are added as MLflow's own tags; hand in
        ``mlflow.source.git.commit``, ``mlflow.note.content`` (the text at the top of its page) and the like in
        ``tags``. Raises TrackingError when a run that goes on had other values for its parameters.
        """
        if not re.fullmatch(r"[^'\"`\x00-\x1f]{1,250}", name):
            raise TrackingError(f"'{name}' is no name for a run", fix=f"use 1 to {_KEY} characters and no quotes")
        own = {"mlflow.user": _user(), "mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "LOCAL"}
        return self._store.start(name, _texts(params, _PARAM), _texts({**own, **tags}, _TAG), _millis(at))

    def log(
        self,
        run: str,
        *,
        metrics: Mapping[str, float],
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, Any] | None = None,
        at: datetime,
        step: int = 0,
    ) -> None:
        """Add metrics, and parameters and tags if given, to a run in one batch."""
        values = {key: float(value) for key, value in _named(metrics).items()}
        self._store.log(run, values, _texts(params or {}, _PARAM), _texts(tags or {}, _TAG), at=_millis(at), step=step)

    def artifacts(self, run: str, source: Path | Sequence[Path], path: str = "") -> None:
        """Copy files, and what is in folders, among the run's artifacts, under ``path`` there; each file whole."""
        if path and (posixpath.normpath(path) != path or path.startswith(("/", ".."))):
            raise TrackingError(f"'{path}' is no place among a run's artifacts", fix="use a path such as report/plots")
        given = [source] if isinstance(source, Path) else list(source)
        for each in given:
            if not each.exists():
                raise TrackingError("there is nothing to keep with the run", where=each)
        folder = _local(self._store.folder(run))
        for each in given:
            if folder is None:
                self._client.put(run, each, path)
                continue
            with _on_disk(folder):
                for file in [each] if each.is_file() else sorted(file for file in each.rglob("*") if file.is_file()):
                    _place(file, folder / path / (file.name if file is each else file.relative_to(each)))

    def data(self, run: str, version: str, source: str) -> None:
        """Name the data that a run was trained on: MLflow's dataset of the experiment's name with this digest.

        ``source`` is the path where it is; its secrets are masked.
        """
        if not 0 < len(version) <= _DIGEST:
            raise TrackingError(
                f"'{version}' is no version of data", fix=f"give it 1 to {_DIGEST} characters, as MD5 has"
            )
        self._store.data(run, self.experiment, version, json.dumps({"uri": redact(source)}, ensure_ascii=False))

    def finish(self, run: str, status: Status, at: datetime) -> None:
        """End a run; once more is no error, and the later end stands."""
        self._store.finish(run, status, _millis(at))

    def register(self, run: str, folder: Path, release_id: str, tags: Mapping[str, Any]) -> int:
        """Keep a release among the run's artifacts and make it a version of the registered model; return its number.

        The same release registered again has the version that it had.
        """
        path = f"releases/{release_id}"
        uri = self._store.folder(run)
        kept = _local(uri)
        if kept is None:
            self._client.put(run, folder, path)
        else:
            with _on_disk(kept):
                forget_drafts(kept / path)
                if not (kept / path).exists():
                    with new_folder(kept / path) as draft:
                        shutil.copytree(folder, draft, dirs_exist_ok=True)
        marks = _model(folder, run, path)
        return self._store.register(run, self.model, f"{uri}/{path}", release_id, _texts(tags, _TAG), marks)

    def alias(self, name: str, release_id: str | None) -> None:
        """Let an alias of the registered model, such as champion, name this release; None takes the alias away."""
        self._store.alias(self.model, name, release_id)

    def runs(self, limit: int = 50) -> list[dict[str, Any]]:
        """The runs, newest first: run (id), name, status, start, end, user, artifacts, metrics, params, tags."""
        return self._runs(None, limit)

    def run(self, name: str) -> dict[str, Any]:
        """The run of this name or id, as in ``runs``."""
        found = self._runs(name, 1)
        if not found:
            fix = "see the runs there are: meguri runs list"
            raise TrackingError(f"there is no run '{name}'", where=redact(self.uri), fix=fix)
        return found[0]

    def _runs(self, name: str | None, limit: int) -> list[dict[str, Any]]:
        if self._path is not None and not _there(self._path):
            return []  # looking makes no store
        rows = self._store.runs(name, limit)
        for row in rows:
            for moment in ("start", "end"):
                row[moment] = None if row[moment] is None else from_micros(row[moment] * 1000)
        return rows

    @property
    def _path(self) -> Path | None:
        """The file of an embedded store; None for any other."""
        prefix, rest = self.uri[:10], self.uri[10:]
        return Path(rest) if prefix == "sqlite:///" and rest and not {"?", ":"} & set(rest) else None

    @cached_property
    def _store(self) -> SqliteStore | ClientStore:
        if self._path is None or os.environ.get("MLFLOW_REGISTRY_URI"):
            return self._client
        if not _there(self._path):
            with _on_disk(self._path), locked(self._path.with_name(f".{self._path.name}.lock")):
                if not _there(self._path):
                    create(self._path, self._root)
        return SqliteStore(self._path, self.experiment, self._root) if known(self._path) else self._client

    @cached_property
    def _client(self) -> ClientStore:
        return ClientStore(self.uri, self.experiment, self._root)


def _there(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.getuid())


def _millis(at: datetime) -> int:
    return micros(at) // 1000


def _local(uri: str) -> Path | None:
    """The folder that an artifact URI names; None when it is on another machine."""
    if "://" not in uri and not uri.startswith(("file:", "mlflow-artifacts:")):
        return Path(uri)
    return Path(unquote(urlparse(uri).path)) if uri.startswith("file:") else None


def _model(folder: Path, run: str, path: str) -> dict[str, str]:
    """The tag by which MLflow's pages know a folder among a run's artifacts to be a model, if it is one."""
    try:
        kept = read_json(folder / "MLmodel")
        flavors: dict[str, Any] = {name: {} for name in kept["flavors"]}  # their names are enough, and a tag is short
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    more = {name: kept[name] for name in ("model_uuid", "utc_time_created") if name in kept}
    return {
        "mlflow.log-model.history": json.dumps([{"run_id": run, "artifact_path": path, "flavors": flavors, **more}])
    }


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values under names that MLflow takes: two names that become one stay two."""
    named: dict[str, Any] = {}
    for key, value in values.items():
        name = re.sub(r"[^/\w.\- :]", "_", str(key))
        if not name or posixpath.normpath(name) != name or name.startswith(("/", "..")) or name == ".":
            name = "_" + name.replace("/", "_")
        name = name[: _KEY - 10]
        while name in named:
            name += "_"
        named[name] = value
    return named


def _texts(values: Mapping[str, Any], limit: int) -> dict[str, str]:
    """Flat, masked, cut: what can be kept as a parameter or a tag."""
    return {key: _cut(_text(value), limit) for key, value in _named(_flat(redact(values))).items()}


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{before}{key}.")
        else:
            flat[f"{before}{key}"] = value
    return flat


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, (list, tuple, dict)) else str(value)


def _cut(text: str, limit: int) -> str:
    note = f" … [cut: {len(text)} characters]"
    return text if len(text) <= limit else text[: limit - len(note)] + note


def _place(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    draft = Path(name)
    try:
        shutil.copyfile(source, draft)
        draft.chmod(0o644)
        draft.replace(target)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


@contextmanager
def _on_disk(where: Path) -> Iterator[None]:
    try:
        yield
    except MeguriError:
        raise
    except OSError as error:
        fix = "see that the disk is not full and that the folder may be written"
        raise TrackingError(f"a file of the tracking store cannot be written: {error}", where=where, fix=fix) from error
