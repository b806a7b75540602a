"""Versions: the same data has the same name, comes back as it was, and survives races, kills and git."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from meguri.base.errors import DataError
from meguri.data.versions import restore, save, version

SAVE = """
import sys
from pathlib import Path
from meguri.data.versions import save
root = Path(sys.argv[1])
print(save(root, sorted((root / "data").glob("*.txt"))), "dvc" in sys.modules)
"""
# The same, in a process that is killed when it opens, makes, renames or removes its n-th file of the project.
KILLED = """
import os, signal, sys
place, left = sys.argv[1], int(sys.argv[2])
def watch(event, args):
    global left
    if event in ("open", "os.mkdir", "os.rename", "os.remove") and isinstance(args[0], str) and args[0].startswith(place):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(watch)
"""


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def run(code: str, *arguments: object) -> str:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def git(root: Path, *arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    return subprocess.run(["git", *who, *arguments], cwd=root, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return project(tmp_path / "project")


def project(root: Path) -> Path:
    (root / "data").mkdir(parents=True)
    (root / "data" / "a.txt").write_text("one")
    return root


def remote(root: Path) -> list[str]:
    """The hashes that the local remote holds."""
    store = root / "outputs" / "dvc" / "files" / "md5"
    return sorted(file.parent.name + file.name for file in store.rglob("*") if file.is_file())


# --- what a version is


def test_the_version_is_the_hash_of_the_content_and_reaches_the_remote(root: Path) -> None:
    assert version(root) is None
    assert save(root, [root / "data" / "a.txt"]) == md5("one")
    assert version(root) == md5("one")
    assert remote(root) == [md5("one")]
    assert (root / "data" / "a.txt.dvc").exists()


def test_new_data_is_a_new_version_and_old_data_the_old_one(root: Path) -> None:
    versions = []
    for text in ("one", "two", "one"):
        (root / "data" / "a.txt").write_text(text)
        versions.append(save(root, [Path("data/a.txt")]))
    assert versions == [md5("one"), md5("two"), md5("one")]
    assert remote(root) == sorted({md5("one"), md5("two")})


def test_several_files_have_the_version_that_dvc_gives_their_folder(root: Path, tmp_path: Path) -> None:
    (root / "data" / "deep").mkdir()
    (root / "data" / "deep" / "b.txt").write_text("two")
    found = save(root, [root / "data" / "deep" / "b.txt", root / "data" / "a.txt"])
    assert found == version(root)
    whole = tmp_path / "whole"
    (whole / "all" / "deep").mkdir(parents=True)
    (whole / "all" / "a.txt").write_text("one")
    (whole / "all" / "deep" / "b.txt").write_text("two")
    code = """
import sys
from dvc.repo import Repo
with Repo.init(sys.argv[1], no_scm=True) as repo:
    print(repo.add([sys.argv[1] + "/all"])[0].outs[0].hash_info.value)
"""
    assert run(code, whole).split()[-1] == found


def test_a_folder_that_dvc_keeps_as_a_whole_has_its_version(root: Path) -> None:
    (root / "data.dvc").write_text(f"outs:\n- md5: {md5('x')}.dir\n  path: data\n")
    assert version(root) == f"{md5('x')}.dir"


# --- unchanged data


def test_unchanged_data_is_known_without_dvc_and_copied_nowhere(root: Path) -> None:
    assert run(SAVE, root).split() == [md5("one"), "True"]
    before = remote(root)
    assert run(SAVE, root).split() == [md5("one"), "False"]
    os.utime(root / "data" / "a.txt", (1, 1))  # other times, same content
    assert run(SAVE, root).split() == [md5("one"), "False"]
    past = json.loads((root / ".dvc" / "tmp" / "meguri.json").read_text())
    past["files"]["a.txt"]["at"] += 10**12  # as if it had been looked at long after it was written
    (root / ".dvc" / "tmp" / "meguri.json").write_text(json.dumps(past))
    assert run(SAVE, root).split() == [md5("one"), "False"]
    assert remote(root) == before


def test_data_changed_at_once_and_of_the_same_size_is_seen(root: Path) -> None:
    file = root / "data" / "a.txt"
    save(root, [file])
    stat = file.stat()
    with file.open("r+") as opened:  # the same inode, and made to have the same times
        opened.write("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert save(root, [file]) == md5("two")


@pytest.mark.parametrize(
    "lose",
    [
        lambda root: shutil.rmtree(root / "outputs" / "dvc"),
        lambda root: (root / "data" / "a.txt.dvc").unlink(),
        lambda root: (root / "data" / "a.txt.dvc").write_text("outs:\n- md"),
        lambda root: (root / ".dvc" / "tmp" / "meguri.json").write_text("{"),
        lambda root: (root / ".dvc" / "tmp" / "rwlock").write_text("{"),
        lambda root: shutil.rmtree(root / ".dvc" / "cache"),
        lambda root: shutil.rmtree(root / ".dvc"),
    ],
    ids=["remote", "note", "half a note", "stamps", "dvc's lock file", "cache", "dvc"],
)
def test_what_was_lost_or_left_half_written_is_made_again(root: Path, lose: Callable[[Path], object]) -> None:
    save(root, [root / "data" / "a.txt"])
    lose(root)
    (root / "data" / "b.txt").write_text("two")
    found = save(root, [root / "data" / "a.txt", root / "data" / "b.txt"])
    assert version(root) == found
    assert set(remote(root)) >= {md5("one"), md5("two"), found}


# --- git


def test_git_ignores_the_data_and_its_index_is_left_alone(root: Path) -> None:
    git(root, "init", "-q")
    (root / "mine.py").write_text("")
    git(root, "add", "mine.py")
    save(root, [root / "data" / "a.txt"])
    assert git(root, "diff", "--cached", "--name-only").split() == ["mine.py"]
    assert "data/a.txt.dvc" in git(root, "status", "--short", "-uall")
    assert "data/a.txt\n" not in git(root, "status", "--short", "-uall")


def test_a_project_inside_a_bigger_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    root = project(tmp_path / "teams" / "ml")
    save(root, [root / "data" / "a.txt"])
    assert git(tmp_path, "diff", "--cached", "--name-only") == ""
    assert (root / "data" / ".gitignore").read_text().split() == ["/a.txt"]
    assert not (tmp_path / ".dvc").exists()


def test_a_project_that_comes_under_git_later(root: Path) -> None:
    save(root, [root / "data" / "a.txt"])
    assert "no_scm" in (root / ".dvc" / "config").read_text()
    git(root, "init", "-q")
    (root / "data" / "a.txt").write_text("two")
    save(root, [root / "data" / "a.txt"])
    assert "no_scm" not in (root / ".dvc" / "config").read_text()
    assert "/a.txt" in (root / "data" / ".gitignore").read_text()


def test_a_file_that_git_holds_already_is_a_clear_error(root: Path) -> None:
    git(root, "init", "-q")
    git(root, "add", "data/a.txt")
    git(root, "commit", "-qm", "data in git")
    with pytest.raises(DataError, match=r"already tracked by SCM"):
        save(root, [root / "data" / "a.txt"])


# --- a project's own DVC


def test_the_remote_of_the_project_is_used(root: Path, tmp_path: Path) -> None:
    (root / ".dvc").mkdir()
    config = f"[core]\n    no_scm = true\n    remote = team\n['remote \"team\"']\n    url = {tmp_path / 'team'}\n"
    (root / ".dvc" / "config").write_text(config)
    for _ in range(2):
        save(root, [root / "data" / "a.txt"])
    assert (root / ".dvc" / "config").read_text() == config
    assert [file.is_file() for file in (tmp_path / "team" / "files" / "md5").rglob("*")] == [False, True]


def test_a_dvc_project_without_a_remote_gets_one(root: Path) -> None:
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    no_scm = true\n")
    save(root, [root / "data" / "a.txt"])
    assert "url = ../outputs/dvc" in (root / ".dvc" / "config").read_text()
    assert remote(root) == [md5("one")]


def test_a_broken_dvc_is_a_clear_error(root: Path) -> None:
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core\n")
    with pytest.raises(DataError, match="DVC could not") as error:
        save(root, [root / "data" / "a.txt"])
    assert "dvc doctor" in str(error.value)


def test_a_remote_that_cannot_be_written_is_a_clear_error(root: Path) -> None:
    (root / "outputs").mkdir()
    (root / "outputs" / "dvc").write_text("in the way")
    with pytest.raises(DataError):
        save(root, [root / "data" / "a.txt"])
    (root / "outputs" / "dvc").unlink()
    assert save(root, [root / "data" / "a.txt"]) == md5("one")
    assert remote(root) == [md5("one")]


# --- what cannot be saved


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ([], "no files"),
        ([Path("data/none.txt")], "no such file"),
        ([Path("data")], "no such file"),
        ([Path("pyproject.toml")], "lives in data/"),
        ([Path("data/../../a.txt")], "lives in data/"),
    ],
)
def test_files_that_are_no_data_of_the_project_are_refused(root: Path, files: list[Path], said: str) -> None:
    with pytest.raises(DataError, match=said):
        save(root, files)
    assert not (root / ".dvc").exists()


# --- restore


def test_an_old_version_comes_back_from_the_remote(root: Path, tmp_path: Path) -> None:
    (root / "data" / "b.txt").write_text("two")
    files = [root / "data" / "a.txt", root / "data" / "b.txt"]
    both = save(root, files)
    (root / "data" / "a.txt").write_text("changed")
    save(root, files)
    shutil.rmtree(root / ".dvc" / "cache")
    restore(root, both, tmp_path / "old")
    assert {file.name: file.read_text() for file in (tmp_path / "old").iterdir()} == {"a.txt": "one", "b.txt": "two"}
    restore(root, md5("one"), tmp_path / "deep" / "a.txt")
    assert (tmp_path / "deep" / "a.txt").read_text() == "one"
    with pytest.raises(DataError, match="never restored over"):
        restore(root, both, tmp_path / "old")


def test_a_version_that_cannot_be_restored_leaves_nothing(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="keeps no versions"):
        restore(root, md5("one"), tmp_path / "out")
    (root / "data" / "b.txt").write_text("two")
    both = save(root, [root / "data" / "a.txt", root / "data" / "b.txt"])
    with pytest.raises(DataError, match="is no version of data"):
        restore(root, "../../secret", tmp_path / "out")
    for absent in (md5("none"), f"{md5('none')}.dir"):
        with pytest.raises(DataError, match="neither DVC's cache nor its remote"):
            restore(root, absent, tmp_path / "out")
    object_ = root / ".dvc" / "cache" / "files" / "md5" / md5("two")[:2] / md5("two")[2:]
    object_.chmod(0o644)
    object_.write_text("spoilt")
    with pytest.raises(DataError, match="is damaged"):
        restore(root, both, tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["project"]


# --- races and kills


def test_six_processes_on_a_fresh_project(root: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", SAVE, str(root)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(6)
    ]
    results = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 6, results
    assert {out.split()[0] for out, _ in results} == {md5("one")}
    assert [error for _, error in results] == [""] * 6
    assert remote(root) == [md5("one")]


@pytest.mark.parametrize("moment", [1, 6, 10, 20, 40, 66, 80, 94, 104])
def test_a_killed_save_leaves_the_next_one_working(root: Path, moment: int) -> None:
    (root / "data" / "b.txt").write_text("two")
    command = [sys.executable, "-c", KILLED + SAVE, str(root), str(moment)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    found = run(SAVE, root).split()[0]
    assert version(root) == found
    assert remote(root) == sorted({md5("one"), md5("two"), found})


def test_a_dvc_folder_from_a_project_under_git_works_where_there_is_no_git(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path / "there")], check=True)
    made = tmp_path / "there" / "data" / "rows.csv"
    made.parent.mkdir()
    made.write_text("a\n1\n")
    version = save(tmp_path / "there", [made])
    here = tmp_path / "here"
    shutil.copytree(tmp_path / "there", here, ignore=shutil.ignore_patterns(".git", "tmp"))
    (here / "data" / "rows.csv").write_text("a\n2\n")
    assert save(here, [here / "data" / "rows.csv"]) != version
