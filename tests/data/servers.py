"""Real servers for tests, on free ports of this machine, that stop when the test does, however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

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


@contextmanager
def postgres() -> Iterator[str]:
    """The URL of an empty PostgreSQL of its own; skips the test where none is installed."""
    programs = postgres_programs()
    if programs is None or shutil.which("setpriv") is None:
        pytest.skip("no PostgreSQL server is installed (Debian: postgresql)")
    folder = Path(tempfile.mkdtemp(prefix="meguri-pg-"))
    as_user = ["setpriv", "--pdeathsig", "INT"]
    if os.geteuid() == 0:  # the server refuses to be root's
        shutil.chown(folder, "postgres", "postgres")
        as_user += ["--reuid", "postgres", "--regid", "postgres", "--init-groups"]
    secret, port = folder / "password", free_port()
    secret.write_text(PASSWORD, encoding="utf-8")
    init = ["-D", folder / "data", "-U", "meguri", "--pwfile", secret, "-A", "scram-sha-256", "--no-sync"]
    serve = [
        "-D",
        folder / "data",
        "-k",
        folder,
        "-p",
        str(port),
        "-c",
        "listen_addresses=127.0.0.1",
        "-c",
        "fsync=off",
    ]
    try:
        command = [*as_user, programs / "initdb", *init, "-E", "UTF8", "--locale", "C"]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        server = subprocess.Popen(
            [*as_user, programs / "postgres", *serve], cwd=folder, stderr=subprocess.PIPE, encoding="utf-8"
        )
        try:
            assert server.stderr is not None
            log = []
            for line in server.stderr:
                log.append(line)
                if "ready to accept connections" in line:
                    break
            else:
                raise AssertionError("".join(log))
            rest = threading.Thread(target=server.stderr.read)
            rest.start()
            yield f"postgres://meguri:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGINT)  # stop at once, whoever is still connected
            server.wait()
            rest.join()
            server.stderr.close()
    finally:
        shutil.rmtree(folder)
