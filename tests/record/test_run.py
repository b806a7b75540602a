"""A run's record: what it saw of git, in every state that a tree can be in, and what it was made with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import START

from meguri.base.errors import JobError
from meguri.record.run import MADE_WITH, Run, code_of, git, read_source


def call(root: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.com"]
    subprocess.run(["git", *who, *words], cwd=root, check=True, capture_output=True)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "src").mkdir(parents=True)
    (root / "src/a.py").write_text("A = 1\n")
    call(root, "init", "-q")
    call(root, "add", ".")
    call(root, "commit", "-qm", "first")
    return root


def test_a_clean_tree(root: Path) -> None:
    source = read_source(root)
    assert (source.diff, source.lock) == ("", None)
    assert len(source.commit or "") == 40
    run = Run.create(root / "outputs", root, at=START, reason="by hand")
    assert (run.commit, run.dirty, run.missing) == (source.commit, False, [])
    assert run.code == code_of(root) == {"src/a.py": run.code["src/a.py"]}  # type: ignore[index]
    assert (run.packages or {})["polars"]
    assert Run.load(root / "outputs", run.id) == run


def test_notes_of_data_and_outputs_are_no_changes(root: Path) -> None:
    (root / "data").mkdir()
    (root / "data/rows.parquet.dvc").write_text("outs: []\n")
    call(root, "add", ".")
    call(root, "commit", "-qm", "data")
    (root / "data/rows.parquet.dvc").write_text("outs: [1]\n")
    for name in ("data/other.csv.dvc", "data/.gitignore", ".dvc/config", "outputs/ledger.db"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text("x")
    assert read_source(root).diff == ""


def test_a_secret_that_was_added_to_the_settings_is_not_kept(root: Path, tmp_path: Path) -> None:
    (root / "hydra").mkdir()
    (root / "hydra/default.yaml").write_text("source:\n  user: me\n")
    call(root, "add", ".")
    call(root, "commit", "-qm", "settings")
    (root / "hydra/default.yaml").write_text("source:\n  user: me\n  password: hunter2\nmodel: {trees: 7}\n")
    (root / "src/a.py").write_text("password = read()\n")
    run = Run.create(root / "outputs", root, at=START, reason="by hand")
    assert "hunter2" not in (run.folder / "diff.patch").read_text()
    call(tmp_path, "clone", "-q", str(root), "again")
    call(tmp_path / "again", "apply", str(run.folder / "diff.patch"))
    settings = (tmp_path / "again/hydra/default.yaml").read_text()
    assert settings == "source:\n  user: me\n  password: ***\nmodel: {trees: 7}\n"
    assert (tmp_path / "again/src/a.py").read_text() == "password = read()\n"


def test_a_dirty_tree_is_kept_so_that_it_can_be_had_again(root: Path, tmp_path: Path) -> None:
    call(root, "config", "color.ui", "always")
    call(root, "config", "diff.noprefix", "true")
    (root / "src/a.py").write_bytes(b"A = 2  # caf\xe9\n")
    (root / "src/b.bin").write_bytes(bytes(range(256)))
    call(root, "add", "src/b.bin")
    (root / "src/new.py").write_text("")
    run = Run.create(root / "outputs", root, at=START, reason="by hand")
    assert run.dirty
    assert run.missing == ["src/new.py"]
    call(tmp_path, "clone", "-q", str(root), "again")
    call(tmp_path / "again", "apply", str(run.folder / "diff.patch"))
    assert (tmp_path / "again/src/a.py").read_bytes() == b"A = 2  # caf\xe9\n"
    assert (tmp_path / "again/src/b.bin").read_bytes() == bytes(range(256))


def test_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_source(tmp_path).commit is None
    monkeypatch.setenv("PATH", "")
    assert git(tmp_path, "status") is None


def test_a_lock_is_hashed(root: Path) -> None:
    (root / "requirements.txt").write_text("a==1\n")
    (root / "uv.lock").write_text("")
    source = read_source(root)
    assert (source.lock, len(source.lock_hash or "")) == ("uv.lock", 64)


def test_a_large_file_and_what_python_compiled_are_no_code(root: Path) -> None:
    (root / "src/large.txt").write_text("x" * 1_000_000)
    (root / "src/a.pyc").write_text("x")
    assert list(code_of(root)) == ["src/a.py"]


def test_a_run_that_kept_nothing(root: Path) -> None:
    run = Run.create(root / "outputs", root, at=START, reason="by hand")
    for text in ("[]", "{", '{"packages": 3}'):
        (run.folder / MADE_WITH).write_text(text)
        assert (run.packages, run.code) == (None, None)
    (run.folder / MADE_WITH).unlink()
    assert run.packages is None
    with pytest.raises(JobError, match="there is no run 'x'"):
        Run.load(root / "outputs", "x")


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("ledger=postgres://u:geheim@h/db", "ledger=***"),
        ("++ledger='postgres://u:geheim@h/db'", "++ledger=***"),
        ("source={path: a, key: geheim}", "source=***"),
        ("door.key=geheim", "door.key=***"),
        ("~door.password=geheim", "~door.password=***"),  # no setting any more
        ("door.password=${oc.env:DOOR,geheim}", "door.password=***"),
        ("door.password=${oc.env:DOOR}", "door.password=${oc.env:DOOR}"),
        ("source=large", "source=large"),  # a group of files
        ("source.path=a", "source.path=a"),
        ("~source.path", "~source.path"),
        ("nowhere.at.all=1", "nowhere.at.all=1"),
        ("max_tokens=512", "max_tokens=512"),
        ("use_password=false", "use_password=false"),
        ("other.password=null", "other.password=null"),
        ("empty.password=geheim", "empty.password=***"),  # a later override took it out again
    ],
)
def test_an_override_with_a_secret_is_kept_by_its_name(root: Path, override: str, kept: str) -> None:
    door = {} if override.startswith("~door") else {"key": "geheim", "password": "geheim"}
    settings = {"ledger": "postgres://u:geheim@h/db", "source": {"path": "a", "key": "geheim"}, "door": door}
    settings |= {"max_tokens": 512, "use_password": False, "other": {"password": None}, "empty": {"password": ""}}
    run = Run.create(root / "outputs", root, at=START, reason="by hand", overrides=(override, "a=1"), settings=settings)
    assert run.overrides == (override, "a=1"), "as long as the process lives"
    left = Run.load(root / "outputs", run.id)
    assert left.overrides == (kept, "a=1")
    assert "geheim" not in (run.folder / "run.json").read_text()
    assert left.save().overrides == left.overrides
    assert left.overrides_with([override]) == (override, "a=1")
    assert left.overrides_kept == ((kept, "a=1") if kept == override else ("a=1",))
