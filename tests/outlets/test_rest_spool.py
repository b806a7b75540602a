"""The spool: what the ledger could not take is kept, once and whole."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from meguri.base.errors import LedgerError
from meguri.base.ids import Ids
from meguri.outlets.rest.spool import Spool
from meguri.record.ledger import open_ledger
from meguri.record.served import Served, pack
from meguri.testing.ledger_rows import hour


def answers(count: int) -> bytes:
    """A commit of so many answers, two to a request."""
    origin = ("r", None, "rest", "champion", 0.5)
    ids = Ids().take(count)
    both = [(n, ids[n : n + 2]) for n in range(0, count, 2)]
    return pack(
        [
            Served(origin, n, 5, some, [f"k{n}", f"l{n}"][: len(some)], [n, n + 1][: len(some)], [0.1 * n] * len(some), ["名"] * len(some))
            for n, some in both
        ]
    )  # fmt: skip


def test_it_comes_back_as_it_was(tmp_path: Path) -> None:
    spool, given = Spool(tmp_path / "spool"), [answers(1), *(answers(5) for _ in range(300))]
    for packed in given:
        spool.add(packed)
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.db")) as ledger:
        assert spool.drain(ledger) == 1501
        found = ledger.joined(as_of=hour(9**4), features=True)
        for packed in given:
            ledger.write_answers(packed)  # the same, to the last value
        assert ledger.joined(as_of=hour(9**4), features=True).equals(found)
        assert found.height == 1501
        assert set(found["answer"]) == {"名"}
        assert (spool.drain(ledger), spool.filled) == (0, False)
        spool.add(answers(2))
        assert (spool.drain(ledger), ledger.awaited(as_of=hour(9**4)).count) == (2, 1503)


def test_a_ledger_that_still_refuses_loses_nothing(tmp_path: Path) -> None:
    class Away:
        def write_answers(self, packed: bytes) -> None:
            raise LedgerError("away")

    spool = Spool(tmp_path / "spool")
    spool.add(answers(3))
    with pytest.raises(LedgerError, match="away"):
        spool.drain(Away())  # type: ignore[arg-type]
    assert spool.filled
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.db")) as ledger:
        assert spool.drain(ledger) == 3


@pytest.mark.parametrize("line", [b"{never written by us\n", b"[7]\n"])
def test_a_damaged_file_is_told_and_stays_and_the_others_are_taken(tmp_path: Path, line: bytes) -> None:
    spool = Spool(tmp_path)
    (tmp_path / "0-damaged.jsonl").write_bytes(line)
    spool.add(answers(3))
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.db")) as ledger:
        with pytest.raises(ValueError, match=r"0-damaged\.jsonl holds a line that is no answer"):
            spool.drain(ledger)
        assert ledger.settle() == 3
    assert spool.filled
    assert [path.name for path in tmp_path.glob("*.jsonl")] == ["0-damaged.jsonl"]


def test_what_a_dead_process_left_is_taken_over_and_what_a_live_one_has_is_not(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from outlets.test_rest_spool import answers
from meguri.outlets.rest.spool import Spool
spool = Spool(Path(sys.argv[1]))
spool.add(answers(3))
spool.add(answers(2))
print("ready", flush=True)
sys.stdin.read()
"""
    tests = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{tests}:{tests.parent / 'src'}"}
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path / "spool")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert other.stdout is not None
    assert other.stdin is not None
    assert other.stdout.readline() == b"ready\n"
    spool = Spool(tmp_path / "spool")
    with closing(open_ledger(f"sqlite:///{tmp_path}/ledger.db")) as ledger:
        assert spool.drain(ledger) == 0
        other.kill()
        other.wait()
        other.stdin.close()
        other.stdout.close()
        torn = next((tmp_path / "spool").iterdir())
        torn.write_bytes(torn.read_bytes()[:-10])  # the machine failed in the middle of a line
        assert spool.drain(ledger) == 3
    assert not list((tmp_path / "spool").iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    with pytest.raises(LedgerError, match="the spool cannot be written"):
        Spool(tmp_path / "spool").add(answers(1))
