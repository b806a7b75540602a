"""The REST outlet beside other ways to serve the same model: frameworks, and servers that a careful engineer writes by hand.

    python bench/serve_peers.py [seconds] [part of a contender's name ...]      (default 5 seconds for each; needs wrk)

Each contender has an environment of its own, made at the first run in ~/.cache/meguri-bench (MEGURI_BENCH names another folder). The model, the rows and the
cores are those of serve.py: 32 connections, one row of ten fields a request. Only Meguri and what says "durable" write down what they answer; nothing but
Meguri checks a contract, draws an arm or counts metrics. One JSON line per contender; ``ratio`` is Meguri's requests a second by the contender's.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pandas as pd
from mlflow.models import infer_signature
from mlflow.sklearn import save_model
from serve import free, load, prepare, server

COMMON = """
import os
import re
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(os.environ["MODEL"], options, providers=["CPUExecutionProvider"])
kinds = {"tensor(string)": np.object_, "tensor(int64)": np.int64, "tensor(float)": np.float32}
inputs = [(item.name, kinds[item.type]) for item in session.get_inputs()]
def answer(row):
    score, label = session.run(None, {name: np.array([row[name]], kind) for name, kind in inputs})
    return {"score": score.item(), "answer": label.item()}
"""
ROW = """
from fastapi import FastAPI
from pydantic import BaseModel
class Row(BaseModel):
    flight: str
    origin: str
    carrier: str
    hour: float
    weekday: int
    distance: int
    planned_minutes: int
    origin_delay: float
    carrier_delay: float
    temp: float
    wind_speed: float
app = FastAPI()
"""
FASTAPI = (
    COMMON
    + ROW
    + """
@app.post("/predict")
async def predict(row: Row):
    return answer(row.model_dump())
"""
)
COMMIT = """
import json, sqlite3, uuid
db = sqlite3.connect("peer.db", isolation_level=None, check_same_thread=False)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = FULL")
db.execute("CREATE TABLE IF NOT EXISTS answers (n INTEGER PRIMARY KEY, id TEXT UNIQUE, row TEXT, answer TEXT)")
"""
FASTAPI_DURABLE = (
    COMMON
    + ROW
    + COMMIT
    + """
@app.post("/predict")
async def predict(row: Row):
    given = row.model_dump()
    found = {"id": str(uuid.uuid4()), **answer(given)}
    db.execute("INSERT INTO answers (id, row, answer) VALUES (?, ?, ?)", (found["id"], json.dumps(given), json.dumps(found)))
    return found
"""
)
GROUP = (
    COMMON
    + COMMIT
    + """
import asyncio, msgspec
from concurrent.futures import ThreadPoolExecutor
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route
class Row(msgspec.Struct):
    flight: str
    origin: str
    carrier: str
    hour: float
    weekday: int
    distance: int
    planned_minutes: int
    origin_delay: float
    carrier_delay: float
    temp: float
    wind_speed: float
decode, encode = msgspec.json.Decoder(Row).decode, msgspec.json.Encoder().encode
thread, waiting, busy = ThreadPoolExecutor(1), [], False
def commit(batch):
    db.execute("BEGIN")
    db.executemany("INSERT INTO answers (id, row, answer) VALUES (?, ?, ?)", [one for one, _ in batch])
    db.execute("COMMIT")
async def write():
    global busy, waiting
    busy = True
    while waiting:
        batch, waiting = waiting, []
        await asyncio.get_running_loop().run_in_executor(thread, commit, batch)
        for _, done in batch:
            done.set_result(None)
    busy = False
async def predict(request):
    body = await request.body()
    found = {"id": str(uuid.uuid4()), **answer(msgspec.structs.asdict(decode(body)))}
    out = encode(found)
    done = asyncio.get_running_loop().create_future()
    waiting.append(((found["id"], body, out), done))
    if not busy:
        asyncio.create_task(write())
    await done
    return Response(out, media_type="application/json")
app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
"""
)
LITSERVE = (
    COMMON
    + """
import sys
import litserve
class Flights(litserve.LitAPI):
    def setup(self, device): pass
    def predict(self, row): return answer(row)
if __name__ == "__main__":
    api = Flights(api_path="/predict")
    litserve.LitServer(api, accelerator="cpu", workers_per_device=1).run(host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False)
"""
)
KSERVE = (
    COMMON
    + """
import sys
import kserve
class Flights(kserve.Model):
    def __init__(self):
        super().__init__("flights")
        self.ready = True
    async def predict(self, payload, headers=None, response_headers=None):
        return {"predictions": [answer(row) for row in payload["instances"]]}
if __name__ == "__main__":
    kserve.ModelServer(http_port=int(sys.argv[1]), enable_grpc=False, workers=1).start([Flights()])
"""
)


@dataclass(frozen=True)
class Peer:
    """What is installed, the program, how it is started on a port, and where and how it is asked."""

    packages: tuple[str, ...]
    program: str
    command: tuple[str, ...]
    path: str = "/predict"
    around: str = "{row}"


ORT = ("onnxruntime", "numpy")
UVICORN = ("{bin}/uvicorn", "peer:app", "--port", "{port}", "--log-level", "warning", "--no-access-log")
GRANIAN = ("{bin}/granian", "--interface", "asgi", "--loop", "asyncio", "--no-ws", "--port", "{port}", "peer:app")
PYTHON = ("{bin}/python", "peer.py", "{port}")
MLFLOW = f"mlflow=={version('mlflow-skinny')}"
INVOCATIONS = ("/invocations", '{{"dataframe_records": [{row}]}}')


def mlflow(model: str) -> tuple[str, ...]:
    started = ("{bin}/mlflow", "models", "serve", "-m", model)
    return (*started, "--env-manager", "local", "--port", "{port}", "--workers", "1")


PEERS = {
    "FastAPI + ONNX Runtime": Peer((*ORT, "fastapi", "uvicorn[standard]"), FASTAPI, UVICORN),
    "FastAPI + ONNX Runtime, durable (a SQLite commit a request)": Peer(
        (*ORT, "fastapi", "uvicorn[standard]"), FASTAPI_DURABLE, UVICORN
    ),
    "Starlette on granian, durable (SQLite group commit)": Peer(
        (*ORT, "starlette", "granian", "msgspec"), GROUP, GRANIAN
    ),
    "LitServe": Peer((*ORT, "litserve"), LITSERVE, PYTHON),
    "KServe": Peer((*ORT, "kserve"), KSERVE, PYTHON, "/v1/models/flights:predict", '{{"instances": [{row}]}}'),
    "MLflow, of the ONNX file": Peer((MLFLOW, *ORT, "onnx", "skops"), "", mlflow("outputs/releases/one"), *INVOCATIONS),
    "MLflow, of the scikit-learn pipeline": Peer(
        (MLFLOW, *(f"{name}=={version(name)}" for name in ("scikit-learn", "lightgbm"))),
        "",
        mlflow("pipeline"),
        *INVOCATIONS,
    ),
}


def environment(packages: tuple[str, ...]) -> Path:
    """The programs of the contender's environment."""
    cache = Path(os.environ.get("MEGURI_BENCH") or Path.home() / ".cache" / "meguri-bench")
    home = cache / "-".join(sorted(re.split(r"\W", part)[0] for part in packages))
    if not (home / "ready").exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        done = subprocess.run(
            [str(home / "bin" / "pip"), "install", *packages], check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise SystemExit(done.stderr)
        (home / "ready").touch()
    return home / "bin"


def main(seconds: int, wanted: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        pipeline = prepare(home)
        given = pd.DataFrame(json.loads((home / "many.json").read_text()))
        # cloudpickle is what MLflow takes by itself; with a signature, as it advises, it checks columns and types
        save_model(
            pipeline, str(home / "pipeline"), serialization_format="cloudpickle", signature=infer_signature(given)
        )
        row = (home / "one.json").read_text()
        port = free()
        meguri = str(Path(sys.executable).with_name("meguri"))
        with server(home, [meguri, "serve", "--no-token", "--port", str(port)], port):
            load(home, port, "one.json", 32, 1)
            ours = load(home, port, "one.json", 32, seconds)
        print(json.dumps({"bench": "serve peers", "contender": "meguri", **ours}), flush=True)
        for name, peer in PEERS.items():
            if wanted and not any(part.lower() in name.lower() for part in wanted):
                continue
            programs, port = environment(peer.packages), free()
            (home / "peer.py").write_text(peer.program)
            (home / "peer.json").write_text(peer.around.format(row=row))
            path = f"PATH={programs}{os.pathsep}{os.environ['PATH']}"  # MLflow looks for its server there
            command = ["env", path, *(part.format(bin=programs, port=port) for part in peer.command)]
            with server(home, command, port, path=peer.path, body="peer.json"):
                load(home, port, "peer.json", 32, 1, path=peer.path)
                found = load(home, port, "peer.json", 32, seconds, path=peer.path)
            found["ratio"] = round(ours["rps"] / found["rps"], 2)
            print(json.dumps({"bench": "serve peers", "contender": name, **found}), flush=True)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(int(arguments[0]) if arguments else 5, arguments[1:])
