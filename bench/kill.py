"""Kill a turn with SIGKILL at random moments, and see that the next one completes with nothing half-made, lost or doubled.

Usage: python bench/kill.py [kills]. Prints a JSON line for each thing found wrong, and one with the count.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from conftest import write_project
from killing import kill_once, prepare, turn


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    dice, found = random.Random(7), 0
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare(write_project(Path(folder) / "alarm"))
        shutil.copytree(prepared, Path(folder) / "whole")
        whole = turn(Path(folder) / "whole")
        for number in range(kills):
            after = dice.uniform(0, whole)
            for wrong in kill_once(prepared, Path(folder) / f"killed{number}", after):
                found += 1
                print(json.dumps({"killed_after": round(after, 3), "of": round(whole, 3), "wrong": wrong}), flush=True)
    print(json.dumps({"contender": "meguri turn", "kills": kills, "wrong": found}))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
