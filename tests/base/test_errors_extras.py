"""Errors say what, where and the next step; a package that is missing is told with its install line."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import pytest

from meguri.base import errors
from meguri.base.errors import LedgerError, MeguriError, MissingExtra
from meguri.base.extras import EXTRAS, need

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MeguriError)]


@pytest.mark.parametrize("kind", ALL)
def test_every_error_says_what_where_and_next(kind: type[MeguriError]) -> None:
    error = kind("it broke", where=Path("file.yaml"), fix="mend it")
    assert str(error) == "it broke\n  where: file.yaml\n  next:  mend it"
    assert (error.what, error.where, error.fix) == ("it broke", "file.yaml", "mend it")
    assert str(kind("it broke")) == "it broke"
    again = pickle.loads(pickle.dumps(error))  # as it comes back from another process
    assert (type(again), str(again)) == (kind, str(error))


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind is not MeguriError])
def test_every_error_is_a_builtin_as_well(kind: type[MeguriError]) -> None:
    builtin = {"ValueError", "RuntimeError", "OSError", "FileNotFoundError", "ImportError"}
    assert {base.__name__ for base in kind.__mro__} & builtin


def test_an_error_is_caught_as_its_builtin() -> None:
    with pytest.raises(OSError, match="no room"):
        raise LedgerError("no room")


def test_need() -> None:
    assert need("json.decoder").JSONDecoder


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRAS, "meguri_absent", "table")
    with pytest.raises(MissingExtra, match="'meguri_absent', which is not installed") as caught:
        need("meguri_absent.inner")
    assert caught.value.fix == "pip install 'meguri[table]'"
    with pytest.raises(ImportError) as plain:
        need("meguri_other_absent")
    assert "pip install meguri_other_absent" in str(plain.value)


def test_a_package_that_is_itself_broken_says_so_itself(path: Path) -> None:
    (path / "meguri_broken.py").write_text("import meguri_not_there_at_all\n")
    with pytest.raises(ModuleNotFoundError, match="meguri_not_there_at_all") as caught:
        need("meguri_broken")
    assert not isinstance(caught.value, MissingExtra)
    assert "meguri_broken" not in sys.modules
