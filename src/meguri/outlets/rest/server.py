"""The server under the service: granian, whose workers are processes that share one port."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from meguri.base.errors import OutletError
from meguri.base.extras import need
from meguri.outlets.rest.options import ENVIRONMENT, Options

QUEUE = 1024  # connections that the system holds for us
DRAIN = 30  # seconds that a worker which was told to stop may go on answering what it has taken in


def serve(
    options: Options,
    *,
    host: str,
    port: int,
    workers: int = 1,
    certificate: Path | None = None,
    key: Path | None = None,
) -> None:
    """Serve until a signal ends it; what was taken in is answered first.

    Raises OutletError when the address is taken.
    """
    _free(host, port)
    granian = need("granian")
    multiprocessing.set_start_method("spawn", force=True)  # threads do not survive a fork
    more: dict[str, Any] = {} if certificate is None else {"ssl_cert": certificate, "ssl_key": key}
    with tempfile.TemporaryDirectory(prefix="meguri-metrics-") as folder:
        os.environ |= _environment(options, folder, workers)
        granian.Granian(
            "meguri.outlets.rest.app:make",
            address=host,
            port=port,
            interface="asgi",
            workers=workers,
            blocking_threads=1,
            loop="asyncio",
            backlog=QUEUE,
            log_access=False,
            log_level="warning",
            respawn_failed_workers=True,
            workers_kill_timeout=DRAIN,
            websockets=False,
            **more,
        ).serve(target_loader=_make, wrap_loader=False)


def _make() -> Any:
    """The application, in a worker: the process that starts them imports nothing of it."""
    from meguri.outlets.rest.app import make

    return make()


def _environment(options: Options, folder: str, workers: int) -> Mapping[str, str]:
    told = {ENVIRONMENT: json.dumps(asdict(options))}
    return told if workers == 1 else {**told, "PROMETHEUS_MULTIPROC_DIR": folder}


def _free(host: str, port: int) -> None:
    """Several may share a port, so a second service would take half of the first one's requests: refuse it."""
    import socket

    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((host, port))
        except OSError as error:
            what = f"{host}:{port} cannot be listened on: {error.strerror}"
            raise OutletError(what, where="meguri serve", fix="choose another --port, or stop what has it") from error
