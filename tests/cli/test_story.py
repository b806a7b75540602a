"""What a replay shows while it runs."""

from __future__ import annotations

import pytest
from conftest import START

from meguri.cli.story import Progress


def test_a_terminal_gets_a_bar_for_each_policy(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    with Progress(quiet=False) as progress:
        progress("loop", START, 0.25, "train")
        progress("always", START, 1.0, "")
    said = capsys.readouterr().out
    assert "loop" in said
    assert "2024-03-01" in said


def test_a_log_gets_a_line_a_month(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=False) as progress:
        for share in (0.1, 0.2):
            progress("loop", START, share, "")
    assert capsys.readouterr().out == "loop: 2024-03\n"


def test_a_machine_gets_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress(quiet=True) as progress:
        progress("loop", START, 0.1, "")
    assert capsys.readouterr().out == ""
