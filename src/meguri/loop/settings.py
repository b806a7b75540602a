"""Settings: Hydra composes ``hydra/default.yaml``, its groups and ``key=value`` overrides; pydantic judges the result."""

from __future__ import annotations

import difflib
import hashlib
import itertools
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from meguri.base.clock import duration
from meguri.base.errors import MeguriError, SettingsError
from meguri.base.files import read_json, write_json
from meguri.base.redact import redact
from meguri.loop.model_params import model_parameters


class Section(BaseModel):
    """A part of the settings: a key that it does not name is an error, and nothing changes it later."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _duration(value: object) -> object:
    if isinstance(value, str):
        duration(value)
    return value


class ModelSettings(Section):
    """Which model of ``src/models`` is trained, and the parameters that the search does not choose."""

    name: str
    params: dict[str, Any] = {}


class OptimizeSettings(Section):
    """How long the search for hyper-parameters goes on: so many trials, or until ``timeout``."""

    trials: int = Field(default=20, ge=1)
    timeout: str | None = None

    _check = field_validator("timeout")(_duration)


class SplitSettings(Section):
    """How rows become train, valid and test: the sizes are shares of the rows or, by time, durations."""

    by: Literal["time", "group", "random"] = "time"
    valid: float | str = 0.15
    test: float | str = 0.15

    _check = field_validator("valid", "test")(_duration)


class GateSettings(Section):
    """When a challenger may replace the champion.

    ``margin`` is the loss in ``metric``'s unit that is still accepted; ``alpha`` bounds the chance of a false pass;
    ``block`` is the length of time within which rows may depend on each other; ``guards`` are further metrics with
    margins of their own, ``slices`` columns whose every value is judged; ``uses`` is how often one test set may be used.
    """

    metric: str
    margin: float = Field(gt=0)
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    block: str | None = "1d"
    guards: dict[str, float] = {}
    slices: list[str] = []
    uses: int = Field(default=5, ge=1)

    _check = field_validator("block")(_duration)


class LoopSettings(Section):
    """When the loop turns and how far it looks.

    ``triggers`` is an expression such as ``Every('30d') | Drift(0.2)``; ``step`` is how often labels are collected and how
    far ahead rows are predicted; ``history`` is how far back training rows go (none: all); ``give_up`` is how long after
    a label was due it is still looked for.
    """

    triggers: str = "Every('30d')"
    step: str = "1d"
    history: str | None = None
    give_up: str = "7d"

    _check = field_validator("step", "history", "give_up")(_duration)


class TableSettings(Section):
    """The table that predictions are written out to: ``duckdb:///file`` or any SQLAlchemy URL."""

    url: str = "duckdb:///outputs/predictions.duckdb"
    name: str = "predictions"


class AbstainSettings(Section):
    """Which answers are left to a person: those less sure than ``below``, and all rows with one of a column's values in ``slices``."""

    below: float = Field(default=0.0, ge=0, le=1)
    slices: dict[str, list[str | int | bool]] = {}


class RestSettings(Section):
    """The service that `meguri serve` starts.

    ``unit`` names the column of who is answered, whom one release answers as long as the shares stand (none: the
    contract's group, or else the key). ``features`` says what of a row the ledger keeps with its answer. One request may
    have so many ``rows``, ``body`` bytes and ``seconds``; so many may be ``waiting`` for the ledger. ``unwritten`` says
    what becomes of an answer that the ledger cannot take: it is refused, or given and spooled.
    """

    unit: str | None = None
    abstain: AbstainSettings = AbstainSettings()
    features: Literal["values", "hash", "nothing"] = "values"
    unwritten: Literal["refuse", "spool"] = "refuse"
    rows: int = Field(default=1000, ge=1)
    body: int = Field(default=2**20, ge=1)
    seconds: float = Field(default=10.0, gt=0)
    waiting: int = Field(default=1000, ge=1)


class OutletSettings(Section):
    """The ways out."""

    table: TableSettings | None = None
    rest: RestSettings | None = None


class BatchSettings(Section):
    """What stops a batch, the rows of one ``loop.step``, that is not like those before it.

    It is held against the last ``history`` batches, once there are ``learn``. ``rows``: so many, from and to. ``fresh``:
    how old the newest row may be. With ``stop: false`` what is odd is only told.
    """

    history: int = Field(default=60, ge=1, le=119)
    learn: int = Field(default=14, ge=2)
    fresh: str | None = None
    rows: tuple[int, int] | None = None
    stop: bool = True

    _check = field_validator("fresh")(_duration)


class CostSettings(Section):
    """What the loop itself costs, in the currency of the contract's ``value``.

    ``training`` is for an hour that a turn takes, ``serving`` for 1,000 answers.
    """

    training: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    serving: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class DataSettings(Section):
    """What the rows that come in are held against, beside the contract.

    ``max_quarantined`` is how many may be quarantined before the turn stops: a share below 1, or from 1 on a number of
    rows. ``references`` names for a column the table and column of the warehouse in which each of its values must be.
    """

    max_quarantined: float = Field(default=0.2, ge=0)
    references: dict[str, str] = {}
    batch: BatchSettings = BatchSettings()


class Settings(Section):
    """What every project sets; a project's ``Config`` adds sections of its own."""

    seed: int = 0
    frame: Literal["pandas", "polars", "arrow"] = "pandas"
    data: DataSettings = DataSettings()
    model: ModelSettings
    optimize: OptimizeSettings = OptimizeSettings()
    split: SplitSettings = SplitSettings()
    gate: GateSettings
    costs: CostSettings = CostSettings()
    loop: LoopSettings = LoopSettings()
    outlets: OutletSettings = OutletSettings()
    warehouse: str = "duckdb:///data/warehouse"
    online: str = "sqlite:///outputs/online.db"
    ledger: str = "sqlite:///outputs/ledger.db"
    tracking: str = "sqlite:///outputs/mlflow.db"


def compose(folder: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain dict that Hydra makes of ``folder/default.yaml``, its groups and the overrides.

    Raises SettingsError for YAML that does not parse, a group or key that is not there, and an unresolved ``${…}``.
    """
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    if not (folder / "default.yaml").is_file():
        raise SettingsError("the settings are missing", where=folder / "default.yaml", fix="restore hydra/default.yaml")
    GlobalHydra.instance().clear()
    # a key with a default need not stand in the YAML to be overridden: what there is, pydantic knows, and judges
    groups = {path.name for path in folder.iterdir() if path.is_dir()}
    written = [o if not o[:1].isalpha() or o.partition("=")[0] in groups else f"++{o}" for o in overrides]
    try:
        with initialize_config_dir(config_dir=str(folder.resolve()), version_base="1.3"):
            composed = hydra_compose("default", overrides=written)
        return typing.cast(dict[str, Any], OmegaConf.to_container(composed, resolve=True))
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{Path(mark.name).name if mark else 'default.yaml'}:{mark.line + 1 if mark else '?'}"
        problem = getattr(error, "problem", None) or error
        raise SettingsError(f"the YAML cannot be read: {problem}", where=folder / place) from error
    except (HydraException, OmegaConfBaseException) as error:
        raise _override_error(folder, overrides, error) from error


def _override_error(folder: Path, overrides: Sequence[str], error: Exception) -> SettingsError:
    """Hydra's complaint in one sentence."""
    for override in overrides:
        if "=" not in override:
            return SettingsError(f"'{override}' is no override", where="command line", fix="write key=value")
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = (str(root).strip() or str(error)).splitlines()[0]
    return SettingsError(f"the settings do not compose: {text}", where=folder)


def _nearest(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"known: {', '.join(sorted(k for k in known if '.' not in k)[:20])}" if known else "remove it"


def judge(values: dict[str, Any], kind: type[Settings], folder: Path, overrides: Sequence[str] = ()) -> Settings:
    """The typed settings; raises one SettingsError that names the file, the line and every wrong key."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = [_problem(item, kind, folder, overrides) for item in error.errors()]
        mistyped = {fix.split("'")[1] for _, what, fix in problems if what.startswith("unknown key") and "'" in fix}
        problems = [
            p for p in problems if not (p[1].endswith("is missing") and p[1].split("'")[1].split(".")[-1] in mistyped)
        ]
        wheres, whats, fixes = zip(*problems, strict=True)
        raise SettingsError(
            "; ".join(whats), where=", ".join(dict.fromkeys(wheres)), fix="; ".join(filter(None, fixes))
        ) from error


def _problem(item: Any, kind: type[Settings], folder: Path, overrides: Sequence[str]) -> tuple[str, str, str]:
    """(where, what, fix) of one pydantic error."""
    names = [str(part) for part in item["loc"] if isinstance(part, str)]
    key = ".".join(names)
    owner = _section(kind, names[:-1])
    where = locate(folder, names, overrides)
    if item["type"] == "extra_forbidden":
        fields = list(owner.model_fields) if owner is not None else []
        return where, f"unknown key '{key}'", _nearest(names[-1], fields)
    if item["type"] == "missing":
        return where, f"the key '{key}' is missing", f"add {key}: … to hydra/default.yaml"
    cause = item.get("ctx", {}).get("error")
    if isinstance(cause, MeguriError):
        return where, f"'{key}': {cause.what}", cause.fix or ""
    message = str(item["msg"])
    return where, f"'{key}' is {item['input']!r}: {message[0].lower()}{message[1:]}", ""


def _section(kind: type[BaseModel], names: Sequence[str]) -> type[BaseModel] | None:
    """The section type that the key path leads to, if it leads to one."""
    here: type[BaseModel] | None = kind
    for name in names:
        found = here.model_fields.get(name) if here is not None else None
        options = [found.annotation] if found is not None else []
        if options and isinstance(options[0], types.UnionType):
            options = list(typing.get_args(options[0]))
        here = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    return here


def locate(folder: Path, names: Sequence[str], overrides: Sequence[str] = ()) -> str:
    """Where a key was written: the command line, or ``hydra/file.yaml:line`` (the longest part of the path found)."""
    import yaml

    dotted = ".".join(names)
    if any(o.lstrip("+~").split("=")[0] == dotted for o in overrides):
        return f"command line ({dotted})"
    candidates = [(folder / "default.yaml", list(names))]
    candidates += [(path, list(names)[1:]) for path in sorted(folder.glob("*/*.yaml")) if path.parent.name == names[0]]
    best = (0, f"{folder.name}/default.yaml")
    for path, parts in candidates:
        node = yaml.compose(path.read_text(encoding="utf-8"))
        for depth, part in enumerate(parts, start=1 + len(names) - len(parts)):
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            key, node = next(((k, v) for k, v in pairs if k.value == part), (None, None))
            if key is None:
                break
            best = max(best, (depth, f"{path.relative_to(folder.parent)}:{key.start_mark.line + 1}"))
    return best[1]


def load(root: Path, kind: type[Settings], overrides: Sequence[str] = ()) -> Settings:
    """Compose, judge, and hold the model's parameters against the model's own.

    Raises SettingsError for an unknown key, a wrong type, a model that is not in ``src/models``, or a parameter that it
    does not have.
    """
    folder = root / "hydra"
    settings = judge(compose(folder, overrides), kind, folder, overrides)
    known = model_parameters(root, settings.model.name, where=locate(folder, ["model", "name"], overrides))
    for name in settings.model.params:
        if known is not None and name not in known:
            where = locate(folder, ["model", "params", name], overrides)
            raise SettingsError(
                f"the model '{settings.model.name}' has no parameter '{name}'",
                where=where,
                fix=_nearest(name, sorted(known)),
            )
    return settings


def sweep(overrides: Sequence[str]) -> Iterator[list[str]]:
    """The override lists of ``--multirun``: each combination of values such as ``model.params.depth=3,5`` or ``range(1,4)``."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except HydraException as error:
        raise SettingsError(
            f"an override cannot be read: {str(error).splitlines()[0]}", where="command line", fix="write key=value"
        ) from error
    axes = []
    for item in parsed:
        key = item.get_key_element()
        values = item.sweep_string_iterator() if item.is_sweep_override() else [item.get_value_element_as_str()]
        axes.append([f"{key}={value}" for value in values])
    yield from (list(chosen) for chosen in itertools.product(*axes))


def fingerprint(root: Path) -> str:
    """A hash of every file that the settings are made of."""
    digest = hashlib.sha256()
    for path in [*sorted((root / "hydra").rglob("*.yaml")), root / "src" / "configurations.py"]:
        if path.is_file():
            digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def reads_environment(root: Path) -> bool:
    """Whether the settings depend on more than their files, so that they must be composed anew each time."""
    return any("${oc." in file.read_text(encoding="utf-8") for file in (root / "hydra").rglob("*.yaml"))


def remember(path: Path, root: Path, settings: Settings) -> None:
    """Keep the judged settings, so that a tick with nothing to do need not import Hydra; not those with a secret."""
    plain = settings.model_dump(mode="json")
    with suppress(OSError):  # a service may only read its project; whoever may write will keep them
        if redact(plain) == plain:
            write_json(path, {"fingerprint": fingerprint(root), "settings": plain})
        else:
            path.unlink(missing_ok=True)


def recall(path: Path, root: Path) -> dict[str, Any] | None:
    """The settings that ``remember`` kept, when no file that they are made of has changed since."""
    try:
        kept = read_json(path)
        return typing.cast(dict[str, Any], kept["settings"]) if kept["fingerprint"] == fingerprint(root) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
