"""Jobs: plain functions in ``src/jobs/<name>.py``, found by file name and wired by their parameter names."""

from __future__ import annotations

import ast
import difflib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from meguri.base.errors import JobError
from meguri.base.extras import missing, optional

# The noun of each job's result. Another job's noun is its own name.
NOUNS = {
    "retrieve": "data",
    "optimize": "params",
    "train": "model",
    "evaluate": "evaluation",
    "predict": "predictions",
    "register": "registered",
}
# What Meguri itself gives, and the job's result that it waits for (none: it is there from the start).
GIVEN = {
    "settings": None,
    "contract": None,
    "now": None,
    "since": None,
    "until": None,
    "run": None,
    "study": None,
    "outlet": None,
    "warehouse": None,
    "dataset": "data",
    "release": "evaluation",
    "requests": "evaluation",
}
# Given even where the job that makes it is absent: without `optimize` the parameters are those of the settings.
OPTIONAL = {"params"}


@dataclass(frozen=True)
class Job:
    """One job: its name, the parameter names that it needs, the noun of its result, and its file."""

    name: str
    needs: tuple[str, ...]
    gives: str
    path: Path


def find_jobs(root: Path) -> dict[str, Job]:
    """The jobs of a project in the order in which they run, read from their files without importing them.

    Raises JobError for a file without the function of its name, a parameter that nothing gives, and a circle.
    """
    folder = root / "src" / "jobs"
    jobs = {path.stem: _read(path) for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")}
    if not jobs:
        raise JobError("the project has no jobs", where=folder, fix="add src/jobs/retrieve.py with a function retrieve")
    makers = {job.gives: job.name for job in jobs.values()}
    for job in jobs.values():
        for need in job.needs:
            if need not in makers and need not in GIVEN and need not in OPTIONAL:
                close = difflib.get_close_matches(need, [*makers, *GIVEN], n=1, cutoff=0.5)
                fix = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(sorted([*makers, *GIVEN]))}"
                raise JobError(f"the job '{job.name}' asks for '{need}', which nothing gives", where=job.path, fix=fix)
    rank = {name: place for place, name in enumerate(NOUNS)}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name in sorted(jobs, key=lambda n: (rank.get(n, len(rank)), n)):
        sorter.add(name, *sorted(before(jobs[name], makers), key=lambda n: (rank.get(n, len(rank)), n)))
    try:
        sorter.prepare()
    except CycleError as error:
        raise JobError(f"the jobs wait for each other: {' → '.join(error.args[1])}", where=folder) from error
    order: list[str] = []
    ready: list[str] = []
    while sorter.is_active():
        ready = sorted([*ready, *sorter.get_ready()], key=lambda n: (rank.get(n, len(rank)), n))
        order.append(ready.pop(0))
        sorter.done(order[-1])
    return {name: jobs[name] for name in order}


def before(job: Job, makers: dict[str, str]) -> set[str]:
    """The jobs whose results this one needs, directly or through what Meguri makes of them."""
    nouns = {need if need in makers else GIVEN.get(need) for need in job.needs}
    return {makers[noun] for noun in nouns if noun in makers} - {job.name}


def _read(path: Path) -> Job:
    name = path.stem
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    except SyntaxError as error:
        raise JobError(f"the job's file does not parse: {error.msg}", where=f"{path}:{error.lineno}") from error
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            arguments = node.args
            if arguments.vararg or arguments.kwarg:
                raise JobError(
                    f"the job '{name}' takes * or ** arguments", where=path, fix="name each thing that it needs"
                )
            names = [a.arg for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
            return Job(name, tuple(names), NOUNS.get(name, name), path)
    raise JobError(f"the file holds no function '{name}'", where=path, fix=f"define `def {name}(…)` at its top level")


def import_from(root: Path, module: str, attribute: str) -> Any:
    """``attribute`` of a module of the project's own package ``src``.

    Raises JobError when another project's ``src`` is loaded in this process, or the attribute is not there.
    """
    loaded = sys.modules.get("src")
    home = str(root / "src")
    if loaded is not None and home not in [str(Path(p).resolve()) for p in getattr(loaded, "__path__", [])]:
        raise JobError(
            "another project's package 'src' is loaded in this process",
            where=root,
            fix="use a process for each project",
        )
    if sys.path[:1] != [str(root)]:
        sys.path.insert(0, str(root))
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            raise JobError(
                f"there is no module {module}", where=root, fix=f"add {module.replace('.', '/')}.py"
            ) from error
        if optional(error):
            raise missing(error) from error
        raise
    try:
        return getattr(found, attribute)
    except AttributeError as error:
        raise JobError(
            f"{module} has no '{attribute}'", where=found.__file__, fix=f"define '{attribute}' there"
        ) from error


def function_of(root: Path, job: Job) -> Callable[..., Any]:
    """The job's function, imported."""
    function: Callable[..., Any] = import_from(root, f"src.jobs.{job.name}", job.name)
    return function


def draw(jobs: dict[str, Job]) -> str:
    """The jobs and what flows between them, one line each: ``train    dataset, params, settings → model``."""
    width = max(len(name) for name in jobs)
    return "\n".join(f"{job.name:<{width}}  {', '.join(job.needs) or 'nothing'} → {job.gives}" for job in jobs.values())


def mermaid(jobs: dict[str, Job]) -> str:
    """The same as a Mermaid flow chart, for a page or a README."""
    makers = {job.gives: job.name for job in jobs.values()}
    lines = ["flowchart LR"]
    for job in jobs.values():
        for need in job.needs:
            source = need if need in makers else GIVEN.get(need)
            if source in makers and makers[source] != job.name:
                lines.append(f"  {makers[source]} -- {need} --> {job.name}")
    return "\n".join([*lines, *(f"  {name}" for name in jobs)])
