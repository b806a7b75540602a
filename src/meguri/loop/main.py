"""``python -m src.main``: a project's own entry, which runs its jobs together or one by one."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from meguri.base import clock
from meguri.base.errors import JobError, MeguriError, SettingsError
from meguri.loop.project import Project
from meguri.loop.settings import sweep
from meguri.loop.steps import Steps
from meguri.loop.tick import predict
from meguri.loop.turn import close, go, plan, turn
from meguri.record.run import Run, setting_of

USAGE = """usage: python -m src.main [jobs=NAME[,NAME…]] [run=ID] [now=TIME] [key=value …] [--multirun]

  without jobs        a whole turn: every job, the gate, and the release when it passes
  jobs=train run=ID   these jobs (or gate, release) of that run, in this process alone
  jobs=retrieve       without run=: a new run, whose id is printed, to go on with
  jobs=predict        without run=: predict what is due with the live release (and register it)
  key=value           any setting of hydra/, as Hydra reads it; --multirun takes several values: key=1,2
"""


def main(file: str, arguments: Sequence[str] | None = None) -> None:
    """Run what the arguments say, in the project whose ``src/main.py`` is ``file``; exits with 1 on an error, told on stderr."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if "--help" in words or "-h" in words:
        print(USAGE, end="")
        return
    try:
        project = Project.open(Path(file).resolve().parent.parent)
        multirun = "--multirun" in words or "-m" in words
        words = [word for word in words if word not in ("--multirun", "-m")]
        own, overrides = _own(words)
        now = clock.moment(own["now"]) if "now" in own else clock.now()
        jobs = [name.strip() for name in own.get("jobs", "").strip("[]").split(",") if name.strip()]
        for each in sweep(overrides) if multirun else [overrides]:
            run_jobs(project, jobs, now=now, run=own.get("run"), overrides=each)
    except MeguriError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from error


def run_jobs(
    project: Project, jobs: Sequence[str], *, now: datetime, run: str | None, overrides: Sequence[str]
) -> None:
    """Run a whole turn, or only these jobs: of a run that is there, of a new one, or of none when it is just predicting."""
    if not jobs or list(jobs) == ["all"]:
        record = turn(
            project, now=now, reason="by hand", overrides=overrides, say=lambda step: print(f"{step} …", flush=True)
        )
        released = f"release {record.release} is live" if record.release else "nothing was released"
        print(f"run {record.id}: {record.verdict or 'no verdict'}; {released}; {record.seconds:.1f} s")
        print("look closer: meguri runs list, meguri releases show")
        return
    known = plan(project)
    for name in jobs:
        if name not in known:
            raise JobError(
                f"there is no job '{name}'", where=project.root / "src" / "jobs", fix=f"jobs here: {', '.join(known)}"
            )
    if run is None and set(jobs) <= {"predict", "register"}:
        print(f"{predict(project, now=now, overrides=tuple(overrides))} rows predicted")
        return
    if run is None:
        settings = project.settings(overrides)
        project.check_space(settings)
        found = Run.create(
            project.outputs,
            project.root,
            at=now,
            reason="by hand",
            overrides=tuple(overrides),
            settings=settings.model_dump(mode="json"),
            seed=settings.seed,
            status="open",
        )
    else:
        found = Run.load(project.outputs, run)
        if any(setting_of(override) not in found.overrides_hidden for override in overrides):
            raise SettingsError(
                "a run keeps the settings that it was started with",
                where=f"run {run}",
                fix="leave the overrides out, or start a new run",
            )
        settings = project.settings(found.overrides_with(overrides, again=f"python -m src.main jobs=… run={run}"))
    steps = Steps(project, settings, found)
    for name in jobs:  # asked for by name, so done again even if it was done before
        steps.run = steps.run.with_(done={k: v for k, v in steps.run.done.items() if k != name})
    go(steps, [name for name in known if name in jobs], say=lambda step: print(f"{step} …", flush=True))
    if steps.run.status == "open" and set(known) <= set(steps.run.done):
        close(steps, "done", None)
    print(f"run {steps.run.id}")


def _own(words: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The words that are for the jobs' runner, and the overrides that are for Hydra."""
    own: dict[str, str] = {}
    overrides = []
    for word in words:
        name, equals, value = word.partition("=")
        if equals and name in ("jobs", "run", "now"):
            own[name] = value
        else:
            overrides.append(word)
    return own, overrides
