from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

import meguri
from meguri.base.errors import JobError, SettingsError
from meguri.loop.search import Choice, Float, Int, Report, Space, check, search

SPACE: Space = {"x": Float(-4, 4), "n": Int(1, 64, log=True), "kind": Choice(["a", "b", None])}


def value_of(params: dict[str, Any], report: Report) -> float:
    return float((params["x"] - 1) ** 2 + params["n"] / 100 + (params["kind"] != "a"))


def url(folder: Path) -> str:
    return f"sqlite:///{folder / 'study.db'}"


def drawn(folder: Path, trials: int = 14, seed: int = 7, name: str = "s") -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    def objective(params: dict[str, Any], report: Report) -> float:
        seen.append(params)
        return value_of(params, report)

    search(SPACE, objective, trials=trials, storage=url(folder), name=name, seed=seed)
    return seen


def test_the_best_of_the_trials_comes_back_in_pythons_own_types(tmp_path: Path) -> None:
    told: list[tuple[int, float | None]] = []
    seen: dict[float, dict[str, Any]] = {}

    def objective(params: dict[str, Any], report: Report) -> float:
        seen[value_of(params, report)] = params
        return value_of(params, report)

    best = search(
        SPACE, objective, trials=20, storage=url(tmp_path), name="s", seed=1, progress=lambda n, v: told.append((n, v))
    )
    assert best == seen[min(seen)]
    assert [type(best[name]) for name in ("x", "n")] == [float, int]
    assert list(best) == list(SPACE)
    assert [number for number, _ in told] == list(range(20))
    assert {value for _, value in told} == set(seen)


def test_it_can_maximize(tmp_path: Path) -> None:
    values: list[float] = []

    def objective(params: dict[str, Any], report: Report) -> float:
        values.append(params["x"])
        return values[-1]

    best = search(SPACE, objective, trials=8, storage=url(tmp_path), name="s", seed=1, direction="maximize")
    assert best["x"] == max(values)


def test_the_same_seed_draws_the_same_and_another_seed_does_not(tmp_path: Path) -> None:
    first = drawn(tmp_path, name="a")
    assert drawn(tmp_path, name="b") == first
    assert drawn(tmp_path, name="c", seed=8) != first


def test_it_goes_on_where_it_stopped_and_draws_what_it_would_have_drawn(tmp_path: Path) -> None:
    whole = drawn(tmp_path, name="whole")
    parts = [drawn(tmp_path, trials, name="parts") for trials in (5, 5, 12, 14)]
    assert [len(part) for part in parts] == [5, 0, 7, 2]
    assert [params for part in parts for params in part] == whole


KILLED = """
import os, signal, sys
from meguri.loop.search import search
sys.path.insert(0, sys.argv[1])
from test_search import SPACE, value_of
seen = 0
def objective(params, report):
    global seen
    print(params, flush=True)
    seen += 1
    if seen == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return value_of(params, report)
search(SPACE, objective, trials=14, storage=sys.argv[2], name="s", seed=7)
"""


def test_a_killed_search_does_every_trial_once_and_yields_what_an_unbroken_one_does(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(Path(meguri.__file__).parents[1])}
    here = str(Path(__file__).parent)
    lines: list[str] = []
    for die_at in (3, 12):  # the second dies after the startup trials, in its own 12th
        done = subprocess.run(
            [sys.executable, "-c", KILLED, here, url(tmp_path), str(die_at)],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == -9, done.stderr
        lines += done.stdout.splitlines()[:-1]  # the last trial was not finished
    lines += [str(params) for params in drawn(tmp_path)]
    (tmp_path / "whole").mkdir()
    assert lines == [str(params) for params in drawn(tmp_path / "whole")]


def test_searches_that_begin_at_once_share_one_store(tmp_path: Path) -> None:
    script = """
import sys
sys.path.insert(0, sys.argv[1])
from test_search import SPACE, value_of
from meguri.loop.search import search
print(sorted(search(SPACE, value_of, trials=6, storage=sys.argv[2], name="s", seed=7).items()))
"""
    env = os.environ | {"PYTHONPATH": str(Path(meguri.__file__).parents[1])}
    command = [sys.executable, "-c", script, str(Path(__file__).parent), url(tmp_path)]
    started = [subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = {process.communicate()[0] for process in started}
    assert len(answers) == 1
    assert [process.returncode for process in started] == [0] * 4
    assert drawn(tmp_path, trials=6) == []


def test_a_trial_behind_the_others_is_pruned(tmp_path: Path) -> None:
    ends: list[int] = []
    told: list[float | None] = []

    def objective(params: dict[str, Any], report: Report) -> float:
        bad = len(ends) >= 6
        for step in range(10):
            ends[len(told) :] = [step]
            report(5.0 if bad else 1.0 - step / 100, step)
        return 5.0 if bad else 0.9

    best = search(
        SPACE, objective, trials=9, storage=url(tmp_path), name="s", seed=1, progress=lambda _, v: told.append(v)
    )
    assert told[:6] == [0.9] * 6
    assert None in told[6:]
    assert min(ends[6:]) < 9
    assert best


def test_a_failing_trial_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    told: list[float | None] = []

    def objective(params: dict[str, Any], report: Report) -> float:
        if len(told) % 2:
            raise ValueError("no convergence")
        return float("nan") if len(told) == 2 else value_of(params, report)

    best = search(
        SPACE, objective, trials=6, storage=url(tmp_path), name="s", seed=1, progress=lambda _, v: told.append(v)
    )
    assert [value is None for value in told] == [False, True, True, True, False, True]
    assert set(best) == set(SPACE)
    assert drawn(tmp_path, trials=6) == []  # a trial that failed is done


def test_when_all_fail_the_first_error_is_told_now_and_later(tmp_path: Path) -> None:
    def objective(params: dict[str, Any], report: Report) -> float:
        raise ValueError("cannot reach postgresql://u:hunter2@host/db")

    for _ in range(2):  # the second time, no trial is left to run
        with pytest.raises(JobError, match="all 3 trials failed; the first: ValueError: cannot reach") as caught:
            search(SPACE, objective, trials=3, storage=url(tmp_path), name="s", seed=1)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(JobError, match="none came to its end"):
        search(SPACE, value_of, trials=3, timeout=0, storage=url(tmp_path), name="never", seed=1)


def test_a_grid_has_its_last_point_and_none_above(tmp_path: Path) -> None:
    seen: set[float] = set()

    def objective(params: dict[str, Any], report: Report) -> float:
        seen.add(params["x"])
        return -float(params["x"])

    best = search({"x": Float(0, 0.35, step=0.1)}, objective, trials=25, storage=url(tmp_path), name="s", seed=1)
    assert (best, seen) == ({"x": 0.3}, {0.0, 0.1, 0.2, 0.3})


def test_a_timeout_ends_it_after_the_trial_that_is_under_way(tmp_path: Path) -> None:
    best = search(SPACE, value_of, trials=3, timeout="1h", storage=url(tmp_path), name="s", seed=1)
    told: list[int] = []
    again = search(
        SPACE,
        value_of,
        trials=9,
        timeout="0s",
        storage=url(tmp_path),
        name="s",
        seed=1,
        progress=lambda n, _: told.append(n),
    )
    assert (again, told) == (best, [])


def test_an_interrupt_is_no_failed_trial(tmp_path: Path) -> None:
    def objective(params: dict[str, Any], report: Report) -> float:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(SPACE, objective, trials=3, storage=url(tmp_path), name="s", seed=7)
    assert drawn(tmp_path, trials=3) == drawn(tmp_path, trials=3, name="whole")


def test_a_store_in_memory_and_an_optuna_that_keeps_its_own_level(tmp_path: Path) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    assert search({"n": Int(3, 3)}, lambda p, report: p["n"], trials=1, storage="sqlite://", name="s", seed=1) == {
        "n": 3
    }
    assert optuna.logging.get_verbosity() == before


def test_a_name_that_another_space_has_and_a_store_that_is_none(tmp_path: Path) -> None:
    drawn(tmp_path, trials=1)
    with pytest.raises(JobError, match="another space"):
        search({"x": Float(0, 1)}, value_of, trials=1, storage=url(tmp_path), name="s", seed=1)
    with pytest.raises(JobError, match="another space"):
        search(SPACE, value_of, trials=1, storage=url(tmp_path), name="s", seed=1, direction="maximize")
    (tmp_path / "study.db").write_text("this is no database, and long enough to be seen as none")
    with pytest.raises(JobError, match="cannot be opened"):
        drawn(tmp_path)


def test_an_empty_space_needs_no_optuna() -> None:
    script = (
        "import sys; from meguri.loop.search import search\n"
        "assert search({}, None, trials=0, storage='x', name='s', seed=1) == {}\n"
        "assert 'optuna' not in sys.modules"
    )
    env = os.environ | {"PYTHONPATH": str(Path(meguri.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", script], env=env, check=True)


def test_a_parameter_that_the_model_does_not_have_is_an_error_with_the_nearest_name() -> None:
    check({"max_depth": Int(1, 9)}, {"max_depth", "n_estimators"})
    with pytest.raises(SettingsError, match="no parameter 'max_dept'") as caught:
        check({"max_dept": Int(1, 9)}, {"max_depth", "n_estimators"})
    assert caught.value.fix == "did you mean 'max_depth'?"
    with pytest.raises(SettingsError) as caught:
        check({"zzz": Int(1, 9)}, {"max_depth"})
    assert caught.value.fix == "it has: max_depth"
    with pytest.raises(SettingsError) as caught:
        check({"zzz": Int(1, 9)}, set())
    assert caught.value.fix == "it has: none"


@pytest.mark.parametrize("space", [{"x": (0, 1)}, {"x": 3}])
def test_what_is_no_range_is_an_error(space: Any, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="is no range"):
        search(space, value_of, trials=1, storage=url(tmp_path), name="s", seed=1)


def test_no_trials_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="0 trials"):
        search(SPACE, value_of, trials=0, storage=url(tmp_path), name="s", seed=1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Float(1, 0), "1 is above 0"),
        (lambda: Float(0, 1, log=True), "no logarithm"),
        (lambda: Int(0, 9, log=True), "no logarithm"),
        (lambda: Float(1, 2, log=True, step=0.1), "no step"),
        (lambda: Float(0, 1, step=0), "leads nowhere"),
        (lambda: Float(0, float("inf")), "no finite number"),
        (
            lambda: Float(
                *cast(
                    Any,
                    (
                        "0",
                        1,
                    ),
                )
            ),
            "no finite number",
        ),
        (lambda: Float(False, 1), "no finite number"),
        (
            lambda: Int(
                *cast(
                    Any,
                    (
                        0,
                        1.5,
                    ),
                )
            ),
            "no whole number",
        ),
        (lambda: Int(0, 9, step=cast(Any, 1.5)), "no whole number"),
        (lambda: Choice([]), "no values"),
        (lambda: Choice("gini"), "no values"),
        (lambda: Choice([cast(Any, object())]), "cannot be chosen"),
        (lambda: Choice([float("nan")]), "cannot be chosen"),
        (lambda: Choice([1, True]), "twice"),
    ],
)
def test_an_impossible_range_is_an_error_where_it_is_written(make: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        make()


FINITE = st.floats(-1e6, 1e6, allow_subnormal=False)
WHOLE = st.integers(-(10**6), 10**6)
VALUES = st.lists(st.none() | st.booleans() | WHOLE | FINITE | st.text(max_size=5), min_size=1, max_size=5, unique=True)
RANGES = st.one_of(
    st.builds(lambda a, b: Float(min(a, b), max(a, b)), FINITE, FINITE),
    st.builds(lambda a, b, s: Float(min(a, b), max(a, b), step=s), FINITE, FINITE, st.floats(0.01, 1e6)),
    st.builds(lambda a, b: Float(a, a + b, log=True), st.floats(1e-9, 1e3), st.floats(0, 1e3)),
    st.builds(lambda a, b: Int(min(a, b), max(a, b)), WHOLE, WHOLE),
    st.builds(lambda a, b, s: Int(min(a, b), max(a, b), step=s), WHOLE, WHOLE, st.integers(1, 10**6)),
    st.builds(lambda a, b: Int(a, a + b, log=True), st.integers(1, 1000), st.integers(0, 1000)),
    VALUES.map(Choice),
)


@given(RANGES)
def test_a_range_prints_what_makes_it_again(part: Float | Int | Choice) -> None:
    assert eval(repr(part)) == part
    assert hash(eval(repr(part))) == hash(part)


@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.generate])
@example([Float(1.8928186823613942, 3.0, step=1.0), Float(0, 0.3, step=0.1), Float(0, 2, step=0.3), Int(0, 5, step=3)])
@given(st.lists(RANGES, min_size=12, max_size=12))
def test_what_is_drawn_lies_in_the_range(parts: list[Float | Int | Choice]) -> None:
    space = {f"p{number}": part for number, part in enumerate(parts)}
    best = search(space, lambda params, report: 0.0, trials=1, storage="sqlite://", name="s", seed=3)
    for name, part in space.items():
        if isinstance(part, Choice):
            assert any(best[name] == value and type(best[name]) is type(value) for value in part.values)
        else:
            assert part.low <= best[name] <= part.high
            assert type(best[name]) is (int if isinstance(part, Int) else float)
