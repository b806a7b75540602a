"""A run on disk: what it was started with, which steps are done, and what each left."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from meguri.base.clock import moment
from meguri.base.errors import JobError, SettingsError
from meguri.base.files import read_json, write_atomic, write_json
from meguri.base.ids import stamp_id
from meguri.base.redact import MASK, redact
from meguri.record.packages import installed

LOCKS = ("uv.lock", "poetry.lock", "Pipfile.lock", "requirements.txt")
MADE_WITH = "made_with.json"
# What is no source: data has versions of its own, and its notes change with every turn.
NO_SOURCE = (":(exclude)outputs", ":(exclude).dvc", ":(exclude,glob)**/*.dvc", ":(exclude)data/.gitignore")
_MISSING = "# not in git: "
_NAMED = re.compile(r"\$\{[^{},]*\}")  # ${oc.env:NAME}, without a default that would say more
_SETTINGS = re.compile(r"diff --git .*\bhydra/.*\.ya?ml")
_LARGE = 1_000_000  # bytes: a file this large is no code


@dataclass(frozen=True)
class Source:
    """What a run saw: the commit; the diff, and the names of files not in git, when the tree was dirty; the lock's hash."""

    commit: str | None
    diff: str
    lock: str | None
    lock_hash: str | None


def git(root: Path, *arguments: str) -> str | None:
    """What a git command says in ``root``, bytes that are no UTF-8 kept; None when it fails, or there is no git."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout.decode("utf-8", "surrogateescape") if done.returncode == 0 else None


def read_source(root: Path) -> Source:
    """The source of the project in ``root``; a folder outside git has no commit, one without a lock no hash."""
    commit = git(root, "rev-parse", "HEAD")
    plain = ("--no-color", "--no-ext-diff", "--no-textconv", "--binary", "--src-prefix=a/", "--dst-prefix=b/")
    diff = git(root, "diff", *plain, "HEAD", "--", ".", *NO_SOURCE) or "" if commit else ""
    new = git(root, "ls-files", "--others", "--exclude-standard", "--", ".", *NO_SOURCE) or "" if commit else ""
    diff = _masked(diff) + "".join(f"{_MISSING}{name}\n" for name in new.splitlines())
    lock = next((root / name for name in LOCKS if (root / name).is_file()), None)
    digest = hashlib.sha256(lock.read_bytes()).hexdigest() if lock else None
    return Source(commit.strip() if commit else None, diff, lock.name if lock else None, digest)


def _masked(diff: str) -> str:
    """The diff without the secrets that the settings got since the commit; it can still be applied."""
    lines, settings = diff.split("\n"), False
    for place, line in enumerate(lines):
        if line.startswith("diff --git "):
            settings = _SETTINGS.match(line) is not None
        elif settings and line.startswith("+"):
            lines[place] = redact(line)
    return "\n".join(lines)


def code_of(root: Path) -> dict[str, str]:
    """The hash of each file of ``src``, by its path in the project: what the jobs are made of."""
    files = [
        path for path in sorted((root / "src").rglob("*")) if path.is_file() and path.suffix not in (".pyc", ".pyo")
    ]
    small = [path for path in files if path.stat().st_size < _LARGE]
    return {path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in small}


@dataclass(frozen=True)
class Run:
    """One pass of jobs.

    ``at`` is the moment it was started for (the clock handed in), ``done`` the seconds of each finished step in order,
    ``attempts`` how often a process took it up.
    """

    id: str
    folder: Path
    at: datetime
    reason: str
    overrides: tuple[str, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    commit: str | None = None
    dirty: bool = False
    lock: str | None = None
    lock_hash: str | None = None
    seed: int = 0
    data_version: str | None = None
    tracking_id: str | None = None
    status: str = "running"
    attempts: int = 1
    done: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def create(cls, outputs: Path, root: Path, *, at: datetime, reason: str, **known: Any) -> Run:
        """A new run with its folder ``outputs/runs/<id>``, its diff kept beside it when the tree is dirty."""
        name = stamp_id(at)
        source = read_source(root)
        folder = outputs / "runs" / name
        folder.mkdir(parents=True)
        if source.diff:
            write_atomic(folder / "diff.patch", source.diff.encode("utf-8", "surrogateescape"))
        write_json(folder / MADE_WITH, {"packages": installed(), "code": code_of(root)})
        run = cls(
            name,
            folder,
            at,
            reason,
            commit=source.commit,
            dirty=bool(source.diff),
            lock=source.lock,
            lock_hash=source.lock_hash,
            **known,
        )
        return run.save()

    @classmethod
    def load(cls, outputs: Path, name: str) -> Run:
        """The run of that id; raises JobError when there is none."""
        path = outputs / "runs" / name / "run.json"
        if not path.is_file():
            known = sorted(p.parent.name for p in path.parent.parent.glob("*/run.json"))[-3:]
            fix = f"the latest are {', '.join(known)}" if known else "start one: meguri turn --why '…'"
            raise JobError(f"there is no run '{name}'", where=path.parent.parent, fix=fix)
        kept = read_json(path)
        kept |= {"folder": path.parent, "at": moment(kept["at"]), "overrides": tuple(kept["overrides"])}
        return cls(**kept)

    @property
    def packages(self) -> dict[str, str] | None:
        """The packages that were installed, by name; None for a run that kept none."""
        return self._made_with("packages")

    @property
    def code(self) -> dict[str, str] | None:
        """The hash of each file of ``src`` as it was; None for a run that kept none."""
        return self._made_with("code")

    @property
    def missing(self) -> list[str]:
        """The files that lay in the project's folder and were in neither git nor, as changes, the diff."""
        path = self.folder / "diff.patch"
        lines = path.read_text("utf-8", "surrogateescape").splitlines() if path.is_file() else []
        return [line.removeprefix(_MISSING) for line in lines if line.startswith(_MISSING)]

    def _made_with(self, part: str) -> dict[str, str] | None:
        try:
            found = read_json(self.folder / MADE_WITH)[part]
            return {str(name): str(value) for name, value in found.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    @property
    def overrides_kept(self) -> tuple[str, ...]:
        """The overrides but for those of which only the name was kept, as they hold a secret."""
        return tuple(o for o in self.overrides if not o.endswith(f"={MASK}"))

    @property
    def overrides_hidden(self) -> tuple[str, ...]:
        """The names of the settings whose overrides hold a secret, which was not kept."""
        return tuple(setting_of(o) for o in self.overrides if o.endswith(f"={MASK}"))

    def overrides_with(self, given: Sequence[str], *, again: str = "meguri turn") -> tuple[str, ...]:
        """The overrides, with those ``given`` in the place of the ones of which only the name was kept.

        Raises SettingsError that names those which are missing; ``again`` is the command to give them to.
        """
        found = {setting_of(o): o for o in given}
        missing = [name for name in self.overrides_hidden if name not in found]
        if missing:
            what = f"run {self.id} was started with {', '.join(missing)}, and a secret is not kept"
            fix = f"give it again: {again} {' '.join(f'{name}=…' for name in missing)}"
            raise SettingsError(what, where=self.folder / "run.json", fix=fix)
        return tuple(found[setting_of(o)] if o.endswith(f"={MASK}") else o for o in self.overrides)

    def save(self) -> Run:
        """Write ``run.json`` whole, without the secrets of its settings; an override that holds one is kept by its name."""
        settings = redact(self.settings)
        kept = {
            **asdict(self),
            "settings": settings,
            "overrides": [_without_secret(o, settings) for o in self.overrides],
        }
        kept["at"] = self.at.isoformat()
        del kept["folder"]
        write_json(self.folder / "run.json", kept)
        return self

    def with_(self, **changes: Any) -> Run:
        """The run with these fields changed, saved."""
        return replace(self, **changes).save()

    def finish(self, step: str, seconds: float, **facts: Any) -> Run:
        """The run with one more step done, saved: the moment from which a killed turn does not do it again."""
        return self.with_(done={**self.done, step: round(seconds, 3)}, facts={**self.facts, **facts})


def setting_of(override: str) -> str:
    """The name of the setting that a ``key=value`` override is for."""
    return override.partition("=")[0].lstrip("+~")


def _without_secret(override: str, settings: Mapping[str, Any]) -> str:
    """The override, its value masked when it holds a secret: by what it says, or by what ``settings`` masks where it leads."""
    name, _, value = override.partition("=")
    if value == "null" or _NAMED.fullmatch(value):
        return override
    place: Any = settings
    for part in setting_of(override).partition("@")[0].split("."):
        place = place.get(part) if isinstance(place, Mapping) else None
    group = isinstance(place, Mapping) and not value.startswith("{")  # it names a file, which holds what is masked
    gone = place is None or place == ""  # no setting, or one that a later override changed: only the text tells
    hidden = redact(override) != override if gone else redact(value) != value
    hidden = hidden or (value and not group and MASK in json.dumps(place, default=str))
    return f"{name}={MASK}" if hidden else override
