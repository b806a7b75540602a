"""A service that really runs, on releases of flights, and a client for it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from conftest import write_project
from lightgbm import LGBMClassifier, LGBMRegressor
from record.releases import build, fit, prepared, rows
from sklearn.pipeline import make_pipeline

from meguri.record import rollout
from meguri.record.ledger import Ledger, open_ledger

AT = datetime(2024, 3, 1, tzinfo=UTC)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
ROW = json.loads(rows("binary").drop("delay").head(1).write_json())[0]


class Served:
    """A project with two releases, of which the first is live in the outlet rest, and the service that `meguri serve` starts.

    ``ledger`` is its URL when it is not the file in the outputs.
    """

    def __init__(
        self, root: Path, outlets: str = "outlets: {rest: {}}", task: str = "binary", ledger: str | None = None
    ) -> None:
        self.root = root
        write_project(root)
        settings = root / "hydra" / "default.yaml"
        more = f"ledger: {json.dumps(ledger)}\n" if ledger else ""
        settings.write_text(settings.read_text().replace("outlets: {table: {}}", outlets) + more)
        self.outputs = root / "outputs"
        kind = LGBMRegressor if task == "regression" else LGBMClassifier
        for name, trees in (("r-1", 20), ("r-2", 5)):
            model = make_pipeline(prepared(scale=False), kind(n_estimators=trees, verbose=-1, n_jobs=1))
            build(fit(model, task), self.outputs / "releases" / name, task)
        self.url = ledger or f"sqlite:///{self.outputs / 'ledger.db'}"
        self.ledger: Ledger = open_ledger(self.url)
        self.roll("r-1")
        self.process: subprocess.Popen[bytes] | None = None
        self.port = free()
        self.token = ""
        self.tls: ssl.SSLContext | None = None  # how a client checks the service's certificate

    def roll(self, champion: str, **more: Any) -> None:
        """Another rollout, later than those before it."""
        at = AT + timedelta(seconds=len(self.ledger.rollouts()))
        rollout.promote(self.ledger, "rest", champion, at=at, why="test", by="test", **more)

    def launch(self, *options: str) -> None:
        """Start the service."""
        command = [sys.executable, "-m", "meguri", "serve", "--port", str(self.port), *options]
        log = (self.root / "serve.log").open("ab")
        with log:
            self.process = subprocess.Popen(command, cwd=self.root, stdout=log, stderr=log, start_new_session=True)

    def start(self, *options: str) -> None:
        """Start the service and wait until it is ready."""
        self.launch(*options)
        self.until(lambda: self.ask("GET", "/readyz")[0] == 200)
        with contextlib.suppress(FileNotFoundError):
            self.token = json.loads((self.outputs / "tokens.json").read_text())["first"]["token"]

    def until(self, holds: Any, seconds: float = 60) -> None:
        """Ask again until it holds."""
        import time

        end = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if holds():
                    return
            assert time.monotonic() < end, self.log()
            assert self.process is None or self.process.poll() is None, self.log()
            time.sleep(0.02)

    def log(self) -> str:
        """What the service has written."""
        return (self.root / "serve.log").read_text()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """The status and the JSON (or text) of an answer."""
        status, _, told = self.whole(method, path, body, **headers)
        return status, told

    def whole(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], Any]:
        """The status, the headers and the JSON (or text) of an answer."""
        if self.tls is None:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        else:
            connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.tls)
        try:
            given = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            own = {"authorization": f"Bearer {self.token}"} if self.token else {}
            connection.request(method, path, given, {**own, **headers})
            answer = connection.getresponse()
            text = answer.read()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, told, json.loads(text) if "json" in told["content-type"] else text.decode()
        finally:
            connection.close()

    def maps(self) -> str:
        """What the memory of the service and its workers is mapped from."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has ended
                if int(stat.read_text().rpartition(")")[2].split()[2]) == (self.process and self.process.pid):
                    found.append((stat.parent / "maps").read_text())
        return "".join(found)

    def kill(self) -> None:
        """End the service and its workers at once, as a failing machine does."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def stop(self) -> int:
        """End the service as a person does; its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(60)

    def close(self) -> None:
        """Leave nothing that runs."""
        self.kill()
        self.ledger.close()


def free() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextlib.contextmanager
def serving(root: Path, *options: str) -> Iterator[Served]:
    """A running service; gone afterwards."""
    served = Served(root)
    try:
        served.start(*options)
        yield served
    finally:
        served.close()


def row(name: str, **more: Any) -> dict[str, Any]:
    """A good row of that key."""
    return {**ROW, "flight": name, **more}


def hammer(served: Served, stop: threading.Event, name: str, got: list[str], failed: list[Any]) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        try:
            status, answer = served.ask("POST", "/predict", row(f"{name}-{number}"))
        except OSError:
            return  # it was killed
        (got if status == 200 else failed).append(answer["prediction_id"] if status == 200 else answer)


def under_load(served: Served) -> tuple[threading.Event, list[threading.Thread], list[str], list[Any]]:
    stop, got, failed = threading.Event(), list[str](), list[Any]()
    threads = [threading.Thread(target=hammer, args=(served, stop, f"t{i}", got, failed)) for i in range(4)]
    for thread in threads:
        thread.start()
    return stop, threads, got, failed
