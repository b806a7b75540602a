"""The search for hyper-parameters (the door of optuna): a space as data, resumable, the same for the same seed."""

from __future__ import annotations

import difflib
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from meguri.base.clock import duration
from meguri.base.errors import JobError, SettingsError
from meguri.base.extras import need
from meguri.base.files import locked
from meguri.base.redact import redact

Value = bool | int | float | str | None
Report = Callable[[float, int], None]
_KILLED = "killed"  # the numbers of the trials whose process died: they count for nothing


@dataclass(frozen=True)
class Float:
    """A number from ``low`` to ``high``; ``log`` searches its order of magnitude, ``step`` a grid from ``low`` on."""

    low: float
    high: float
    log: bool = False
    step: float | None = None

    def __post_init__(self) -> None:
        _judge(self, (int, float))

    def __repr__(self) -> str:
        return _spelt(self)


@dataclass(frozen=True)
class Int:
    """A whole number from ``low`` to ``high``, both possible; ``log`` and ``step`` as in Float."""

    low: int
    high: int
    log: bool = False
    step: int | None = None

    def __post_init__(self) -> None:
        _judge(self, (int,))

    def __repr__(self) -> str:
        return _spelt(self)


@dataclass(frozen=True, init=False)
class Choice:
    """One of some values: text, numbers, booleans or None."""

    values: tuple[Value, ...]

    def __init__(self, values: Iterable[Value]) -> None:
        object.__setattr__(self, "values", tuple(values))
        if isinstance(values, str) or not self.values:
            raise SettingsError(f"{values!r} are no values to choose from", fix="write Choice(['gini', 'entropy'])")
        for value in self.values:
            if not (value is None or isinstance(value, (bool, int, float, str))):
                fix = "use text, numbers, booleans or None, and make the object from it in the model"
                raise SettingsError(f"{value!r} cannot be chosen", where=repr(self), fix=fix)
            if isinstance(value, float) and not math.isfinite(value):
                raise SettingsError(f"{value!r} cannot be chosen", where=repr(self), fix="use finite numbers")
        if len(set(self.values)) < len(self.values):  # for Python, and for Optuna, 1, 1.0 and True are one
            raise SettingsError("a value stands twice in a choice", where=repr(self), fix="name each value once")

    def __repr__(self) -> str:
        return f"Choice({list(self.values)!r})"


Space = Mapping[str, Float | Int | Choice]


def check(space: Space, allowed: Iterable[str]) -> None:
    """Raise SettingsError when ``space`` names a parameter that the model does not have, or something is no range."""
    names = sorted(allowed)
    for name, part in space.items():
        if not isinstance(part, (Float, Int, Choice)):
            raise SettingsError(f"{part!r} is no range", where=f"parameter '{name}'", fix="use Float, Int or Choice")
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            fix = f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(names) or 'none'}"
            raise SettingsError(f"the model has no parameter '{name}'", where="search space", fix=fix)


def search(
    space: Space,
    objective: Callable[[dict[str, Any], Report], float],
    *,
    trials: int,
    timeout: str | float | timedelta | None = None,
    storage: str,
    name: str,
    seed: int,
    direction: Literal["minimize", "maximize"] = "minimize",
    progress: Callable[[int, float | None], None] | None = None,
) -> dict[str, Any]:
    """The best parameters of ``trials`` trials in all, those of an earlier, killed search of this name included.

    ``objective(params, report)`` returns the value; when it calls ``report(value, step)`` meanwhile, a trial that is
    behind the median of the others is pruned. ``storage`` is a SQLAlchemy URL. Each trial draws from ``seed`` and its
    own number, so the parameters are the same whether the search was interrupted or not. ``progress(number, value)``
    is called after each trial, with None for one that was pruned or failed. A trial that raises is recorded and the
    search goes on; JobError, with the first error, when no trial gave a value. An empty space gives ``{}``.
    """
    check(space, space)
    if not space:
        return {}
    if trials < 1:
        raise SettingsError(f"{trials} trials find nothing", where="optimize.trials", fix="set it to 1 or more")
    optuna = need("optuna")
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with _opened(optuna, storage) as store:
            study = _study(optuna, store, space, name, direction)
            ended = time.monotonic() + _seconds(timeout)
            first: Exception | None = None
            for number in range(_done(study), trials):
                if time.monotonic() >= ended:
                    break
                # A number's own seed: what came before a kill, and how often, cannot change what is drawn.
                drawn = random.Random(f"{seed}/{number}").getrandbits(32)
                study.sampler = optuna.samplers.TPESampler(seed=drawn)
                value, error = _trial(optuna, study, space, objective)
                first = first or error
                if progress is not None:
                    progress(number, value)
            return _best(study, space, first)
    finally:
        optuna.logging.set_verbosity(level)


def _trial(
    optuna: Any, study: Any, space: Space, objective: Callable[[dict[str, Any], Report], float]
) -> tuple[float | None, Exception | None]:
    """Run one trial and record it; what a kill leaves behind is a running trial, which the next search sets aside."""
    trial = study.ask()

    def report(value: float, step: int) -> None:
        trial.report(float(value), step)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        value = float(objective({name: _draw(trial, name, part) for name, part in space.items()}, report))
        if math.isnan(value):
            raise ValueError("the objective gave nan")
    except optuna.TrialPruned:
        study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        return None, None
    except Exception as error:
        trial.set_user_attr("error", redact(f"{type(error).__name__}: {error}")[:1000])
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        return None, error
    study.tell(trial, value)
    return value, None


def _draw(trial: Any, name: str, part: Float | Int | Choice) -> Any:
    if isinstance(part, Choice):
        return trial.suggest_categorical(name, part.values)
    if isinstance(part, Int):
        step = part.step or 1
        return trial.suggest_int(name, part.low, part.high - (part.high - part.low) % step, log=part.log, step=step)
    if part.step is None:
        return trial.suggest_float(name, part.low, part.high, log=part.log)
    # The number of a grid's point: Optuna's own grids of floats lose their last point to rounding when read back.
    return _meant(part, trial.suggest_int(name, 0, int((_exact(part.high) - _exact(part.low)) // _exact(part.step))))


def _meant(part: Float | Int | Choice, drawn: Any) -> Any:
    """The parameter's value from what Optuna keeps for it."""
    if isinstance(part, Float) and part.step is not None:
        return float(_exact(part.low) + drawn * _exact(part.step))
    return drawn


def _exact(number: float) -> Fraction:
    return Fraction(str(number))  # as it was written: 0.1 fits into 0.3 three times


def _study(optuna: Any, store: Any, space: Space, name: str, direction: str) -> Any:
    study = optuna.create_study(
        storage=store, study_name=name, direction=direction, pruner=optuna.pruners.MedianPruner(), load_if_exists=True
    )
    kept = study.user_attrs.get("meguri")
    asked = f"{direction} {dict(space)!r}"
    if kept is None:
        study.set_user_attr("meguri", asked)
    elif kept != asked:
        fix = "give the new search another name (a new run has one)"
        raise JobError(f"a search over another space has this name: {kept}", where=f"search '{name}'", fix=fix)
    running = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,))
    study.set_user_attr(_KILLED, sorted({*study.user_attrs.get(_KILLED, []), *(trial.number for trial in running)}))
    for trial in running:
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return study


def _done(study: Any) -> int:
    return len(study.get_trials(deepcopy=False)) - len(study.user_attrs[_KILLED])


def _best(study: Any, space: Space, first: Exception | None) -> dict[str, Any]:
    trials = study.get_trials(deepcopy=False)
    sign = 1 if study.direction.name == "MINIMIZE" else -1
    whole = [(sign * trial.value, trial.number, trial) for trial in trials if trial.state.name == "COMPLETE"]
    if whole:
        return {name: _meant(part, min(whole)[2].params[name]) for name, part in space.items()}
    said = next((trial.user_attrs["error"] for trial in trials if "error" in trial.user_attrs), "none came to its end")
    fix = "call the optimize job's objective once with plain values in a test"
    raise JobError(f"all {_done(study)} trials failed; the first: {said}", where="optimize", fix=fix) from first


@contextmanager
def _opened(optuna: Any, url: str) -> Iterator[Any]:
    """Optuna's storage; an embedded one is made, and searched in, by one process at a time."""
    prefix, path = url[:10], Path(url[10:])
    with locked(path.with_name(f".{path.name}.lock")) if prefix == "sqlite:///" and url[10:] else nullcontext():
        store = object.__new__(optuna.storages.RDBStorage)  # in two steps: what fails half-made has an engine to close
        try:
            try:
                store.__init__(url)
            except Exception as error:
                fix = "is it Optuna's, of this version? A SQLite file may be moved away, and the search begins anew"
                raise JobError(f"the search's store cannot be opened: {error}", where=redact(url), fix=fix) from error
            yield store
        finally:
            if hasattr(store, "scoped_session"):
                store.remove_session()
                store.engine.dispose()


def _seconds(timeout: str | float | timedelta | None) -> float:
    if timeout is None:
        return math.inf
    return float(timeout) if isinstance(timeout, (int, float)) else duration(timeout).total_seconds()


def _judge(part: Float | Int, kinds: tuple[type, ...]) -> None:
    """Raise SettingsError unless the range can be drawn from."""
    where, kind = repr(part), type(part).__name__
    for given in (part.low, part.high) if part.step is None else (part.low, part.high, part.step):
        if isinstance(given, bool) or not isinstance(given, kinds) or not math.isfinite(given):
            number = "whole number" if kind == "Int" else "finite number"
            raise SettingsError(f"{given!r} is no {number}", where=where, fix=f"write {kind}(1, 10)")
    if part.low > part.high:
        raise SettingsError(f"{part.low} is above {part.high}", where=where, fix="write the lower end first")
    if part.step is not None and part.step <= 0:
        raise SettingsError(f"the step {part.step} leads nowhere", where=where, fix="use a step above 0")
    if part.log and part.step is not None:
        raise SettingsError("a logarithmic range has no step", where=where, fix="leave out log or step")
    if part.log and part.low <= 0:
        raise SettingsError(f"{part.low} has no logarithm", where=where, fix="begin above 0, or leave out log")


def _spelt(part: Float | Int) -> str:
    more = f", log={part.log}" if part.log else ""
    return f"{type(part).__name__}({part.low!r}, {part.high!r}{more}{'' if part.step is None else f', step={part.step!r}'})"
