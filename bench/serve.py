"""Requests a second of the REST outlet, everything on, beside a server by hand that does the bare minimum.

    python bench/serve.py [seconds] [URL]     (default 5 for each contender; needs wrk; one JSON line per contender)

With the URL of a PostgreSQL (postgres://user:password@host/database; a schema there is made and dropped) the service has its ledger there, too. Where Linux lets
this process make control groups, two workers with .4 of a core each are compared with one.

The flights' model in ONNX, ten fields a row. The server has the first core, wrk the second. "raw ASGI" decodes JSON and asks ONNX Runtime, checks
nothing and keeps nothing; "empty ASGI" answers a constant: both on granian, as the outlet is.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pandera.polars as pa
import polars as pl
from lightgbm import LGBMClassifier
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

from meguri import Contract
from meguri.data.build import build
from meguri.record import rollout
from meguri.record.ledger import open_ledger
from meguri.record.release import Release

FLIGHTS = Path(__file__).parent.parent / "examples" / "flights"
sys.path.insert(0, str(FLIGHTS))
NOW = datetime(2013, 6, 1, tzinfo=UTC)
TEXTS = ["origin", "carrier"]
NUMBERS = ["hour", "weekday", "distance", "planned_minutes", "origin_delay", "carrier_delay", "temp", "wind_speed"]
WRK = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = io.open("{body}"):read("*a")
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{{"rps": %.0f, "p50_ms": %.3f, "p99_ms": %.3f, "failed": %d}}\\n', summary.requests / (summary.duration / 1e6),
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, e.status + e.read + e.timeout + e.connect + e.write))
end
"""
RAW = """
import os
import numpy as np, msgspec, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
kinds = {"tensor(string)": np.object_, "tensor(int64)": np.int64, "tensor(float)": np.float32}
inputs = [(item.name, kinds[item.type]) for item in session.get_inputs()]
decode, encode = msgspec.json.Decoder().decode, msgspec.json.Encoder().encode
head = [(b"content-type", b"application/json")]
async def app(scope, receive, send):
    row = decode((await receive())["body"])
    score, answer = session.run(None, {name: np.array([row[name]], kind) for name, kind in inputs})
    body = encode({"score": score.item(), "answer": answer.item()})
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": body})
async def empty(scope, receive, send):
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": head})
    await send({"type": "http.response.body", "body": b"{}"})
"""


class Flight(pa.DataFrameModel):
    flight: str
    asked_at: Annotated[pl.Datetime, "us", "UTC"]
    late: pl.Int64 = pa.Field(isin=[0, 1], nullable=True)
    origin: str = pa.Field(isin=["EWR", "JFK", "LGA"])
    carrier: str = pa.Field(str_matches=r"^[0-9A-Z]{2}$")
    hour: float = pa.Field(ge=0, lt=24)
    weekday: int = pa.Field(ge=1, le=7)
    distance: int = pa.Field(ge=50, le=6000)
    planned_minutes: int = pa.Field(ge=30, le=900)
    origin_delay: float = pa.Field(ge=-60, le=180, nullable=True)
    carrier_delay: float = pa.Field(ge=-60, le=180, nullable=True)
    temp: float = pa.Field(ge=-60, le=130, nullable=True)
    wind_speed: float = pa.Field(ge=0, le=150, nullable=True)


def prepare(home: Path) -> Any:
    """A project with a live release and a challenger, and the bodies of the requests; the estimator behind the live one."""
    from src import features
    from src.repository import data_manager, schema

    cache = home / "cache"
    rows = data_manager.read(cache, datetime(2013, 1, 1, tzinfo=UTC), NOW, NOW)
    rows = build(rows, features.features, data_manager.tables(cache), contract=schema.contract, now=NOW)
    contract = Contract(Flight, key="flight", time="asked_at", label="late", label_after="12h")
    rows = contract.check(rows).rows.drop_nulls("late")
    for name, trees in (("two", 100), ("one", 120)):
        encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        columns = ColumnTransformer([("texts", encoder, TEXTS), ("numbers", "passthrough", NUMBERS)])
        model = make_pipeline(columns, LGBMClassifier(n_estimators=trees, n_jobs=1, verbose=-1))
        model.fit(rows.select(contract.features).to_pandas(), rows["late"].to_pandas())
        info: dict[str, Any] = {"run": name, "at": NOW}
        folder = home / "outputs" / "releases" / name
        Release.build(model, id=name, contract=contract, sample=rows.head(2000), folder=folder, info=info)
    some = rows.drop("late", "asked_at").drop_nulls().head(100)
    many = json.loads(
        some.select(contract.features).with_columns(flight=pl.format("f{}", pl.int_range(pl.len()))).write_json()
    )
    (home / "one.json").write_text(json.dumps(many[0]))
    (home / "many.json").write_text(json.dumps(many))
    (home / "raw.py").write_text(RAW)
    (home / "hydra").mkdir()
    (home / "src" / "jobs").mkdir(parents=True)
    settings(home)
    (home / "src" / "models").mkdir()
    (home / "src" / "models" / "plain.py").write_text("class Plain:\n    pass\n")
    return model


def free() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def server(
    home: Path, command: list[str], port: int, cores: str = "0", path: str = "/predict", body: str = "one.json"
) -> Iterator[float]:
    """A running server; the seconds that it took until it answered."""
    environment = os.environ | {
        "MODEL": str(home / "outputs" / "releases" / "one" / "model.onnx"),
        "PYTHONPATH": str(home),
    }
    began = time.perf_counter()
    with (home / "log").open("ab") as log:
        process = subprocess.Popen(["taskset", "-c", cores, *command], cwd=home, env=environment, stdout=log, stderr=log, start_new_session=True)  # fmt: skip
    try:
        while True:
            assert process.poll() is None, (home / "log").read_text()
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("POST", path, (home / body).read_bytes(), {"content-type": "application/json"})
                if connection.getresponse().status == 200:
                    break
            except OSError:
                time.sleep(0.01)
        yield time.perf_counter() - began
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def load(home: Path, port: int, body: str, connections: int, seconds: int, path: str = "/predict") -> dict[str, float]:
    script = home / "load.lua"
    script.write_text(WRK.format(body=home / body))
    command = [
        "taskset",
        "-c",
        "1",
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{seconds}s",
        "-s",
        str(script),
        f"http://127.0.0.1:{port}{path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def workers(port: int) -> list[int]:
    """The worker processes of the server on the port."""
    return [pid for pid in processes(port) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def processes(port: int) -> dict[int, int]:
    """All processes of the server on the port, which are one group: their MB of resident memory."""
    groups: dict[int, dict[int, int]] = {}
    own = None
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            group = int((folder / "stat").read_text().rpartition(")")[2].split()[2])
            size = re.search(r"VmRSS:\s+(\d+)", (folder / "status").read_text())
            command = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        groups.setdefault(group, {})[int(folder.name)] = int(size[1]) // 1024 if size else 0
        if b"serve" in command and str(port).encode() in command:
            own = group
    return groups.get(own or 0, {})


@contextmanager
def limited(pids: list[int], cores: float) -> Iterator[None]:
    """Each of the processes has so much of a core, by a control group of its own. Raises OSError where that is not allowed."""
    groups = []
    try:
        for number, pid in enumerate(pids):
            group = Path("/sys/fs/cgroup/cpu") / f"meguri-bench-{os.getpid()}-{number}"
            group.mkdir()
            groups.append(group)
            (group / "cpu.cfs_period_us").write_text("10000")
            (group / "cpu.cfs_quota_us").write_text(str(int(cores * 10000)))
            (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        for group in groups:
            for pid in (group / "cgroup.procs").read_text().split():
                (group.parent / "cgroup.procs").write_text(pid)
            group.rmdir()


def settings(home: Path, ledger: str | None = None) -> None:
    """What the project says; with a ledger's URL, the same rollout there."""
    plain = {
        "model": {"name": "plain"},
        "gate": {"metric": "log_loss", "margin": 0.01},
        "outlets": {"rest": {"rows": 1000}},
    }
    (home / "hydra" / "default.yaml").write_text(json.dumps(plain | ({"ledger": ledger} if ledger else {})))
    with closing(open_ledger(ledger or f"sqlite:///{home}/outputs/ledger.db")) as opened:
        rollout.promote(opened, "rest", "one", at=NOW, why="bench", by="bench", challengers={"two": 0.1})


def scaling(home: Path, command: list[str], seconds: int) -> float | None:
    """How many times the requests of one worker two have, each with .4 of a core and 32 connections; None where that cannot be measured."""
    rates = []
    for count in (1, 2):
        port = free()
        with server(home, [*command, "--port", str(port), "--workers", str(count)], port):
            try:
                with limited(workers(port), 0.4):
                    load(home, port, "one.json", 32 * count, 1)
                    rates.append(load(home, port, "one.json", 32 * count, seconds)["rps"])
            except OSError:
                return None
    return round(rates[1] / rates[0], 2)


def main(seconds: int, postgres: str | None) -> None:
    if shutil.which("wrk") is None:
        raise SystemExit("this bench needs wrk, which Debian has as a package")
    meguri, granian = str(Path(sys.executable).with_name("meguri")), str(Path(sys.executable).with_name("granian"))
    bare = [granian, "--interface", "asginl", "--loop", "asyncio", "--no-ws", "--port"]
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        prepare(home)
        lines = []

        def tell(contender: str, **figures: float) -> dict[str, float]:
            print(json.dumps({"bench": "serve", "contender": contender, **figures}), flush=True)
            lines.append((contender, figures))
            return figures

        port = free()
        with server(home, [*bare, str(port), "raw:empty"], port):
            tell("empty ASGI", **load(home, port, "one.json", 32, seconds))
        port = free()
        with server(home, [*bare, str(port), "raw:app"], port):
            raw = tell("raw ASGI", **load(home, port, "one.json", 32, seconds))
        port = free()
        serve = [meguri, "serve", "--no-token"]
        with server(home, [*serve, "--port", str(port)], port) as ready:
            load(home, port, "one.json", 32, 1)
            full = tell("meguri", **load(home, port, "one.json", 32, seconds), ready_s=round(ready, 2))
            tell("meguri, one connection", **load(home, port, "one.json", 1, seconds))
        port = free()
        with server(home, [*serve, "--no-ledger", "--port", str(port)], port):
            load(home, port, "one.json", 32, 1)
            without = tell("meguri, no ledger", **load(home, port, "one.json", 32, seconds))
        tell("meguri by raw ASGI", ratio=round(full["rps"] / raw["rps"], 2))
        tell("meguri without a ledger by raw ASGI", ratio=round(without["rps"] / raw["rps"], 2))
        if (ratio := scaling(home, serve, seconds)) is not None:
            tell("two workers by one", ratio=ratio)
        port = free()
        with server(home, [*serve, "--port", str(port)], port):  # last, as it leaves most of its answers to be settled
            load(home, port, "many.json", 32, 1)
            many = load(home, port, "many.json", 32, seconds)
            tell(
                "meguri, 100 rows a request",
                **many,
                rows_per_s=many["rps"] * 100,
                memory_mb=sum(processes(port).values()),
            )
        if postgres:
            with schema(postgres) as url:
                settings(home, url)
                port = free()
                with server(home, [*serve, "--port", str(port)], port):
                    load(home, port, "one.json", 32, 1)
                    far = tell("meguri on PostgreSQL", **load(home, port, "one.json", 32, seconds))
                    tell("meguri on PostgreSQL, one connection", **load(home, port, "one.json", 1, seconds))
                tell("meguri on PostgreSQL by meguri", ratio=round(far["rps"] / full["rps"], 2))
                if (ratio := scaling(home, serve, seconds)) is not None:
                    tell("two workers by one, on PostgreSQL", ratio=ratio)


@contextmanager
def schema(postgres: str) -> Iterator[str]:
    import psycopg

    with closing(psycopg.connect(postgres, autocommit=True)) as db:
        db.execute("DROP SCHEMA IF EXISTS meguri_bench CASCADE")
        yield f"{postgres}?schema=meguri_bench"
        db.execute("DROP SCHEMA meguri_bench CASCADE")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2] if len(sys.argv) > 2 else None)
