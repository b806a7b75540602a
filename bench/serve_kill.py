"""Kill the REST service, all its processes at once, at random moments under load, and see that the ledger holds what was answered.

    python bench/serve_kill.py [--times 100] [--only sqlite|postgres|spooled]     (one JSON line for each ledger)

Predictions (single, of three and of twenty rows), labels and events come by connections of their own. A client notes what was acknowledged; a label or
an event whose answer did not come is sent again until one does. After each kill the service is started again. PostgreSQL is one of the bench's own; when
spooled, it is stopped up to a second before each kill and started after it, and what is answered meanwhile waits in the spool. ``unanswered`` is what was written
and then killed before its answer left: those there may be.
"""

from __future__ import annotations

import http.client
import json
import random
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from data.servers import PostgresServer, postgres_server
from outlets.serving import AT, LATER, Served, row

SHAPES = (1, 1, 3, 20)  # rows in each request of a connection


class Clients:
    """Connections that ask without end, and what was acknowledged to them."""

    def __init__(self, served: Served) -> None:
        self.served, self.stop = served, threading.Event()
        self.asked: list[list[str]] = []  # the keys of each request
        self.answers: dict[str, dict[str, Any]] = {}
        self.labels: dict[str, float] = {}
        self.events: dict[str, float] = {}
        self.wrong: list[str] = []
        self._unlabelled: deque[str] = deque()
        kinds: list[Callable[[int], None]] = [self._predict] * len(SHAPES) + [self._label] * 2 + [self._event] * 2
        self.threads = [threading.Thread(target=kind, args=(number,)) for number, kind in enumerate(kinds)]
        for thread in self.threads:
            thread.start()

    def close(self) -> None:
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def _predict(self, number: int) -> None:
        connection, turn = self._connect(), 0
        while not self.stop.is_set():
            turn += 1
            keys = [f"c{number}-{turn}-{place}" for place in range(SHAPES[number])]
            self.asked.append(keys)
            rows = [row(key, hour=turn % 24) for key in keys]
            told = self._ask(connection, "/predict", rows if len(rows) > 1 else rows[0])
            if told is not None:
                for answer in told if isinstance(told, list) else [told]:
                    self.answers[answer["prediction_id"]] = answer
                    self._unlabelled.append(answer["prediction_id"])

    def _label(self, number: int) -> None:
        connection, dice = self._connect(), random.Random(number)
        while not self.stop.is_set():
            try:
                ids = [self._unlabelled.popleft() for _ in range(dice.choice((1, 1, 5)))]
            except IndexError:
                time.sleep(0.001)
                continue
            labels = [{"prediction_id": id, "value": dice.random() < 0.5} for id in ids]
            for _ in range(dice.choice((1, 1, 2))):  # one and the same is told again now and then
                told = self._insist(connection, "/labels", labels)
                while told is not None and told["unmatched"]:  # its prediction is in the spool
                    time.sleep(0.05)
                    told = self._insist(connection, "/labels", labels)
                if told is not None:
                    self.labels |= {label["prediction_id"]: float(label["value"]) for label in labels}

    def _event(self, number: int) -> None:
        connection, dice, turn = self._connect(), random.Random(number), 0
        while not self.stop.is_set():
            turn += 1
            event = {"id": f"e{number}-{turn}", "unit": "u", "kind": "buy", "value": turn, "at": AT.isoformat()}
            for _ in range(dice.choice((1, 1, 2))):
                if self._insist(connection, "/events", event) is not None:
                    self.events[f"e{number}-{turn}"] = float(turn)

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.served.port, timeout=60)

    def _insist(self, connection: http.client.HTTPConnection, path: str, body: Any) -> Any:
        """The answer, which is asked for until there is one; None at the end."""
        told = None
        while told is None and not self.stop.is_set():
            told = self._ask(connection, path, body)
        return told

    def _ask(self, connection: http.client.HTTPConnection, path: str, body: Any) -> Any:
        """The answer; None when none came, or only that the service is not ready yet."""
        try:
            connection.request("POST", path, json.dumps(body), {"authorization": f"Bearer {self.served.token}"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 200:
                return json.loads(text)
            if answer.status != 503:
                self.wrong.append(f"{path}: {answer.status} {text.decode()}")
        except (OSError, http.client.HTTPException):
            connection.close()
            time.sleep(0.02)  # it is being started
        return None


def found(served: Served, clients: Clients) -> dict[str, int]:
    """What the ledger holds, held against what was acknowledged."""
    kept = served.ledger.joined(as_of=LATER)
    rows = {line["prediction_id"]: line for line in kept.iter_rows(named=True)}
    events = served.ledger.events(since=AT, until=LATER)
    values = dict(events.select("id", "value").iter_rows())
    same = ("key", "release", "arm", "score", "answer")
    count: Any = served.ledger._all("SELECT count(*) FROM labels")  # type: ignore[attr-defined]
    labelled = kept["label"].drop_nulls().len()
    written = set(kept["key"])
    return {
        "acknowledged": len(clients.answers),
        "labels": len(clients.labels),
        "events": len(clients.events),
        "missing": len(clients.answers.keys() - rows.keys())
        + sum(rows.get(id, {}).get("label") is None for id in clients.labels)
        + len(clients.events.keys() - values.keys()),
        "doubled": kept.height - len(rows) + kept.height - len(written) + count[0][0] - labelled + events.height - len(values),
        "other_than_answered": sum(
            any(rows[id][name] != answer[name] for name in same) for id, answer in clients.answers.items() if id in rows
        )
        + sum(rows[id]["label"] != value for id, value in clients.labels.items() if id in rows)
        + sum(values[id] != value for id, value in clients.events.items() if id in values),
        "half_written": sum(0 < len(written.intersection(keys)) < len(keys) for keys in clients.asked),
        "unanswered": len(rows.keys() - clients.answers.keys()),
        "errors": len(clients.wrong),
    }  # fmt: skip


def ended(served: Served, dice: random.Random, server: PostgresServer | None) -> None:
    """Kill the service at a random moment, with its ledger's server away when there is one to stop, and start it again."""
    time.sleep(dice.uniform(0, 1.5))
    if server is not None:
        server.stop(signal.SIGQUIT)
        time.sleep(dice.uniform(0, 1))
    served.kill()
    if server is not None:
        server.start()
    served.start()


def main(times: int, ledgers: Sequence[str]) -> int:
    bad = 0
    for name in ledgers:
        dice, stops = random.Random(7), name == "spooled"
        database = nullcontext(None) if name == "sqlite" else postgres_server()
        with tempfile.TemporaryDirectory() as folder, database as server:
            rest = "outlets: {rest: {unwritten: spool}}" if stops else "outlets: {rest: {}}"
            served = Served(Path(folder) / "alarm", rest, ledger=server and server.url)
            served.roll("r-1", challengers={"r-2": 0.3})
            try:
                served.start()
                clients = Clients(served)
                try:
                    for kill in range(times):
                        ended(served, dice, server if stops else None)
                        if sys.stderr.isatty():
                            print(f"\r{name}: {kill + 1} of {times} kills", end="", file=sys.stderr)
                    served.until(lambda served=served: not list((served.outputs / "spool").glob("*")))  # type: ignore[misc]
                finally:
                    clients.close()
                served.stop()
                figures = found(served, clients)
            finally:
                served.close()
        print(json.dumps({"bench": "serve_kill", "ledger": name, "kills": times, **figures}), flush=True)
        bad += sum(figures[what] for what in ("missing", "doubled", "other_than_answered", "half_written", "errors"))
        for problem in clients.wrong[:3]:
            print(json.dumps({"wrong": problem}))
    return min(bad, 1)


if __name__ == "__main__":
    options = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    chosen = options.get("--only")
    sys.exit(main(int(options.get("--times", 100)), [chosen] if chosen else ["sqlite", "postgres", "spooled"]))
