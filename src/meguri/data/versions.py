"""Versions of data: the files of ``data/`` under DVC, each version named by the hash of its content."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from configparser import ConfigParser
from configparser import Error as ConfigParserError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meguri.base.errors import DataError, MissingExtra
from meguri.base.extras import need
from meguri.base.files import locked, new_folder, read_json, write_atomic, write_json

_CONFIG = "[core]\n    analytics = false\n    remote = outputs\n{scm}['remote \"outputs\"']\n    url = ../outputs/dvc\n"
_NO_GIT = "    no_scm = true\n"
_HASH = re.compile(r"^- md5: ([0-9a-f]{32}(?:\.dir)?)$", re.MULTILINE)
_VERSION = re.compile(r"[0-9a-f]{32}(\.dir)?")
_SETTLED = 2 * 10**9  # ns: a file that was written this shortly before it was hashed may change without a new mtime


def save(root: Path, files: list[Path]) -> str:
    """Keep the files (all under ``data/``) in DVC and its remote, and return the version of their content.

    The version is DVC's MD5: of the file, or, of several, of the list that DVC makes of a folder. A project without
    DVC gets it, with ``outputs/dvc`` as its remote; git's index is left alone. Files that are as they were when last
    saved cost a look at their size and times, and DVC is not even loaded. Processes wait for each other.

    Raises DataError when a file is missing or elsewhere, or DVC cannot do its part; saving again then starts afresh.
    """
    root = root.resolve()
    names = sorted({_name(root, file) for file in files})
    if not names:
        raise DataError("there are no files to keep a version of", where=root / "data", fix="name one at least")
    with locked(root / "outputs" / ".dvc.lock"):
        _prepare(root)
        stamps = _Stamps(root)
        hashes = {name: stamps.unchanged(name) for name in names}
        version = _version({name: value for name, value in hashes.items() if value})
        if None in hashes.values() or not stamps.has(version):
            at, looks = time.time_ns(), {name: _look(root / "data" / name) for name in names}
            made = _store(root, names)
            version = _version(made)
            _Stamps(root).write(made, version, looks, at)
    return version


def version(root: Path) -> str | None:
    """The version of all that DVC keeps of ``data/``, as last saved, or None when it keeps nothing."""
    data = root / "data"
    whole = _kept(root / "data.dvc")
    if whole is not None:
        return whole
    found = {str(file.relative_to(data))[:-4]: _kept(file) for file in data.rglob("*.dvc") if file.is_file()}
    hashes = {name: value for name, value in found.items() if value is not None}
    return _version(hashes) if hashes else None


def restore(root: Path, version: str, target: Path) -> None:
    """Bring a version back: a file to the path ``target``, several files into a new folder of that name.

    Raises DataError when neither the cache nor the remote has it, when it is damaged, or when ``target`` exists.
    """
    if target.exists():
        raise DataError("data is never restored over other data", where=target, fix="name a path that is free")
    if not _VERSION.fullmatch(version):
        raise DataError(f"'{version}' is no version of data", fix="give one that a run recorded: 32 hexadecimal digits")
    root = root.resolve()
    if not (root / ".dvc").is_dir():
        raise DataError("this project keeps no versions of its data yet", where=root, fix="run retrieve")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.draft")
    with locked(root / "outputs" / ".dvc.lock"), _opened(root) as repo:
        try:
            _copy(_fetched(repo, [version]), version, draft)
            if not version.endswith(".dir"):
                draft.rename(target)
                return
            hashes = {entry["relpath"]: entry["md5"] for entry in read_json(draft)}
            cache = _fetched(repo, list(hashes.values()))
            with new_folder(target) as folder:
                for name, value in hashes.items():
                    _copy(cache, value, folder / name)
        finally:
            draft.unlink(missing_ok=True)


@dataclass(frozen=True)
class Kept:
    """Where a version is: whole in DVC's ``cache``, whole in its ``remote`` (None: that could not be asked)."""

    cache: bool
    remote: bool | None


def past(root: Path) -> list[str]:
    """The versions that were saved here, oldest first, as far as this machine remembers: the last hundred."""
    try:
        return [str(name) for name in read_json(root / ".dvc" / "tmp" / "meguri.json")["versions"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def where(root: Path, versions: Sequence[str]) -> dict[str, Kept]:
    """Where each version is kept; a remote other than our own folder is asked, once."""
    root = root.resolve()
    needed = {name: [name, *_parts(root, name)] for name in versions}
    each = sorted({value for values in needed.values() for value in values})
    cached = {value for value in each if _object(root / ".dvc" / "cache", value).exists()}
    there: set[str] | None = {value for value in each if _object(root / "outputs" / "dvc", value).exists()}
    if not _own_remote(_configs(root)):
        try:
            with _opened(root) as repo:
                cached = {value for value in each if repo.cache.local.exists(value)}
                there = set(repo.cloud.get_remote_odb().oids_exist(each)) if each else set()
        except (DataError, MissingExtra):
            there = None
    return {
        name: Kept(cached.issuperset(values), None if there is None else there.issuperset(values))
        for name, values in needed.items()
    }


def at_hand(root: Path, version: str) -> Path | None:
    """A file of this machine that holds the version of a single file, its content checked; None when there is none."""
    tried = [root / "data" / "rows.parquet", _object(root / ".dvc" / "cache", version)]
    for path in [*tried, _object(root / "outputs" / "dvc", version)]:
        if path.is_file() and digest(path) == version:
            return path
    return None


def _object(store: Path, value: str) -> Path:
    """Where DVC keeps an object in a folder."""
    return store / "files" / "md5" / value[:2] / value[2:]


def _parts(root: Path, version: str) -> list[str]:
    """The hashes of the files of a version of several, as far as this machine knows them."""
    for store in (root / ".dvc" / "cache", root / "outputs" / "dvc"):
        try:
            if version.endswith(".dir"):
                return [str(entry["md5"]) for entry in read_json(_object(store, version))]
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return []


def restore_files(root: Path, version: str, folder: Path) -> None:
    """Bring the files of a version back under their names into ``folder``, over what lies there.

    Raises DataError as ``restore`` does, and for a single file whose name nothing here tells.
    """
    if version.endswith(".dir"):
        draft = folder.with_name(f".{folder.name}.draft")
        restore(root, version, draft)
        shutil.copytree(draft, folder, dirs_exist_ok=True)
        shutil.rmtree(draft)
        return
    notes = [note for at in (folder, root / "data") for note in sorted(at.rglob("*.dvc")) if note.is_file()]
    exact = [note for note in notes if _kept(note) == version] or notes
    names = {note.relative_to(folder if folder in note.parents else root / "data").as_posix()[:-4] for note in exact}
    if len(names) != 1:
        what = f"the data {version} is one file, and nothing here says which of data/ it was"
        raise DataError(what, where=folder, fix=f"bring it back yourself: meguri data get {version[:8]} --to FILE")
    target = folder / names.pop()
    target.unlink(missing_ok=True)
    restore(root, version, target)


def _name(root: Path, file: Path) -> str:
    """The name of a file of ``data/``, relative to it."""
    path = (root / file).resolve()
    if not path.is_relative_to(root / "data"):
        raise DataError("versioned data lives in data/", where=path, fix=f"write it under {root / 'data'}")
    if not path.is_file():
        raise DataError("there is no such file to keep a version of", where=path, fix="run retrieve first")
    return path.relative_to(root / "data").as_posix()


def _version(hashes: dict[str, str]) -> str:
    """One hash of named hashes; of several, the one DVC gives a folder that holds them."""
    if len(hashes) == 1:
        return next(iter(hashes.values()))
    return hashlib.md5(_listing(hashes), usedforsecurity=False).hexdigest() + ".dir"


def _listing(hashes: dict[str, str]) -> bytes:
    entries = [{"md5": value, "relpath": name} for name, value in sorted(hashes.items())]
    return json.dumps(entries, sort_keys=True).encode()


def _kept(file: Path) -> str | None:
    """The hash in a ``.dvc`` file; None when there is no such file, or a killed process left half of it."""
    try:
        found = _HASH.search(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found.group(1) if found else None


def _prepare(root: Path) -> None:
    """Make the project a DVC project, whole or not at all; `dvc init` would also stage files in git's index."""
    git = _under_git(root)
    config = root / ".dvc" / "config"
    alone = _CONFIG.format(scm=_NO_GIT)
    if not (root / ".dvc").exists():
        with new_folder(root / ".dvc") as draft:
            (draft / "config").write_text(_CONFIG.format(scm="") if git else alone, encoding="utf-8")
            (draft / ".gitignore").write_text("/config.local\n/tmp\n/cache\n", encoding="utf-8")
    elif git and config.exists() and config.read_text(encoding="utf-8") == alone:
        write_atomic(config, _CONFIG.format(scm=""))  # the project has come under git since


def _under_git(root: Path) -> bool:
    return any((folder / ".git").exists() for folder in (root, *root.parents))


class _Stamps:
    """What the files looked like when they were last kept and pushed: size, times and inode, and their hash then."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.file = root / ".dvc" / "tmp" / "meguri.json"
        self.remote = _configs(root)
        try:
            known = read_json(self.file)
        except (OSError, ValueError):
            known = {}
        self.known: dict[str, Any] = known if known.get("remote") == self.remote else {}

    def unchanged(self, name: str) -> str | None:
        """The hash of a file that is kept as it is now, or None."""
        stamp = self.known.get("files", {}).get(name)
        path = self.root / "data" / name
        if stamp is None or _kept(path.with_name(f"{path.name}.dvc")) != stamp["md5"] or not self._stored(stamp["md5"]):
            return None
        at, look = time.time_ns(), _look(path)
        if look == stamp["look"] and max(look[2:]) + _SETTLED < stamp["at"]:
            return str(stamp["md5"])
        if look[1] != stamp["look"][1] or digest(path) != stamp["md5"]:
            return None
        stamp.update(look=look, at=at)
        write_json(self.file, self.known)
        return str(stamp["md5"])

    def has(self, version: str) -> bool:
        """Whether this version was kept whole."""
        return version in self.known.get("versions", []) and self._stored(version)

    def write(self, hashes: dict[str, str], version: str, looks: dict[str, list[int]], at: int) -> None:
        """Remember hashes beside what the files looked like at ``at``, before DVC read them: a later change shows."""
        files = self.known.get("files", {})
        files.update({name: {"md5": hashes[name], "look": looks[name], "at": at} for name in hashes})
        versions = [*self.known.get("versions", [])[-99:], version]
        write_json(self.file, {"remote": self.remote, "files": files, "versions": versions})

    def _stored(self, value: str) -> bool:
        """Whether our own remote still has the object; another's is trusted to keep what it was given."""
        return not _own_remote(self.remote) or _object(self.root / "outputs" / "dvc", value).exists()


def _configs(root: Path) -> str:
    """What DVC is told in this project, on this machine."""
    configs = [root / ".dvc" / name for name in ("config", "config.local")]
    return "".join(file.read_text(encoding="utf-8") for file in configs if file.exists())


def _own_remote(config: str) -> bool:
    """Whether the remote that DVC takes when none is named is our folder; a team's may stand beside it."""
    read = ConfigParser(interpolation=None, strict=False)
    try:
        read.read_string(config)
        return read[f"'remote \"{read['core']['remote']}\"'"]["url"] == "../outputs/dvc"
    except (KeyError, ConfigParserError):
        return False


def _look(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def digest(path: Path) -> str:
    """The version of one file's content: DVC's MD5."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _fetched(repo: Any, hashes: list[str]) -> Any:
    """DVC's cache, after what it lacks of ``hashes`` has been asked of the remote."""
    cache = repo.cache.local
    made = need("dvc_data.hashfile.hash_info").HashInfo
    gone = [made("md5", value) for value in hashes if not cache.exists(value)]
    if gone:
        repo.cloud.pull(gone, odb=_remote(repo, "pull"))
    return cache


def _copy(cache: Any, value: str, target: Path) -> None:
    """Copy an object of the cache and see that it is what its name says."""
    source = Path(cache.oid_to_path(value))
    if not source.exists():
        what = f"the data {value} is in neither DVC's cache nor its remote"
        raise DataError(what, where=source, fix="ask for it where it was made: `dvc push`")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    if digest(target) != value.removesuffix(".dir"):
        raise DataError(f"the data {value} is damaged", where=source, fix="remove that file and try again")


def _store(root: Path, names: list[str]) -> dict[str, str]:
    """Add the files to DVC and push them; the hash of each."""
    paths = [root / "data" / name for name in names]
    for path in paths:
        note = path.with_name(f"{path.name}.dvc")
        if note.exists() and _kept(note) is None:
            note.unlink()  # half of one, from a killed process: DVC could not read it
    # DVC holds a file to be unchanged by its size, inode and mtime; that question is settled already, by content
    shutil.rmtree(_site(root), ignore_errors=True)
    with _opened(root) as repo:
        if not repo.config["remote"]:
            with repo.config.edit() as config:
                config["remote"]["outputs"] = {"url": os.path.relpath(root / "outputs" / "dvc")}
                config["core"]["remote"] = "outputs"
        with need("dvc.repo").lock_repo(repo):
            for store in (root / "outputs" / "dvc", root / ".dvc" / "cache"):
                for draft in store.rglob(".*.tmp"):
                    draft.unlink()  # a copy that a killed process did not finish
        # without relink=False DVC removes each file and links it back from its cache: a kill in between loses it
        stages = repo.add([str(path) for path in paths], relink=False)
        hashes = {stage.outs[0].fspath: stage.outs[0].hash_info for stage in stages}
        made = {name: str(hashes[str(path)].value) for name, path in zip(names, paths, strict=True)}
        keep = list(hashes.values())
        if len(made) > 1:
            tree = need("dvc_data.hashfile.tree").Tree.from_list(json.loads(_listing(made)), hash_name="md5")
            tree.digest()
            repo.cache.local.add(tree.path, tree.fs, tree.oid)
            keep.append(tree.hash_info)
        result = repo.cloud.push(keep, odb=_remote(repo, "push"))
        if result.failed:
            raise DataError(f"{len(result.failed)} objects did not reach the remote", where=root, fix="run `dvc push`")
    return made


def _remote(repo: Any, command: str) -> Any:
    """DVC's remote, asked what it has each time: DVC's own index of it, a SQLite file, is opened and never closed."""
    remote = repo.cloud.get_remote_odb(command=command)
    remote.tmp_dir = None
    return remote


def _site(root: Path) -> Path:
    """Where DVC keeps what it remembers of files; in the project, so that nothing is written elsewhere."""
    return root / ".dvc" / "tmp" / "site"


@contextmanager
def _opened(root: Path) -> Iterator[Any]:
    """DVC's view of the project, quiet, with its errors turned into ours."""
    rwlock = root / ".dvc" / "tmp" / "rwlock"
    try:
        if rwlock.exists():
            read_json(rwlock)
    except ValueError:
        rwlock.unlink()  # half-written by a killed process
    logger = logging.getLogger("dvc")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        dvc, exceptions, scm = need("dvc.repo"), need("dvc.exceptions"), need("dvc.scm")
        logger.setLevel(logging.CRITICAL)
        try:
            core: dict[str, Any] = {"autostage": False, "site_cache_dir": str(_site(root))}
            if not _under_git(root):  # such as in an image, to which .dvc came from a project under git
                core["no_scm"] = True
            with dvc.Repo(str(root), config={"core": core}) as repo:
                yield repo
        except (exceptions.DvcException, scm.SCMError, OSError) as error:
            what = f"DVC could not keep or find the data: {error}"
            raise DataError(what, where=root, fix="look at `dvc doctor` and `dvc status`, then run it again") from error
        finally:
            logger.setLevel(level)
