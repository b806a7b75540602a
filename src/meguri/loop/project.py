"""A project: a folder in the standard layout, and the one place that chooses its backends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from meguri.base import plugins
from meguri.base.errors import ProjectError, ReleaseError
from meguri.loop.job import Job, find_jobs, import_from

if TYPE_CHECKING:
    from meguri.data.contract import Contract
    from meguri.data.quarantine import Quarantine
    from meguri.data.warehouse import Warehouse
    from meguri.loop.settings import Settings
    from meguri.record.ledger import Ledger
    from meguri.record.release import Predictions, Release
    from meguri.record.tracking import Tracking


# Outlets stand above the loop, so the project knows them by name only.
OUTLETS = {"table": "meguri.outlets.table:TableOutlet"}


class Outlet(Protocol):
    """A way out for predictions. ``write`` is idempotent by prediction id, all or nothing, and raises OutletError."""

    def write(self, predictions: Predictions | None) -> dict[str, Any]:
        """Write the predictions that the outlet does not have yet; say where, and how many were new."""


class Project:
    """A project's folder and what it keeps its state in.

    ``outputs`` and ``data`` default to the folders of the layout; a replay hands in others, so that it never touches what is
    live. ``overrides`` hold for all that is done with it.
    """

    def __init__(
        self, root: Path, *, outputs: Path | None = None, data: Path | None = None, overrides: Sequence[str] = ()
    ) -> None:
        self.root = root
        self.overrides = tuple(overrides)
        self.live = outputs is None
        self.outputs = outputs or root / "outputs"
        self.data = data or root / "data"
        self._releases: dict[str, Release] = {}
        self._settings: dict[tuple[str, ...], Settings] = {}

    @classmethod
    def open(cls, path: str | Path = ".") -> Project:
        """The project in ``path`` or the nearest folder above it; imports no code of the user's and no heavy library.

        Raises ProjectError when there is none.
        """
        start = Path(path).resolve()
        for folder in [start, *start.parents]:
            if (folder / "hydra" / "default.yaml").is_file() and (folder / "src" / "jobs").is_dir():
                return cls(folder)
        raise ProjectError(
            "this is no Meguri project: no hydra/default.yaml beside src/jobs, here or above",
            where=start,
            fix="go into a project, or make one: meguri new NAME",
        )

    @cached_property
    def jobs(self) -> dict[str, Job]:
        """The jobs in the order in which they run."""
        return find_jobs(self.root)

    def settings(self, overrides: Sequence[str] = ()) -> Settings:
        """The settings as Hydra composes them with these overrides, judged by the project's ``Config``."""
        from meguri.loop import settings as loader

        overrides = (*self.overrides, *overrides)
        seen = (loader.fingerprint(self.root), *overrides)
        if seen in self._settings:
            return self._settings[seen]
        kind = loader.Settings
        if (self.root / "src" / "configurations.py").is_file():
            kind = import_from(self.root, "src.configurations", "Config")
        judged = loader.load(self.root, kind, overrides)
        if not loader.reads_environment(self.root):
            self._settings = {seen: judged}
            if not overrides:
                loader.remember(self._kept, self.root, judged)
        return judged

    def check_space(self, settings: Settings) -> None:
        """Hold the search space of ``src/optimizer/schema.py`` against the model's own parameters: a typo must never tune nothing.

        Raises SettingsError, with the nearest right name, for a parameter that the model does not have.
        """
        from meguri.loop.model_params import model_parameters
        from meguri.loop.search import check

        if not (self.root / "src" / "optimizer" / "schema.py").is_file():
            return
        known = model_parameters(self.root, settings.model.name)
        if known is not None:
            check(import_from(self.root, "src.optimizer.schema", "SPACE"), known)

    @property
    def _kept(self) -> Path:
        return self.outputs / "settings.json"

    def plain_settings(self) -> dict[str, Any]:
        """The judged settings as a plain dict: those kept from last time when no file has changed, else composed anew."""
        from meguri.loop import settings as loader

        kept = None if self.overrides else loader.recall(self._kept, self.root)
        return kept or self.settings().model_dump(mode="json")

    @cached_property
    def contract(self) -> Contract:
        """The contract of ``src/repository/schema.py``."""
        found: Contract = import_from(self.root, "src.repository.schema", "contract")
        return found

    @cached_property
    def quarantine(self) -> Quarantine:
        """The rows that broke the contract, with reasons."""
        from meguri.data.quarantine import Quarantine

        return Quarantine(self.outputs / "quarantine")

    def _url(self, url: str) -> str:
        """A file URL whose relative path starts at the project, moved along with the outputs; any other URL as it is."""
        scheme, mark, path = url.partition(":///")
        if not mark or path.startswith("/") or scheme.partition("+")[0] not in ("sqlite", "duckdb"):
            return url
        parts = Path(path).parts
        moved = self.outputs.joinpath(*parts[1:]) if parts[:1] == ("outputs",) else self.root / path
        moved.parent.mkdir(parents=True, exist_ok=True)
        return f"{scheme}:///{moved}"

    @cached_property
    def warehouse(self) -> Warehouse:
        """The tables that the settings name as the source; it connects when it is first asked."""
        from meguri.data.warehouse import Warehouse

        return Warehouse(self.plain_settings()["warehouse"], self.root)

    @property
    def ledger_url(self) -> str:
        """Where the ledger is, a file by its whole path; a replay has a file of its own, for what the settings name is live."""
        if not self.live:
            return f"sqlite:///{self.outputs / 'ledger.db'}"
        return self._url(str(self.plain_settings()["ledger"]))

    @property
    def outlets(self) -> list[str]:
        """The outlets that a new champion goes live in: table, which is the loop's own, and rest when the settings name it."""
        return ["table", *(["rest"] if self.plain_settings()["outlets"].get("rest") else [])]

    @property
    def has_features(self) -> bool:
        """Whether ``src/features.py``, or a folder of that name, says what is known of an entity."""
        folder = self.root / "src"
        return (folder / "features.py").is_file() or (folder / "features" / "__init__.py").is_file()

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger that the settings name, opened."""
        from meguri.record.ledger import open_ledger

        return open_ledger(self.ledger_url)

    @cached_property
    def tracking(self) -> Tracking:
        """The MLflow store: ``MLFLOW_TRACKING_URI`` when it is set (a replay keeps to its own), else the settings'."""
        from meguri.record.tracking import Tracking

        chosen = os.environ.get("MLFLOW_TRACKING_URI") if self.live else None
        uri = chosen or self._url(self.plain_settings()["tracking"])
        return Tracking(uri, self.root.name, self.outputs / "mlartifacts")

    def outlet(self, settings: Settings) -> Outlet | None:
        """The table that predictions are written out to, when the settings name one."""
        table = settings.outlets.table
        return None if table is None else plugins.load(OUTLETS["table"])(self._url(table.url), table.name)

    def release(self, name: str) -> Release:
        """The release of that id, its hashes and parity verified; kept, as loading costs more than predicting."""
        from meguri.record.release import Release

        if name not in self._releases:
            folder = self.outputs / "releases" / name
            if not folder.is_dir():
                known = ", ".join(sorted(p.name for p in folder.parent.glob("*-*"))[-3:])
                raise ReleaseError(
                    f"there is no release '{name}'", where=folder.parent, fix=f"known: {known or 'none yet'}"
                )
            self._releases[name] = Release.load(folder)
        return self._releases[name]

    def champion(self) -> str | None:
        """The id of the release that is live in the table outlet; None before the first one."""
        rollouts = self.ledger.rollouts("table")
        return rollouts[-1].champion if rollouts else None
