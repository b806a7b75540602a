"""Where versions are kept, which ones are known, and that data that did not change makes no copy."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from meguri.base.errors import DataError
from meguri.data.versions import Kept, at_hand, past, restore_files, save, where


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "data").mkdir(parents=True)
    (root / "data" / "a.txt").write_text("one")
    return root


def objects(*stores: Path) -> int:
    return sum(path.is_file() for store in stores for path in (store / "files").rglob("*"))


def test_data_that_did_not_change_makes_no_version_and_no_copy(root: Path) -> None:
    stores = root / ".dvc/cache", root / "outputs/dvc"
    file = root / "data/a.txt"
    first = save(root, [file])
    assert (objects(*stores), past(root)) == (2, [first])
    for _ in range(3):
        file.write_text("one")  # written anew, to the same content
        assert save(root, [file]) == first
    shutil.rmtree(root / ".dvc/tmp")  # DVC itself is asked
    assert save(root, [file]) == first
    assert (objects(*stores), past(root)) == (2, [first])
    file.write_text("two")
    second = save(root, [file])
    assert (objects(*stores), past(root)) == (4, [first, second])
    file.write_text("one")  # back to what was: an old version, no new copy
    assert save(root, [file]) == first
    assert objects(*stores) == 4


def test_where_a_version_is(root: Path) -> None:
    assert past(root) == []
    version = save(root, [root / "data/a.txt"])
    other = "0" * 32
    assert where(root, [version, other]) == {version: Kept(True, True), other: Kept(False, False)}
    shutil.rmtree(root / ".dvc/cache")
    assert where(root, [version]) == {version: Kept(False, True)}
    assert where(root, []) == {}


def test_a_version_of_several_files_is_kept_when_all_of_them_are(root: Path) -> None:
    (root / "data/b.txt").write_text("two")
    version = save(root, [root / "data/a.txt", root / "data/b.txt"])
    assert where(root, [version]) == {version: Kept(True, True)}
    lost = md5("two")
    (root / "outputs/dvc/files/md5" / lost[:2] / lost[2:]).unlink()
    assert where(root, [version]) == {version: Kept(True, False)}
    (root / ".dvc/cache/files/md5" / version[:2] / version[2:]).unlink()
    (root / "outputs/dvc/files/md5" / version[:2] / version[2:]).unlink()
    assert where(root, [version]) == {version: Kept(False, False)}


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside our folder"])
def test_a_teams_own_remote_is_asked(root: Path, tmp_path: Path, beside: bool) -> None:
    if beside:  # `dvc remote add -d team …` in a project that had our folder
        save(root, [root / "data/a.txt"])
        config = (root / ".dvc/config").read_text().replace("remote = outputs", "remote = team")
    else:
        (root / ".dvc").mkdir()
        config = "[core]\n    no_scm = true\n    remote = team\n"
    (root / ".dvc/config").write_text(f"{config}['remote \"team\"']\n    url = {tmp_path / 'team'}\n")
    for text in ("two", "two", "three"):
        (root / "data/a.txt").write_text(text)
        version = save(root, [root / "data/a.txt"])
    assert objects(tmp_path / "team") == 2
    assert where(root, [version, md5("one")])[version] == Kept(True, True)
    shutil.rmtree(tmp_path / "team")
    assert where(root, [version]) == {version: Kept(True, False)}


def test_a_remote_that_cannot_be_asked(root: Path) -> None:
    version = save(root, [root / "data/a.txt"])
    (root / ".dvc/config").write_text("[core]\n    no_scm = true\n    remote = nowhere\n")
    assert where(root, [version]) == {version: Kept(True, None)}
    (root / ".dvc/config").write_text("[core\n")
    assert where(root, [version])[version].remote is None


def test_what_is_at_hand(root: Path) -> None:
    file = root / "data/rows.parquet"
    file.write_text("rows")
    version = save(root, [file])
    assert at_hand(root, version) == file
    file.write_text("others")
    cached = at_hand(root, version)
    assert cached is not None
    assert ".dvc/cache" in str(cached)
    shutil.rmtree(root / ".dvc/cache")
    assert "outputs/dvc" in str(at_hand(root, version))
    shutil.rmtree(root / "outputs/dvc")
    assert at_hand(root, version) is None


def test_files_come_back_under_their_names(root: Path, tmp_path: Path) -> None:
    (root / "data/deep").mkdir()
    (root / "data/deep/b.txt").write_text("two")
    both = save(root, [root / "data/a.txt", root / "data/deep/b.txt"])
    target = tmp_path / "code" / "data"
    target.mkdir(parents=True)
    (target / "a.txt").write_text("in the way")
    (target / "c.txt").write_text("of its own")
    restore_files(root, both, target)
    found = {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}
    assert found == {"a.txt": "one", "deep/b.txt": "two", "c.txt": "of its own"}
    assert [path.name for path in target.parent.iterdir()] == ["data"]


def test_a_single_file_comes_back_under_the_name_that_its_note_tells(root: Path, tmp_path: Path) -> None:
    version = save(root, [root / "data/a.txt"])
    (root / "data/b.txt").write_text("two")
    save(root, [root / "data/b.txt"])
    restore_files(root, version, tmp_path / "data")
    assert [(p.name, p.read_text()) for p in (tmp_path / "data").iterdir()] == [("a.txt", "one")]
    for note in (root / "data").glob("*.dvc"):
        note.unlink()
    with pytest.raises(DataError, match="nothing here says which"):
        restore_files(root, version, tmp_path / "other")
