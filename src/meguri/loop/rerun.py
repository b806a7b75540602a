"""A rerun: code, data, settings, seed, clock and champion of a past run restored, its jobs run again, the results compared."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meguri.base.errors import DataError, JobError, ProjectError, SettingsError, TurnBusy
from meguri.base.files import locked, read_json, write_json
from meguri.data import versions
from meguri.loop import environment
from meguri.loop.again import FAILED
from meguri.loop.compare import TOLERANCE, Comparison, Stage, compare
from meguri.loop.turn import OUTLET, Say, silent
from meguri.record.packages import differences, installed
from meguri.record.packages import locked as packages_of
from meguri.record.run import MADE_WITH, Run, code_of, git

if TYPE_CHECKING:
    from meguri.loop.project import Project

PARTS = ("code", "data", "settings")
# What a project's folder holds beside its code.
_NO_CODE = (".git", ".venv", ".dvc", ".tools", "data", "outputs", "node_modules", "__pycache__")
_NOW = "to go on with {} as it is now: --present {}"


def rerun(
    project: Project,
    name: str,
    *,
    present: Sequence[str] = (),
    env: bool = False,
    tolerance: float = TOLERANCE,
    keep: bool = False,
    say: Say = silent,
) -> Comparison:
    """Do a past run again, in ``outputs/reruns/<name>`` and a process of its own, and compare what comes out.

    ``present`` names parts that are taken as they are now instead of restored: code, data (what retrieve gives now for
    the run's moment), settings. The packages are those installed, or with ``env`` those of the run's own lock. Nothing
    that is live is touched; ``register`` is never done again. The folder is removed, or with ``keep`` kept.
    Raises JobError for a run that is not there or did nothing, ProjectError, DataError and SettingsError for what cannot
    be restored, TurnBusy when the same run is being rerun. A job that fails now is no error: the comparison says so.
    """
    unknown = [part for part in present if part not in PARTS]
    if unknown:
        raise SettingsError(f"'{unknown[0]}' is no part of a run", where="--present", fix=f"one of {', '.join(PARTS)}")
    past = Run.load(project.outputs, name)
    if not past.done:
        raise JobError(f"run {name} has done no step yet", where=past.folder, fix="let it finish: meguri turn")
    with _folder(project, name, keep=keep) as home:
        notes: list[str] = []
        code = _code(project, past, home / "code", present, notes)
        if "settings" in present:
            shutil.rmtree(code / "hydra", ignore_errors=True)
            shutil.copytree(project.root / "hydra", code / "hydra")
        if past.overrides_hidden:
            notes.append(_not_kept(past, present))
        rows = None if "data" in present else _rows(project, past, home / "rows.parquet", code)
        if "data" in present:
            _read_anew(project, code, home / "outputs")
        notes += _lock_notes(past, code) if not env else []
        python = environment.build(project.root, code, home / "env", past, say=say) if env else Path(sys.executable)
        champion = _champion(project, past)
        lost = champion is not None and not (project.outputs / "releases" / champion).is_dir()
        if champion is not None and not lost:
            releases = home / "outputs" / "releases"
            releases.mkdir(parents=True)
            (releases / champion).symlink_to(project.outputs.resolve() / "releases" / champion)
        if lost:
            notes.append(f"the champion of that moment, {champion}, is gone: no gate, and no predictions of its own")
        request = {
            "root": code,
            "outputs": home / "outputs",
            "past": past.folder,
            "run": name,
            "present": list(present),
            "rows": rows,
            "champion": None if lost else champion,
            "gate": not lost,
            "gate_uses": _gate_uses(project, past),
        }
        write_json(home / "request.json", request)
        failed = _run(python, code, home, say)
        stages = _compared(project, past, home, rows, tolerance, lost=lost)
        told = failed and f"the step '{failed['step']}' fails now: {failed['what']}"
        return Comparison(name, tuple(stages), tuple(notes), told or None, home if keep else None)


@contextmanager
def _folder(project: Project, name: str, *, keep: bool) -> Iterator[Path]:
    """The scratch folder of a run's reruns, empty, held by one process, and removed with its worktree afterwards."""
    home = project.outputs.resolve() / "reruns" / name
    with locked(home.parent / f".{name}.lock", wait=False) as held:
        if not held:
            raise TurnBusy(f"run {name} is being rerun by another process", where=home, fix="wait for it to end")
        _clear(project.root, home)
        home.mkdir(parents=True)
        try:
            yield home
        finally:
            if not keep:
                _clear(project.root, home)


def _clear(root: Path, home: Path) -> None:
    shutil.rmtree(home, ignore_errors=True)
    git(root, "worktree", "prune")  # forgets those whose folder is gone, a killed rerun's too


def _code(project: Project, past: Run, home: Path, present: Sequence[str], notes: list[str]) -> Path:
    """The project's folder as the run saw it; without a commit, the folder of now where its files have the same hashes."""
    root = project.root
    if "code" not in present and past.commit is not None:
        code = _worktree(root, past, home)
    elif "code" in present or (past.code is not None and past.code == code_of(root)):
        left = shutil.ignore_patterns(*_NO_CODE)
        shutil.copytree(root, home, symlinks=True, ignore=lambda at, names: left(at, names) if Path(at) == root else [])
        if "code" not in present:
            notes.append("the run was made outside git: its code is the present one, which has the same hashes")
        return home
    else:
        what = f"run {past.id} was made outside git, and the code has changed since"
        raise ProjectError(what, where=root, fix=_NOW.format("the code", "code"))
    known, here = past.code or {}, code_of(code)
    for name in (name for name in known if here.get(name) != known[name] and (root / name).is_file()):
        if code_of(root).get(name) == known[name]:  # it was not in git, and has not changed since
            (code / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, code / name)
    missing = [name for name in past.missing if not name.endswith(".dvc") and not name.startswith(".dvc/")]
    top = _top(root)
    gone = [name for name in missing if not (code / name).exists()]
    if gone and top is not None:
        shown = ", ".join(gone[:5]) + (f" and {len(gone) - 5} more" if len(gone) > 5 else "")
        notes.append(f"not in git when the run was made, so missing now: {shown}")
    return code


def _worktree(root: Path, past: Run, home: Path) -> Path:
    """The project in a worktree of the run's commit, with the changes that were not committed."""
    commit = str(past.commit)
    top = _top(root)
    if top is None or git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        what = f"the commit {commit[:12]} of run {past.id} is not in this repository"
        fix = f"fetch it: git fetch origin {commit[:12]}, or git fetch --unshallow; {_NOW.format('the code', 'code')}"
        raise ProjectError(what, where=root, fix=fix)
    made = ["-c", "core.hooksPath=/dev/null", "worktree", "add", "--quiet", "--detach", "--force", str(home), commit]
    if git(root, *made) is None:
        raise ProjectError("git could not make a worktree", where=home, fix=f"try it: git worktree add {home} {commit}")
    patch = past.folder / "diff.patch"
    changed = patch.is_file() and any(line.startswith(b"diff ") for line in patch.read_bytes().splitlines())
    if changed and git(home, "apply", "--whitespace=nowarn", str(patch.resolve())) is None:
        what = f"the changes that were not committed when run {past.id} was made do not apply to its commit"
        raise ProjectError(what, where=patch, fix=_NOW.format("the code", "code"))
    return home / root.resolve().relative_to(top)


def _top(root: Path) -> Path | None:
    found = git(root, "rev-parse", "--show-toplevel")
    return None if found is None else Path(found.rstrip("\n")).resolve()


def _rows(project: Project, past: Run, target: Path, code: Path) -> Path | None:
    """The rows that the run's contract had passed; None where the project keeps its data itself, and has it back in ``data``."""
    if past.data_version is None:
        return None
    root, version = project.data.parent, past.data_version
    try:
        if (past.folder / "data.json").is_file():
            versions.restore_files(root, version, code / "data")
            return None
        here = past.folder / "rows.parquet"
        hand = here if here.is_file() and versions.digest(here) == version else versions.at_hand(root, version)
        if hand is None:
            versions.restore(root, version, target)
        else:
            shutil.copyfile(hand, target)
    except DataError as error:
        fix = f"{error.fix}; {_NOW.format('what retrieve gives', 'data')}"
        raise DataError(error.what, where=error.where, fix=fix) from error
    return target


def _read_anew(project: Project, code: Path, outputs: Path) -> None:
    """Let jobs that read files of ``data/`` find those of now, and what people have decided about rows hold."""
    live, here = project.root / "data", code / "data"
    here.mkdir(parents=True, exist_ok=True)
    for path in live.iterdir() if live.is_dir() else []:
        if not (here / path.name).exists():
            (here / path.name).symlink_to(path.resolve())
    if project.quarantine.folder.is_dir():
        shutil.copytree(project.quarantine.folder, outputs / "quarantine")


def _champion(project: Project, past: Run) -> str | None:
    """The release that was live when the run's model was judged."""
    if past.facts.get("replaced"):
        return str(past.facts["replaced"])
    earlier = [r for r in project.ledger.rollouts(OUTLET) if r.at <= past.at and r.champion != past.id]
    return earlier[-1].champion if earlier else None


def _gate_uses(project: Project, past: Run) -> list[dict[str, Any]]:
    """The uses of test sets that the gate knew of: those before the run's own."""
    found = []
    for use in project.ledger.gate_uses():
        if use.run == past.id or use.at > past.at:
            break
        found.append({name: str(v) if name in ("at", "since", "until") else v for name, v in asdict(use).items()})
    return found


def _not_kept(past: Run, present: Sequence[str]) -> str:
    """Which settings the run had from the command line and kept no value of, and where the rerun has them from."""
    had = f"{', '.join(past.overrides_hidden)} of the command line held a secret and was not kept"
    if "settings" in present:
        return f"{had}: taken from hydra/ as it is now"
    return f"{had}: taken from hydra/ of that moment; --present settings takes it from hydra/ as it is now"


def _lock_notes(past: Run, code: Path) -> list[str]:
    """What of the run's lock is installed in another version."""
    if past.lock is None or not (code / past.lock).is_file():
        return []
    wanted, here = packages_of(past.lock, (code / past.lock).read_text(encoding="utf-8")), installed()
    other = {name: pair for name, pair in differences(wanted, here).items() if name in wanted and pair[1]}
    if not other:
        return []
    shown = ", ".join(f"{name} {a} → {b}" for name, (a, b) in list(other.items())[:5])
    more = f" and {len(other) - 5} more" if len(other) > 5 else ""
    return [f"installed in another version than {past.lock} had: {shown}{more}; --env builds the old environment"]


def _run(python: Path, code: Path, home: Path, say: Callable[[str], None]) -> dict[str, Any] | None:
    """Run the jobs in a process of their own; what failed, or None."""
    command = [str(python), "-m", "meguri.loop.again", str(home / "request.json")]
    own = python == Path(sys.executable)
    kept = {name: value for name, value in os.environ.items() if own or name not in environment.HERE}
    with (home / "errors.txt").open("w+", encoding="utf-8") as errors:
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, cwd=code, env=kept, stdin=pipe, stdout=pipe, stderr=errors, text=True
        ) as process:
            try:
                for line in process.stdout or []:
                    say(line.rstrip("\n"))
                ended = process.wait()
            except BaseException:
                process.kill()
                raise
        errors.seek(0)
        said = errors.read()
    if ended == FAILED:
        found: dict[str, Any] = read_json(home / "outputs" / "failure.json")
        return found
    if ended:
        last = said.strip().splitlines()[-1] if said.strip() else f"exit code {ended}"
        fix = None if own else "the Meguri of that environment may know no rerun: leave --env out"
        raise JobError(f"the rerun ended in the middle: {last}", where=python, fix=fix)
    return None


def _compared(
    project: Project, past: Run, home: Path, rows: Path | None, tolerance: float, *, lost: bool
) -> list[Stage]:
    """The stages, as far as the second pass came."""
    outputs = home / "outputs"
    if not (outputs / "runs" / past.id / "run.json").is_file():
        return []
    now, anew = Run.load(outputs, past.id), outputs / "data" / "rows.parquet"
    old = rows or (versions.at_hand(project.data.parent, past.data_version) if past.data_version else None)
    used = set(read_json(now.folder / MADE_WITH)["used"])
    found = compare(past, now, rows=(old, anew if anew.is_file() else rows), used=used, tolerance=tolerance)
    gone = ("verdict", "predictions") if lost else ()
    return [_unknown(stage) if stage.name in gone and stage.state != "same" else stage for stage in found]


def _unknown(stage: Stage) -> Stage:
    return Stage(stage.name, "unknown", stage.then, stage.now, "not compared: the champion of that moment is gone")
