"""The three-way merge of a project with a newer form of its template, file by file, left for git to finish."""

from __future__ import annotations

import io
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from meguri.base.errors import ProjectError
from meguri.base.files import write_atomic

BASELINE = ".meguri/baseline.zip"  # what the template gave, before anybody changed it: the base of the next merge
UNMERGED = ("DD", "AU", "UD", "UA", "DU", "AA", "UU")  # as `git status --porcelain` says

Tree = dict[str, bytes]


@dataclass(frozen=True)
class Update:
    """What an update did: the files that it changed, and those of them that a person must settle."""

    changed: tuple[str, ...]
    conflicts: tuple[str, ...]

    @property
    def relock(self) -> bool:
        """Whether the packages that the project asks for may have changed."""
        return any(path in ("pyproject.toml", "Pipfile") or path.startswith("vendor/") for path in self.changed)


def git(
    root: Path, *arguments: str, check: bool = True, stdin: bytes | None = None
) -> subprocess.CompletedProcess[bytes]:
    """Run git in a folder; ProjectError when it fails, unless ``check`` is False."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], input=stdin, capture_output=True, check=False)
    except OSError as error:
        raise ProjectError("git is not installed", fix="install git") from error
    if check and done.returncode:
        raise ProjectError(f"git {arguments[0]} failed: {done.stderr.decode().strip()}", where=root)
    return done


def need_clean(root: Path) -> None:
    """Raise ProjectError unless git could give everything back as it is now."""
    if git(root, "rev-parse", "--git-dir", check=False).returncode:
        fix = "git init && git add -A && git commit -m 'before the update'"
        raise ProjectError("an update needs git, and the project is in no git repository", where=root, fix=fix)
    dirty = git(root, "status", "--porcelain", ":/").stdout.decode().splitlines()
    if dirty:
        unsettled = [line[3:] for line in dirty if line[:2] in UNMERGED]
        if unsettled:
            raise ProjectError(
                f"the last update or merge is not settled: {', '.join(unsettled)}",
                where=root,
                fix="edit them, git add, git commit; or take it back: git reset --merge",
            )
        files = ", ".join(line[3:] for line in dirty[:5]) + (" …" if len(dirty) > 5 else "")
        raise ProjectError(
            f"there are uncommitted changes: {files}", where=root, fix="commit them (or git stash -u), then update"
        )


def read_baseline(root: Path) -> Tree:
    """What the template gave last time. Raises ProjectError when that is missing or broken."""
    try:
        with zipfile.ZipFile(root / BASELINE) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile) as error:
        fix = f"restore it: git log --all -- {BASELINE}, then git checkout COMMIT -- {BASELINE}"
        raise ProjectError(
            "what the template gave last time is missing, so changes cannot be told apart",
            where=root / BASELINE,
            fix=fix,
        ) from error


def merge(root: Path, theirs: Tree, extra: Mapping[str, bytes | None]) -> Update:
    """Take over what changed from the baseline to ``theirs``, and the ``extra`` files as they are (None: they go).

    All results are known before the first is written; a failure gives back what was there.
    """
    base = read_baseline(root)
    results = dict(extra)
    conflicts: dict[str, bytes] = {}  # path -> the project's own content
    for path in sorted(base.keys() | theirs.keys()):
        before, after, file = base.get(path), theirs.get(path), root / path
        mine = file.read_bytes() if file.is_file() else None
        if after in (before, mine):
            continue
        if mine == before:
            results[path] = after
        elif mine is not None:  # what a person deleted stays deleted
            results[path], clash = _merge_file(mine, before or b"", after) if after is not None else (mine, True)
            if clash:
                conflicts[path] = mine
    if not results and pack(theirs) == (root / BASELINE).read_bytes():
        return Update((), ())
    written = {**results, BASELINE: pack(theirs)}
    originals = {path: (root / path).read_bytes() if (root / path).is_file() else None for path in written}
    try:
        for path, data in written.items():
            write(root, path, data)
    except BaseException:
        for path, data in originals.items():
            write(root, path, data)
        raise
    git(root, "add", "--all", "--force", "--", *(path for path in written if path not in conflicts))
    _mark(root, base, conflicts, theirs)
    return Update(tuple(results), tuple(conflicts))


def _merge_file(mine: bytes, before: bytes, after: bytes) -> tuple[bytes, bool]:
    """The three-way merge of one file, and whether it has conflict marks."""
    with tempfile.TemporaryDirectory() as folder:
        for name, data in (("mine", mine), ("before", before), ("after", after)):
            (Path(folder) / name).write_bytes(data)
        labels = ("-L", "yours", "-L", "old template", "-L", "new template")
        done = git(Path(folder), "merge-file", "--stdout", *labels, "mine", "before", "after", check=False)
    if done.returncode in range(128):
        return done.stdout, done.returncode > 0
    return mine, True  # git merges no binary file: yours stays, and is to be looked at


def _mark(root: Path, base: Tree, conflicts: Mapping[str, bytes], theirs: Tree) -> None:
    """Tell git's index that these files are unmerged, as after a merge of its own: it then refuses to commit them."""
    prefix = git(root, "rev-parse", "--show-prefix").stdout.decode().strip()
    lines = ""
    for path, mine in conflicts.items():
        lines += f"0 {'0' * 40}\t{prefix}{path}\n"
        for stage, data in ((1, base.get(path)), (2, mine), (3, theirs.get(path))):
            if data is not None:
                name = git(root, "hash-object", "-w", "--stdin", stdin=data).stdout.decode().strip()
                lines += f"100644 {name} {stage}\t{prefix}{path}\n"
    if lines:
        git(root, "update-index", "--index-info", stdin=lines.encode())


def listed(root: Path, *arguments: str) -> list[str]:
    """The distinct paths that a git command lists, relative to the project."""
    found = git(root, *arguments, "-z").stdout.decode().split("\0")
    return sorted({name for name in found if name})


def files_of(root: Path) -> Tree:
    """The files of a folder by their relative paths, bytecode left out."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts and ".git" not in path.relative_to(root).parts
    }


def pack(files: Tree) -> bytes:
    """A zip that is the same for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(files, key=lambda path: (".dist-info/" in path, path)):
            entry = zipfile.ZipInfo(path, (1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, files[path])
    return buffer.getvalue()


def write(root: Path, path: str, data: bytes | None) -> None:
    """Write a file whole, or remove it (None)."""
    if data is None:
        (root / path).unlink(missing_ok=True)
    else:
        write_atomic(root / path, data)
