"""Real servers for tests, on free ports of this machine, that stop when the test does, however it ends."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import pytest

from meguri.data.engines.bigquery import BigQuery
from meguri.data.warehouse import Warehouse

PASSWORD = "sésame @/:?#%"  # what a URL has to quote


def postgres_programs() -> Path | None:
    """The folder of Debian's newest PostgreSQL server, or the one on the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def ready(said: IO[str], mark: str) -> threading.Thread:
    """Wait for the line with the mark; the rest of what a server says is read by the thread. Fails when it ends before."""
    log = []
    for line in said:
        log.append(line)
        if mark in line:
            break
    else:
        raise AssertionError("".join(log))
    rest = threading.Thread(target=said.read)
    rest.start()
    return rest


class PostgresServer:
    """A PostgreSQL of its own in a folder, which can be stopped and started again."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs, self.folder, self.port = programs, folder, free_port()
        self.url = f"postgres://meguri:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/postgres"
        self.as_user = ["setpriv", "--pdeathsig", "INT"]
        if os.geteuid() == 0:  # the server refuses to be root's
            shutil.chown(folder, "postgres", "postgres")
            self.as_user += ["--reuid", "postgres", "--regid", "postgres", "--init-groups"]
        secret = folder / "password"
        secret.write_text(PASSWORD, encoding="utf-8")
        init = ["-D", folder / "data", "-U", "meguri", "--pwfile", secret, "-A", "scram-sha-256", "--no-sync"]
        command = [*self.as_user, programs / "initdb", *init, "-E", "UTF8", "--locale", "C"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)

    def start(self) -> None:
        """Wait until it answers."""
        options = ["-D", self.folder / "data", "-k", self.folder, "-p", str(self.port)]
        options += ["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        command = [*self.as_user, self.programs / "postgres", *options]
        self.process = subprocess.Popen(command, cwd=self.folder, stderr=subprocess.PIPE, encoding="utf-8")
        assert self.process.stderr is not None
        self.rest = ready(self.process.stderr, "ready to accept connections")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop at once, whoever is still connected; by SIGQUIT as a crash would, without a checkpoint."""
        assert self.process.stderr is not None
        self.process.send_signal(how)
        self.process.wait()
        self.rest.join()
        self.process.stderr.close()

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """Stop the processes where they are: connections stand, the system takes new ones, and nothing answers."""
        self.stopped = [self.process.pid]
        os.kill(self.process.pid, signal.SIGSTOP)  # first, so that it starts no more
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        self.stopped += map(int, children.split())
        try:
            for pid in self.stopped[1:]:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            self.go_on()

    def go_on(self) -> None:
        """Let what hangs go on."""
        for pid in reversed(self.stopped):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """An empty PostgreSQL of its own, running; skips the test where none is installed."""
    programs = postgres_programs()
    if programs is None or shutil.which("setpriv") is None:
        pytest.skip("no PostgreSQL server is installed (Debian: postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="meguri-pg-"))
    try:
        server = PostgresServer(programs, folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder)


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL of its own; skips the test where none is installed."""
    with postgres_server() as server:
        yield server.url


@contextmanager
def bigquery() -> Iterator[str]:
    """The URL of an empty dataset of an emulator of its own; skips the test where MEGURI_BQEMULATOR names none.

    It asks for DuckDB's extension `spatial`, which comes as a package beside it; so it is given a home that has it.
    """
    program = os.environ.get("MEGURI_BQEMULATOR")
    if program is None or not _client():
        pytest.skip("there is no emulator of BigQuery, or not its client (.ci/run has both)")
    home = Path(tempfile.mkdtemp(prefix="meguri-bq-"))
    try:
        found = next(Path(program).parent.parent.rglob("extensions/*/spatial.duckdb_extension"))
        there = home / ".duckdb" / "extensions" / found.parent.name / f"linux_{_ARCH[platform.machine()]}"
        there.mkdir(parents=True)
        (there / found.name).symlink_to(found)
        with _emulator(program, home) as port, pytest.MonkeyPatch.context() as patch:
            patch.setenv("BIGQUERY_EMULATOR_HOST", f"http://127.0.0.1:{port}")
            credentials = importlib.import_module("google.auth.credentials").AnonymousCredentials()
            client = importlib.import_module("google.cloud.bigquery").Client("meguri", credentials=credentials)
            for name in ("kit", "_bqemu_anonymous"):  # what it says is the place of its results is not there
                client.create_dataset(name)
            # It takes uploads in one part of two only with another content type; in several it takes all.
            patch.setattr("google.cloud.bigquery.client._MAX_MULTIPART_SIZE", 0)
            take = BigQuery.take

            def emptied(self: BigQuery, ask: Callable[[], Any], name: str, draft: Path) -> None:
                """BigQuery gives a table that is truncated the new columns; the emulator keeps the old ones."""
                client.delete_table(f"kit.{name}", not_found_ok=True)
                take(self, ask, name, draft)

            patch.setattr(BigQuery, "take", emptied)
            yield "bigquery://meguri/kit"
            client.close()
    finally:
        shutil.rmtree(home)


@contextmanager
def _emulator(program: str, home: Path) -> Iterator[int]:
    """The port of a running emulator."""
    rest, grpc = free_port(), free_port()
    command = [
        program,
        "start",
        "--rest-port",
        str(rest),
        "--grpc-port",
        str(grpc),
        "--ephemeral",
        "--log-format",
        "json",
    ]
    server = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", *command],
        cwd=home, env={**os.environ, "HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
    )  # fmt: skip
    assert server.stdout is not None
    try:
        rest_of_log = ready(server.stdout, "grpc.listen")
        try:
            yield rest
        finally:
            server.terminate()
            rest_of_log.join()
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()


def _client() -> bool:
    try:
        return importlib.util.find_spec("google.cloud.bigquery") is not None
    except ModuleNotFoundError:  # not even google.cloud is there
        return False


_ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


@contextmanager
def spark() -> Iterator[str]:
    """The URL of a Spark in this process; skips the test where none can run."""
    if importlib.util.find_spec("pyspark") is None or shutil.which("java") is None:
        pytest.skip("there is no Spark (meguri[spark], Debian: openjdk-17-jre-headless)")
    yield "spark://local[2]/tables"


@contextmanager
def opened(engine: str, folder: Path) -> Iterator[Warehouse]:
    """An open warehouse of any engine; the folder is for those that have one."""
    server = {"postgres": postgres, "bigquery": bigquery, "spark": spark}.get(engine)
    with server() if server else nullcontext("duckdb:///tables") as url, Warehouse(url, folder) as warehouse:
        yield warehouse
