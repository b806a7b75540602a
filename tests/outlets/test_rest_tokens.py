"""Who may read the file of tokens."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest

from meguri.base.errors import SettingsError
from meguri.outlets.rest import tokens


@pytest.mark.parametrize(
    ("mode", "owner", "fine"),
    [(0o600, 10001, True), (0o640, 10001, False), (0o440, 0, True), (0o444, 0, False), (0o460, 0, False)],
)
def test_only_its_owner_reads_it_or_the_group_of_what_is_roots(
    mode: int, owner: int, fine: bool, tmp_path: Path
) -> None:
    path = tmp_path / "tokens.json"
    tokens.make(path)
    path.chmod(mode)
    if os.geteuid() == 0:
        os.chown(path, owner, 10001)
    elif owner == 0:
        pytest.skip("only root makes a file of root's")
    refused = contextlib.nullcontext() if fine else pytest.raises(SettingsError, match="others may read")
    with refused:
        tokens.read(path)
