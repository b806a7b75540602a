"""The REST service under load near its knee for a long time, while its rollout changes: no failed request, flat memory, every answer in the ledger.

    python bench/serve_soak.py [--minutes 30] [--postgres]     (one JSON line; the ledger is a file, or on a PostgreSQL of its own)

The service has the first core, the load the second. A ramp finds how many connections it takes to get nine tenths of the most requests a second; so
many ask on. Every 30 s the CLI gives it another rollout, every minute it rolls back. ``failed`` are answers other than 200 and connections that broke;
``slowest_change_s`` is how long after it was written a new champion was seen to answer, once the command had ended. Memory is that of all its processes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from data.servers import postgres
from outlets.serving import ROW, Served

from meguri.record.rollout import current

RAMP = (4, 8, 16, 32, 64)  # connections, one after another
STEP = 4.0  # seconds for each
LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)
BODY = json.dumps({**ROW, "flight": "KEY"})


class Load:
    """What some connections asked and were told."""

    def __init__(self) -> None:
        self.ended = False
        self.answers = self.asking = 0
        self.failed: list[str] = []
        self.tenths: Counter[int] = Counter()  # of a millisecond -> how many answers took so long

    def percentile(self, share: float) -> float:
        """Milliseconds."""
        left = share * sum(self.tenths.values())
        for tenth, count in sorted(self.tenths.items()):
            left -= count
            if left <= 0:
                return tenth / 10
        return 0.0


class Connection(asyncio.Protocol):
    """Asks again as soon as it is answered."""

    def __init__(self, load: Load, name: str) -> None:
        self._load, self._name, self._turn, self._got = load, name, 0, b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._load.asking += 1
        self._ask()

    def _ask(self) -> None:
        if self._load.ended:
            self._transport.close()
            return
        self._turn += 1
        body = BODY.replace("KEY", f"{self._name}-{self._turn}")
        head = f"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._began = time.perf_counter()
        self._transport.write((head + body).encode())

    def data_received(self, data: bytes) -> None:
        self._got += data
        end = self._got.find(b"\r\n\r\n") + 4
        length = LENGTH.search(self._got, 0, end)
        if end < 4 or length is None or len(self._got) < end + int(length[1]):
            return
        if self._got.startswith(b"HTTP/1.1 200 "):
            self._load.answers += 1
            self._load.tenths[int((time.perf_counter() - self._began) * 1e4)] += 1
        else:
            self._load.failed.append(self._got.decode()[-300:])
        self._got = b""
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:
        self._load.asking -= 1
        if error is not None or not self._load.ended:
            self._load.failed.append(f"a connection broke: {error}")


async def asked(port: int, load: Load, connections: int, seconds: float, name: str) -> None:
    """Ask by so many connections; all are answered when this returns."""
    loop = asyncio.get_running_loop()
    for number in range(connections):
        await loop.create_connection(lambda number=number: Connection(load, f"{name}-{number}"), "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.sleep(seconds)
    load.ended = True
    while load.asking:
        await asyncio.sleep(0.01)


async def knee(port: int, load: Load) -> int:
    """How many connections get nine tenths of the most requests a second."""
    speeds = {}
    for connections in RAMP:
        before, load.ended = load.answers, False
        await asked(port, load, connections, STEP, f"ramp{connections}")
        speeds[connections] = (load.answers - before) / STEP
    load.ended = False
    return min(connections for connections, speed in speeds.items() if speed >= 0.9 * max(speeds.values()))


class Changes:
    """Rollouts and rollbacks by the CLI, and how long each took to be seen."""

    def __init__(self, served: Served) -> None:
        self.served, self.rollouts, self.rollbacks, self.slowest, self.failed = served, 0, 0, 0.0, list[str]()

    async def make(self) -> None:
        """A rollout at each half minute, a rollback a quarter of a minute after each second of them."""
        began, turn = time.monotonic(), 0
        while True:
            turn += 1
            await asyncio.sleep(began + 30 * turn - time.monotonic())
            names = ("r-2", "r-1") if turn % 2 else ("r-1", "r-2")
            await self._run("rollout", "--champion", names[0], "--challenger", f"{names[1]}=0.2", "--why", "soak")
            self.rollouts += 1
            if turn % 2:
                await asyncio.sleep(began + 30 * turn + 15 - time.monotonic())
                await self._run("rollback", "--outlet", "rest", "--why", "soak")
                self.rollbacks += 1

    async def _run(self, *words: str) -> None:
        before = current(self.served.ledger, "rest")
        command = [sys.executable, "-m", "meguri", *words]
        done = await asyncio.to_thread(subprocess.run, command, cwd=self.served.root, capture_output=True, text=True)
        after = current(self.served.ledger, "rest")
        if done.returncode or before is None or after is None:
            self.failed.append(done.stderr)
            return
        while (await asyncio.to_thread(self.served.ask, "GET", "/readyz"))[1].get("release") != after.champion:
            await asyncio.sleep(0.005)
        if after.champion != before.champion:
            self.slowest = max(self.slowest, (datetime.now(UTC) - after.at).total_seconds())


async def sampled(group: int, samples: list[tuple[float, float]]) -> None:
    """Add the resident memory of a group of processes, MB, every second."""
    page = os.sysconf("SC_PAGE_SIZE") / 2**20
    while True:
        size = 0.0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[2]) == group:
                size += int(fields[21]) * page
        samples.append((time.monotonic(), size))
        await asyncio.sleep(1)


def flatness(samples: list[tuple[float, float]]) -> dict[str, float]:
    """Medians of the first and the last third, and the slope of a line through the last two thirds, as caches fill at first."""
    third = max(1, len(samples) // 3)
    times, sizes = zip(*samples[third:], strict=True)
    slope = statistics.linear_regression(times, sizes).slope if len(times) > 1 else 0.0
    return {
        "memory_mb_first_third": round(statistics.median(size for _, size in samples[:third])),
        "memory_mb_last_third": round(statistics.median(size for _, size in samples[-third:])),
        "memory_mb_per_hour": round(slope * 3600, 1),
    }


async def soak(served: Served, minutes: float) -> dict[str, Any]:
    assert served.process is not None
    load, changes, samples = Load(), Changes(served), list[tuple[float, float]]()
    connections = await knee(served.port, load)
    load.tenths.clear()
    ramped = load.answers
    tasks = [asyncio.create_task(changes.make()), asyncio.create_task(sampled(served.process.pid, samples))]
    await asked(served.port, load, connections, minutes * 60, "soak")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for failure in [*load.failed, *changes.failed][:3]:
        print(json.dumps({"failure": failure}), flush=True)
    return {
        "minutes": minutes, "connections": connections, "requests_per_s": round((load.answers - ramped) / minutes / 60),
        "p50_ms": load.percentile(0.5), "p99_ms": load.percentile(0.99), "failed": len(load.failed),
        "rollouts": changes.rollouts, "rollbacks": changes.rollbacks, "failed_commands": len(changes.failed),
        "slowest_change_s": round(changes.slowest, 2), **flatness(samples), "answers": load.answers,
    }  # fmt: skip


def main(minutes: float, *, on_postgres: bool) -> int:
    with tempfile.TemporaryDirectory() as folder, postgres() if on_postgres else nullcontext(None) as url:
        served = Served(Path(folder) / "alarm", ledger=url)
        try:
            os.sched_setaffinity(0, {0})  # what is started from here on has the first core
            served.start("--no-token")
            os.sched_setaffinity(0, {max(os.cpu_count() or 1, 2) - 1})
            figures = asyncio.run(soak(served, minutes))
            served.stop()
            began = time.monotonic()
            unsettled = served.ledger.settle()
            settled = {"unsettled": unsettled, "settled_in_s": round(time.monotonic() - began, 1)}
            kept = int(served.ledger.made()["count"].sum())
        finally:
            served.close()
    name = "postgres" if on_postgres else "sqlite"
    print(json.dumps({"bench": "serve_soak", "ledger": name, **figures, "in_ledger": kept, **settled}))
    return int(bool(figures["failed"] or figures["failed_commands"] or kept != figures["answers"]))


if __name__ == "__main__":
    asked_for = float(sys.argv[sys.argv.index("--minutes") + 1]) if "--minutes" in sys.argv else 30.0
    sys.exit(main(asked_for, on_postgres="--postgres" in sys.argv))
